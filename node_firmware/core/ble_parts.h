/* What the files of Bluetooth LE share: ble.c has the connection and its messages, ble_smp.c the SMP characteristic,
 * beacon.c what is advertised. */
#ifndef NODE_BLE_PARTS_H
#define NODE_BLE_PARTS_H

#include "node_parts.h"

/* A carrier, as carriers.c wants one. */
bool ble_room(const node_t *n);
bool ble_send(node_t *n, node_word_t word, const uint8_t *payload, uint32_t size, uint32_t token);
bool ble_recall(node_t *n);

uint64_t ble_step(node_t *n, uint32_t now_ms); /* milliseconds until there is something to do */

/* ---- ble_smp.c ---- */

/* Any piece of the stream of requests came. */
NODE_MUST_USE int ble_smp_take(node_t *n, const uint8_t *data, size_t size, uint32_t now_ms);
/* The next piece of the answers, at most `most` bytes; its size. */
size_t ble_smp_next(node_t *n, size_t most);
void ble_smp_sent(node_t *n, size_t size);

/* ---- beacon.c ---- */

uint64_t beacon_step(node_t *n); /* as ble_step() */

#endif
