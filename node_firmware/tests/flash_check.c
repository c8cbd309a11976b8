/* See flash_check.h. It needs 100 bytes of stack, and of the core nothing: it runs before the rest does. */
#include "flash_check.h"

#include <stdbool.h>
#include <string.h>

#define UNIT  16U /* of what is programmed at once: a multiple of every program_size */
#define PIECE 24U /* of what is read at once: over the units' ends */

/* Another one for every byte of two sectors and for every round. */
static uint8_t pattern(uint32_t offset, unsigned round)
{
    return (uint8_t)((offset * 37 + (offset >> 8) * 11 + round * 101) ^ 0x5a);
}

static bool power_of_two(uint32_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* Whether [begin, end) holds the round's pattern; round 0: is erased. Read from odd places, and through the map. */
static bool holds(const node_flash_t *flash, uint32_t begin, uint32_t end, unsigned round)
{
    uint8_t piece[PIECE];
    for (uint32_t at = begin, count; at < end; at += count) {
        count = at == begin ? 3 : end - at < PIECE ? end - at : PIECE;
        if (flash->read(flash->context, at, piece, count) != 0) {
            return false;
        }
        for (uint32_t i = 0; i < count; i++) {
            const uint8_t expected = round == 0 ? 0xff : pattern(at + i, round);
            if (piece[i] != expected || *flash->map(flash->context, at + i) != expected) {
                return false;
            }
        }
    }
    return true;
}

/* Unit by unit and from unaligned memory. */
static bool program(const node_flash_t *flash, uint32_t begin, uint32_t end, unsigned round)
{
    uint8_t memory[UNIT + 1];
    for (uint32_t at = begin; at < end; at += UNIT) {
        for (uint32_t i = 0; i < UNIT; i++) {
            memory[1 + i] = pattern(at + i, round);
        }
        if (flash->program(flash->context, at, memory + 1, UNIT) != 0) {
            return false;
        }
    }
    return true;
}

/* Two sectors, `at` and the next one. */
static const char *check_sectors(const node_flash_t *flash, uint32_t at)
{
    const uint32_t size = flash->sector_size, next = at + size, end = next + size;
    if (flash->erase(flash->context, at, 2 * size) != 0 || !holds(flash, at, end, 0)) {
        return "erase: two sectors are not all 0xff";
    }
    if (!program(flash, at, next, 1) || !holds(flash, at, next, 1)) {
        return "program: a sector does not hold what was programmed, by units of 16 bytes from unaligned memory";
    }
    if (!holds(flash, next, end, 0)) {
        return "program: it reached the sector behind";
    }
    /* A whole sector at once, and from flash itself. */
    if (flash->program(flash->context, next, flash->map(flash->context, at), size) != 0) {
        return "program: not from flash, or not a sector at once";
    }
    for (uint32_t i = 0; i < size; i++) {
        if (*flash->map(flash->context, next + i) != pattern(at + i, 1)) {
            return "program: from flash, or a sector at once: something else was programmed";
        }
    }
    if (flash->erase(flash->context, next, size) != 0 || !holds(flash, next, end, 0)) {
        return "erase: a sector that was programmed is not all 0xff: a stale cache?";
    }
    return holds(flash, at, next, 1) ? NULL : "erase: it reached the sector before";
}

static const char *check_range(const node_flash_t *flash)
{
    uint8_t unit[UNIT] = {0};
    if (flash->erase(flash->context, flash->size, flash->sector_size) >= 0 ||
        flash->program(flash->context, flash->size, unit, UNIT) >= 0 ||
        flash->read(flash->context, flash->size, unit, UNIT) >= 0) {
        return "it goes on behind its end";
    }
    if (flash->erase(flash->context, flash->size - flash->sector_size, 2 * flash->sector_size) >= 0 ||
        flash->program(flash->context, UINT32_MAX - UNIT + 1, unit, UNIT) >= 0) {
        return "an offset and a size whose sum is out of range are not refused";
    }
    return NULL;
}

const char *flash_check(const node_flash_t *flash)
{
    if (!power_of_two(flash->sector_size) || flash->sector_size < 4 * UNIT || flash->size % flash->sector_size != 0 ||
        flash->size < 4 * flash->sector_size) {
        return "sector_size is no power of two, or size is no multiple of it, of at least four";
    }
    if (!power_of_two(flash->program_size) || flash->program_size > UNIT) {
        return "program_size is no power of two up to 16";
    }
    if ((uintptr_t)flash->map(flash->context, 0) % UNIT != 0) {
        return "map: not aligned to 16 bytes";
    }
    const char *wrong = check_range(flash);
    if (wrong == NULL) {
        wrong = check_sectors(flash, 0);
    }
    return wrong != NULL ? wrong : check_sectors(flash, flash->size - 2 * flash->sector_size);
}
