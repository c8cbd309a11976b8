/* See central.h. */
#include "central.h"

#include <stdio.h>
#include <string.h>

#include "cbor.h"
#include "site.h"
#include "test.h"

enum { UP_STATE = 1, UP_INFO, UP_VITALS, UP_EVENT };

typedef struct packet {
    bool up;
    ble_characteristic_t characteristic;
    size_t size;
    uint8_t data[BLE_MTU_MOST];
} packet_t;

central_t central;
static packet_t held; /* will be late */

void central_reset(void)
{
    central = (central_t){.cut_at = -1, .stores = true};
    held.size = 0;
}

unsigned dice(void)
{
    central.seed = central.seed * 1664525U + 1013904223U;
    return (central.seed >> 16) % 100;
}

void say(uint8_t code, const uint8_t *payload, size_t size)
{
    assert_true(central.queued < sizeof central.queue / sizeof *central.queue);
    central.queue[central.queued].code = code;
    central.queue[central.queued].size = size;
    memcpy(central.queue[central.queued++].payload, payload, size);
}

void say_gateway(bool online)
{
    uint8_t payload[MESSAGE_BYTES];
    say(DOWN_GATEWAY, payload, write_gateway(payload, online));
}

void say_verdict(uint32_t seq, const char *action)
{
    uint8_t payload[MESSAGE_BYTES];
    say(DOWN_VERDICT, payload, write_verdict(payload, seq, node.session, action, 60000));
}

void say_stored(uint32_t session, uint32_t seq)
{
    uint8_t payload[MESSAGE_BYTES];
    cbor_writer_t w = cbor_writer(payload, sizeof payload);
    cbor_put_map(&w, 2);
    cbor_put_uint(&w, 0);
    cbor_put_uint(&w, session);
    cbor_put_uint(&w, 1);
    cbor_put_array(&w, 1);
    cbor_put_uint(&w, seq);
    say(DOWN_STORED, payload, w.size);
}

/* ---- the air ---- */

static void hear_event(const uint8_t *payload, size_t size)
{
    cbor_reader_t r = cbor_reader(payload, size);
    char word[32];
    cbor_map(&r);
    cbor_uint(&r, 0);
    const uint32_t seq = (uint32_t)cbor_uint(&r, MOST_EVENTS - 1);
    cbor_uint(&r, 1);
    const uint32_t session = (uint32_t)cbor_uint(&r, UINT32_MAX);
    assert_false(r.failed);
    bool same = false; /* as in flash */
    for (size_t at = 0; at + size <= flash.size && !same; at += FLASH_UNIT) {
        same = memcmp(flash.bytes + at, payload, size) == 0;
    }
    assert_true(same);
    central.deliveries[seq]++;
    snprintf(word, sizeof word, "b#%u ", (unsigned)seq);
    strcat(heard, word);
    if (central.stores) {
        say_stored(session, seq);
    }
}

static void hear(const uint8_t *message, size_t size)
{
    static const char *const words[] = {[UP_STATE] = "bstate ", [UP_INFO] = "binfo ", [UP_VITALS] = "bvitals "};
    assert_in_range(message[0], UP_STATE, UP_EVENT);
    if (message[0] == UP_EVENT) {
        hear_event(message + 1, size - 1);
    } else {
        strcat(heard, words[message[0]]);
    }
}

static void arrive(const packet_t *p)
{
    if (!p->up) {
        central.refused |= node_ble_written(&node, p->characteristic, p->data, p->size, now_ms) < 0;
    } else if (p->characteristic == BLE_FLOW) {
        assert_int_equal(p->size, 1);
        assert_true(segments_acknowledged(&central.down, p->data[0], now_ms) >= 0);
    } else if (p->characteristic == BLE_UP) {
        const int size = segments_receive(&central.up, p->data, p->size);
        assert_true(size >= 0);
        if (size != 0) {
            hear(central.message, (size_t)size);
        }
    } else {
        assert_int_equal(p->characteristic, BLE_SMP);
        memcpy(central.answers + central.answered, p->data, p->size);
        central.answered += p->size;
    }
}

