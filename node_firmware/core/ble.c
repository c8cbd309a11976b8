/* See ble.h. Messages go through segments.c; while one is on its way up, the next waits. */
#include <string.h>

#include "ble_parts.h"
#include "message.h"

enum {
    DOWN_GATEWAY_STATE = 1,
    DOWN_VERDICT,
    DOWN_STORED,
    DOWN_PROVISIONING
}; /* codes; those of what goes up are 1 + node_word_t */

/* ---- a carrier ---- */

bool ble_room(const node_t *n)
{
    return n->ble.connected && !segments_busy(&n->ble.up);
}

bool ble_send(node_t *n, node_word_t word, const uint8_t *payload, uint32_t size, uint32_t token)
{
    ble_t *const b = &n->ble;
    ble_event_t event = {.record = token};
    if (word == WORD_EVENT) {
        if (event_decode_name(&event.session, &event.seq, payload, size) != NODE_OK) {
            return false; /* cannot happen: the node wrote it */
        }
        b->out[b->out_count++] = event;
    }
    const size_t most = b->mtu - 3U;
    b->token = token;
    segments_begin(&b->up, (uint8_t)(word + 1), payload, size,
                   (uint16_t)((most < BLE_SEGMENT_BYTES ? most : BLE_SEGMENT_BYTES) - 1), n->last_ms);
    return true;
}

/* Where an event is in segments, its bytes are needed until it is through. */
bool ble_recall(node_t *n)
{
    if (segments_busy(&n->ble.up) && n->ble.token != OWN_MESSAGE) {
        return false;
    }
    n->ble.out_count = 0;
    return true;
}

/* ---- messages from the gateway ---- */

static void done(node_t *n, unsigned index)
{
    ble_t *const b = &n->ble;
    const uint32_t record = b->out[index].record;
    b->out_count--;
    memmove(&b->out[index], &b->out[index + 1], (b->out_count - index) * sizeof b->out[0]);
    node_delivered(n, CARRIER_BLE, record);
}

static void take_stored(node_t *n, const stored_t *stored)
{
    ble_t *const b = &n->ble;
    for (unsigned i = b->out_count; i-- != 0;) {
        ble_event_t *const event = &b->out[i];
        for (unsigned k = 0; k < stored->count && !event->stored; k++) {
            event->stored = event->session == stored->session && event->seq == stored->seqs[k];
        }
        if (event->stored && !(segments_busy(&b->up) && b->token == event->record)) {
            done(n, i);
        }
    }
}

static void take(node_t *n, unsigned code, const uint8_t *data, size_t size)
{
    stored_t stored;
    bool online;
    if (improv_waits(n)) {
        if (code == DOWN_PROVISIONING) {
            improv_take_map(n, data, size);
        }
    } else if (code == DOWN_VERDICT) {
        node_take_verdict(n, data, size);
    } else if (code == DOWN_GATEWAY_STATE && gateway_state_decode(&online, data, size) == NODE_OK) {
        n->ble.online = online;
    } else if (code == DOWN_STORED && stored_decode(&stored, data, size) == NODE_OK) {
        take_stored(n, &stored);
    } else {
        n->counts.refused++;
    }
}

/* The message in `up` is through. An event may have been stored before its last acknowledgement came. */
static void sent(node_t *n)
{
    ble_t *const b = &n->ble;
    if (b->token == OWN_MESSAGE) {
        node_delivered(n, CARRIER_BLE, OWN_MESSAGE);
    } else if (b->out_count != 0 && b->out[b->out_count - 1].stored) {
        done(n, b->out_count - 1U);
    }
}

/* ---- the connection ---- */

static bool subscribed(const ble_t *b, ble_characteristic_t characteristic)
{
    return (b->subscribed >> characteristic & 1) != 0;
}

/* Who is online and hears the node gets its birth, once what was said before is out. */
static void attend(node_t *n)
{
    const ble_t *const b = &n->ble;
    node_phase_t *const phase = &n->phase[CARRIER_BLE];
    if (!b->online || !subscribed(b, BLE_UP) || !subscribed(b, BLE_FLOW)) {
        *phase = PHASE_OFFLINE;
    } else if (*phase == PHASE_OFFLINE && n->speaking != CARRIER_BLE) {
        *phase = PHASE_INFO;
    }
    node_advance(n);
}

static int give_up(node_t *n, int status)
{
    n->counts.refused += n->ble.broken ? 0 : 1;
    n->ble.broken = true;
    return status;
}

void node_ble_connected(node_t *n, uint16_t mtu, uint32_t now_ms)
{
    node_ble_disconnected(n, now_ms);
    n->ble.connected = true;
    node_ble_mtu(n, mtu);
}

void node_ble_mtu(node_t *n, uint16_t mtu)
{
    n->ble.mtu = mtu < BLE_MTU ? BLE_MTU : mtu > BLE_VALUE_MOST + 3 ? BLE_VALUE_MOST + 3 : mtu;
}

void node_ble_secured(node_t *n, ble_level_t level)
{
    n->ble.level = (uint8_t)level;
    improv_secured(n);
}

