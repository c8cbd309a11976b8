/* A step is one unit programmed or erased. A cut comes before a step, or inside it: then some of its bits have changed.
 */
#include "flash.h"

#include <string.h>

uint32_t flash_random(flash_t *flash)
{
    flash->random = flash->random * 1664525 + 1013904223;
    return flash->random >> 8;
}

static uint8_t *unit_at(flash_t *flash, uint32_t offset)
{
    return flash->bytes + offset;
}

/* Half of the cuts leave the unit as it was. */
static void step(flash_t *flash, uint32_t offset, const uint8_t target[FLASH_UNIT])
{
    if (flash->steps == 0) {
        uint8_t *const unit = unit_at(flash, offset);
        for (unsigned i = 0; i < FLASH_UNIT && flash_random(flash) % 2 == 0; i++) {
            const uint8_t mask = (uint8_t)flash_random(flash);
            const uint8_t torn = (uint8_t)((unit[i] & ~mask) | (target[i] & mask));
            flash->programmed[offset / FLASH_UNIT] |= torn != unit[i];
            unit[i] = torn;
        }
        longjmp(flash->cut, 1);
    }
    flash->steps--;
    memcpy(unit_at(flash, offset), target, FLASH_UNIT);
}

static int erase(void *context, uint32_t offset, uint32_t size)
{
    flash_t *const flash = context;
    static const uint8_t erased[FLASH_UNIT] = {255, 255, 255, 255, 255, 255, 255, 255,
                                               255, 255, 255, 255, 255, 255, 255, 255};
    for (uint32_t at = offset; at < offset + size; at += FLASH_UNIT) {
        step(flash, at, erased);
        flash->programmed[at / FLASH_UNIT] = 0;
    }
    return 0;
}

static int program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    flash_t *const flash = context;
    if ((offset | size) % FLASH_UNIT != 0 || offset + size > flash->size) {
        flash->broken_rules++;
        return -1;
    }
    for (uint32_t at = 0; at < size; at += FLASH_UNIT) {
        flash->broken_rules += flash->programmed[(offset + at) / FLASH_UNIT];
        step(flash, offset + at, (const uint8_t *)data + at);
        flash->programmed[(offset + at) / FLASH_UNIT] = 1;
    }
    return 0;
}

static const uint8_t *map(void *context, uint32_t offset)
{
    return unit_at(context, offset);
}

void flash_init(flash_t *flash, uint32_t size)
{
    memset(flash, 0, sizeof *flash);
    memset(flash->bytes, 0xff, sizeof flash->bytes);
    flash->size = size;
    flash->steps = -1;
    flash->random = 1;
}

node_flash_t flash_driver(flash_t *flash, uint32_t sector_size)
{
    return (node_flash_t){.sector_size = sector_size,
                          .program_size = FLASH_UNIT,
                          .size = flash->size,
                          .erase = erase,
                          .program = program,
                          .map = map,
                          .context = flash};
}
