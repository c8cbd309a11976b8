/* The node: what is said when, and what is done about what is heard. */
#include "node/node.h"

#include <string.h>

#include "message.h"
#include "session.h"

#define OWN_MESSAGE UINT32_MAX /* token of `message`; an event's token is its record in the queue */
#define UP          "nodelink/1/up/"
#define DOWN        "nodelink/1/down/"
#define GATEWAY     "nodelink/1/gateway/"
#define TEXT_BYTES  257 /* the longest action or label of a verdict: 64 characters, in UTF-8, with its end */

static void say(const node_t *n, const char *line)
{
    if (n->port->log != NULL) {
        n->port->log(n->port->context, line);
    }
}

static void tick(node_t *n, uint32_t now_ms)
{
    n->clock_ms += now_ms - n->last_ms;
    n->last_ms = now_ms;
}

/* ---- messages of the node's own: one at a time, in `message` ---- */

static void publish_own(node_t *n, const char *tail, size_t size, uint8_t qos)
{
    const mqtt_publish_t publish = {.prefix = n->up,
                                    .tail = tail,
                                    .payload = n->message,
                                    .size = (uint32_t)size,
                                    .token = OWN_MESSAGE,
                                    .qos = qos,
                                    .retain = qos != 0};
    n->busy = size != 0 && mqtt_publish(&n->mqtt, &publish) == NODE_OK;
    if (size == 0) {
        say(n, "a message does not fit into NODE_MESSAGE_BYTES");
    }
}

static void publish_state(node_t *n, const char *state)
{
    publish_own(n, "state", state_encode(n->message, sizeof n->message, state, n->session), 1);
}

static void describe_image(const node_t *n, unsigned image, slot_info_t *slot)
{
    const node_image_t *const found = &n->images[image - 1];
    const image_t *const parsed = found->parsed;
    *slot = (slot_info_t){.image = image,
                          .state = found->rejected != NULL ? "rejected"
                                   : parsed != NULL        ? "confirmed"
                                                           : "empty",
                          .capacity_bytes = n->config->image_bytes,
                          .rejected = found->rejected};
    if (parsed != NULL) {
        slot->cascade = parsed->cascade;
        slot->sha256 = parsed->sha256;
        slot->version = parsed->version;
        slot->counter = parsed->counter;
        slot->size_bytes = parsed->size;
    }
}

static void publish_info(node_t *n)
{
    static const char *const front_ends[] = {"audio", "vibration"};
    const node_config_t *const config = n->config;
    uint8_t operators[32];
    slot_info_t slots[NODE_MAX_CASCADES];
    for (unsigned i = 0; i < config->images; i++) {
        describe_image(n, i + 1, &slots[i]);
    }
    const info_t info = {.session = n->session,
                         .hardware = config->hardware,
                         .board = config->board,
                         .firmware = config->firmware,
                         .reset_reason = config->reset_reason,
                         .operators = operators,
                         .operators_bytes = (uint32_t)nn_operators(operators, sizeof operators),
                         .arena_bytes = config->arena_bytes,
                         .vitals_interval_s = config->vitals_s,
                         .front_ends = front_ends,
                         .front_end_count = 2,
                         .slots = slots,
                         .slot_count = config->images};
    publish_own(n, "info", info_encode(n->message, sizeof n->message, &info), 1);
}

static void describe_cascade(const node_cascade_t *cascade, cascade_vitals_t *vitals)
{
    *vitals = (cascade_vitals_t){.cascade = cascade->name, .model = cascade->model};
    if (cascade->sense != NULL) {
        score_stats_t *const stats = &cascade->sense->detect.stats;
        vitals->invokes = cascade->sense->invokes;
        vitals->invoke_us = cascade->sense->invoke_us;
        vitals->arena_bytes = (uint32_t)cascade->sense->nn.arena_used;
        vitals->scores = *stats;
        memset(stats, 0, sizeof *stats);
    }
}

static void publish_vitals(node_t *n)
{
    cascade_vitals_t cascades[NODE_MAX_CASCADES];
    for (unsigned i = 0; i < n->cascade_count; i++) {
        describe_cascade(&n->cascades[i], &cascades[i]);
    }
    const vitals_t vitals = {.session = n->session,
                             .uptime_s = n->clock_ms / 1000,
                             .t_ms = n->clock_ms,
                             .queued = n->queue.waiting,
                             .dropped = n->queue.dropped + n->counts.lost,
                             .cascades = cascades,
                             .cascade_count = n->cascade_count};
    publish_own(n, "vitals", vitals_encode(n->message, sizeof n->message, &vitals), 0);
}

