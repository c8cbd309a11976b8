/* An MQTT 3.1.1 client without I/O: bytes in, bytes out, time as an argument.
 *
 * Received bytes go into mqtt_receive(), which calls back. What is to be sent is pulled: mqtt_transmit() shows the next
 * piece, mqtt_transmitted() takes it off. A publish is never copied: its topic and payload stay the caller's memory and
 * must not change until `published` has been called for its token, however often the link breaks in between. */
#ifndef NODE_MQTT_H
#define NODE_MQTT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/config.h"

typedef struct mqtt_publish {
    const char *prefix, *tail; /* the topic is one after the other */
    const uint8_t *payload;
    uint32_t size;
    uint32_t token; /* the caller's, comes back with `published` */
    uint8_t qos;    /* 0 or 1 */
    bool retain;
} mqtt_publish_t;

/* A piece of a message as it arrives; `offset` 0 is its first, and offset + size == total its last. */
typedef struct mqtt_piece {
    const char *topic; /* NUL-terminated; empty where it was longer than MQTT_TOPIC_BYTES */
    const uint8_t *data;
    uint32_t size, offset, total;
} mqtt_piece_t;

typedef struct mqtt_handler {
    void (*connected)(void *context, bool session_present);
    void (*subscribed)(void *context);
    void (*received)(void *context, const mqtt_piece_t *piece);
    void (*published)(void *context, uint32_t token); /* QoS 1: acknowledged; QoS 0: sent */
} mqtt_handler_t;

typedef struct mqtt_connect {
    const char *client_id, *user, *password; /* user and password may be NULL */
    const char *will_prefix, *will_tail;     /* topic of the will: QoS 1, retained */
    const uint8_t *will;
    uint16_t will_size, keepalive_s;
} mqtt_connect_t;

typedef enum publish_stage { PUBLISH_WAITING, PUBLISH_SENDING, PUBLISH_SENT } publish_stage_t;

typedef struct mqtt_slot {
    mqtt_publish_t publish;
    uint16_t packet_id;
    uint8_t stage; /* publish_stage_t */
    bool again;    /* it has been sent on an earlier connection: DUP */
} mqtt_slot_t;

typedef enum mqtt_link { MQTT_DOWN, MQTT_CONNECTING, MQTT_UP } mqtt_link_t;

typedef struct mqtt {
    const mqtt_handler_t *handler;
    void *context;
    mqtt_link_t link;
    uint16_t keepalive_s, next_packet_id, subscribe_id, subscribe_count;
    uint32_t sent_ms, received_ms, ping_ms;
    bool ping_out;

    mqtt_slot_t slots[MQTT_MAX_PUBLISHES]; /* in the order of mqtt_publish() */
    uint8_t slot_count;
    bool sending; /* slots[sending_slot] is on its way: its header is in `header`, `sent_bytes` of both are out */
    uint8_t sending_slot;
    uint16_t header_size;
    uint32_t sent_bytes;
    uint8_t header[MQTT_TOPIC_BYTES + 9];
    uint16_t control_size, control_sent;
    uint8_t control[MQTT_CONTROL_BYTES]; /* whole packets other than PUBLISH */

    uint8_t stage, first, shift; /* of the packet being received */
    uint32_t remaining, offset, total;
    uint16_t packet_id, topic_size, held;
    char topic[MQTT_TOPIC_BYTES]; /* or the body of a short packet */
} mqtt_t;

#define MQTT_MUST_USE __attribute__((warn_unused_result))

void mqtt_init(mqtt_t *m, const mqtt_handler_t *handler, void *context);
/* The transport is up: queues CONNECT (clean session off), and PUBLISHes that were not acknowledged behind it. */
MQTT_MUST_USE int mqtt_link_up(mqtt_t *m, const mqtt_connect_t *connect, uint32_t now_ms);
/* The transport is gone. QoS 0 publishes are forgotten with their `published`, QoS 1 wait for the next link. */
void mqtt_link_down(mqtt_t *m);
/* One SUBSCRIBE, QoS 1 for every filter; a filter is prefix + middle + tail. */
typedef struct mqtt_filter {
    const char *prefix, *middle, *tail;
} mqtt_filter_t;
MQTT_MUST_USE int mqtt_subscribe(mqtt_t *m, const mqtt_filter_t *filters, uint16_t count);
MQTT_MUST_USE int mqtt_publish(mqtt_t *m, const mqtt_publish_t *publish);
/* Forgets a publish without `published`. Only while the link is not up: nobody may be answered with what is gone. */
void mqtt_cancel(mqtt_t *m, uint32_t token);
MQTT_MUST_USE int mqtt_disconnect(mqtt_t *m);
MQTT_MUST_USE int mqtt_receive(mqtt_t *m, const uint8_t *data, size_t size, uint32_t now_ms);
size_t mqtt_transmit(mqtt_t *m, const uint8_t **data);
void mqtt_transmitted(mqtt_t *m, size_t size, uint32_t now_ms);
/* Keepalive. Milliseconds until it must be called again, or NODE_E_TIMEOUT. */
MQTT_MUST_USE int mqtt_step(mqtt_t *m, uint32_t now_ms);

#endif
