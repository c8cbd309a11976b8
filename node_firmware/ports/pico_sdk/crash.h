/* crash: how the firmware's last life ended. What is known of its end is in memory that a reset leaves alone. */
#ifndef CRASH_H
#define CRASH_H

#include "node/port.h"

/* The word for `info`; once a boot. `*crash` is what is known of a fault, or NULL. */
const char *crash_take(const node_crash_t **crash);
__attribute__((noreturn)) void crash_reset(void); /* by intention */

#endif
