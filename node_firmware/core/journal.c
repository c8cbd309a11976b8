/* A record is the caller's part, padded to whole units, and a seal of one unit that is programmed last. */
#include "journal.h"

#include <string.h>

#include "crc32.h"
#include "nor.h"

typedef struct seal {
    uint32_t magic, generation, crc, unused; /* crc of the caller's part, padded, and of the two before */
} seal_t;

static uint32_t content_bytes(const journal_t *j)
{
    return (j->size + NOR_UNIT - 1) / NOR_UNIT * NOR_UNIT;
}

static uint32_t record_bytes(const journal_t *j)
{
    return content_bytes(j) + (uint32_t)sizeof(seal_t);
}

/* The generation of the record at `at`; 0 where there is no whole one. */
static uint32_t generation_at(const journal_t *j, uint32_t at)
{
    seal_t seal;
    uint32_t crc;
    if (nor_read(j->flash, at + content_bytes(j), &seal, sizeof seal) != NODE_OK || seal.magic != j->magic ||
        nor_crc(j->flash, at, content_bytes(j), &crc) != NODE_OK ||
        seal.crc != node_crc32(crc, &seal, offsetof(seal_t, crc))) {
        return 0;
    }
    return seal.generation;
}

int journal_open(journal_t *j, const node_flash_t *flash, uint32_t base, uint32_t magic, void *record, uint32_t size)
{
    const uint32_t sector = flash->sector_size;
    *j = (journal_t){.flash = flash, .base = base, .magic = magic, .size = size};
    if (size > JOURNAL_RECORD_BYTES || record_bytes(j) > sector || base % sector != 0 || flash->size < base ||
        flash->size - base < JOURNAL_SECTORS * sector || NOR_UNIT % flash->program_size != 0) {
        return NODE_E_ARGUMENT;
    }
    j->at = base + JOURNAL_SECTORS * sector - record_bytes(j); /* with none, the first goes to the first sector */
    for (uint32_t start = base; start < base + JOURNAL_SECTORS * sector; start += sector) {
        for (uint32_t at = start; at + record_bytes(j) <= start + sector; at += record_bytes(j)) {
            const uint32_t generation = generation_at(j, at);
            if (generation > j->generation) {
                j->generation = generation;
                j->at = at;
            }
        }
    }
    return j->generation != 0 && size != 0 ? nor_read(flash, j->at, record, size) : NODE_OK;
}

/* Makes a place for the next record. */
static int make_room(const journal_t *j, uint32_t *at)
{
    const uint32_t sector = j->flash->sector_size, bytes = record_bytes(j);
    const uint32_t start = j->at - (j->at - j->base) % sector;
    if (j->clean || j->size == 0) {
        for (*at = j->at + bytes; *at + bytes <= start + sector; *at += bytes) {
            if (nor_erased(j->flash, *at, bytes)) {
                return NODE_OK;
            }
        }
    }
    *at = start == j->base ? start + sector : j->base;
    return nor_erase(j->flash, *at, sector);
}

int journal_append(journal_t *j, const void *record)
{
    uint8_t content[JOURNAL_RECORD_BYTES];
    memset(content, 0xff, sizeof content);
    if (j->size != 0) {
        memcpy(content, record, j->size);
    }
    seal_t seal = {.magic = j->magic, .generation = ++j->generation, .unused = UINT32_MAX};
    seal.crc = node_crc32(node_crc32(0, content, content_bytes(j)), &seal, offsetof(seal_t, crc));
    uint32_t at;
    int status = make_room(j, &at);
    j->clean = false;
    if (status == NODE_OK && j->size != 0) {
        status = nor_program(j->flash, at, content, content_bytes(j));
    }
    if (status == NODE_OK) {
        status = nor_program(j->flash, at + content_bytes(j), &seal, sizeof seal);
    }
    if (status == NODE_OK) {
        j->at = at;
        j->clean = true;
    }
    return status;
}
