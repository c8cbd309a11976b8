/* node: the whole firmware above the port. Bytes and samples in, bytes out; see port.h for the loop around it.
 * Calls return 0 (or a count) or a negative node_status; a negative one from node_receive() or node_step() means: drop
 * the link. Everything is in node_t and in what the caller lends; one thread, and at most 3 KB of its stack on a
 * Cortex-M besides what the port's own functions take (tests/test_stack.py). */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "ble.h"
#include "mqtt.h"
#include "node/port.h"
#include "node/types.h"
#include "queue.h"
#include "sense.h"
#include "settings.h"
#include "slots.h"

/* Lent to node_init() for as long as the node runs. The flash holds, in this order: the session (SESSION_SECTORS), the
 * settings (JOURNAL_SECTORS), for every image its journal and two slots of `image_bytes`, and the event queue in all
 * that is left. */
typedef struct node_config {
    const char *id;              /* [a-z0-9][a-z0-9-]{1,30} */
    const char *user, *password; /* for the broker, or NULL */
    const char *hardware, *board, *firmware;
    const char *reset_reason;               /* a word of docs/nodelink.md, "Reset reasons" */
    const node_crash_t *crash;              /* of the last life, or NULL */
    const uint8_t (*keys)[IMAGE_KEY_BYTES]; /* who may sign images; without any no image runs */
    unsigned key_count;
    uint32_t images, image_bytes; /* image_bytes: a multiple of the sector size */
    uint32_t arena_bytes;         /* the largest that a model can get */
    uint32_t trial_s;             /* how long a trial goes on that nobody watches */
    uint16_t keepalive_s, vitals_s;
} node_config_t;

typedef struct node_cascade {
    char name[NODE_MAX_ID + 1];
    uint8_t model[NODE_MODEL_BYTES]; /* of the image that runs */
    detect_config_t detect;          /* what that image asks for, before settings */
    sense_t *sense;                  /* NULL: events come by node_event() only */
    bool runs, on;                   /* it has a model; the operator wants it */
} node_cascade_t;

/* One of images 1..N: its two slots, and what runs of them. */
typedef struct node_model {
    slots_t slots;
    sense_t *sense;        /* lent by node_load(), or NULL */
    sense_memory_t memory; /* as well */
    int cascade;           /* its index; -1 before an image ran */
    int open;              /* the slot that is open in `memory`, or -1 */
    uint64_t watched_ms;   /* node clock: when somebody last looked at the trial */
} node_model_t;

typedef struct node_recent {
    uint64_t t_ms, sample; /* sample: of the cascade's sensor */
    uint32_t seq;
    uint8_t cascade;
    bool open; /* no verdict has come */
} node_recent_t;

/* What carries messages to gateways. */
typedef enum node_carrier {
    CARRIER_MQTT,
#if NODE_BLE
    CARRIER_BLE,
#endif
    CARRIERS,
    CARRIER_NONE = CARRIERS
} node_carrier_t;

/* What was said over a carrier since it can be spoken over. */
typedef enum node_phase { PHASE_OFFLINE, PHASE_INFO, PHASE_STATE, PHASE_READY, PHASE_GOODBYE, PHASE_GONE } node_phase_t;

