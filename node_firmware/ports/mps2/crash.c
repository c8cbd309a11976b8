/* See crash.h. */
#include "crash.h"

#include <stdbool.h>
#include <stddef.h>

#include "board.h"

#define CFSR  REGISTER(SYSTEM_CONTROL + 0xD28) /* what kind of fault, ARM DDI 0403 B3.2.15 */
#define AIRCR REGISTER(SYSTEM_CONTROL + 0xD0C)

#define MAGIC UINT32_C(0x3148534e)
#define PAINT UINT32_C(0xa5a5a5a5)

typedef struct record {
    uint32_t magic, cause;
    node_crash_t crash;
    uint32_t check; /* all before */
} record_t;

void crash_handle(const uint32_t *frame, reset_cause_t cause);

static record_t record __attribute__((section(".noinit")));
static uint32_t crash_stack[64];
uint32_t *const crash_stack_top = crash_stack + sizeof crash_stack / sizeof *crash_stack;

static uint32_t sum(const record_t *r)
{
    uint32_t check = 0;
    const uint32_t *const words = &r->magic;
    for (size_t i = 0; i < offsetof(record_t, check) / sizeof *words; i++) {
        check = (check << 5 | check >> 27) ^ words[i];
    }
    return check;
}

static void keep(reset_cause_t cause, const node_crash_t *crash)
{
    record = (record_t){.magic = MAGIC, .cause = cause};
    if (crash != NULL) {
        record.crash = *crash;
    }
    record.check = sum(&record);
}

__attribute__((noreturn)) void crash_reset(reset_cause_t cause)
{
    if (cause != RESET_FAULT && cause != RESET_WATCHDOG) {
        keep(cause, NULL);
    }
    __asm__ volatile("dsb" ::: "memory");
    for (;;) {
        AIRCR = UINT32_C(0x05FA) << 16 | 1U << 2; /* SYSRESETREQ */
    }
}

/* `frame`: what the processor put on the stack (DDI 0403 B1.5.6): r0-r3, r12, lr, pc, xPSR; if there was place for it.
 */
__attribute__((used)) void crash_handle(const uint32_t *frame, reset_cause_t cause)
{
    const uint32_t stacking = 1U << 12 | 1U << 4; /* CFSR: STKERR, MSTKERR */
    node_crash_t crash = {.status = CFSR,
                          .stack_bytes = (uint32_t)((stack_top - stack_bottom) * 4) - stack_free_bytes()};
    if (frame >= stack_bottom && frame + 8 <= stack_top && (crash.status & stacking) == 0) {
        crash.lr = frame[5];
        crash.pc = frame[6];
    }
    keep(cause, &crash);
    crash_reset(cause);
}

reset_cause_t crash_take(node_crash_t *crash)
{
    const bool whole = record.magic == MAGIC && record.check == sum(&record) && record.cause <= RESET_UNKNOWN;
    const reset_cause_t cause = whole ? (reset_cause_t)record.cause : RESET_POWER_ON;
    *crash = record.crash;
    keep(RESET_PIN, NULL); /* unless this life finds another end */
    return cause;
}

const char *reset_cause_name(reset_cause_t cause)
{
    static const char *const names[] = {"power-on", "pin", "software", "watchdog", "fault", "unknown"};
    return names[cause];
}

void crash_paint_stack(void)
{
    uint32_t *const end = (uint32_t *)__builtin_frame_address(0) - 16; /* below what is in use here */
    for (volatile uint32_t *at = stack_bottom; at < end; at++) {
        *at = PAINT;
    }
}

uint32_t stack_free_bytes(void)
{
    const uint32_t *at = stack_bottom;
    while (at < stack_top && *at == PAINT) {
        at++;
    }
    return (uint32_t)((at - stack_bottom) * 4);
}