/* ---- events ---- */

/* Hands events from flash to the link, as many as may be in flight. */
static void publish_events(node_t *n)
{
    uint32_t record, size;
    const uint8_t *payload;
    while (n->in_flight < NODE_EVENTS_IN_FLIGHT && n->mqtt.slot_count < MQTT_MAX_PUBLISHES &&
           queue_next(&n->queue, &record, &payload, &size)) {
        const mqtt_publish_t publish = {
            .prefix = n->up, .tail = "event", .payload = payload, .size = size, .token = record, .qos = 1};
        if (mqtt_publish(&n->mqtt, &publish) != NODE_OK) {
            return; /* cannot happen: there is a slot, and the topic is short */
        }
        n->in_flight++;
    }
}

/* Takes the events in flight back, so that the queue may overwrite them. Only while the link is down. */
static void recall_events(node_t *n)
{
    while (n->mqtt.slot_count != 0) {
        mqtt_cancel(&n->mqtt, n->mqtt.slots[0].publish.token);
    }
    n->in_flight = 0;
    queue_rewind(&n->queue);
}

static int append_event(node_t *n, const queue_piece_t *pieces, unsigned count)
{
    int status = queue_append(&n->queue, pieces, count);
    if (status == NODE_E_FULL && n->mqtt.link == MQTT_DOWN) {
        recall_events(n);
        status = queue_append(&n->queue, pieces, count);
    }
    return status;
}

static bool valid_event(const node_t *n, const node_event_t *event)
{
    const node_window_t *const window = event->window;
    return event->cascade < n->cascade_count &&
           (window == NULL || (window->rank >= 1 && window->rank <= 4 && window->piece_size[0] <= NODE_MAX_WINDOW &&
                               window->piece_size[1] <= NODE_MAX_WINDOW - window->piece_size[0]));
}

static void advance(node_t *n);

int node_event(node_t *n, const node_event_t *event, uint32_t now_ms)
{
    tick(n, now_ms);
    if (!valid_event(n, event)) {
        return NODE_E_ARGUMENT;
    }
    const node_cascade_t *const cascade = &n->cascades[event->cascade];
    const event_stamp_t stamp = {
        .seq = n->seq++, .session = n->session, .t_ms = n->clock_ms, .cascade = cascade->name, .model = cascade->model};
    uint8_t head[NODE_HEAD_BYTES];
    queue_piece_t pieces[3] = {{head, (uint32_t)event_encode_head(head, sizeof head, &stamp, event)}};
    unsigned count = 1;
    for (; event->window != NULL && count < 3; count++) {
        pieces[count] = (queue_piece_t){event->window->piece[count - 1], event->window->piece_size[count - 1]};
    }
    const int status = append_event(n, pieces, count);
    if (status != NODE_OK) {
        n->counts.lost++;
        return status;
    }
    n->counts.events++;
    n->recent[stamp.seq % NODE_MAX_RECENT] =
        (node_recent_t){.t_ms = stamp.t_ms, .seq = stamp.seq, .cascade = (uint8_t)event->cascade, .open = true};
    advance(n);
    return NODE_OK;
}

/* ---- what comes from the gateway ---- */

static bool to_string(char out[TEXT_BYTES], span_t text)
{
    if (text.size >= TEXT_BYTES || (text.size != 0 && memchr(text.data, '\0', text.size) != NULL)) {
        return false;
    }
    if (text.size != 0) {
        memcpy(out, text.data, text.size);
    }
    out[text.size] = '\0';
    return true;
}

