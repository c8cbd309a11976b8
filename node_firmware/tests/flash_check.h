/* What port.h says of flash, tried on a driver: for the first evening with a new board, and for its test bench after.
 */
#ifndef FLASH_CHECK_H
#define FLASH_CHECK_H

#include "node/port.h"

/* Erases the first two and the last two sectors. NULL, or what is wrong with the driver. */
const char *flash_check(const node_flash_t *flash);

#endif