typedef struct node {
    const node_config_t *config;
    const node_port_t *port;
    mqtt_t mqtt;
    queue_t queue;
    node_cascade_t cascades[NODE_MAX_CASCADES];
    node_model_t models[NODE_MAX_CASCADES];
    unsigned cascade_count;
    unsigned upload; /* image that receives: later chunks do not name it; 0: none */
    settings_t settings;
    journal_t settings_journal;

    uint32_t session, seq, last_ms;
    uint64_t clock_ms, vitals_due_ms; /* the node clock: ms since node_init(), does not wrap */
    node_phase_t phase[CARRIERS];
    bool info_due[CARRIERS];  /* it was not told there as it is now */
    node_carrier_t carrier;   /* has the events: what is in flight is there */
    node_carrier_t speaking;  /* has `message`, or CARRIER_NONE */
    node_carrier_t receiving; /* its message grows in `received`, or CARRIER_NONE */
    uint64_t reset_due_ms;    /* 0: no reset was asked for */
    int64_t unix_ms;          /* at node clock 0, where somebody has said it */
    bool unix_known;
    bool info_changed;
    bool stopping, answering;             /* answering: `answer` is on its way */
    unsigned in_flight;                   /* events */
    uint32_t gateways[NODE_MAX_GATEWAYS]; /* hashed names of those that are online at the broker */
    unsigned gateway_count;
    node_recent_t recent[NODE_MAX_RECENT]; /* by seq % NODE_MAX_RECENT */

    struct {                                                          /* since node_init() */
        uint32_t events, acknowledged, verdicts, late, refused, lost; /* lost: events that did not get into flash */
        uint32_t uploads, resumed, verified, rejected, tests, confirms, reverts; /* of images */
        uint32_t repeated;   /* asked for once more, when it was done already */
        uint32_t unanswered; /* SMP requests that came before the last answer was out */
    } counts;

    char up[NODE_MAX_ID + 16]; /* nodelink/1/up/<id>/ */
#if NODE_BLE
    ble_t ble;
    beacon_t beacon;
    improv_t improv;
#endif
    /* node_init() leaves these alone: where thousands of nodes share a machine, most of it is memory that is never
     * touched */
    uint8_t message[NODE_MESSAGE_BYTES];
    uint8_t answer[NODE_ANSWER_BYTES];
    uint8_t received[NODE_RECEIVE_BYTES];
#if NODE_BLE
    uint8_t ble_segment[BLE_SEGMENT_BYTES];
    uint8_t ble_down[BLE_DOWN_BYTES];
    uint8_t ble_answers[BLE_ANSWERS_BYTES];
#endif
} node_t;

/* Takes a new session number from flash and finds the events that wait there. */
NODE_MUST_USE int node_init(node_t *n, const node_config_t *config, const node_port_t *port, uint32_t now_ms);
/* Lends image 1..N what it runs in, of the largest size that is allowed to it, and runs what its slots hold; an image
 * that comes later runs there too. With `sense` NULL the cascade thinks elsewhere: it needs only an arena for
 * self-tests, which images may share, and no ring. An image that cannot run is rejected, as `info` says; the node goes
 * on. */
NODE_MUST_USE int node_load(node_t *n, unsigned image, sense_t *sense, const sense_memory_t *memory);
/* Installs an image of the factory's where no other runs: verified like any other, then confirmed. NODE_E_IMAGE where
 * it is rejected. After node_load(). */
NODE_MUST_USE int node_provision(node_t *n, unsigned image, const uint8_t *data, uint32_t size);
/* A cascade without an image; for simulators. Returns its index. */
NODE_MUST_USE int node_add_cascade(node_t *n, const char *name, const uint8_t model[NODE_MODEL_BYTES]);

NODE_MUST_USE int node_link_up(node_t *n, uint32_t now_ms);
void node_link_down(node_t *n, uint32_t now_ms);
NODE_MUST_USE int node_receive(node_t *n, const uint8_t *data, size_t size, uint32_t now_ms);
/* The next bytes to send; 0 where there are none. Valid until the next call. */
size_t node_transmit(node_t *n, const uint8_t **data);
void node_transmitted(node_t *n, size_t size, uint32_t now_ms);
/* Milliseconds until it wants to be called again, or an error. Call it after the other calls too. */
NODE_MUST_USE int node_step(node_t *n, uint32_t now_ms);

/* Samples of a sensor, to all cascades that listen to it. A model that fails is rejected, and the one before it runs
 * again. */
void node_feed(node_t *n, front_end_kind_t sensor, const int16_t *samples, size_t count, uint32_t now_ms);
/* Puts an event into flash; it is sent when a gateway is online. NODE_E_STATE where the cascade has no model or is off.
 */
NODE_MUST_USE int node_event(node_t *n, const node_event_t *event, uint32_t now_ms);

/* Answers an SMP request that came over a transport of the port's own; as smp_answer(). */
size_t node_manage(node_t *n, const uint8_t *request, size_t size, uint8_t *answer, size_t capacity, uint32_t now_ms);

bool node_ready(const node_t *n);    /* MQTT has heard its birth */
bool node_delivers(const node_t *n); /* a gateway takes events now */
/* Says `disconnected` and disconnects; over when node_stopped(). */
void node_stop(node_t *n, uint32_t now_ms);
bool node_stopped(const node_t *n);

#endif