void central_disconnect(void)
{
    central.connected = false;
    held.size = 0;
    node_ble_disconnected(&node, now_ms);
}

static void carry(const packet_t *p)
{
    if (central.cut_at == 0) {
        central_disconnect();
    }
    central.cut_at -= central.cut_at >= 0;
    if (!central.connected) {
        return;
    }
    const bool faulty = p->characteristic != BLE_SMP; /* has no segments, and its client asks again */
    if (faulty && dice() < central.loss) {
        return;
    }
    if (faulty && held.size == 0 && dice() < central.late) {
        held = *p;
        return;
    }
    arrive(p);
    if (faulty && dice() < central.twice) {
        arrive(p);
    }
    if (held.size != 0 && held.up == p->up && held.characteristic == p->characteristic) {
        const packet_t overtaken = held;
        held.size = 0;
        arrive(&overtaken);
    }
}

bool node_sends(void)
{
    static packet_t p;
    const uint8_t *data;
    p.up = true;
    p.size = node_ble_notification(&node, &p.characteristic, &data, now_ms);
    if (p.size == 0) {
        return false;
    }
    assert_true(p.size <= central.mtu - 3U);
    memcpy(p.data, data, p.size);
    node_ble_notified(&node, now_ms);
    carry(&p);
    return true;
}

bool central_sends(void)
{
    static packet_t p;
    p.up = false;
    if (central.up.flow_due) {
        p.characteristic = BLE_FLOW;
        p.size = 1;
        p.data[0] = segments_flow(&central.up);
        segments_flow_sent(&central.up);
        carry(&p);
        return true;
    }
    if (!segments_busy(&central.down) && central.begun < central.queued) {
        const unsigned i = central.begun++;
        segments_begin(&central.down, central.queue[i].code, central.queue[i].payload, (uint32_t)central.queue[i].size,
                       (uint16_t)(central.mtu - 4), now_ms);
        if (central.begun == central.queued) {
            central.begun = central.queued = 0;
            static uint8_t last[MESSAGE_BYTES]; /* its place in the queue may be taken now */
            memcpy(last, central.down.payload, central.down.size);
            central.down.payload = last;
        }
    }
    p.characteristic = BLE_DOWN;
    p.size = segments_next(&central.down, p.data);
    if (p.size == 0) {
        return false;
    }
    segments_sent(&central.down, now_ms);
    carry(&p);
    return true;
}

/* Lets central and node talk until both are silent and nothing is owed, or the connection is gone. */
void converse(void)
{
    while (central.connected) {
        const bool node_sent = node_sends();
        const bool moved = (central.connected && central_sends()) || node_sent;
        assert_true(node_step(&node, now_ms) >= 0);
        if (moved) {
            continue;
        }
        if (held.size != 0) {
            const packet_t overtaken = held;
            held.size = 0;
            arrive(&overtaken);
        } else if (segments_busy(&node.ble.up) || segments_busy(&central.down)) {
            now_ms += SEGMENT_WAIT_MS;
            if (segments_step(&central.down, now_ms) < 0 || node_step(&node, now_ms) < 0 || node_ble_broken(&node)) {
                central_disconnect();
            }
        } else {
            return;
        }
    }
}

void central_connect(uint16_t mtu)
{
    memset(&central.connected, 0, sizeof central - offsetof(central_t, connected));
    central.connected = true;
    central.mtu = mtu;
    central.up = (segment_receiver_t){.data = central.message, .capacity = sizeof central.message};
    node_ble_connected(&node, mtu, now_ms);
    node_ble_subscribed(&node, BLE_UP, true, now_ms);
    node_ble_subscribed(&node, BLE_FLOW, true, now_ms);
    node_ble_subscribed(&node, BLE_SMP, true, now_ms);
    say_gateway(true);
}
