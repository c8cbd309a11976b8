/* The whole node on Bluetooth LE, with a central that keeps to the contract on an air that does not: births, events,
 * verdicts, SMP, and changes to MQTT and back. */
#include "ble.h"

#include <stdio.h>
#include <string.h>

#include "cbor.h"
#include "session.h"
#include "site.h"
#include "smp_parts.h"
#include "test.h"
#include "vector.h"

#define QUEUE       (32 * SECTOR)
#define IMAGE_BYTES (5 * SECTOR)
#define BASE_BYTES  ((SESSION_SECTORS + JOURNAL_SECTORS) * SECTOR)
#define MOST_EVENTS 64

enum { DOWN_GATEWAY = 1, DOWN_VERDICT, DOWN_STORED };
enum { UP_STATE = 1, UP_INFO, UP_VITALS, UP_EVENT };

typedef struct packet {
    bool up;
    ble_characteristic_t characteristic;
    size_t size;
    uint8_t data[BLE_MTU_MOST];
} packet_t;

/* The gateway's side of a connection. */
static struct {
    bool connected, refused; /* refused: the node did not take a write */
    uint16_t mtu;
    segment_sender_t down;
    segment_receiver_t up;
    uint8_t message[NODE_MAX_PAYLOAD];
    struct {
        uint8_t code, payload[MESSAGE_BYTES];
        size_t size;
    } queue[64];
    unsigned queued, begun;
    uint8_t answers[16384];
    size_t answered;
} central;

static unsigned loss, twice, late; /* percent of packets */
static packet_t held;              /* will be late */
static uint32_t seed;
static long cut_at;                      /* the connection is lost at this packet; negative: never */
static bool stores;                      /* the gateway says `stored` */
static unsigned deliveries[MOST_EVENTS]; /* of events of session 1, by seq */
static uint32_t events_out;

static unsigned dice(void)
{
    seed = seed * 1664525U + 1013904223U;
    return (seed >> 16) % 100;
}

static void say(uint8_t code, const uint8_t *payload, size_t size)
{
    assert_true(central.queued < sizeof central.queue / sizeof *central.queue);
    central.queue[central.queued].code = code;
    central.queue[central.queued].size = size;
    memcpy(central.queue[central.queued++].payload, payload, size);
}

static void say_gateway(bool online)
{
    uint8_t payload[MESSAGE_BYTES];
    say(DOWN_GATEWAY, payload, write_gateway(payload, online));
}

static void say_verdict(uint32_t seq, const char *action)
{
    uint8_t payload[MESSAGE_BYTES];
    say(DOWN_VERDICT, payload, write_verdict(payload, seq, node.session, action, 60000));
}

static void say_stored(uint32_t session, uint32_t seq)
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
    deliveries[seq]++;
    snprintf(word, sizeof word, "b#%u ", (unsigned)seq);
    strcat(heard, word);
    if (stores) {
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

static void disconnect(void)
{
    central.connected = false;
    held.size = 0;
    node_ble_disconnected(&node, now_ms);
}

static void carry(const packet_t *p)
{
    if (cut_at == 0) {
        disconnect();
    }
    cut_at -= cut_at >= 0;
    if (!central.connected) {
        return;
    }
    const bool faulty = p->characteristic != BLE_SMP; /* has no segments, and its client asks again */
    if (faulty && dice() < loss) {
        return;
    }
    if (faulty && held.size == 0 && dice() < late) {
        held = *p;
        return;
    }
    arrive(p);
    if (faulty && dice() < twice) {
        arrive(p);
    }
    if (held.size != 0) {
        const packet_t overtaken = held;
        held.size = 0;
        arrive(&overtaken);
    }
}

static bool node_sends(void)
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

static bool central_sends(void)
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
static void converse(void)
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
                disconnect();
            }
        } else {
            return;
        }
    }
}

static void connect(uint16_t mtu)
{
    memset(&central, 0, sizeof central);
    central.connected = true;
    central.mtu = mtu;
    central.up = (segment_receiver_t){.data = central.message, .capacity = sizeof central.message};
    node_ble_connected(&node, mtu, now_ms);
    node_ble_subscribed(&node, BLE_UP, true, now_ms);
    node_ble_subscribed(&node, BLE_FLOW, true, now_ms);
    node_ble_subscribed(&node, BLE_SMP, true, now_ms);
    say_gateway(true);
}

static void expect_both(const char *words)
{
    converse();
    expect(words);
}

static int setup(void **state)
{
    (void)state;
    memset(&central, 0, sizeof central);
    memset(deliveries, 0, sizeof deliveries);
    loss = twice = late = 0;
    cut_at = -1;
    stores = true;
    held.size = 0;
    events_out = 0;
    site_start(BASE_BYTES + QUEUE);
    boot();
    return 0;
}

