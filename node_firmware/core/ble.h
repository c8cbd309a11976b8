/* ble: the node on Bluetooth LE: what it advertises, its GATT characteristics, and the messages in them
 * (docs/nodelink.md, "Bluetooth LE"). It has no radio: that is the port's, which calls these, in any order that a radio
 * allows.
 *
 *   the radio is ready, or what is advertised has changed   -> node_ble_advertisement()
 *   a central connected                                      -> node_ble_connected()
 *   it wrote, read, subscribed, has another ATT_MTU          -> the calls of that name
 *   the radio has room for a notification                    -> node_ble_notification(), send it, node_ble_notified()
 *   the connection is gone                                   -> node_ble_disconnected()
 *
 * After any of these, node_step(). One connection at a time. */
#ifndef NODE_BLE_H
#define NODE_BLE_H

#include "node/types.h"

struct node;

#define BLE_ADVERTISEMENT_BYTES 31
#define BLE_MTU                 23 /* ATT_MTU before it was exchanged */
#define BLE_MTU_MOST            517

typedef enum ble_characteristic {
    BLE_IDENTITY,
    BLE_UP,
    BLE_DOWN,
    BLE_FLOW,
    BLE_SMP,
    BLE_CHARACTERISTICS
} ble_characteristic_t;

/* The advertising data and the scan response; their sizes. Whether they changed since they were asked for last. */
bool node_ble_advertisement(struct node *n, uint8_t data[BLE_ADVERTISEMENT_BYTES], size_t *size,
                            uint8_t response[BLE_ADVERTISEMENT_BYTES], size_t *response_size);
void node_ble_connected(struct node *n, uint16_t mtu, uint32_t now_ms);
void node_ble_mtu(struct node *n, uint16_t mtu);
void node_ble_subscribed(struct node *n, ble_characteristic_t characteristic, bool on, uint32_t now_ms);
/* Negative: what was written cannot be; drop the connection. */
NODE_MUST_USE int node_ble_written(struct node *n, ble_characteristic_t characteristic, const uint8_t *data,
                                   size_t size, uint32_t now_ms);
/* The value that a read is answered with; its size. */
size_t node_ble_value(const struct node *n, ble_characteristic_t characteristic, uint8_t *data, size_t capacity);
/* The next notification, 0 where there is none. Valid until the next call. */
size_t node_ble_notification(struct node *n, ble_characteristic_t *characteristic, const uint8_t **data,
                             uint32_t now_ms);
void node_ble_notified(struct node *n, uint32_t now_ms); /* the one that was shown is the radio's now */
void node_ble_disconnected(struct node *n, uint32_t now_ms);

#endif
