/* See flash.h. QEMU has no NOR flash on these boards: it is memory that QEMU keeps in a file, and this driver refuses
 * what NOR cannot do. A kill of QEMU at any instant leaves there what had been written by then, like a power cut. */
#include "flash.h"

#include <string.h>

#include "board.h"
#include "provision.h"

#define PROGRAM_BYTES 16U
#define BEGIN         (PROVISION_BYTES + FACTORY_BYTES)

static uint8_t *at(uint32_t offset)
{
    return (uint8_t *)(uintptr_t)(PSRAM + BEGIN + offset);
}

static bool within(uint32_t offset, uint32_t size, uint32_t unit)
{
    return offset <= NOR_BYTES - BEGIN && size <= NOR_BYTES - BEGIN - offset && (offset | size) % unit == 0;
}

static int flash_erase(void *context, uint32_t offset, uint32_t size)
{
    (void)context;
    if (!within(offset, size, FLASH_SECTOR)) {
        return -1;
    }
    memset(at(offset), 0xff, size);
    return 0;
}

static int flash_program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    (void)context;
    if (!within(offset, size, PROGRAM_BYTES)) {
        return -1;
    }
    for (uint32_t i = 0; i < size; i++) {
        if (*at(offset + i) != 0xff) {
            return -1; /* programmed before and not erased since */
        }
    }
    memcpy(at(offset), data, size);
    return 0;
}

static int flash_read(void *context, uint32_t offset, void *data, uint32_t size)
{
    (void)context;
    if (!within(offset, size, 1)) {
        return -1;
    }
    memcpy(data, at(offset), size);
    return 0;
}

static const uint8_t *flash_map(void *context, uint32_t offset)
{
    (void)context;
    return at(offset);
}

const uint8_t *flash_provisioning(void)
{
    return (const uint8_t *)(uintptr_t)PSRAM;
}

const uint8_t *flash_factory_image(void)
{
    return (const uint8_t *)(uintptr_t)(PSRAM + PROVISION_BYTES);
}

node_flash_t flash_driver(void)
{
    return (node_flash_t){.sector_size = FLASH_SECTOR,
                          .program_size = PROGRAM_BYTES,
                          .size = NOR_BYTES - BEGIN,
                          .erase = flash_erase,
                          .program = flash_program,
                          .read = flash_read,
                          .map = flash_map};
}