static void online(uint16_t mtu)
{
    connect(mtu);
    expect_both("binfo bstate bvitals ");
}

static void put_events(unsigned count, uint32_t window_bytes)
{
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(event(window_bytes), NODE_OK);
        events_out++;
    }
}

/* All that happened is at the gateway and nothing waits; a gateway drops what it has had. */
static void nothing_is_lost(void)
{
    for (unsigned seq = 0; seq < events_out; seq++) {
        assert_true(deliveries[seq] >= 1);
    }
    assert_int_equal(node.queue.waiting, 0);
    assert_int_equal(node.queue.dropped + node.counts.lost, 0);
    assert_int_equal(node.in_flight, 0);
}

/* ---- advertising ---- */

static bool advertises(uint8_t data[BLE_ADVERTISEMENT_BYTES])
{
    uint8_t response[BLE_ADVERTISEMENT_BYTES];
    size_t size, response_size;
    const bool changed = node_ble_advertisement(&node, data, &size, response, &response_size);
    assert_int_equal(size, 31);
    assert_int_equal(response_size, 18);
    return changed;
}

static void test_advertising_data(void **state)
{
    (void)state;
    static const uint8_t expected[] = {2,
                                       1,
                                       6,
                                       27,
                                       0x21,
                                       0x66,
                                       0x41,
                                       0xb0,
                                       0x6d,
                                       0xe0,
                                       0xc4,
                                       0x20,
                                       0x95,
                                       0x94,
                                       0x49,
                                       0xfe,
                                       0x9d,
                                       0xca,
                                       0x92,
                                       0xc4,
                                       0x10,
                                       /* version */ 0x11,
                                       /* session */ 1,
                                       /* counter */ 1,
                                       /* battery */ 255,
                                       0,
                                       0,
                                       /* CRC-32 of n-1 */ 0xed,
                                       0x65,
                                       0xfc,
                                       0xcc};
    uint8_t data[BLE_ADVERTISEMENT_BYTES];
    assert_true(advertises(data));
    assert_memory_equal(data, expected, sizeof expected);
    assert_false(advertises(data));
}

static void test_the_counter_grows_for_passive_scanners(void **state)
{
    (void)state;
    uint8_t data[BLE_ADVERTISEMENT_BYTES];
    assert_int_equal(node_step(&node, now_ms), INT32_MAX); /* without a radio nothing is due */
    advertises(data);
    assert_int_equal(node_step(&node, now_ms), 8000);
    now_ms += 7999;
    assert_int_equal(node_step(&node, now_ms), 1);
    assert_false(advertises(data));
    now_ms += 1;
    assert_int_equal(node_step(&node, now_ms), 8000);
    assert_true(advertises(data));
    assert_int_equal(data[23], 2);
    connect(185);
    disconnect();
    assert_true(advertises(data));
    assert_int_equal(data[23], 3);
}

static void port_health(void *context, node_health_t *health)
{
    (void)context;
    health->battery_percent = 77;
}

static void test_flags_and_battery(void **state)
{
    (void)state;
    uint8_t data[BLE_ADVERTISEMENT_BYTES];
    port.health = port_health;
    advertises(data);
    assert_int_equal(data[21], 0x11); /* nobody has its info */
    assert_int_equal(data[24], 77);
    online(185);
    disconnect();
    advertises(data);
    assert_int_equal(data[21], 0x10);
    put_events(1, 0);
    assert_true(node_step(&node, now_ms) >= 0);
    assert_true(advertises(data));
    assert_int_equal(data[21], 0x11);
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    talk();
    advertises(data);
    assert_int_equal(data[21], 0x15); /* the broker is there, but no gateway at it */
    gateway(true);
    talk();
    advertises(data);
    assert_int_equal(data[21], 0x14);
    node.info_changed = true;
    talk();
    advertises(data);
    assert_int_equal(data[21], 0x14);
}

static void test_identity(void **state)
{
    (void)state;
    uint8_t id[NODE_MAX_ID];
    assert_int_equal(node_ble_value(&node, BLE_IDENTITY, id, sizeof id), 3);
    assert_memory_equal(id, "n-1", 3);
    assert_int_equal(node_ble_value(&node, BLE_IDENTITY, id, 2), 0);
    assert_int_equal(node_ble_value(&node, BLE_UP, id, sizeof id), 0);
}

/* ---- messages ---- */

static void test_birth_needs_a_listener(void **state)
{
    (void)state;
    connect(185);
    node_ble_subscribed(&node, BLE_UP, false, now_ms);
    expect_both("");
    node_ble_subscribed(&node, BLE_UP, true, now_ms);
    expect_both("binfo bstate bvitals ");
    say_gateway(true); /* once more, which is no birth */
    expect_both("");
    say_gateway(false);
    expect_both("");
    put_events(1, 100);
    expect_both("");
    say_gateway(true);
    expect_both("binfo bstate b#0 ");
    assert_false(node_ready(&node)); /* over MQTT, that is */
    assert_true(node_delivers(&node));
    nothing_is_lost();
}

