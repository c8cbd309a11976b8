/* flash: the end of the Pico's flash, behind the firmware. */
#ifndef FLASH_H
#define FLASH_H

#include "node/port.h"

#define FACTORY_BYTES (128U * 1024U) /* for the factory's image, behind the provisioning */
#define IMAGE_BYTES   (128U * 1024U) /* of a slot */

const uint8_t *flash_provisioning(void);  /* PROVISION_BYTES */
const uint8_t *flash_factory_image(void); /* FACTORY_BYTES */
node_flash_t flash_driver(void);          /* all that is behind them */

#endif
