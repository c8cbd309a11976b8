/* flash: the board's NOR flash, and what lies where in it. */
#ifndef FLASH_H
#define FLASH_H

#include "node/port.h"

#define FLASH_SECTOR  4096U
#define FACTORY_BYTES (128U * 1024U) /* for the factory's image, behind the provisioning */
#define IMAGE_BYTES   (128U * 1024U) /* of a slot */

node_flash_t flash_provisioning(void);    /* its sector */
const uint8_t *flash_factory_image(void); /* FACTORY_BYTES */
node_flash_t flash_driver(void);          /* all that is behind them */

#endif
