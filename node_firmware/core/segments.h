/* segments: messages over Bluetooth LE, cut to what a packet carries, each whole, once and in order (docs/nodelink.md,
 * "Segments"). No radio and no clock: a connection has a sender and a receiver at each end, and who owns them carries
 * segments one way and bytes of `flow` the other. A new connection begins with zeros. */
#ifndef NODE_SEGMENTS_H
#define NODE_SEGMENTS_H

#include "node/types.h"

#define SEGMENT_WINDOW  16   /* beyond the newest that was acknowledged */
#define SEGMENT_WAIT_MS 2000 /* for an acknowledgement */
#define SEGMENT_RETURNS 5    /* to what was not acknowledged, in a row */

/* One message at a time. It is a code byte and a payload, which stays the caller's memory until it is through. */
typedef struct segment_sender {
    const uint8_t *payload;
    uint32_t size;                /* of the payload */
    uint8_t code, first, returns; /* first: counter of the message's first segment */
    uint16_t cut;                 /* bytes of the message in each segment */
    uint16_t count, acked, next,
        most;          /* segments of the message: all of them, acknowledged, to be sent next, ever sent */
    uint32_t since_ms; /* the last step forward or back */
} segment_sender_t;

typedef struct segment_receiver {
    uint8_t *data; /* takes a message, its code first */
    uint32_t capacity, size;
    uint8_t expected, unsaid;    /* counter of the next segment; how many were taken since `flow` was sent */
    bool gap, missing, flow_due; /* gap: a segment is missing; missing: and `flow` has not said so yet */
} segment_receiver_t;

bool segments_busy(const segment_sender_t *s); /* with a message */
/* Segments of at most `cut` + 1 bytes. Not while it is busy. */
void segments_begin(segment_sender_t *s, uint8_t code, const uint8_t *payload, uint32_t size, uint16_t cut,
                    uint32_t now_ms);
/* The segment that may be sent now; its size, 0 where there is none. `out` has room for `cut` + 1 bytes. */
size_t segments_next(const segment_sender_t *s, uint8_t *out);
void segments_sent(segment_sender_t *s, uint32_t now_ms); /* the one that segments_next() gave */
/* A byte of `flow` came. 1: the message is through. Negative, as everywhere here: give the connection up. */
NODE_MUST_USE int segments_acknowledged(segment_sender_t *s, uint8_t flow, uint32_t now_ms);
/* Milliseconds until it must be called again; at 0 there is something to send. */
NODE_MUST_USE int segments_step(segment_sender_t *s, uint32_t now_ms);

/* A segment came. The size of the message, its code included, where it was the last of one; else 0. */
NODE_MUST_USE int segments_receive(segment_receiver_t *r, const uint8_t *segment, size_t size);
uint8_t segments_flow(const segment_receiver_t *r); /* the byte for `flow`, to be sent where `flow_due` */
void segments_flow_sent(segment_receiver_t *r);

#endif
