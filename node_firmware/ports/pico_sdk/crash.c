/* See crash.h. The watchdog resets everything that runs, at once: it is also how the firmware resets itself, and of
 * what it bit nothing is known but that it did. */
#include "crash.h"

#include <hardware/watchdog.h>
#include <pico/platform.h>
#include <stdbool.h>
#include <stddef.h>

#include "crc32.h"

typedef struct record {
    uint32_t crc; /* of all behind it */
    node_crash_t crash;
} record_t;

void isr_hardfault(void);
void crash_handle(const uint32_t *frame);

static record_t __uninitialized_ram(record);

static uint32_t sum(void)
{
    return node_crc32(1, (const uint8_t *)&record.crash, sizeof record.crash);
}

/* `frame`: what the processor put on the stack: r0-r3, r12, lr, pc, xPSR. */
__attribute__((used)) void crash_handle(const uint32_t *frame)
{
    record.crash = (node_crash_t){.pc = frame[6], .lr = frame[5]};
    record.crc = sum();
    crash_reset();
}

/* In place of the SDK's. */
__attribute__((naked)) void isr_hardfault(void)
{
    __asm__ volatile("mrs r0, msp\n"
                     "ldr r1, =crash_handle\n"
                     "bx r1\n");
}

void crash_reset(void)
{
    watchdog_reboot(0, 0, 0);
    for (;;) {
    }
}

const char *crash_take(const node_crash_t **crash)
{
    const bool whole = record.crc == sum();
    record.crc = ~record.crc; /* it counts once */
    *crash = whole ? &record.crash : NULL;
    if (whole) {
        return "fault";
    }
    if (watchdog_enable_caused_reboot()) {
        return "watchdog";
    }
    return watchdog_caused_reboot() ? "software" : "power-on";
}
