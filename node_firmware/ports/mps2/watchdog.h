/* watchdog: the board's own. Who does not feed it within WATCHDOG_S is reset, and leaves a record (start.c, crash.h).
 */
#ifndef WATCHDOG_H
#define WATCHDOG_H

#define WATCHDOG_S 8 /* a handshake with certificates takes four on 25 MHz, at once */

void watchdog_start(void);
void watchdog_feed(void);

#endif