static void take_verdict(node_t *n, const uint8_t *data, size_t size)
{
    verdict_t verdict;
    char action[TEXT_BYTES], label[TEXT_BYTES];
    if (verdict_decode(&verdict, data, size) != NODE_OK || !to_string(action, verdict.action) ||
        !to_string(label, verdict.label)) {
        n->counts.refused++;
        return;
    }
    node_recent_t *const event = &n->recent[verdict.seq % NODE_MAX_RECENT];
    if (verdict.session != n->session || !event->open || event->seq != verdict.seq ||
        n->clock_ms - event->t_ms > verdict.ttl_ms) {
        n->counts.late++;
        return;
    }
    event->open = false; /* a verdict may be delivered twice, but is carried out once */
    n->counts.verdicts++;
    const node_cascade_t *const cascade = &n->cascades[event->cascade];
    if (cascade->sense != NULL && strcmp(action, "listen") == 0) {
        sense_follow(cascade->sense, verdict.seq);
    }
    if (action[0] != '\0' && n->port->action != NULL) {
        n->port->action(n->port->context, cascade->name, action, label);
    }
}

/* FNV-1a: tells a handful of gateways apart without keeping their names. */
static uint32_t hash(const char *text, size_t size)
{
    uint32_t h = 2166136261U;
    for (size_t i = 0; i < size; i++) {
        h = (h ^ (uint8_t)text[i]) * 16777619U;
    }
    return h;
}

/* An empty payload is how a retained message is cleared: that gateway is gone. */
static void take_gateway_state(node_t *n, const char *name, size_t name_size, const uint8_t *data, size_t size)
{
    bool online = false;
    if (size != 0 && gateway_state_decode(&online, data, size) != NODE_OK) {
        n->counts.refused++;
        return;
    }
    const uint32_t gateway = hash(name, name_size);
    unsigned i = 0;
    while (i < n->gateway_count && n->gateways[i] != gateway) {
        i++;
    }
    if (i < n->gateway_count && !online) {
        n->gateways[i] = n->gateways[--n->gateway_count];
    } else if (i == n->gateway_count && online && i < NODE_MAX_GATEWAYS) {
        n->gateways[n->gateway_count++] = gateway;
    }
}

static void dispatch(node_t *n, const char *topic, const uint8_t *data, size_t size)
{
    static const char state[] = "/state";
    const size_t prefix = sizeof GATEWAY - 1, length = strlen(topic), tail = sizeof state - 1;
    if (strncmp(topic, GATEWAY, prefix) == 0 && length > prefix + tail && strcmp(topic + length - tail, state) == 0) {
        take_gateway_state(n, topic + prefix, length - prefix - tail, data, size);
    } else if (strncmp(topic, DOWN, sizeof DOWN - 1) == 0) { /* the filter says that it is this node's verdict */
        take_verdict(n, data, size);
    }
}

static void on_received(void *context, const mqtt_piece_t *piece)
{
    node_t *const n = context;
    const bool last = piece->offset + piece->size == piece->total;
    if (piece->total > sizeof n->received) {
        n->counts.refused += last ? 1 : 0;
        return;
    }
    if (piece->size != 0) {
        memcpy(n->received + piece->offset, piece->data, piece->size);
    }
    if (last) {
        dispatch(n, piece->topic, n->received, piece->total);
    }
}

/* ---- the link ---- */

static void on_connected(void *context, bool session_present)
{
    node_t *const n = context;
    (void)session_present; /* subscribing again does no harm, and brings the retained states again */
    const mqtt_filter_t filters[] = {{DOWN, n->config->id, "/verdict"}, {GATEWAY, "+", "/state"}};
    n->phase = PHASE_INFO;
    if (mqtt_subscribe(&n->mqtt, filters, 2) != NODE_OK) {
        say(n, "no room to subscribe"); /* cannot happen: the control buffer is empty after CONNECT */
    }
}

static void on_subscribed(void *context)
{
    (void)context;
}

static void on_published(void *context, uint32_t token)
{
    node_t *const n = context;
    if (token != OWN_MESSAGE) {
        n->in_flight--;
        n->counts.acknowledged++;
        if (queue_done(&n->queue, token) != NODE_OK) {
            say(n, "flash: an event could not be marked as done");
        }
        return;
    }
    n->busy = false;
    if (n->phase == PHASE_INFO || n->phase == PHASE_STATE) {
        n->phase = n->phase == PHASE_INFO ? PHASE_STATE : PHASE_READY;
    } else if (n->phase == PHASE_GOODBYE) {
        n->phase = PHASE_GONE;
        if (mqtt_disconnect(&n->mqtt) != NODE_OK) {
            say(n, "no room to disconnect");
        }
    }
}

