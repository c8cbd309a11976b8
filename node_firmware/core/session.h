/* The number of this boot: one more every time, never the same twice. */
#ifndef NODE_SESSION_H
#define NODE_SESSION_H

#include "journal.h"

#define SESSION_SECTORS JOURNAL_SECTORS

/* Takes the next number; it is in flash when 0 is returned. Only one boot in (sector_size / 16) erases a sector. */
NODE_MUST_USE int session_next(const node_flash_t *flash, uint32_t *session);

#endif
