/* See crash.h. */
#include "crash.h"

#include <zephyr/drivers/hwinfo.h>
#include <zephyr/fatal.h>
#include <zephyr/kernel.h>
#include <zephyr/logging/log_ctrl.h>
#include <zephyr/sys/reboot.h>

#include "crc32.h"

typedef struct record {
    uint32_t crc; /* of all behind it */
    uint32_t watchdog;
    node_crash_t crash;
} record_t;

static record_t record __noinit;

static uint32_t sum(void)
{
    const size_t begin = offsetof(record_t, watchdog);
    return node_crc32(1, (const uint8_t *)&record + begin, sizeof record - begin);
}

static __attribute__((noreturn)) void keep_and_reset(record_t r)
{
    record = r;
    record.crc = sum();
    LOG_PANIC(); /* what is in the log's buffer goes out */
    sys_reboot(SYS_REBOOT_COLD);
}

/* Zephyr calls this for every fault, failed assertion and k_panic(). */
void k_sys_fatal_error_handler(unsigned int reason, const struct arch_esf *esf)
{
    record_t r = {.crash.status = reason};
    if (esf != NULL) {
        r.crash.pc = esf->basic.pc;
        r.crash.lr = esf->basic.lr;
    }
    keep_and_reset(r);
}

void watchdog_expired(int channel, void *user_data)
{
    (void)channel;
    (void)user_data;
    keep_and_reset((record_t){.watchdog = 1});
}

const char *crash_take(const node_crash_t **crash)
{
    static const struct {
        uint32_t cause;
        const char *name;
    } names[] = {{RESET_WATCHDOG, "watchdog"}, {RESET_CPU_LOCKUP, "fault"},   {RESET_SOFTWARE, "software"},
                 {RESET_POR, "power-on"},      {RESET_BROWNOUT, "brown-out"}, {RESET_PIN, "pin"}};
    uint32_t cause = 0;
    if (hwinfo_get_reset_cause(&cause) != 0 || hwinfo_clear_reset_cause() != 0) {
        cause = 0;
    }
    const bool whole = record.crc == sum();
    record.crc = ~record.crc; /* it counts once */
    *crash = whole ? &record.crash : NULL;
    if (whole) {
        return record.watchdog != 0 ? "watchdog" : "fault";
    }
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if ((cause & names[i].cause) != 0) {
            return names[i].name;
        }
    }
    return "unknown";
}