static void test_vitals_and_info_when_due(void **state)
{
    (void)state;
    online(185);
    now_ms += 15004; /* half of 30 s, and the port's random number */
    assert_true(node_step(&node, now_ms) >= 0);
    expect_both("bvitals ");
    node.info_changed = true;
    expect_both("binfo ");
}

static void test_events_until_they_are_stored(void **state)
{
    (void)state;
    online(185);
    stores = false;
    put_events(6, 300);
    expect_both("b#0 b#1 b#2 b#3 "); /* no more are out */
    assert_int_equal(node.queue.waiting, 6);
    say_stored(node.session, 2);
    expect_both("b#4 ");
    say_stored(node.session + 1, 1); /* another session's */
    say_stored(node.session, 5);     /* was not sent */
    expect_both("");
    assert_int_equal(node.queue.waiting, 5);
    disconnect();
    stores = true;
    connect(185);
    expect_both("binfo bstate b#0 b#1 b#3 b#4 b#5 ");
    nothing_is_lost();
    assert_int_equal(node.counts.acknowledged, 6);
}

static void test_events_of_an_earlier_session(void **state)
{
    (void)state;
    put_events(3, 100);
    boot();
    assert_int_equal(node.session, 2);
    connect(185);
    expect_both("binfo bstate bvitals b#0 b#1 b#2 ");
    assert_int_equal(node.queue.waiting, 0);
}

static void test_stored_before_its_last_acknowledgement(void **state)
{
    (void)state;
    online(185);
    stores = false;
    put_events(1, 100);
    while (deliveries[0] == 0) {
        assert_true(node_sends());
    }
    central.up.flow_due = false; /* its flow byte is lost */
    say_stored(node.session, 0);
    while (node.ble.out_count != 0 && !node.ble.out[0].stored) {
        assert_true(central_sends());
    }
    assert_int_equal(node.queue.waiting, 1); /* its bytes may be needed again */
    expect_both("b#0 ");
    nothing_is_lost();
}

static void test_verdicts_act_once(void **state)
{
    (void)state;
    online(185);
    put_events(2, 100);
    expect_both("b#0 b#1 ");
    say_verdict(1, "open");
    say_verdict(1, "open");
    say_verdict(0, "");
    expect_both("");
    assert_string_equal(acted, "c:open:yes ");
    assert_int_equal(node.counts.verdicts, 2);
    say(DOWN_VERDICT, (const uint8_t *)"nonsense", 8);
    say(DOWN_STORED, (const uint8_t *)"nonsense", 8);
    say(DOWN_GATEWAY, (const uint8_t *)"nonsense", 8);
    say(99, (const uint8_t *)"nonsense", 8);
    expect_both("");
    assert_int_equal(node.counts.refused, 4);
    assert_true(central.connected && !central.refused);
}

static void test_goodbye(void **state)
{
    (void)state;
    online(185);
    node_stop(&node, now_ms);
    assert_false(node_stopped(&node));
    expect_both("bstate ");
    assert_true(node_stopped(&node));
}

/* ---- segments ---- */

static void test_every_mtu(void **state)
{
    (void)state;
    for (uint16_t mtu = BLE_MTU; mtu <= BLE_MTU_MOST; mtu++) {
        heard[0] = '\0';
        connect(mtu);
        for (uint32_t size = 0; size < 3; size++) {
            assert_int_equal(event(mtu + 2 * size), NODE_OK);
        }
        converse();
        assert_int_equal(node.queue.waiting, 0);
        disconnect();
        boot(); /* sequence numbers begin anew */
    }
}

static void test_an_mtu_that_grows_inside_a_message(void **state)
{
    (void)state;
    online(BLE_MTU);
    put_events(2, 1000);
    assert_true(node_sends());
    central.mtu = 247;
    node_ble_mtu(&node, 247);
    expect_both("b#0 b#1 ");
    nothing_is_lost();
}

static void test_nobody_acknowledges(void **state)
{
    (void)state;
    online(BLE_MTU);
    put_events(1, 2000);
    for (unsigned again = 0; again <= SEGMENT_RETURNS; again++) {
        assert_false(node_ble_broken(&node));
        for (unsigned i = 0; i < SEGMENT_WINDOW; i++) {
            assert_true(node_sends());
        }
        assert_false(node_sends());
        central.up.flow_due = false;
        assert_int_equal(node_step(&node, now_ms), SEGMENT_WAIT_MS);
        now_ms += SEGMENT_WAIT_MS;
        assert_true(node_step(&node, now_ms) >= 0);
    }
    assert_true(node_ble_broken(&node));
    assert_false(node_sends());
    disconnect();
    assert_false(node_ble_broken(&node));
    connect(BLE_MTU);
    expect_both("binfo bstate b#0 ");
    nothing_is_lost();
}

