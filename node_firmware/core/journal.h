/* journal: a record of fixed size that survives a power cut at any instant. Records alternate between two sectors, each with a
 * generation and a CRC written last; the newest whole one counts, a sector is erased only when the other holds it. */
#ifndef NODE_JOURNAL_H
#define NODE_JOURNAL_H

#include "node/types.h"

#define JOURNAL_SECTORS      2
#define JOURNAL_RECORD_BYTES 240 /* of the caller's in one record, at most; with head and CRC it must fit into a sector */

typedef struct journal {
    const node_flash_t *flash;
    uint32_t base, magic; /* magic: whose records they are */
    uint32_t size;        /* of the caller's part, bytes */
    uint32_t generation;  /* of the newest record; 0 where there is none */
    uint32_t at;          /* of the newest record */
} journal_t;

/* Finds the newest whole record and copies it to `record`, which is left alone where there is none: then `generation` is 0. Any
 * content of the flash will do, unreadable words too. */
NODE_MUST_USE int journal_open(journal_t *j, const node_flash_t *flash, uint32_t base, uint32_t magic, void *record,
                               uint32_t size);
/* Once it returned 0 the record is the newest for ever; otherwise, or where the power fails, it is this one or the one before. */
NODE_MUST_USE int journal_append(journal_t *j, const void *record);

#endif
