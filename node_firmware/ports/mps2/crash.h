/* crash: why the firmware began anew. What is known of its end is written to memory that a reset leaves alone. */
#ifndef CRASH_H
#define CRASH_H

#include "node/port.h"

typedef enum reset_cause {
    RESET_POWER_ON,
    RESET_PIN,
    RESET_SOFTWARE,
    RESET_WATCHDOG,
    RESET_FAULT,
    RESET_UNKNOWN
} reset_cause_t;

void crash_paint_stack(void); /* first of all */
/* How the last life ended, once a boot; `crash` is set where it was a fault or the watchdog. */
reset_cause_t crash_take(node_crash_t *crash);
const char *reset_cause_name(reset_cause_t cause);
__attribute__((noreturn)) void crash_reset(reset_cause_t cause);
uint32_t stack_free_bytes(void); /* never used since boot */

#endif
