/* What is said over which carrier, and when. Each carrier hears the node's birth before anything else; one at a time
 * has the events: MQTT while a gateway listens there, else Bluetooth LE. */
#include "message.h"
#include "node_parts.h"
#if NODE_BLE
#include "ble_parts.h"
#endif

/* ---- MQTT ---- */

static bool mqtt_room(const node_t *n)
{
    return n->mqtt.slot_count < MQTT_MAX_PUBLISHES;
}

static bool mqtt_send(node_t *n, node_word_t word, const uint8_t *payload, uint32_t size, uint32_t token)
{
    static const struct {
        const char *tail;
        uint8_t qos;
        bool retain;
    } topics[] = {[WORD_STATE] = {"state", 1, true},
                  [WORD_INFO] = {"info", 1, true},
                  [WORD_VITALS] = {"vitals", 0, false},
                  [WORD_EVENT] = {"event", 1, false}};
    const mqtt_publish_t publish = {.prefix = n->up,
                                    .tail = topics[word].tail,
                                    .payload = payload,
                                    .size = size,
                                    .token = token,
                                    .qos = topics[word].qos,
                                    .retain = topics[word].retain};
    return mqtt_publish(&n->mqtt, &publish) == NODE_OK;
}

/* While the link is up the broker has them, or will in a moment, and says so. */
static bool mqtt_recall(node_t *n)
{
    while (n->mqtt.link != MQTT_UP && n->mqtt.slot_count != 0) {
        mqtt_cancel(&n->mqtt, n->mqtt.slots[0].publish.token);
    }
    return n->mqtt.link != MQTT_UP || n->in_flight == 0;
}

static const struct {
    bool (*room)(const node_t *n); /* for one message more */
    bool (*send)(node_t *n, node_word_t word, const uint8_t *payload, uint32_t size, uint32_t token);
    bool (*recall)(node_t *n); /* forgets the events in flight; false where they may be on their way */
} carriers[CARRIERS] = {
    {mqtt_room, mqtt_send, mqtt_recall},
#if NODE_BLE
    {ble_room, ble_send, ble_recall},
#endif
};

/* Where a gateway takes events now. */
static node_carrier_t preferred(const node_t *n)
{
    if (n->phase[CARRIER_MQTT] == PHASE_READY && n->gateway_count != 0) {
        return CARRIER_MQTT;
    }
#if NODE_BLE
    if (n->phase[CARRIER_BLE] == PHASE_READY) {
        return CARRIER_BLE;
    }
#endif
    return CARRIER_NONE;
}

bool node_delivers(const node_t *n)
{
    return preferred(n) != CARRIER_NONE;
}

/* ---- events ---- */

bool node_recall(node_t *n)
{
    if (!carriers[n->carrier].recall(n)) {
        return false;
    }
    n->in_flight = 0;
    queue_rewind(&n->queue);
    return true;
}

/* Hands events from flash to the carrier, as many as may be in flight. */
static void send_events(node_t *n)
{
    uint32_t record, size;
    const uint8_t *payload;
    const node_carrier_t wanted = preferred(n);
    if (wanted == CARRIER_NONE || n->stopping) {
        return;
    }
    if (wanted != n->carrier) {
        if (!node_recall(n)) {
            return;
        }
        n->carrier = wanted;
    }
    while (n->in_flight < NODE_EVENTS_IN_FLIGHT && carriers[wanted].room(n) &&
           queue_next(&n->queue, &record, &payload, &size)) {
        if (!carriers[wanted].send(n, WORD_EVENT, payload, size, record)) {
            return; /* cannot happen: there is room */
        }
        n->in_flight++;
    }
}

/* ---- the node's own messages ---- */

/* Vitals go where they are listened to, or else to the broker. */
static bool has_vitals(const node_t *n, node_carrier_t carrier)
{
    const node_carrier_t wanted = preferred(n);
    return n->phase[carrier] == PHASE_READY && carrier == (wanted != CARRIER_NONE ? wanted : CARRIER_MQTT);
}

uint64_t node_vitals_due(const node_t *n)
{
    for (unsigned i = 0; i < CARRIERS && n->speaking == CARRIER_NONE; i++) {
        if (has_vitals(n, (node_carrier_t)i) && carriers[i].room(n)) {
            return n->vitals_due_ms > n->clock_ms ? n->vitals_due_ms - n->clock_ms : 0;
        }
    }
    return UINT64_MAX;
}

static void speak(node_t *n, node_carrier_t carrier, node_word_t word, size_t size)
{
    if (size == 0) {
        node_say(n, "a message does not fit into NODE_MESSAGE_BYTES");
    } else if (carriers[carrier].send(n, word, n->message, (uint32_t)size, OWN_MESSAGE)) {
        n->speaking = carrier;
    }
}

/* The next message of the node's own, where one is due. */
static void speak_next(node_t *n, node_carrier_t carrier)
{
    node_phase_t *const phase = &n->phase[carrier];
    if (*phase == PHASE_OFFLINE) {
        return;
    }
    if (n->stopping && *phase < PHASE_GOODBYE) {
        *phase = PHASE_GOODBYE;
        speak(n, carrier, WORD_STATE, node_write_state(n, "disconnected"));
    } else if (*phase == PHASE_INFO || (*phase == PHASE_READY && n->info_due[carrier])) {
        n->info_due[carrier] = false;
        speak(n, carrier, WORD_INFO, node_write_info(n));
    } else if (*phase == PHASE_STATE) {
        speak(n, carrier, WORD_STATE, node_write_state(n, "ready"));
    } else if (has_vitals(n, carrier) && n->clock_ms >= n->vitals_due_ms) {
        const uint32_t interval_ms = settings_get(n, SETTING_VITALS_S, 0) * 1000;
        /* between half and the whole of the interval: a fleet that was switched on at once does not stay in step */
        n->vitals_due_ms = n->clock_ms + interval_ms / 2 + n->port->random(n->port->context) % (interval_ms / 2 + 1);
        speak(n, carrier, WORD_VITALS, node_write_vitals(n));
    }
}

void node_advance(node_t *n)
{
    for (unsigned i = 0; i < CARRIERS; i++) {
        n->info_due[i] = n->info_due[i] || n->info_changed;
    }
    n->info_changed = false;
    for (unsigned i = 0; i < CARRIERS; i++) {
        if (n->speaking == CARRIER_NONE && carriers[i].room(n)) {
            speak_next(n, (node_carrier_t)i);
        }
    }
    send_events(n);
}

/* ---- what became of it ---- */

static void spoken(node_t *n, node_carrier_t carrier)
{
    node_phase_t *const phase = &n->phase[carrier];
    n->speaking = CARRIER_NONE;
    if (*phase == PHASE_INFO || *phase == PHASE_STATE) {
        *phase = *phase == PHASE_INFO ? PHASE_STATE : PHASE_READY;
    } else if (*phase == PHASE_GOODBYE) {
        *phase = PHASE_GONE;
    }
}

void node_delivered(node_t *n, node_carrier_t carrier, uint32_t token)
{
    if (token == OWN_MESSAGE) {
        spoken(n, carrier);
        return;
    }
    n->in_flight--;
    n->counts.acknowledged++;
    if (queue_done(&n->queue, token) != NODE_OK) {
        node_say(n, "flash: an event could not be marked as done");
    }
}

void node_carrier_lost(node_t *n, node_carrier_t carrier)
{
    n->phase[carrier] = PHASE_OFFLINE;
    if (n->speaking == carrier) {
        n->speaking = CARRIER_NONE;
    }
    if (n->receiving == carrier) {
        n->receiving = CARRIER_NONE;
    }
}
