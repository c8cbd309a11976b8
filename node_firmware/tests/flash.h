/* NOR flash in memory that keeps its rules, and whose power can be cut inside any operation. */
#ifndef TEST_FLASH_H
#define TEST_FLASH_H

#include <setjmp.h>

#include "node/port.h"

#define FLASH_UNIT      16
#define FLASH_MAX_BYTES 16384

typedef struct flash {
    uint8_t bytes[FLASH_MAX_BYTES];
    uint8_t programmed[FLASH_MAX_BYTES / FLASH_UNIT]; /* since the last erase */
    uint32_t size;
    long steps; /* until the power fails; negative: it stays */
    jmp_buf cut;
    uint32_t random; /* what a torn operation leaves behind */
    unsigned broken_rules;
} flash_t;

void flash_init(flash_t *flash, uint32_t size); /* erased, and the power stays */
node_flash_t flash_driver(flash_t *flash, uint32_t sector_size);
uint32_t flash_random(flash_t *flash);

#endif
