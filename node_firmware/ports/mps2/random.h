/* random: unpredictable words, as TLS keys need them. */
#ifndef RANDOM_H
#define RANDOM_H

#include <stdint.h>

uint32_t random_u32(void);

#endif