void node_ble_subscribed(node_t *n, ble_characteristic_t characteristic, bool on, uint32_t now_ms)
{
    const unsigned bit = 1U << characteristic; /* as many as fit into `subscribed` */
    node_tick(n, now_ms);
    if (n->ble.connected && characteristic < BLE_CHARACTERISTICS) {
        n->ble.subscribed = (uint16_t)(on ? n->ble.subscribed | bit : n->ble.subscribed & ~bit);
        attend(n);
    }
}

static int take_written(node_t *n, ble_characteristic_t characteristic, const uint8_t *data, size_t size,
                        uint32_t now_ms)
{
    ble_t *const b = &n->ble;
    int status = NODE_E_PROTOCOL;
    if (characteristic == BLE_DOWN) {
        status = segments_receive(&b->down, data, size);
        if (status > 0) {
            take(n, n->ble_down[0], n->ble_down + 1, (size_t)status - 1);
        }
    } else if (characteristic == BLE_FLOW && size == 1) {
        status = segments_acknowledged(&b->up, data[0], now_ms);
        if (status > 0) {
            sent(n);
        }
    } else if (characteristic == BLE_SMP && !improv_waits(n)) {
        status = ble_smp_take(n, data, size, now_ms);
    } else if (characteristic == BLE_COMMAND && improv_waits(n)) {
        status = improv_take(n, data, size);
    }
    return status < 0 ? status : NODE_OK;
}

int node_ble_written(node_t *n, ble_characteristic_t characteristic, const uint8_t *data, size_t size, uint32_t now_ms)
{
    node_tick(n, now_ms);
    if (!n->ble.connected || n->ble.broken) {
        return NODE_E_STATE;
    }
    const int status = take_written(n, characteristic, data, size, now_ms);
    attend(n);
    return status < 0 ? give_up(n, status) : NODE_OK;
}

size_t node_ble_value(const node_t *n, ble_characteristic_t characteristic, uint8_t *data, size_t capacity)
{
    if (characteristic >= BLE_STATE) {
        return improv_value(n, characteristic, data, capacity);
    }
    const size_t size = improv_waits(n) ? 0 : strlen(n->config->id);
    if (characteristic != BLE_IDENTITY || size == 0 || size > capacity) {
        return 0;
    }
    memcpy(data, n->config->id, size);
    return size;
}

/* Acknowledgements first, since the gateway waits for them; then answers, which are short. */
size_t node_ble_notification(node_t *n, ble_characteristic_t *characteristic, const uint8_t **data, uint32_t now_ms)
{
    ble_t *const b = &n->ble;
    node_tick(n, now_ms);
    size_t size = 0;
    *characteristic = BLE_FLOW;
    if (b->connected && !b->broken && b->down.flow_due && subscribed(b, BLE_FLOW)) {
        b->flow = segments_flow(&b->down);
        *data = &b->flow;
        size = 1;
    }
    if (size == 0 && b->connected && !b->broken) {
        size = improv_next(n, characteristic, data);
    }
    if (size == 0 && b->connected && !b->broken && subscribed(b, BLE_SMP)) {
        *characteristic = BLE_SMP;
        *data = n->ble_answers;
        size = ble_smp_next(n, b->mtu - 3U);
    }
    if (size == 0 && b->connected && !b->broken && subscribed(b, BLE_UP)) {
        *characteristic = BLE_UP;
        *data = n->ble_segment;
        size = segments_next(&b->up, n->ble_segment);
    }
    b->shown = (uint8_t)*characteristic;
    b->shown_bytes = (uint16_t)size;
    return size;
}

void node_ble_notified(node_t *n, uint32_t now_ms)
{
    ble_t *const b = &n->ble;
    if (b->shown_bytes == 0) {
        return;
    }
    if (b->shown == BLE_FLOW) {
        segments_flow_sent(&b->down);
    } else if (b->shown >= BLE_STATE) {
        improv_sent(n, (ble_characteristic_t)b->shown);
    } else if (b->shown == BLE_SMP) {
        ble_smp_sent(n, b->shown_bytes);
    } else {
        segments_sent(&b->up, now_ms);
    }
    b->shown_bytes = 0;
}

bool node_ble_broken(const node_t *n)
{
    return n->ble.broken;
}

void node_ble_disconnected(node_t *n, uint32_t now_ms)
{
    node_tick(n, now_ms);
    n->ble = (ble_t){.mtu = BLE_MTU, .down = {.data = n->ble_down, .capacity = sizeof n->ble_down}};
    n->beacon.due_ms = 0; /* scanners shall notice that it is back */
    improv_disconnected(n);
    node_carrier_lost(n, CARRIER_BLE);
    if (n->carrier == CARRIER_BLE) {
        (void)node_recall(n); /* which nothing prevents any more */
    }
    node_advance(n);
}

uint64_t ble_step(node_t *n, uint32_t now_ms)
{
    const uint64_t beacon_ms = beacon_step(n);
    const int wait_ms = n->ble.connected && !n->ble.broken ? segments_step(&n->ble.up, now_ms) : INT32_MAX;
    if (wait_ms < 0) {
        (void)give_up(n, wait_ms);
        return 0;
    }
    return (uint64_t)wait_ms < beacon_ms ? (uint64_t)wait_ms : beacon_ms;
}
