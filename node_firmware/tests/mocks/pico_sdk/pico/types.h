/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of types. */
#ifndef MOCK_PICO_SDK_PICO_TYPES_H
#define MOCK_PICO_SDK_PICO_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef unsigned int uint;
typedef volatile uint32_t io_rw_32;
typedef const volatile uint32_t io_ro_32;
typedef uint64_t absolute_time_t;

#endif