static void test_a_listener_that_goes_away(void **state)
{
    (void)state;
    online(BLE_MTU);
    put_events(1, 2000);
    assert_true(node_sends());
    node_ble_subscribed(&node, BLE_UP, false, now_ms); /* but the connection stays */
    assert_false(node_delivers(&node));
    for (unsigned i = 0; i <= SEGMENT_RETURNS; i++) {
        assert_false(node_ble_broken(&node));
        now_ms += SEGMENT_WAIT_MS;
        assert_true(node_step(&node, now_ms) >= 0);
    }
    assert_true(node_ble_broken(&node));
}

static void test_what_cannot_be_ends_the_connection(void **state)
{
    (void)state;
    static const struct {
        ble_characteristic_t characteristic;
        size_t size;
        uint8_t data[3];
    } writes[] = {
        {BLE_DOWN, 0, {0}},
        {BLE_DOWN, 1, {0xc1}},                     /* empty */
        {BLE_DOWN, 3, {0x01 + SEGMENT_WINDOW, 1}}, /* beyond the window */
        {BLE_DOWN, 3, {0x3f - SEGMENT_WINDOW, 1}}, /* before it */
        {BLE_DOWN, 3, {0x41, 1}},                  /* the end of nothing */
        {BLE_FLOW, 0, {0}},
        {BLE_FLOW, 2, {3, 3}},
        {BLE_FLOW, 1, {0x43}}, /* bit 6 is nobody's */
        {BLE_FLOW, 1, {0x04}}, /* of what was not sent */
        {BLE_UP, 1, {0}},
        {BLE_IDENTITY, 1, {0}},
    };
    for (unsigned i = 0; i < sizeof writes / sizeof *writes; i++) {
        setup(NULL);
        online(185);
        assert_int_equal(node.ble.down.expected, 1);
        assert_int_equal(node.ble.up.first, 3);
        assert_true(node_ble_written(&node, writes[i].characteristic, writes[i].data, writes[i].size, now_ms) < 0);
        assert_true(node_ble_broken(&node));
        assert_true(node_ble_written(&node, BLE_FLOW, (const uint8_t[]){3}, 1, now_ms) < 0); /* nothing more is heard */
        assert_int_equal(node.counts.refused, 1);
        disconnect();
        connect(185);
        expect_both("binfo bstate ");
    }
}

static void test_a_message_inside_another_and_one_for_ever(void **state)
{
    (void)state;
    uint8_t segment[101] = {0x81};
    online(185);
    assert_int_equal(node_ble_written(&node, BLE_DOWN, segment, sizeof segment, now_ms), NODE_OK);
    segment[0] = 0x82;
    assert_int_equal(node_ble_written(&node, BLE_DOWN, segment, sizeof segment, now_ms), NODE_E_PROTOCOL);
    disconnect();
    connect(185);
    expect_both("binfo bstate ");
    unsigned taken = 0;
    for (; segment[0] = (uint8_t)((taken == 0 ? 0x80 : 0) | (1 + taken) % 64),
           node_ble_written(&node, BLE_DOWN, segment, sizeof segment, now_ms) == NODE_OK;
         taken++) {
    }
    assert_int_equal(taken, BLE_DOWN_BYTES / 100);
}

/* Whatever is lost, comes twice or late: all arrives, and what a verdict asks for is done once. */
static void test_an_air_that_loses(void **state)
{
    (void)state;
    static const uint16_t mtus[] = {BLE_MTU, 50, 185, BLE_MTU_MOST};
    unsigned reconnections = 0, doubled = 0;
    for (uint32_t run = 0; run < 400; run++) {
        setup(NULL);
        seed = run;
        loss = run % 5 * 6;
        twice = run / 5 % 3 * 10;
        late = run / 15 % 3 * 10;
        put_events(2, 400);
        connect(mtus[run % 4]);
        for (unsigned i = 0; i < 3; i++) {
            converse();
            put_events(1, 700 * i);
        }
        say_verdict(2, "open");
        while (converse(), node.queue.waiting != 0 || node.counts.verdicts == 0) {
            reconnections++;
            assert_true(reconnections < 1000);
            connect(mtus[run % 4]);
            say_verdict(2, "open");
        }
        nothing_is_lost();
        assert_false(central.refused);
        assert_string_equal(acted, "c:open:yes ");
        for (unsigned seq = 0; seq < events_out; seq++) {
            doubled += deliveries[seq] - 1;
        }
    }
    assert_true(reconnections < 40);
    assert_true(doubled < 40); /* only with the reconnections */
}

