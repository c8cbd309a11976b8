/* radio: the host's side of docs/radio.md: a node whose Bluetooth LE is on a second chip, behind a serial line. Bytes
 * in, bytes out, like the node. */
#ifndef NODE_RADIO_H
#define NODE_RADIO_H

#include "ble.h"
#include "node/node.h"

#define RADIO_FRAME_BYTES 616 /* of the longest, encoded */

typedef struct radio {
    node_t *node;
    uint8_t level, input_output; /* of docs/radio.md, "security"; the port sets these three */
    uint32_t passkey;

    bool started, connected, ending; /* ending: *disconnect* was said */
    bool compares;                   /* the peer shows `number` as well, if it is who it should be: radio_confirm() */
    uint32_t number;
    uint8_t secured; /* level of the connection */
    unsigned out;    /* notifications in the radio */
    uint32_t dropped, restarts;

    bool asked, yes; /* asked: for a sign of life, and it has not come */
    uint32_t asked_ms, heard_ms;
    unsigned owed;                    /* a bit for each frame that is to be said, see radio.c */
    uint8_t value;                    /* index of the next *value* */
    uint8_t next_sent, next_received; /* numbers of frames */
    size_t in_size, frame_size, frame_sent;
    uint8_t in[RADIO_FRAME_BYTES], frame[RADIO_FRAME_BYTES];
} radio_t;

void radio_init(radio_t *r, node_t *node);
/* The line is open, or it is gone: whatever was out is lost, and the radio is to start anew. */
void radio_start(radio_t *r, uint32_t now_ms);
/* Bytes came from the line. What does not hold is counted and left out. */
void radio_receive(radio_t *r, const uint8_t *data, size_t size, uint32_t now_ms);
/* The next bytes for the line; 0 where there are none. Valid until the next call. Call it at least each second. */
size_t radio_transmit(radio_t *r, const uint8_t **data, uint32_t now_ms);
void radio_transmitted(radio_t *r, size_t size);
/* The answer to `compares`. */
void radio_confirm(radio_t *r, bool yes);

#endif