/* Does what can be done now. */
static void advance(node_t *n)
{
    if (n->mqtt.link != MQTT_UP) {
        return;
    }
    if (!n->busy && n->stopping && n->phase < PHASE_GOODBYE) {
        n->phase = PHASE_GOODBYE;
        publish_state(n, "disconnected");
    } else if (!n->busy && n->phase == PHASE_INFO) {
        publish_info(n);
    } else if (!n->busy && n->phase == PHASE_STATE) {
        publish_state(n, "ready");
    } else if (!n->busy && n->phase == PHASE_READY && n->clock_ms >= n->vitals_due_ms) {
        const uint32_t interval_ms = n->config->vitals_s * UINT32_C(1000);
        /* between half and the whole of the interval: a fleet that was switched on at once does not stay in step */
        n->vitals_due_ms = n->clock_ms + interval_ms / 2 + n->port->random(n->port->context) % (interval_ms / 2 + 1);
        publish_vitals(n);
    }
    if (n->phase == PHASE_READY && !n->stopping && n->gateway_count != 0) {
        publish_events(n);
    }
}

int node_link_up(node_t *n, uint32_t now_ms)
{
    tick(n, now_ms);
    node_link_down(n, now_ms);
    uint8_t will[16];
    const mqtt_connect_t connect = {.client_id = n->config->id,
                                    .user = n->config->user,
                                    .password = n->config->password,
                                    .will_prefix = n->up,
                                    .will_tail = "state",
                                    .will = will,
                                    .will_size = (uint16_t)state_encode(will, sizeof will, "lost", n->session),
                                    .keepalive_s = n->config->keepalive_s};
    return mqtt_link_up(&n->mqtt, &connect, now_ms);
}

void node_link_down(node_t *n, uint32_t now_ms)
{
    tick(n, now_ms);
    mqtt_link_down(&n->mqtt);
    mqtt_cancel(&n->mqtt, OWN_MESSAGE); /* the next link begins with its own birth */
    n->busy = false;
    n->phase = PHASE_OFFLINE;
    n->gateway_count = 0;
}

int node_receive(node_t *n, const uint8_t *data, size_t size, uint32_t now_ms)
{
    tick(n, now_ms);
    const int status = mqtt_receive(&n->mqtt, data, size, now_ms);
    advance(n);
    return status;
}

size_t node_transmit(node_t *n, const uint8_t **data)
{
    return mqtt_transmit(&n->mqtt, data);
}

void node_transmitted(node_t *n, size_t size, uint32_t now_ms)
{
    tick(n, now_ms);
    mqtt_transmitted(&n->mqtt, size, now_ms);
    advance(n);
}

int node_step(node_t *n, uint32_t now_ms)
{
    tick(n, now_ms);
    advance(n);
    const int keepalive_ms = mqtt_step(&n->mqtt, now_ms);
    if (keepalive_ms < 0 || n->phase != PHASE_READY || n->busy) {
        return keepalive_ms;
    }
    const uint64_t vitals_ms = n->vitals_due_ms > n->clock_ms ? n->vitals_due_ms - n->clock_ms : 0;
    return vitals_ms < (uint64_t)keepalive_ms ? (int)vitals_ms : keepalive_ms;
}

bool node_ready(const node_t *n)
{
    return n->phase == PHASE_READY;
}

void node_stop(node_t *n, uint32_t now_ms)
{
    tick(n, now_ms);
    n->stopping = true;
    advance(n);
}

bool node_stopped(const node_t *n)
{
    return n->stopping && (n->mqtt.link == MQTT_DOWN || (n->phase == PHASE_GONE && n->mqtt.control_size == 0));
}

/* ---- cascades and samples ---- */

uint32_t node_image_offset(const node_config_t *config, const node_flash_t *flash, unsigned image)
{
    return SESSION_SECTORS * flash->sector_size + (image - 1) * config->image_bytes;
}

const uint8_t *node_image_data(const node_t *n, unsigned image)
{
    const node_flash_t *const flash = &n->port->flash;
    return flash->map(flash->context, node_image_offset(n->config, flash, image));
}

static bool is_empty(const uint8_t *image)
{
    for (unsigned i = 0; i < IMAGE_HEADER_BYTES; i++) {
        if (image[i] != 0xff) {
            return false;
        }
    }
    return true;
}

