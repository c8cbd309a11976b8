/* NOR flash in memory that keeps its rules, and whose power can be cut before, inside and after any operation. */
#ifndef TEST_FLASH_H
#define TEST_FLASH_H

#include <setjmp.h>
#include <stdbool.h>

#include "node/port.h"

#define FLASH_UNIT       16
#define FLASH_MAX_BYTES  16384
#define FLASH_MIN_SECTOR 256

/* What a step leaves behind in which the power fails. After a step is before the next one. */
typedef enum flash_tear {
    TEAR_NOTHING,    /* the cut came before the step */
    TEAR_BITS,       /* some bytes or bits have changed; an erase: some units not at all, some anyhow */
    TEAR_FAINT,      /* all looks erased: a write has begun unseen, an erase has ended too early to last */
    TEAR_UNREADABLE, /* as TEAR_BITS, and what was touched cannot be read until it is erased */
    FLASH_TEARS,
    TEAR_WHOLE = FLASH_TEARS /* all is done; for `fails`: a cut like this is one before the next step */
} flash_tear_t;

typedef struct flash {
    uint8_t bytes[FLASH_MAX_BYTES];
    uint32_t touched[FLASH_MAX_BYTES / FLASH_UNIT]; /* since the last whole erase; see flash.c */
    bool unreadable[FLASH_MAX_BYTES / FLASH_UNIT];
    uint32_t erases[FLASH_MAX_BYTES / FLASH_MIN_SECTOR]; /* by sector */
    uint32_t size, sector_size;
    long steps; /* until the power fails; negative: it stays */
    flash_tear_t tear;
    bool fails; /* at that step the driver says so and does no more; the power stays */
    jmp_buf cut;
    uint32_t random; /* what a torn operation leaves behind */
    unsigned broken_rules;
} flash_t;

void flash_init(flash_t *flash, uint32_t size); /* erased, and the power stays; the driver stays as it was */
node_flash_t flash_driver(flash_t *flash, uint32_t sector_size);
uint32_t flash_random(flash_t *flash);

#endif
