/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of random numbers. */
#ifndef MOCK_PICO_SDK_PICO_RAND_H
#define MOCK_PICO_SDK_PICO_RAND_H

#include <stdint.h>

uint32_t get_rand_32(void);

#endif
