/* Events in flash until they are acknowledged: a ring of records that survives a power cut at any instant.
 *
 * A record is a header (16 bytes), a commit unit (16), a done unit (16) and the payload, all contiguous, so that the
 * payload can be sent from mapped flash. It is programmed in the order header, payload, commit: without its commit a
 * record does not exist. The done unit is programmed once, when the payload need not be sent again. A record begins at
 * the start of a sector, or right behind a short one where it fits into the rest of their sector; so every record can
 * be found from the start of a sector that it lies in. Sectors are erased when the ring comes round to them, and with
 * them the oldest records. After a boot the first record takes a fresh sector: what lies behind the newest record may
 * be torn. */
#ifndef NODE_QUEUE_H
#define NODE_QUEUE_H

#include "node/types.h"

#define QUEUE_RECORD_BYTES 48 /* in front of every payload */

typedef struct queue {
    const node_flash_t *flash;
    uint32_t base, size; /* of the ring, bytes, whole sectors */
    uint32_t head;   /* where the next record goes; where it is no sector start, the rest of that sector is erased */
    uint32_t oldest; /* record, where waiting != 0 */
    uint32_t next;   /* record that queue_next() will hand out, where unsent != 0 */
    uint32_t next_id, first_id; /* first_id: of this boot */
    uint32_t waiting;           /* records that are not done */
    uint32_t unsent;            /* of them, not handed out yet */
    uint32_t dropped;           /* records that gave way to newer ones since queue_open() */
} queue_t;

typedef struct queue_piece {
    const uint8_t *data;
    uint32_t size;
} queue_piece_t;

/* Finds what is there, and writes nothing; any content of the flash will do. */
NODE_MUST_USE int queue_open(queue_t *q, const node_flash_t *flash, uint32_t base, uint32_t size);
/* Once it returned 0 the record is safe. NODE_E_FULL where only records that are handed out could give way;
 * NODE_E_ARGUMENT where the ring is too small for it. */
NODE_MUST_USE int queue_append(queue_t *q, const queue_piece_t *pieces, unsigned count);
/* The oldest record that was not handed out; false where there is none. The payload stays until queue_done(). */
bool queue_next(queue_t *q, uint32_t *record, const uint8_t **payload, uint32_t *size);
NODE_MUST_USE int queue_done(queue_t *q, uint32_t record);
/* Everything that is not done will be handed out again. */
void queue_rewind(queue_t *q);

#endif