static void test_disconnected_at_every_point(void **state)
{
    (void)state;
    bool cut = true;
    for (long at = 0; cut; at++) {
        setup(NULL);
        put_events(3, 150);
        cut_at = at;
        connect(BLE_MTU);
        converse();
        cut = !central.connected;
        cut_at = -1;
        put_events(2, 150);
        if (cut) {
            assert_int_equal(node.in_flight, 0);
            connect(BLE_MTU);
        }
        say_verdict(1, "open");
        converse();
        nothing_is_lost();
        assert_string_equal(acted, "c:open:yes ");
    }
}

/* ---- SMP ---- */

#define FRAME_BYTES 1200

static size_t frame(uint8_t out[FRAME_BYTES], uint8_t op, uint8_t group, uint8_t command, uint8_t sequence,
                    cbor_writer_t map)
{
    const size_t size = SMP_HEADER_BYTES + map.size;
    assert_true(size <= FRAME_BYTES);
    memcpy(out, (uint8_t[]){8 | op, 0, (uint8_t)(map.size >> 8), (uint8_t)map.size, 0, group, sequence, command}, 8);
    memcpy(out + SMP_HEADER_BYTES, map.data, map.size);
    return size;
}

static size_t echo(uint8_t out[FRAME_BYTES], uint8_t sequence, size_t letters)
{
    static const uint8_t text[1000];
    uint8_t map[FRAME_BYTES];
    cbor_writer_t w = cbor_writer(map, sizeof map);
    cbor_put_map(&w, 1);
    cbor_put_text(&w, "d");
    cbor_put_span(&w, (span_t){text, (uint32_t)letters});
    return frame(out, 2, 0, 0, sequence, w);
}

static void write_pieces(const uint8_t *data, size_t size, size_t piece)
{
    for (size_t at = 0; at < size; at += piece) {
        const size_t taken = size - at < piece ? size - at : piece;
        assert_int_equal(node_ble_written(&node, BLE_SMP, data + at, taken, now_ms), NODE_OK);
    }
}

/* The next answer; NULL where there is none. */
static const uint8_t *next_answer(size_t *at)
{
    if (*at == central.answered) {
        return NULL;
    }
    const uint8_t *const found = central.answers + *at;
    *at += SMP_HEADER_BYTES + ((size_t)found[2] << 8 | found[3]);
    assert_true(*at <= central.answered);
    return found;
}

static bool refused_busy(const uint8_t *frame_)
{
    return frame_[3] == 5 && memcmp(frame_ + SMP_HEADER_BYTES, "\xa1\x62rc\x0a", 5) == 0;
}

static void test_requests_in_every_cut(void **state)
{
    (void)state;
    uint8_t stream[3 * FRAME_BYTES];
    size_t size = 0;
    for (uint8_t sequence = 0; sequence < 3; sequence++) {
        size += echo(stream + size, sequence, 10U * sequence);
    }
    for (size_t piece = 1; piece <= size; piece++) {
        connect(23);
        write_pieces(stream, size, piece);
        converse();
        size_t at = 0;
        for (unsigned sequence = 0; sequence < 3; sequence++) {
            const uint8_t *const found = next_answer(&at);
            assert_non_null(found);
            assert_int_equal(found[6], sequence);
            assert_int_equal(found[3], 4 + 10 * sequence);
        }
        assert_null(next_answer(&at));
        disconnect();
    }
    assert_int_equal(node.counts.unanswered, 0);
}

static void test_an_answer_has_its_own_notifications(void **state)
{
    (void)state;
    uint8_t stream[2 * FRAME_BYTES];
    size_t size = echo(stream, 0, 100);
    const size_t answer_bytes = size;
    size += echo(stream + size, 1, 100);
    connect(185);
    node_ble_subscribed(&node, BLE_UP, false, now_ms);
    write_pieces(stream, size, size);
    for (unsigned i = 1; i <= 2; i++) {
        assert_true(node_sends());
        assert_int_equal(central.answered, i * answer_bytes);
    }
}

static void test_answers_that_nobody_takes(void **state)
{
    (void)state;
    uint8_t request[FRAME_BYTES];
    connect(185);
    unsigned written = 0, refused = 0;
    while (node_ble_written(&node, BLE_SMP, request, echo(request, (uint8_t)written, 120), now_ms) == NODE_OK) {
        written++;
        assert_true(written < 1000);
    }
    assert_true(node_ble_broken(&node));
    disconnect();

    connect(185);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(node_ble_written(&node, BLE_SMP, request, echo(request, (uint8_t)i, 120), now_ms), NODE_OK);
    }
    converse();
    size_t at = 0;
    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *const found = next_answer(&at);
        assert_non_null(found); /* every one has its answer, and in order */
        assert_int_equal(found[6], i);
        refused += refused_busy(found);
    }
    assert_int_equal(refused, 6);
}

