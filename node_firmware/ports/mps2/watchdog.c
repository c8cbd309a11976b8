/* See watchdog.h. CMSDK APB watchdog (Arm DUI 0479): its first time-out is an NMI, its second, without help from the
 * processor, a reset. */
#include "watchdog.h"

#include "board.h"

enum { LOAD = 0x0, CONTROL = 0x8, CLEAR = 0xC, LOCK = 0xC00 };
#define UNLOCK    UINT32_C(0x1ACCE551)
#define INTERRUPT 1U
#define RESET     2U

void watchdog_start(void)
{
    REGISTER(WATCHDOG + LOCK) = UNLOCK;
    REGISTER(WATCHDOG + LOAD) = WATCHDOG_S * CLOCK_HZ;
    REGISTER(WATCHDOG + CONTROL) = INTERRUPT | RESET;
    REGISTER(WATCHDOG + LOCK) = 0;
}

void watchdog_feed(void)
{
    REGISTER(WATCHDOG + LOCK) = UNLOCK;
    REGISTER(WATCHDOG + CLEAR) = 1; /* also counts from LOAD again */
    REGISTER(WATCHDOG + LOCK) = 0;
}
