/* A step is one unit programmed or one sector erased.
 *
 * A unit is untouched since its erase (0), programmed (1), or faintly so: then the number says with what. It may be
 * programmed when untouched, and, where it is faint, with the same bits once more. */
#include "flash.h"

#include <string.h>

#include "crc32.h"

#define UNTOUCHED  0
#define PROGRAMMED 1

uint32_t flash_random(flash_t *flash)
{
    flash->random = flash->random * 1664525 + 1013904223;
    return flash->random >> 8;
}

static uint32_t faintly(const uint8_t target[FLASH_UNIT])
{
    return node_crc32(0, target, FLASH_UNIT) | 2;
}

/* Some of the bytes, or some bits of each, become those of `target`; with TEAR_UNREADABLE they mean nothing. */
static void tear_unit(flash_t *flash, uint32_t unit, const uint8_t target[FLASH_UNIT])
{
    uint8_t *const bytes = flash->bytes + unit * FLASH_UNIT;
    const uint32_t whole = flash_random(flash) % (2 * FLASH_UNIT);
    for (uint32_t i = 0; i < FLASH_UNIT; i++) {
        const uint8_t some = (uint8_t)flash_random(flash);
        const uint8_t mask = whole >= FLASH_UNIT ? some : i < whole ? 0xff : 0;
        bytes[i] = flash->tear == TEAR_UNREADABLE ? some : (uint8_t)((bytes[i] & ~mask) | (target[i] & mask));
    }
    flash->unreadable[unit] |= flash->tear == TEAR_UNREADABLE;
    flash->touched[unit] = PROGRAMMED;
}

static bool reads_as_erased(const flash_t *flash, uint32_t unit)
{
    for (unsigned i = 0; i < FLASH_UNIT; i++) {
        if (flash->bytes[unit * FLASH_UNIT + i] != 0xff) {
            return false;
        }
    }
    return !flash->unreadable[unit];
}

static void tear_program(flash_t *flash, uint32_t unit, const uint8_t target[FLASH_UNIT])
{
    if (flash->tear == TEAR_BITS || flash->tear == TEAR_UNREADABLE) {
        tear_unit(flash, unit, target);
    }
    if (flash->tear != TEAR_NOTHING && flash->tear != TEAR_WHOLE && reads_as_erased(flash, unit)) {
        flash->touched[unit] = faintly(target);
    }
}

static void tear_erase(flash_t *flash, uint32_t offset)
{
    const uint32_t first = offset / FLASH_UNIT, count = flash->sector_size / FLASH_UNIT;
    uint8_t target[FLASH_UNIT];
    if (flash->tear == TEAR_NOTHING || flash->tear == TEAR_WHOLE) {
        return;
    }
    flash->erases[offset / flash->sector_size]++;
    for (uint32_t unit = first; unit < first + count; unit++) {
        const uint32_t way = flash_random(flash) % 4;
        if (flash->tear == TEAR_FAINT || way == 0) { /* as if erased */
            memset(flash->bytes + unit * FLASH_UNIT, 0xff, FLASH_UNIT);
            flash->unreadable[unit] = false;
        } else if (way < 3) { /* on the way to ones, or still to the zeros that an erase begins with */
            memset(target, way == 1 ? 0xff : 0, sizeof target);
            tear_unit(flash, unit, target);
        }
        flash->touched[unit] = PROGRAMMED;
    }
}

/* Whether the step is done; where the power fails it does not return. The first operation that fails is the last one
 * to. */
static bool powered(flash_t *flash, bool *failed)
{
    if (flash->steps != 0) {
        flash->steps -= flash->steps > 0;
        return true;
    }
    if (!flash->fails) {
        longjmp(flash->cut, 1);
    }
    flash->steps = -1;
    *failed = true;
    return flash->tear == TEAR_WHOLE;
}

static int erase(void *context, uint32_t offset, uint32_t size)
{
    flash_t *const flash = context;
    const uint32_t sector = flash->sector_size;
    if ((offset | size) % sector != 0 || offset > flash->size || size > flash->size - offset) {
        flash->broken_rules++;
        return -1;
    }
    bool failed = false;
    for (uint32_t at = offset; !failed && at < offset + size; at += sector) {
        if (flash->steps == 0) {
            tear_erase(flash, at);
        }
        if (!powered(flash, &failed)) {
            return -1;
        }
        flash->erases[at / sector]++;
        memset(flash->bytes + at, 0xff, sector);
        memset(flash->touched + at / FLASH_UNIT, 0, sector / FLASH_UNIT * sizeof *flash->touched);
        memset(flash->unreadable + at / FLASH_UNIT, 0, sector / FLASH_UNIT);
    }
    return failed ? -1 : 0;
}

static int program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    flash_t *const flash = context;
    if ((offset | size) % FLASH_UNIT != 0 || offset > flash->size || size > flash->size - offset) {
        flash->broken_rules++;
        return -1;
    }
    bool failed = false;
    for (uint32_t at = 0; !failed && at < size; at += FLASH_UNIT) {
        const uint32_t unit = (offset + at) / FLASH_UNIT;
        const uint8_t *const target = (const uint8_t *)data + at;
        flash->broken_rules += flash->touched[unit] != UNTOUCHED && flash->touched[unit] != faintly(target);
        if (flash->steps == 0) {
            tear_program(flash, unit, target);
        }
        if (!powered(flash, &failed)) {
            return -1;
        }
        memcpy(flash->bytes + unit * FLASH_UNIT, target, FLASH_UNIT);
        flash->touched[unit] = PROGRAMMED;
    }
    return failed ? -1 : 0;
}

static int read(void *context, uint32_t offset, void *data, uint32_t size)
{
    const flash_t *const flash = context;
    if (offset > flash->size || size > flash->size - offset) {
        return -1;
    }
    for (uint32_t unit = offset / FLASH_UNIT; unit * FLASH_UNIT < offset + size; unit++) {
        if (flash->unreadable[unit]) {
            return -1;
        }
    }
    memcpy(data, flash->bytes + offset, size);
    return 0;
}

static const uint8_t *map(void *context, uint32_t offset)
{
    return ((const flash_t *)context)->bytes + offset;
}

void flash_init(flash_t *flash, uint32_t size)
{
    *flash = (flash_t){.size = size, .sector_size = flash->sector_size, .steps = -1, .random = 1};
    memset(flash->bytes, 0xff, sizeof flash->bytes);
}

node_flash_t flash_driver(flash_t *flash, uint32_t sector_size)
{
    flash->sector_size = sector_size;
    return (node_flash_t){.sector_size = sector_size,
                          .program_size = FLASH_UNIT,
                          .size = flash->size,
                          .erase = erase,
                          .program = program,
                          .read = read,
                          .map = map,
                          .context = flash};
}
