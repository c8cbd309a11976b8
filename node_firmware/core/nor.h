/* Flash through its driver, believing only what was read back. */
#ifndef NODE_NOR_H
#define NODE_NOR_H

#include "node/types.h"

#define NOR_UNIT 16U /* programmed as one; a multiple of every program_size */

/* All return NODE_E_FLASH where the driver fails; nor_read() and nor_crc() so where a word cannot be read. */
NODE_MUST_USE int nor_read(const node_flash_t *flash, uint32_t at, void *data, uint32_t size);
NODE_MUST_USE int nor_crc(const node_flash_t *flash, uint32_t at, uint32_t size, uint32_t *crc);
NODE_MUST_USE int nor_erase(const node_flash_t *flash, uint32_t at, uint32_t size);
/* Also where something else is there afterwards. Whole units. */
NODE_MUST_USE int nor_program(const node_flash_t *flash, uint32_t at, const void *data, uint32_t size);
/* Whether all of it can be read, and as 0xff. */
bool nor_erased(const node_flash_t *flash, uint32_t at, uint32_t size);

#endif