static void test_a_request_that_is_too_large_or_ends_early(void **state)
{
    (void)state;
    static uint8_t large[NODE_RECEIVE_BYTES + 100];
    uint8_t request[FRAME_BYTES];
    connect(247);
    echo(large, 9, 0);
    large[2] = (uint8_t)((sizeof large - SMP_HEADER_BYTES) >> 8);
    large[3] = (uint8_t)(sizeof large - SMP_HEADER_BYTES);
    write_pieces(large, sizeof large, 244);
    converse();
    size_t at = 0;
    assert_memory_equal(next_answer(&at) + SMP_HEADER_BYTES, "\xa1\x62rc\x03", 5);

    const size_t size = echo(request, 1, 300);
    write_pieces(request, 244, 244); /* what follows is lost */
    now_ms += 2001;
    write_pieces(request, size, 244);
    converse();
    const uint8_t *const found = next_answer(&at);
    assert_non_null(found);
    assert_int_equal(found[6], 1);
    assert_int_equal(found[2] << 8 | found[3], size - SMP_HEADER_BYTES);
    assert_null(next_answer(&at));
}

/* Both carriers' requests grow in one buffer: MQTT's has it, and the other is told to come again. */
static void test_requests_over_both_carriers(void **state)
{
    (void)state;
    uint8_t request[FRAME_BYTES], packet[FRAME_BYTES + 100] = {0x30};
    const size_t size = echo(request, 1, 900);
    const size_t length = 2 + sizeof REQUEST - 1 + size;
    packet[1] = (uint8_t)(length % 128 | 128);
    packet[2] = (uint8_t)(length / 128);
    packet[4] = sizeof REQUEST - 1;
    memcpy(packet + 5, REQUEST, sizeof REQUEST - 1);
    memcpy(packet + 4 + sizeof REQUEST, request, size);
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    talk();
    connect(185);
    converse();
    heard[0] = '\0';
    write_pieces(request, 300, 182);
    answer(packet, 500);
    write_pieces(request + 300, size - 300, 182); /* it was first, and yet */
    write_pieces(request, size, 182);
    answer(packet + 500, 3 + length - 500);
    expect_both("smp ");
    size_t at = 0;
    for (unsigned i = 0; i < 2; i++) {
        const uint8_t *const found = next_answer(&at);
        assert_non_null(found);
        assert_true(refused_busy(found));
    }
    write_pieces(request, size, 182);
    converse();
    assert_false(refused_busy(next_answer(&at)));
    assert_int_equal(node.counts.unanswered, 2);
}

/* ---- an upload ---- */

static sense_t sense;
static uint8_t arena[1024] __attribute__((aligned(NN_ALIGNMENT)));
static uint8_t ring[NODE_MAX_WINDOW];
static const uint8_t *image;
static uint32_t image_bytes;

static void boot_with_image(void)
{
    const sense_memory_t memory = {arena, sizeof arena, ring, sizeof ring};
    boot();
    assert_int_equal(node_load(&node, 1, &sense, &memory), NODE_OK);
}

static int setup_with_image(void **state)
{
    (void)state;
    setup(NULL);
    image = vector_load(&image_bytes);
    site_start(BASE_BYTES + JOURNAL_SECTORS * SECTOR + SLOTS * IMAGE_BYTES + 8 * SECTOR);
    config.keys = (const uint8_t(*)[IMAGE_KEY_BYTES])vector_key;
    config.key_count = 1;
    config.images = 1;
    config.image_bytes = IMAGE_BYTES;
    config.arena_bytes = sizeof arena;
    config.trial_s = 100;
    boot_with_image();
    return 0;
}

static size_t chunk(uint8_t out[FRAME_BYTES], uint32_t offset, uint32_t size)
{
    uint8_t map[FRAME_BYTES];
    static const uint8_t name[32] = "the upload";
    cbor_writer_t w = cbor_writer(map, sizeof map);
    cbor_put_map(&w, offset == 0 ? 5 : 2);
    if (offset == 0) {
        cbor_put_text(&w, "image");
        cbor_put_uint(&w, 1);
        cbor_put_text(&w, "len");
        cbor_put_uint(&w, image_bytes);
        cbor_put_text(&w, "sha");
        cbor_put_bytes(&w, name, sizeof name);
    }
    cbor_put_text(&w, "off");
    cbor_put_uint(&w, offset);
    cbor_put_text(&w, "data");
    cbor_put_bytes(&w, image + offset, size);
    return frame(out, 2, 1, 1, (uint8_t)(offset / 100), w);
}

static uint32_t offset_of(const uint8_t *found)
{
    cbor_reader_t r = cbor_reader(found + SMP_HEADER_BYTES, (size_t)found[2] << 8 | found[3]);
    uint32_t offset = 0;
    for (uint32_t pairs = cbor_map(&r); pairs != 0; pairs--) {
        if (smp_equal(cbor_text(&r), "off")) {
            offset = (uint32_t)cbor_uint(&r, UINT32_MAX);
        } else {
            cbor_skip(&r);
        }
    }
    return offset;
}

