/* What the files of Bluetooth LE share: ble.c has the connection and its messages, ble_smp.c the SMP characteristic,
 * beacon.c what is advertised, improv.c how a node becomes one. */
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

/* ---- improv.c ---- */

bool improv_waits(const node_t *n); /* the node is nobody yet */
void improv_secured(node_t *n);
void improv_disconnected(node_t *n);
/* Any piece of a command came. */
NODE_MUST_USE int improv_take(node_t *n, const uint8_t *data, size_t size);
/* The map `provisioning` came. */
void improv_take_map(node_t *n, const uint8_t *map, size_t size);
/* Values and notifications, as in ble.h. */
size_t improv_value(const node_t *n, ble_characteristic_t characteristic, uint8_t *data, size_t capacity);
size_t improv_next(node_t *n, ble_characteristic_t *characteristic, const uint8_t **data);
void improv_sent(node_t *n, ble_characteristic_t characteristic);
size_t improv_advertise(const node_t *n, uint8_t response[BLE_ADVERTISEMENT_BYTES]); /* the scan response */

/* ---- beacon.c ---- */

uint64_t beacon_step(node_t *n); /* as ble_step() */

#endif
