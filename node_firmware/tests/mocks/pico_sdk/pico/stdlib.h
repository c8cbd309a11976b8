/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of its standard library. */
#ifndef MOCK_PICO_SDK_PICO_STDLIB_H
#define MOCK_PICO_SDK_PICO_STDLIB_H

#include "pico/types.h"

bool stdio_init_all(void);
void sleep_ms(uint32_t ms);
uint32_t time_us_32(void);
absolute_time_t get_absolute_time(void);
absolute_time_t make_timeout_time_ms(uint32_t ms);
uint32_t to_ms_since_boot(absolute_time_t t);

#endif
