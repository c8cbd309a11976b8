/* The messages of nodelink/1 (docs/nodelink.cddl): structs to CBOR and back. Encoders return the size written, or 0
 * where it does not fit; decoders return 0 or NODE_E_FORMAT and refuse what the schema does not allow. */
#ifndef NODE_MESSAGE_H
#define NODE_MESSAGE_H

#include "cbor.h"
#include "node/detect.h"
#include "node/port.h"
#include "node/types.h"

typedef struct slot_info {
    uint32_t image, slot, capacity_bytes;
    const char *state;
    const char
        *cascade; /* NULL where the slot holds no image that can be read; then version and counter are not sent */
    const uint8_t *sha256; /* NULL where nothing is known of what it holds; then the size is not sent */
    const char *version;
    uint32_t counter, size_bytes;
    const char *rejected; /* why, or NULL */
} slot_info_t;

/* Of the engine: the most that a model may have, and the plans that it reads. */
typedef struct limits {
    uint32_t tensors, operators, rank, work, plan_version;
} limits_t;

typedef struct info {
    uint32_t session;
    const char *hardware, *board, *firmware, *reset_reason;
    const uint8_t *operators;
    uint32_t operators_bytes, arena_bytes, vitals_interval_s;
    const char *const *front_ends;
    uint32_t front_end_count;
    uint32_t slot_count;
    limits_t limits;
    const node_crash_t *crash; /* or NULL */
} info_t;

typedef struct cascade_vitals {
    const char *cascade;
    const uint8_t *model;
    uint32_t invokes, arena_bytes;
    uint64_t invoke_us, listened_ms; /* listened_ms: of its sensor's time; 0 is not sent */
    score_stats_t scores;
} cascade_vitals_t;

typedef struct vitals {
    uint32_t session, queued, dropped;
    uint64_t uptime_s, t_ms;
    node_health_t health; /* what is out of the schema's range is unknown, and not sent */
    const cascade_vitals_t *cascades;
    uint32_t cascade_count;
} vitals_t;

/* What node_event() adds to an event. */
typedef struct event_stamp {
    uint32_t seq, session;
    uint64_t t_ms;
    const char *cascade;
    const uint8_t *model;
} event_stamp_t;

typedef enum basis { BASIS_GATEWAY, BASIS_NODE, BASIS_OVERLOAD, BASIS_TIMEOUT, BASIS_FAILED } basis_t;

typedef struct verdict {
    uint32_t seq, session;
    bool accepted;
    span_t label, action;
    float score;
    uint64_t ttl_ms;
    basis_t basis;
} verdict_t;

/* Events that are on the gateway's disk. */
typedef struct stored {
    uint32_t session, seqs[16], count;
} stored_t;

typedef enum front_end_kind { FRONT_END_AUDIO, FRONT_END_VIBRATION } front_end_kind_t;

typedef struct front_end {
    front_end_kind_t kind;
    uint32_t rate_hz, window, step, channels, low_hz, high_hz;
    span_t parameters; /* audio: audio_parameters_read()'s; vibration: offset and gain of each band */
} front_end_t;

typedef struct decision {
    detect_config_t detect;
    uint32_t clip_ms, listen_ms;
} decision_t;

size_t state_encode(uint8_t *out, size_t capacity, const char *state, uint32_t session);
/* The map up to its slots, which come last: each is a slot_encode(). */
size_t info_encode_head(uint8_t *out, size_t capacity, const info_t *info);
size_t slot_encode(uint8_t *out, size_t capacity, const slot_info_t *slot);
size_t vitals_encode(uint8_t *out, size_t capacity, const vitals_t *vitals);
/* The map up to the window's data, which comes last: window->piece[0], then [1]. */
size_t event_encode_head(uint8_t *out, size_t capacity, const event_stamp_t *stamp, const node_event_t *event);

int verdict_decode(verdict_t *verdict, const uint8_t *data, size_t size);
int stored_decode(stored_t *stored, const uint8_t *data, size_t size);
/* Which event it is that event_encode_head() began. */
int event_decode_name(uint32_t *session, uint32_t *seq, const uint8_t *data, size_t size);
int gateway_state_decode(bool *online, const uint8_t *data, size_t size);
int front_end_decode(front_end_t *front_end, span_t cbor);
int decision_decode(decision_t *decision, span_t cbor);

#endif
