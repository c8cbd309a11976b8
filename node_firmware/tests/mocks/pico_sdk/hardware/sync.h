/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of interrupts. */
#ifndef MOCK_PICO_SDK_HARDWARE_SYNC_H
#define MOCK_PICO_SDK_HARDWARE_SYNC_H

#include <stdint.h>

uint32_t save_and_disable_interrupts(void);
void restore_interrupts(uint32_t status);

#endif
