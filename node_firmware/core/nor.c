/* See nor.h. Flash is read in small pieces: the stack is all the memory there is. */
#include "nor.h"

#include <string.h>

#include "crc32.h"

#define PIECE 64U

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

int nor_read(const node_flash_t *flash, uint32_t at, void *data, uint32_t size)
{
    return flash->read(flash->context, at, data, size) == 0 ? NODE_OK : NODE_E_FLASH;
}

int nor_crc(const node_flash_t *flash, uint32_t at, uint32_t size, uint32_t *crc)
{
    uint8_t piece[PIECE];
    *crc = 0;
    for (uint32_t done = 0, count; done < size; done += count) {
        count = least(PIECE, size - done);
        const int status = nor_read(flash, at + done, piece, count);
        if (status != NODE_OK) {
            return status;
        }
        *crc = node_crc32(*crc, piece, count);
    }
    return NODE_OK;
}

int nor_erase(const node_flash_t *flash, uint32_t at, uint32_t size)
{
    return flash->erase(flash->context, at, size) == 0 ? NODE_OK : NODE_E_FLASH;
}

int nor_program(const node_flash_t *flash, uint32_t at, const void *data, uint32_t size)
{
    uint8_t piece[PIECE];
    int status = flash->program(flash->context, at, data, size) == 0 ? NODE_OK : NODE_E_FLASH;
    for (uint32_t done = 0, count; status == NODE_OK && done < size; done += count) {
        count = least(PIECE, size - done);
        status = nor_read(flash, at + done, piece, count);
        if (status == NODE_OK && memcmp(piece, (const uint8_t *)data + done, count) != 0) {
            status = NODE_E_FLASH;
        }
    }
    return status;
}

bool nor_erased(const node_flash_t *flash, uint32_t at, uint32_t size)
{
    uint8_t unit[NOR_UNIT];
    for (uint32_t end = at + size; at < end; at += NOR_UNIT) {
        if (nor_read(flash, at, unit, NOR_UNIT) != NODE_OK) {
            return false;
        }
        for (unsigned i = 0; i < NOR_UNIT; i++) {
            if (unit[i] != 0xff) {
                return false;
            }
        }
    }
    return true;
}
