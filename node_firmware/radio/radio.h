/* radio: the host's side of docs/radio.md: a node whose Bluetooth LE is on a second chip, behind a serial line. Bytes
 * in, bytes out, like the node. */
#ifndef NODE_RADIO_H
#define NODE_RADIO_H

#include "ble.h"
#include "node/node.h"

#define RADIO_FRAME_BYTES 616 /* of the longest, encoded */

typedef struct radio {
    node_t *node;
    uint8_t level, input_output; /* of docs/radio.md, "security" */
    uint32_t passkey;
} radio_t; /* more fields are radio.c's business */

void radio_init(radio_t *r, node_t *node);
/* Bytes came from the line. What does not hold is counted and left out. */
void radio_receive(radio_t *r, const uint8_t *data, size_t size, uint32_t now_ms);
/* The next bytes for the line; 0 where there are none. Valid until the next call. */
size_t radio_transmit(radio_t *r, const uint8_t **data, uint32_t now_ms);
void radio_transmitted(radio_t *r, size_t size);

#endif
