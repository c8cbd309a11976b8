/* The sector at the start of a node's flash, where no --id says who it is. */
#ifndef SECTOR_H
#define SECTOR_H

#include "options.h"
#include "posix.h"
#include "provision.h"
#include "stream.h"

typedef struct sector {
    flash_memory_t memory;
    node_flash_t flash;
    provision_t provision; /* keys of it lie in the flash */
    char broker[PROVISION_TEXT + 8];
} sector_t;

/* Takes the sector from `flash`. Whether it made the options those of one node, and *tls that of its broker; ends the
 * program where it asks for what this port does not have. */
bool sector_take(sector_t *s, flash_memory_t *flash, options_t *options, tls_t **tls);

#endif