static int add_cascade(node_t *n, const char *name, const uint8_t *model, sense_t *sense)
{
    if (n->cascade_count == NODE_MAX_CASCADES) {
        return NODE_E_FULL;
    }
    n->cascades[n->cascade_count] = (node_cascade_t){name, model, sense};
    return (int)n->cascade_count++;
}

int node_load(node_t *n, unsigned image, sense_t *sense, const sense_memory_t *memory)
{
    if (image < 1 || image > n->config->images) {
        return NODE_E_ARGUMENT;
    }
    node_image_t *const slot = &n->images[image - 1];
    const uint8_t *const data = node_image_data(n, image);
    if (is_empty(data)) {
        return NODE_E_IMAGE;
    }
    int status = image_parse(&sense->image, data, n->config->image_bytes);
    if (status != NODE_OK) {
        slot->rejected = "image";
        return status;
    }
    slot->parsed = &sense->image;
    status = sense_open(sense, memory, &slot->rejected);
    return status == NODE_OK ? add_cascade(n, sense->image.cascade, sense->image.sha256, sense) : status;
}

int node_add_cascade(node_t *n, const char *name, const uint8_t *model)
{
    return add_cascade(n, name, model, NULL);
}

static void send_outcome(node_t *n, unsigned index, sense_outcome_t outcome, uint32_t now_ms)
{
    const sense_t *const sense = n->cascades[index].sense;
    const decision_t *const decision = &sense->image.decision;
    const bool follow = outcome == SENSE_FOLLOW;
    node_window_t window;
    node_event_t event = {.cascade = index,
                          .score = sense->detect.score,
                          .reason = follow                     ? NODE_FOLLOW
                                    : outcome == SENSE_TRIGGER ? NODE_TRIGGER
                                                               : NODE_AUDIT,
                          .ref = sense->follow_ref};
    if (sense_window(sense, follow ? decision->listen_ms : decision->clip_ms, &window)) {
        event.window = &window;
    }
    if (node_event(n, &event, now_ms) != NODE_OK) {
        say(n, "an event did not get into flash"); /* counted as dropped */
    }
}

static int feed_cascade(node_t *n, unsigned index, const int16_t *samples, size_t count, uint32_t now_ms)
{
    for (size_t at = 0; at < count;) {
        sense_outcome_t outcome;
        const int taken = sense_feed(n->cascades[index].sense, samples + at, count - at, n->port, &outcome);
        if (taken < 0) {
            return taken;
        }
        at += (size_t)taken;
        if (outcome != SENSE_NOTHING) {
            send_outcome(n, index, outcome, now_ms);
        }
    }
    return NODE_OK;
}

int node_feed(node_t *n, front_end_kind_t sensor, const int16_t *samples, size_t count, uint32_t now_ms)
{
    int status = NODE_OK;
    for (unsigned i = 0; i < n->cascade_count; i++) {
        const sense_t *const sense = n->cascades[i].sense;
        if (sense != NULL && sense->image.front_end.kind == sensor) {
            const int fed = feed_cascade(n, i, samples, count, now_ms);
            status = fed < 0 ? fed : status;
        }
    }
    return status;
}

static bool valid_id(const char *id)
{
    const size_t length = strlen(id);
    return length >= 2 && length <= NODE_MAX_ID && id[0] != '-' &&
           strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

int node_init(node_t *n, const node_config_t *config, const node_port_t *port, uint32_t now_ms)
{
    static const mqtt_handler_t handler = {on_connected, on_subscribed, on_received, on_published};
    const node_flash_t *const flash = &port->flash;
    memset(n, 0, sizeof *n);
    const uint32_t begin = node_image_offset(config, flash, config->images + 1);
    if (!valid_id(config->id) || config->keepalive_s == 0 || config->vitals_s == 0 ||
        config->images > NODE_MAX_CASCADES || begin >= flash->size) {
        return NODE_E_ARGUMENT;
    }
    n->config = config;
    n->port = port;
    n->last_ms = now_ms;
    memcpy(n->up, UP, sizeof UP);
    strcat(n->up, config->id);
    strcat(n->up, "/");
    mqtt_init(&n->mqtt, &handler, n);
    const int status = session_next(flash, &n->session);
    return status == NODE_OK ? queue_open(&n->queue, flash, begin, flash->size - begin) : status;
}
