/* journal: a record of fixed size that survives a power cut at any instant. Records follow each other in one of two
 * sectors, each with a generation and a CRC written last; the newest whole one counts. The other sector is erased when
 * this one is full.
 *
 * After a boot a place that reads as erased may be one where a write had begun. So the first record of a boot goes to
 * the other sector, erased anew; except where records have no content of the caller's: then the write that was cut was
 * the same one, bit by bit, and may be done again. (That is the session number: an erase at every boot would wear the
 * flash out.) */
#ifndef NODE_JOURNAL_H
#define NODE_JOURNAL_H

#include "node/types.h"

#define JOURNAL_SECTORS      2
#define JOURNAL_RECORD_BYTES 240 /* of the caller's in one record, at most; with 16 more it must fit into a sector */

typedef struct journal {
    const node_flash_t *flash;
    uint32_t base, magic; /* magic: whose records they are */
    uint32_t size;        /* of the caller's part, bytes; may be 0 */
    uint32_t generation;  /* of the newest record, or of one that failed after it; 0 where there is none */
    uint32_t at;          /* of the newest record */
    bool clean;           /* what is behind it was never touched since the erase */
} journal_t;

/* Finds the newest whole record and copies it to `record`, which is left alone where there is none: then `generation`
 * is 0. Any content of the flash will do, unreadable words too. */
NODE_MUST_USE int journal_open(journal_t *j, const node_flash_t *flash, uint32_t base, uint32_t magic, void *record,
                               uint32_t size);
/* Once it returned 0 the record is the newest for ever; otherwise, or where the power fails, it is this one or the one
 * before, until the next one. */
NODE_MUST_USE int journal_append(journal_t *j, const void *record);

#endif
