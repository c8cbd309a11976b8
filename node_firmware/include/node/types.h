/* What every file of the core speaks of: status codes, events and their windows. */
#ifndef NODE_TYPES_H
#define NODE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/config.h"
#include "node/port.h"

typedef enum node_status {
    NODE_OK = 0,
    NODE_E_ARGUMENT = -1,
    NODE_E_FULL = -2,
    NODE_E_PROTOCOL = -3, /* the broker sent what MQTT does not allow */
    NODE_E_TIMEOUT = -4,  /* the broker is silent */
    NODE_E_REFUSED = -5,  /* CONNACK or SUBACK said no */
    NODE_E_FLASH = -6,
    NODE_E_IMAGE = -7,  /* an image does not verify, or asks for what this build does not have */
    NODE_E_FORMAT = -8, /* CBOR that is malformed or not what was expected */
    NODE_E_BUSY = -9,   /* not now */
    NODE_E_STATE = -10, /* not in this state: see the table */
} node_status_t;

#define NODE_MUST_USE __attribute__((warn_unused_result))

#define NODE_MODEL_BYTES 8

typedef enum node_reason { NODE_TRIGGER, NODE_AUDIT, NODE_FOLLOW } node_reason_t;

typedef enum node_window_kind {
    WINDOW_PCM16,
    WINDOW_ADPCM,
    WINDOW_FEATURES,
    WINDOW_VIBRATION,
    WINDOW_ECG,
    WINDOW_IMAGE_GRAY8,
    WINDOW_IMAGE_RGB8,
    WINDOW_TABULAR
} node_window_kind_t;

typedef struct node_window {
    node_window_kind_t kind;
    uint32_t rate_hz, channels;
    uint32_t shape[4];
    unsigned rank;           /* 1..4 */
    const uint8_t *piece[2]; /* the data is one after the other; copied to flash before the call returns */
    uint32_t piece_size[2];  /* bytes, together at most NODE_MAX_WINDOW */
} node_window_t;

typedef struct node_event {
    unsigned cascade; /* index of the cascade */
    float score;
    uint32_t label;
    node_reason_t reason;
    uint32_t ref;                /* NODE_FOLLOW: seq of the event that is answered */
    const node_window_t *window; /* or NULL */
} node_event_t;

#endif
