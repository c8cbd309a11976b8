/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of the watchdog. */
#ifndef MOCK_PICO_SDK_HARDWARE_WATCHDOG_H
#define MOCK_PICO_SDK_HARDWARE_WATCHDOG_H

#include "pico/types.h"

void watchdog_reboot(uint32_t pc, uint32_t sp, uint32_t delay_ms);
void watchdog_update(void);
void watchdog_enable(uint32_t delay_ms, bool pause_on_debug);
bool watchdog_caused_reboot(void);
bool watchdog_enable_caused_reboot(void);

#endif
