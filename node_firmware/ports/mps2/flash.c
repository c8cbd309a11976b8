/* See flash.h. QEMU has no NOR flash on these boards: it is memory that QEMU keeps in a file, and this driver refuses
 * what NOR cannot do. A kill of QEMU at any instant leaves there what had been written by then, like a power cut. */
#include "flash.h"

#include <string.h>

#include "board.h"
#include "provision.h"

#define PROGRAM_BYTES 16U
#define BEGIN         (PROVISION_BYTES + FACTORY_BYTES)

typedef struct area {
    uint32_t begin, size;
} area_t;

static area_t provisioning = {0, PROVISION_BYTES}, rest = {BEGIN, NOR_BYTES - BEGIN};

static uint8_t *at(const area_t *area, uint32_t offset)
{
    return (uint8_t *)(uintptr_t)(PSRAM + area->begin + offset);
}

static bool within(const area_t *area, uint32_t offset, uint32_t size, uint32_t unit)
{
    return offset <= area->size && size <= area->size - offset && (offset | size) % unit == 0;
}

static int flash_erase(void *context, uint32_t offset, uint32_t size)
{
    if (!within(context, offset, size, FLASH_SECTOR)) {
        return -1;
    }
    memset(at(context, offset), 0xff, size);
    return 0;
}

static int flash_program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    if (!within(context, offset, size, PROGRAM_BYTES)) {
        return -1;
    }
    for (uint32_t i = 0; i < size; i++) {
        if (*at(context, offset + i) != 0xff) {
            return -1; /* programmed before and not erased since */
        }
    }
    memcpy(at(context, offset), data, size);
    return 0;
}

static int flash_read(void *context, uint32_t offset, void *data, uint32_t size)
{
    if (!within(context, offset, size, 1)) {
        return -1;
    }
    memcpy(data, at(context, offset), size);
    return 0;
}

static const uint8_t *flash_map(void *context, uint32_t offset)
{
    return at(context, offset);
}

const uint8_t *flash_factory_image(void)
{
    return (const uint8_t *)(uintptr_t)(PSRAM + PROVISION_BYTES);
}

static node_flash_t driver(area_t *area)
{
    return (node_flash_t){.sector_size = FLASH_SECTOR,
                          .program_size = PROGRAM_BYTES,
                          .size = area->size,
                          .erase = flash_erase,
                          .program = flash_program,
                          .read = flash_read,
                          .map = flash_map,
                          .context = area};
}

node_flash_t flash_provisioning(void)
{
    return driver(&provisioning);
}

node_flash_t flash_driver(void)
{
    return driver(&rest);
}
