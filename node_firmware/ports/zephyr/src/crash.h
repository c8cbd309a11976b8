/* crash: how the firmware's last life ended. What is known of its end is in memory that a reset leaves alone. */
#ifndef CRASH_H
#define CRASH_H

#include "node/port.h"

/* The word for `info`; once a boot. `*crash` is what is known of a fault or a time-out of watchdog_expired(), or NULL.
 */
const char *crash_take(const node_crash_t **crash);
void watchdog_expired(int channel, void *user_data); /* for task_wdt_add() */

#endif