/* Four requests are out at a time, as many as there are bytes; where the upload is afterwards. */
static uint32_t upload(uint32_t offset, size_t piece)
{
    uint8_t request[FRAME_BYTES];
    size_t at = 0;
    uint32_t sent = offset;
    unsigned out = 0;
    while (central.connected && offset < image_bytes) {
        for (; out < 4 && sent < image_bytes; out++) {
            const uint32_t size = image_bytes - sent < 100 ? image_bytes - sent : 100;
            write_pieces(request, chunk(request, sent, size), piece);
            sent += size;
        }
        converse();
        for (const uint8_t *found; (found = next_answer(&at)) != NULL; out--) {
            assert_false(refused_busy(found));
            assert_true(offset_of(found) >= offset);
            offset = offset_of(found);
        }
    }
    return offset;
}

static slot_state_t uploaded(void)
{
    return (slot_state_t)node.models[0].slots.slot[0].state;
}

static void test_an_upload_with_four_requests_in_flight(void **state)
{
    (void)state;
    static const size_t pieces[] = {20, 101, 244, 1000};
    for (unsigned i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        setup_with_image(NULL);
        connect(BLE_MTU_MOST);
        assert_int_equal(upload(0, pieces[i]), image_bytes);
        assert_int_equal(uploaded(), SLOT_VERIFIED);
        assert_non_null(strstr(heard, "binfo ")); /* and it is told */
        assert_int_equal(flash.broken_rules, 0);
    }
}

static void test_an_upload_goes_on_over_the_other_carrier(void **state)
{
    (void)state;
    uint8_t request[FRAME_BYTES];
    for (long at = 1; at < 40; at++) {
        setup_with_image(NULL);
        connect(185);
        cut_at = at;
        (void)upload(0, 182);
        cut_at = -1;
        boot_with_image(); /* the node was reset, too */
        assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
        talk();
        uint32_t offset = 0;
        for (unsigned guard = 0; offset < image_bytes && guard < 50; guard++) {
            const uint32_t size = image_bytes - offset < 100 ? image_bytes - offset : 100;
            deliver(REQUEST, request, chunk(request, offset, size));
            talk();
            offset = offset_of(node.answer);
        }
        assert_int_equal(offset, image_bytes);
        assert_int_equal(uploaded(), SLOT_VERIFIED);
        assert_int_equal(flash.broken_rules, 0);
    }
}

static void test_the_model_is_in_the_beacon(void **state)
{
    (void)state;
    uint8_t data[BLE_ADVERTISEMENT_BYTES];
    advertises(data);
    assert_true(data[25] == 0 && data[26] == 0);
    assert_int_equal(node_provision(&node, 1, image, image_bytes), NODE_OK);
    assert_true(node_step(&node, now_ms) >= 0);
    assert_true(advertises(data));
    assert_memory_equal(data + 25, node.models[0].slots.slot[0].sha256, 2);
}

/* ---- two carriers ---- */

static void note_mqtt_events(void)
{
    for (const char *at = heard; (at = strchr(at, '#')) != NULL; at++) {
        unsigned seq;
        if ((at == heard || at[-1] == ' ') && sscanf(at, "#%u", &seq) == 1) {
            deliveries[seq]++;
        }
    }
}

static void test_mqtt_is_preferred_while_it_works(void **state)
{
    (void)state;
    online(185);
    put_events(1, 0);
    expect_both("b#0 ");
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    expect("CONNECT SUBSCRIBE infor stater ");
    put_events(1, 0);
    expect_both("b#1 "); /* there is no gateway */
    gateway(true);
    put_events(1, 0);
    expect_both("#2 ");
    now_ms += 15004;
    assert_true(node_step(&node, now_ms) >= 0);
    expect_both("vitals "); /* once, and there */
    gateway(false);
    put_events(1, 0);
    expect_both("b#3 ");
    gateway(true);
    acks = 0;
    put_events(2, 0);
    expect_both("#4 #5 ");
    node_link_down(&node, now_ms);
    assert_true(node_step(&node, now_ms) >= 0);
    expect_both("b#4 b#5 "); /* which the gateway may have had */
    note_mqtt_events();
    acks = 1000;
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    expect("CONNECT SUBSCRIBE infor stater "); /* nothing again */
    assert_int_equal(node.queue.waiting, 0);
}

static void test_a_link_that_does_not_come_up(void **state)
{
    (void)state;
    uint8_t stream[512];
    const uint8_t *data;
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    talk();
    gateway(true);
    acks = 0;
    put_events(2, 0);
    talk();
    node_link_down(&node, now_ms);
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK); /* CONNECT is out, and nothing comes */
    const size_t size = node_transmit(&node, &data);
    assert_true(size < sizeof stream);
    node_transmitted(&node, size, now_ms);
    heard[0] = '\0';
    connect(185);
    converse();
    assert_string_equal(heard, "binfo bstate b#0 b#1 ");
    nothing_is_lost();
}

