/* ble: the node on Bluetooth LE: what it advertises, its GATT characteristics, and the messages in them
 * (docs/nodelink.md, "Bluetooth LE"). It has no radio: that is the port's, which calls these, in any order that a radio
 * allows.
 *
 *   the radio is ready; after every node_step()              -> node_ble_advertisement()
 *   a central connected                                      -> node_ble_connected()
 *   it wrote, read, subscribed, has another ATT_MTU          -> the calls of that name
 *   the radio has room for a notification                    -> node_ble_notification(), send it, node_ble_notified()
 *   node_ble_broken()                                        -> disconnect
 *   the connection is gone                                   -> node_ble_disconnected(), node_ble_advertisement()
 *
 * After any of these, node_step(). One connection at a time. A build with NODE_BLE 0 has none of it. */
#ifndef NODE_BLE_H
#define NODE_BLE_H

#include "node/types.h"
#include "segments.h"
#include "smp.h"

struct node;

#define BLE_ADVERTISEMENT_BYTES 31
#define BLE_MTU                 23 /* ATT_MTU before it was exchanged */
#define BLE_MTU_MOST            517
#define BLE_VALUE_MOST          512 /* bytes of a characteristic, however large ATT_MTU is */
#define BLE_BEACON_BYTES        10  /* the service data */

typedef enum ble_characteristic {
    BLE_IDENTITY,
    BLE_UP,
    BLE_DOWN,
    BLE_FLOW,
    BLE_SMP,
    BLE_STATE, /* Improv's, from here on */
    BLE_ERROR,
    BLE_COMMAND,
    BLE_RESULT,
    BLE_CAPABILITIES,
    BLE_CHARACTERISTICS
} ble_characteristic_t;

/* What a connection is worth. Authenticated: a passkey or a comparison was part of the pairing. */
typedef enum ble_level { BLE_OPEN, BLE_ENCRYPTED, BLE_AUTHENTICATED } ble_level_t;

/* An event that the gateway has not stored yet, as far as the node knows. */
typedef struct ble_event {
    uint32_t record, session, seq;
    bool stored; /* but the end of its message was not acknowledged */
} ble_event_t;

/* The connection; a new one begins with zeros. Its buffers are in node_t. */
typedef struct ble {
    bool connected, online, broken; /* online: a gateway said so; broken: the connection cannot be */
    uint8_t level;                  /* ble_level_t */
    uint16_t subscribed;            /* a bit a characteristic */
    uint8_t shown;                  /* characteristic of the notification that was shown */
    uint16_t mtu, shown_bytes;
    segment_sender_t up;
    segment_receiver_t down;
    uint8_t flow;
    uint32_t token; /* of the message in `up` */
    uint8_t out_count;
    ble_event_t out[NODE_EVENTS_IN_FLIGHT];

    uint16_t answers, answer_left;     /* bytes that wait; of the first answer */
    uint8_t request[SMP_HEADER_BYTES]; /* header of the request that comes */
    uint32_t request_bytes, request_ms;
} ble_t;

/* How far a node that is nobody yet has come; see improv.c. */
typedef struct improv {
    uint8_t state, error;       /* as Improv has them */
    uint8_t due, command;       /* due: a bit for each characteristic from BLE_STATE on; command: of the result */
    uint8_t wifi_pairs;         /* in the map, and their bytes: the Wi-Fi that it was given */
    uint16_t wifi_bytes, taken; /* taken: bytes of the command that comes */
} improv_t;

/* What is advertised. */
typedef struct beacon {
    uint8_t data[BLE_BEACON_BYTES];
    uint64_t due_ms;    /* node clock: when it must be another one */
    bool used, changed; /* used: a radio has asked for it */
} beacon_t;

/* In place of node_init(), where provision_load() finds nothing: a node that is nobody yet, and waits for a gateway
 * that says who it is. The port has `provisioning` and reset(), and a radio that can authenticate. */
void node_ble_unprovisioned(struct node *n, const node_port_t *port, uint32_t now_ms);
/* The advertising data and the scan response; their sizes. Whether they changed since they were asked for last. */
bool node_ble_advertisement(struct node *n, uint8_t data[BLE_ADVERTISEMENT_BYTES], size_t *size,
                            uint8_t response[BLE_ADVERTISEMENT_BYTES], size_t *response_size);
void node_ble_connected(struct node *n, uint16_t mtu, uint32_t now_ms);
void node_ble_mtu(struct node *n, uint16_t mtu);
void node_ble_subscribed(struct node *n, ble_characteristic_t characteristic, bool on, uint32_t now_ms);
/* The connection has become encrypted. */
void node_ble_secured(struct node *n, ble_level_t level);
/* Negative: what was written cannot be; disconnect. */
NODE_MUST_USE int node_ble_written(struct node *n, ble_characteristic_t characteristic, const uint8_t *data,
                                   size_t size, uint32_t now_ms);
/* The value that a read is answered with; its size. */
size_t node_ble_value(const struct node *n, ble_characteristic_t characteristic, uint8_t *data, size_t capacity);
/* The next notification, 0 where there is none. Valid until the next call. Of a characteristic that can be read it is
 * the value as well, and none of these waits for a subscription. */
size_t node_ble_notification(struct node *n, ble_characteristic_t *characteristic, const uint8_t **data,
                             uint32_t now_ms);
/* The one that was shown last is the radio's now; no call was between. */
void node_ble_notified(struct node *n, uint32_t now_ms);
/* The node wants to be disconnected: nonsense was written, or nothing is acknowledged any more. */
bool node_ble_broken(const struct node *n);
void node_ble_disconnected(struct node *n, uint32_t now_ms);

#endif
