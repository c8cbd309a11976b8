/* The node: what is said when, and what is done about what is heard. */
#include "node/node.h"

#include <string.h>

#if NODE_BLE
#include "ble_parts.h"
#endif
#include "message.h"
#include "models.h"
#include "node_parts.h"
#include "session.h"
#include "smp.h"

void node_say(const node_t *n, const char *line)
{
    if (n->port->log != NULL) {
        n->port->log(n->port->context, line);
    }
}

void node_tick(node_t *n, uint32_t now_ms)
{
    n->clock_ms += now_ms - n->last_ms;
    n->last_ms = now_ms;
}

/* ---- events ---- */

static int append_event(node_t *n, const queue_piece_t *pieces, unsigned count)
{
    int status = queue_append(&n->queue, pieces, count);
    if (status == NODE_E_FULL && n->phase[n->carrier] == PHASE_OFFLINE && node_recall(n)) {
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

int node_event(node_t *n, const node_event_t *event, uint32_t now_ms)
{
    node_tick(n, now_ms);
    if (!valid_event(n, event)) {
        return NODE_E_ARGUMENT;
    }
    const node_cascade_t *const cascade = &n->cascades[event->cascade];
    if (!cascade->runs || !cascade->on) {
        return NODE_E_STATE;
    }
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
        (node_recent_t){.t_ms = stamp.t_ms,
                        .sample = cascade->sense != NULL ? cascade->sense->samples : 0,
                        .seq = stamp.seq,
                        .cascade = (uint8_t)event->cascade,
                        .open = true};
    node_advance(n);
    return NODE_OK;
}

/* What comes whole is taken where it lies. */
static void on_received(void *context, const mqtt_piece_t *piece)
{
    node_t *const n = context;
    const bool whole = piece->total <= sizeof n->received, alone = piece->size == piece->total;
    const size_t room = piece->offset < sizeof n->received ? sizeof n->received - piece->offset : 0;
    if (!alone && room != 0) {
        n->receiving = CARRIER_MQTT;
        memcpy(n->received + piece->offset, piece->data, piece->size < room ? piece->size : room);
    }
    if (piece->offset + piece->size == piece->total) {
        node_take(n, piece->topic, alone ? piece->data : n->received, whole ? piece->total : sizeof n->received, whole);
        if (!alone) {
            n->receiving = CARRIER_NONE;
        }
    }
}

/* ---- the link ---- */

static void on_connected(void *context, bool session_present)
{
    node_t *const n = context;
    (void)session_present; /* subscribing again does no harm, and brings the retained states again */
    const mqtt_filter_t filters[] = {
        {TOPIC_DOWN, n->config->id, "/verdict"}, {TOPIC_DOWN, n->config->id, "/smp"}, {TOPIC_GATEWAY, "+", "/state"}};
    n->phase[CARRIER_MQTT] = PHASE_INFO;
    if (mqtt_subscribe(&n->mqtt, filters, sizeof filters / sizeof *filters) != NODE_OK) {
        node_say(n, "no room to subscribe"); /* cannot happen: the control buffer is empty after CONNECT */
    }
}

static void on_subscribed(void *context)
{
    (void)context;
}

static void on_published(void *context, uint32_t token)
{
    node_t *const n = context;
    if (token == OWN_ANSWER) {
        n->answering = false;
        return;
    }
    node_delivered(n, CARRIER_MQTT, token);
    if (token == OWN_MESSAGE && n->phase[CARRIER_MQTT] == PHASE_GONE && mqtt_disconnect(&n->mqtt) != NODE_OK) {
        node_say(n, "no room to disconnect");
    }
}

int node_link_up(node_t *n, uint32_t now_ms)
{
    node_tick(n, now_ms);
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
    node_tick(n, now_ms);
    mqtt_link_down(&n->mqtt);
    mqtt_cancel(&n->mqtt, OWN_MESSAGE); /* the next link begins with its own birth */
    node_carrier_lost(n, CARRIER_MQTT);
    n->gateway_count = 0;
}

int node_receive(node_t *n, const uint8_t *data, size_t size, uint32_t now_ms)
{
    node_tick(n, now_ms);
    const int status = mqtt_receive(&n->mqtt, data, size, now_ms);
    node_advance(n);
    return status;
}

size_t node_transmit(node_t *n, const uint8_t **data)
{
    return mqtt_transmit(&n->mqtt, data);
}

void node_transmitted(node_t *n, size_t size, uint32_t now_ms)
{
    node_tick(n, now_ms);
    mqtt_transmitted(&n->mqtt, size, now_ms);
    node_advance(n);
}

static int sooner(int wait_ms, uint64_t other_ms)
{
    return other_ms < (uint64_t)wait_ms ? (int)other_ms : wait_ms;
}

int node_step(node_t *n, uint32_t now_ms)
{
    node_tick(n, now_ms);
    if (n->reset_due_ms != 0 && n->clock_ms >= n->reset_due_ms) {
        n->port->reset(n->port->context);
    }
    const uint64_t trial_ms = models_step(n);
    node_advance(n);
    int wait_ms = mqtt_step(&n->mqtt, now_ms);
    if (wait_ms < 0) {
        return wait_ms;
    }
    wait_ms = sooner(wait_ms, trial_ms);
    if (n->reset_due_ms != 0) {
        wait_ms = sooner(wait_ms, n->reset_due_ms - n->clock_ms);
    }
#if NODE_BLE
    wait_ms = sooner(wait_ms, ble_step(n, now_ms));
#endif
    return sooner(wait_ms, node_vitals_due(n));
}

size_t node_manage(node_t *n, const uint8_t *request, size_t size, uint8_t *answer, size_t capacity, uint32_t now_ms)
{
    node_tick(n, now_ms);
    const size_t answered = smp_answer(n, request, size, answer, capacity, 1);
    node_advance(n);
    return answered;
}

bool node_ready(const node_t *n)
{
    return n->phase[CARRIER_MQTT] == PHASE_READY;
}

void node_stop(node_t *n, uint32_t now_ms)
{
    node_tick(n, now_ms);
    n->stopping = true;
    node_advance(n);
}

bool node_stopped(const node_t *n)
{
    for (unsigned i = 0; i < CARRIERS; i++) {
        if (n->phase[i] != PHASE_OFFLINE && n->phase[i] != PHASE_GONE) {
            return false;
        }
    }
    return n->stopping &&
           (n->mqtt.link == MQTT_DOWN || (n->phase[CARRIER_MQTT] == PHASE_GONE && n->mqtt.control_size == 0));
}

bool node_valid_id(const char *id)
{
    const size_t length = strlen(id);
    return length >= 2 && length <= NODE_MAX_ID && id[0] != '-' &&
           strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

int node_init(node_t *n, const node_config_t *config, const node_port_t *port, uint32_t now_ms)
{
    static const mqtt_handler_t handler = {on_connected, on_subscribed, on_received, on_published};
    const node_flash_t *const flash = &port->flash;
    memset(n, 0, offsetof(node_t, message));
    const uint32_t models = (SESSION_SECTORS + JOURNAL_SECTORS) * flash->sector_size;
    const uint32_t begin = models + models_bytes(config, flash);
    if (!node_valid_id(config->id) || config->keepalive_s == 0 || config->vitals_s == 0 ||
        config->images > NODE_MAX_CASCADES || (config->images != 0 && config->trial_s == 0) || begin >= flash->size) {
        return NODE_E_ARGUMENT;
    }
    n->config = config;
    n->port = port;
    n->last_ms = now_ms;
    memcpy(n->up, TOPIC_UP, sizeof TOPIC_UP);
    strcat(n->up, config->id);
    strcat(n->up, "/");
    n->info_changed = true;
    n->speaking = n->receiving = CARRIER_NONE;
    mqtt_init(&n->mqtt, &handler, n);
    int status = session_next(flash, &n->session);
    if (status == NODE_OK) {
        status = settings_load(n);
    }
    if (status == NODE_OK) {
        status = models_open(n, models);
    }
    return status == NODE_OK ? queue_open(&n->queue, flash, begin, flash->size - begin) : status;
}