static void test_the_other_carrier_waits_for_the_end_of_an_event(void **state)
{
    (void)state;
    online(BLE_MTU);
    put_events(2, 1000);
    assert_true(node_sends());
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    talk();
    gateway(true);
    talk();
    assert_null(strchr(heard, '#'));
    converse();
    talk();
    assert_non_null(strstr(heard, "b#0 "));
    assert_non_null(strstr(heard, " #0 ")); /* it was not stored: the gateway drops it */
    assert_non_null(strstr(heard, " #1 "));
    assert_null(strstr(heard, "b#1 "));
    note_mqtt_events();
    nothing_is_lost();
}

/* The carriers come and go at any time; the air loses. */
static void test_changes_of_carrier_lose_nothing(void **state)
{
    (void)state;
    for (uint32_t run = 0; run < 300; run++) {
        setup(NULL);
        seed = run;
        loss = run % 3 * 5;
        for (unsigned step = 0; step < 40; step++) {
            const unsigned what = dice();
            if (what < 25 && events_out < 30) {
                put_events(1, what * 20);
            } else if (what < 40) {
                for (unsigned i = 0; i < what && central.connected; i++) { /* not to the end */
                    (void)node_sends();
                    (void)(central.connected && central_sends());
                }
            } else if (what < 50) {
                central.connected ? disconnect() : connect(what % 2 ? BLE_MTU : 185);
            } else if (what < 60) {
                acks = what % 2 ? 1000 : 0;
                assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
                talk();
            } else if (what < 70) {
                node_link_down(&node, now_ms);
            } else if (what < 80 && node_ready(&node)) {
                gateway(what % 2 == 0);
                talk();
            } else {
                now_ms += what;
                converse();
                talk();
            }
        }
        loss = 0;
        acks = 1000;
        if (central.connected) {
            disconnect();
        }
        if (run % 2) {
            assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
            talk();
            gateway(true);
            talk();
        } else {
            node_link_down(&node, now_ms);
            connect(185);
            converse();
        }
        note_mqtt_events();
        nothing_is_lost();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_advertising_data, setup),
        cmocka_unit_test_setup(test_the_counter_grows_for_passive_scanners, setup),
        cmocka_unit_test_setup(test_flags_and_battery, setup),
        cmocka_unit_test_setup(test_identity, setup),
        cmocka_unit_test_setup(test_birth_needs_a_listener, setup),
        cmocka_unit_test_setup(test_vitals_and_info_when_due, setup),
        cmocka_unit_test_setup(test_events_until_they_are_stored, setup),
        cmocka_unit_test_setup(test_events_of_an_earlier_session, setup),
        cmocka_unit_test_setup(test_stored_before_its_last_acknowledgement, setup),
        cmocka_unit_test_setup(test_verdicts_act_once, setup),
        cmocka_unit_test_setup(test_goodbye, setup),
        cmocka_unit_test_setup(test_every_mtu, setup),
        cmocka_unit_test_setup(test_an_mtu_that_grows_inside_a_message, setup),
        cmocka_unit_test_setup(test_nobody_acknowledges, setup),
        cmocka_unit_test_setup(test_a_listener_that_goes_away, setup),
        cmocka_unit_test_setup(test_what_cannot_be_ends_the_connection, setup),
        cmocka_unit_test_setup(test_a_message_inside_another_and_one_for_ever, setup),
        cmocka_unit_test_setup(test_an_air_that_loses, setup),
        cmocka_unit_test_setup(test_disconnected_at_every_point, setup),
        cmocka_unit_test_setup(test_requests_in_every_cut, setup),
        cmocka_unit_test_setup(test_an_answer_has_its_own_notifications, setup),
        cmocka_unit_test_setup(test_answers_that_nobody_takes, setup),
        cmocka_unit_test_setup(test_a_request_that_is_too_large_or_ends_early, setup),
        cmocka_unit_test_setup(test_requests_over_both_carriers, setup),
        cmocka_unit_test_setup(test_an_upload_with_four_requests_in_flight, setup_with_image),
        cmocka_unit_test_setup(test_an_upload_goes_on_over_the_other_carrier, setup_with_image),
        cmocka_unit_test_setup(test_the_model_is_in_the_beacon, setup_with_image),
        cmocka_unit_test_setup(test_mqtt_is_preferred_while_it_works, setup),
        cmocka_unit_test_setup(test_a_link_that_does_not_come_up, setup),
        cmocka_unit_test_setup(test_the_other_carrier_waits_for_the_end_of_an_event, setup),
        cmocka_unit_test_setup(test_changes_of_carrier_lose_nothing, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
