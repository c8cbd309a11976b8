/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of flash. */
#ifndef MOCK_PICO_SDK_HARDWARE_FLASH_H
#define MOCK_PICO_SDK_HARDWARE_FLASH_H

#include "pico/types.h"

#define PICO_FLASH_SIZE_BYTES (2 * 1024 * 1024)
#define FLASH_PAGE_SIZE       (1u << 8)
#define FLASH_SECTOR_SIZE     (1u << 12)

void flash_range_erase(uint32_t flash_offs, size_t count);
void flash_range_program(uint32_t flash_offs, const uint8_t *data, size_t count);

#endif
