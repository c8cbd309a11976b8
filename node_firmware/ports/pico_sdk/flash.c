/* See flash.h.
 *
 * The firmware runs from the same chip (XIP), which answers nothing while it erases or programs. So interrupts are off
 * meanwhile, and core 1 is never started; the SDK's functions themselves are in RAM, and renew the cache afterwards.
 * DMA goes on: it reads the ADC and writes RAM.
 *
 * The chip programs pages of 256 bytes, and port.h allows units of 16 at most. NOR flash can only make zeros of ones,
 * so where a page is programmed with 0xff nothing changes: a unit is programmed as its page with ones around it. A page
 * is so programmed up to 16 times between erases, and each byte of it once: these chips (W25Q) let a page be programmed
 * in parts. */
#include "flash.h"

#include <hardware/flash.h>
#include <hardware/regs/addressmap.h>
#include <hardware/sync.h>
#include <stdbool.h>
#include <string.h>

#include "provision.h"

#define UNIT       16U
#define AREA_BYTES (1024U * 1024U)                      /* for the node */
#define AREA       (PICO_FLASH_SIZE_BYTES - AREA_BYTES) /* from the start of the chip */
#define BEGIN      (AREA + PROVISION_BYTES + FACTORY_BYTES)
#define SIZE       (PICO_FLASH_SIZE_BYTES - BEGIN)

extern char __flash_binary_end; /* of the firmware, by the SDK's linker script */

static bool within(uint32_t offset, uint32_t size, uint32_t unit)
{
    return offset <= SIZE && size <= SIZE - offset && (offset | size) % unit == 0;
}

static const uint8_t *at(uint32_t chip_offset)
{
    return (const uint8_t *)(uintptr_t)(XIP_BASE + chip_offset);
}

static int flash_erase(void *context, uint32_t offset, uint32_t size)
{
    (void)context;
    if (!within(offset, size, FLASH_SECTOR_SIZE)) {
        return -1;
    }
    for (uint32_t done = 0; done < size; done += FLASH_SECTOR_SIZE) { /* interrupts get their turn between sectors */
        const uint32_t interrupts = save_and_disable_interrupts();
        flash_range_erase(BEGIN + offset + done, FLASH_SECTOR_SIZE);
        restore_interrupts(interrupts);
    }
    return 0;
}

static int flash_program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    static uint8_t page[FLASH_PAGE_SIZE]; /* in RAM, also where `data` is in flash */
    const uint8_t *from = data;
    (void)context;
    if (!within(offset, size, UNIT)) {
        return -1;
    }
    while (size != 0) {
        const uint32_t where = BEGIN + offset, in_page = where % FLASH_PAGE_SIZE;
        const uint32_t count = size < FLASH_PAGE_SIZE - in_page ? size : FLASH_PAGE_SIZE - in_page;
        memset(page, 0xff, sizeof page);
        memcpy(page + in_page, from, count);
        const uint32_t interrupts = save_and_disable_interrupts();
        flash_range_program(where - in_page, page, sizeof page);
        restore_interrupts(interrupts);
        if (memcmp(at(where), from, count) != 0) { /* the SDK's function reports nothing */
            return -1;
        }
        offset += count;
        from += count;
        size -= count;
    }
    return 0;
}

static int flash_read(void *context, uint32_t offset, void *data, uint32_t size)
{
    (void)context;
    if (!within(offset, size, 1)) {
        return -1;
    }
    memcpy(data, at(BEGIN + offset), size); /* there is no ECC that could refuse */
    return 0;
}

static const uint8_t *flash_map(void *context, uint32_t offset)
{
    (void)context;
    return at(BEGIN + offset);
}

const uint8_t *flash_provisioning(void)
{
    return (const uint8_t *)&__flash_binary_end <= at(AREA) ? at(AREA) : NULL;
}

const uint8_t *flash_factory_image(void)
{
    return at(AREA + PROVISION_BYTES);
}

node_flash_t flash_driver(void)
{
    return (node_flash_t){.sector_size = FLASH_SECTOR_SIZE,
                          .program_size = UNIT,
                          .size = SIZE,
                          .erase = flash_erase,
                          .program = flash_program,
                          .read = flash_read,
                          .map = flash_map};
}
