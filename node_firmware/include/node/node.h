/* node: the whole firmware above the port. Bytes and samples in, bytes out; see port.h for the loop around it.
 * Calls return 0 (or a count) or a negative node_status; a negative one from node_receive() or node_step() means: drop
 * the link. Everything is in node_t and in what the caller lends; one thread. */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "mqtt.h"
#include "node/port.h"
#include "node/types.h"
#include "queue.h"
#include "sense.h"

/* Lent to node_init() for as long as the node runs. The flash holds, in this order: the session log (SESSION_SECTORS),
 * a place of `image_bytes` for every image, and the event queue in all that is left. */
typedef struct node_config {
    const char *id;              /* [a-z0-9][a-z0-9-]{1,30} */
    const char *user, *password; /* for the broker, or NULL */
    const char *hardware, *board, *firmware, *reset_reason;
    uint32_t images, image_bytes; /* image_bytes: a multiple of the sector size */
    uint32_t arena_bytes;         /* the largest that a model can get */
    uint16_t keepalive_s, vitals_s;
} node_config_t;

typedef struct node_cascade {
    const char *name;
    const uint8_t *model; /* NODE_MODEL_BYTES */
    sense_t *sense;       /* NULL: events come by node_event() only */
} node_cascade_t;

typedef struct node_image {
    const char *rejected;  /* why it cannot be used, or NULL */
    const image_t *parsed; /* NULL where nothing could be read */
} node_image_t;

typedef struct node_recent {
    uint64_t t_ms, sample; /* sample: of the cascade's sensor */
    uint32_t seq;
    uint8_t cascade;
    bool open; /* no verdict has come */
} node_recent_t;

typedef enum node_phase { PHASE_OFFLINE, PHASE_INFO, PHASE_STATE, PHASE_READY, PHASE_GOODBYE, PHASE_GONE } node_phase_t;

typedef struct node {
    const node_config_t *config;
    const node_port_t *port;
    mqtt_t mqtt;
    queue_t queue;
    node_cascade_t cascades[NODE_MAX_CASCADES];
    node_image_t images[NODE_MAX_CASCADES];
    unsigned cascade_count;

    uint32_t session, seq, last_ms;
    uint64_t clock_ms, vitals_due_ms; /* the node clock: ms since node_init(), does not wrap */
    node_phase_t phase;
    bool stopping, busy;                  /* busy: `message` is on its way */
    unsigned in_flight;                   /* events */
    uint32_t gateways[NODE_MAX_GATEWAYS]; /* hashed names of those that are online */
    unsigned gateway_count;
    node_recent_t recent[NODE_MAX_RECENT]; /* by seq % NODE_MAX_RECENT */

    struct {                                                          /* since node_init() */
        uint32_t events, acknowledged, verdicts, late, refused, lost; /* lost: events that did not get into flash */
    } counts;

    char up[NODE_MAX_ID + 16]; /* nodelink/1/up/<id>/ */
    uint8_t message[NODE_MESSAGE_BYTES];
    uint8_t received[NODE_RECEIVE_BYTES];
} node_t;

/* Takes a new session number from flash and finds the events that wait there. */
NODE_MUST_USE int node_init(node_t *n, const node_config_t *config, const node_port_t *port, uint32_t now_ms);
/* Where image 1..config->images begins in flash, and, mapped, its bytes. */
uint32_t node_image_offset(const node_config_t *config, const node_flash_t *flash, unsigned image);
const uint8_t *node_image_data(const node_t *n, unsigned image);
uint32_t node_image_size(const node_t *n, unsigned image);
/* Makes image 1..N a cascade that listens. Where it is rejected, `info` says why, and NODE_E_IMAGE is returned. */
NODE_MUST_USE int node_load(node_t *n, unsigned image, sense_t *sense, const sense_memory_t *memory);
/* A cascade without a model; for simulators and for nodes that think elsewhere. Returns its index. */
NODE_MUST_USE int node_add_cascade(node_t *n, const char *name, const uint8_t *model);

NODE_MUST_USE int node_link_up(node_t *n, uint32_t now_ms);
void node_link_down(node_t *n, uint32_t now_ms);
NODE_MUST_USE int node_receive(node_t *n, const uint8_t *data, size_t size, uint32_t now_ms);
/* The next bytes to send; 0 where there are none. Valid until the next call. */
size_t node_transmit(node_t *n, const uint8_t **data);
void node_transmitted(node_t *n, size_t size, uint32_t now_ms);
/* Milliseconds until it wants to be called again, or an error. Call it after the other calls too. */
NODE_MUST_USE int node_step(node_t *n, uint32_t now_ms);

/* Samples of a sensor, to all cascades that listen to it. NODE_E_IMAGE where a model failed; the others went on. */
NODE_MUST_USE int node_feed(node_t *n, front_end_kind_t sensor, const int16_t *samples, size_t count, uint32_t now_ms);
/* Puts an event into flash; it is sent when a gateway is online. */
NODE_MUST_USE int node_event(node_t *n, const node_event_t *event, uint32_t now_ms);

bool node_ready(const node_t *n);
/* Says `disconnected` and disconnects; over when node_stopped(). */
void node_stop(node_t *n, uint32_t now_ms);
bool node_stopped(const node_t *n);

#endif
