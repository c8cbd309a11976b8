/* smp: the server of MCUmgr's Simple Management Protocol, version 2 (docs/nodelink.md, "Management"). One whole frame
 * in, one whole frame out, whatever carries them: an 8-byte big-endian header and a CBOR map. A refusal is an answer
 * with (group, rc). */
#ifndef NODE_SMP_H
#define NODE_SMP_H

#include "node/types.h"

#define SMP_HEADER_BYTES 8

struct node;

#define SMP_EBUSY 10 /* not now: ask again */

/* Answers one request; returns the size of the answer, 0 where the frame is none that could be answered. `buffers` is
 * how many requests may be out where this one came from. */
size_t smp_answer(struct node *n, const uint8_t *request, size_t size, uint8_t *answer, size_t capacity,
                  unsigned buffers);

/* Refuses one, of which the header is enough, with an rc of SMP's own; as smp_answer(). */
size_t smp_refuse(const uint8_t request[SMP_HEADER_BYTES], int rc, uint8_t *answer, size_t capacity);

#endif
