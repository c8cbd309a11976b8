/* A log of 16-byte records that alternates between two sectors: one is erased only when the other is full. */
#include "session.h"

#include <string.h>

#include "crc32.h"

#define MAGIC UINT32_C(0x31534e4c)
#define UNIT  16U

typedef struct record {
    uint32_t magic, session, crc, unused; /* crc of the two before */
} record_t;

static uint32_t checksum(const record_t *record)
{
    return node_crc32(0, record, offsetof(record_t, crc));
}

static bool is_erased(const uint8_t *at)
{
    for (unsigned i = 0; i < UNIT; i++) {
        if (at[i] != 0xff) {
            return false;
        }
    }
    return true;
}

int session_next(const node_flash_t *flash, uint32_t *session)
{
    const uint32_t size = SESSION_SECTORS * flash->sector_size;
    uint32_t newest = 0, at = size - UNIT; /* of the newest record; with none, the log begins at 0 */
    for (uint32_t i = 0; i < size; i += UNIT) {
        record_t record;
        memcpy(&record, flash->map(flash->context, i), sizeof record);
        if (record.magic == MAGIC && record.crc == checksum(&record) && record.session > newest) {
            newest = record.session;
            at = i;
        }
    }
    do { /* behind the newest; a place where a write was cut short is passed over */
        at = (at + UNIT) % size;
        if (at % flash->sector_size == 0 && flash->erase(flash->context, at, flash->sector_size) != 0) {
            return NODE_E_FLASH;
        }
    } while (!is_erased(flash->map(flash->context, at)));
    record_t record = {.magic = MAGIC, .session = newest + 1, .unused = UINT32_MAX};
    record.crc = checksum(&record);
    if (flash->program(flash->context, at, &record, UNIT) != 0) {
        return NODE_E_FLASH;
    }
    *session = newest + 1;
    return NODE_OK;
}
