/* The whole node on Bluetooth LE, with a central that keeps to the contract on an air that does not: advertising,
 * births, events, verdicts, and changes to MQTT and back. */
#include "ble.h"

#include <stdio.h>
#include <string.h>

#include "central.h"
#include "session.h"
#include "site.h"
#include "test.h"

#define FLASH_BYTES ((SESSION_SECTORS + JOURNAL_SECTORS + 32) * SECTOR)

static uint32_t events_out;

static void expect_both(const char *words)
{
    converse();
    expect(words);
}

static int setup(void **state)
{
    (void)state;
    central_reset();
    events_out = 0;
    site_start(FLASH_BYTES);
    boot();
    return 0;
}

static void online(uint16_t mtu)
{
    central_connect(mtu);
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
        assert_true(central.deliveries[seq] >= 1);
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
    central_connect(185);
    central_disconnect();
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
    central_disconnect();
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
    central_connect(185);
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
    central.stores = false;
    put_events(6, 300);
    expect_both("b#0 b#1 b#2 b#3 "); /* no more are out */
    assert_int_equal(node.queue.waiting, 6);
    say_stored(node.session, 2);
    expect_both("b#4 ");
    say_stored(node.session + 1, 1); /* another session's */
    say_stored(node.session, 5);     /* was not sent */
    expect_both("");
    assert_int_equal(node.queue.waiting, 5);
    central_disconnect();
    central.stores = true;
    central_connect(185);
    expect_both("binfo bstate b#0 b#1 b#3 b#4 b#5 ");
    nothing_is_lost();
    assert_int_equal(node.counts.acknowledged, 6);
}

static void test_a_gateway_that_comes_back_inside_a_message(void **state)
{
    (void)state;
    online(BLE_MTU);
    node.info_changed = true;
    assert_true(node_step(&node, now_ms) >= 0);
    assert_true(node_sends());
    say_gateway(false);
    say_gateway(true);
    expect_both("binfo binfo bstate "); /* the second birth begins behind what was said before */
}

static void test_events_of_an_earlier_session(void **state)
{
    (void)state;
    put_events(3, 100);
    boot();
    assert_int_equal(node.session, 2);
    central_connect(185);
    expect_both("binfo bstate bvitals b#0 b#1 b#2 ");
    assert_int_equal(node.queue.waiting, 0);
}

static void test_stored_before_its_last_acknowledgement(void **state)
{
    (void)state;
    online(185);
    central.stores = false;
    put_events(1, 100);
    while (central.deliveries[0] == 0) {
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
        central_connect(mtu);
        for (uint32_t size = 0; size < 3; size++) {
            assert_int_equal(event(mtu + 2 * size), NODE_OK);
        }
        converse();
        assert_int_equal(node.queue.waiting, 0);
        central_disconnect();
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
    central_disconnect();
    assert_false(node_ble_broken(&node));
    central_connect(BLE_MTU);
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
        central_disconnect();
        central_connect(185);
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
    central_disconnect();
    central_connect(185);
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
        central.seed = run;
        central.loss = run % 5 * 6;
        central.twice = run / 5 % 3 * 10;
        central.late = run / 15 % 3 * 10;
        put_events(2, 400);
        central_connect(mtus[run % 4]);
        for (unsigned i = 0; i < 3; i++) {
            converse();
            put_events(1, 700 * i);
        }
        say_verdict(2, "open");
        while (converse(), node.queue.waiting != 0 || node.counts.verdicts == 0) {
            reconnections++;
            assert_true(reconnections < 1000);
            central_connect(mtus[run % 4]);
            say_verdict(2, "open");
        }
        nothing_is_lost();
        assert_false(central.refused);
        assert_string_equal(acted, "c:open:yes ");
        for (unsigned seq = 0; seq < events_out; seq++) {
            doubled += central.deliveries[seq] - 1;
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
        central.cut_at = at;
        central_connect(BLE_MTU);
        converse();
        cut = !central.connected;
        central.cut_at = -1;
        put_events(2, 150);
        if (cut) {
            assert_int_equal(node.in_flight, 0);
            central_connect(BLE_MTU);
        }
        say_verdict(1, "open");
        converse();
        nothing_is_lost();
        assert_string_equal(acted, "c:open:yes ");
    }
}

/* ---- two carriers ---- */

static void note_mqtt_events(void)
{
    for (const char *at = heard; (at = strchr(at, '#')) != NULL; at++) {
        unsigned seq;
        if ((at == heard || at[-1] == ' ') && sscanf(at, "#%u", &seq) == 1) {
            central.deliveries[seq]++;
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
    now_ms += 15004;
    assert_true(node_step(&node, now_ms) >= 0);
    expect_both("bvitals ");
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

static void test_the_broker_keeps_what_it_was_sent(void **state)
{
    (void)state;
    online(185);
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    talk();
    gateway(true);
    acks = 0;
    put_events(2, 0);
    expect("CONNECT SUBSCRIBE infor stater #0 #1 ");
    gateway(false);
    put_events(1, 0);
    expect_both(""); /* the broker will acknowledge in a moment */
    for (unsigned i = 0; i < 2; i++) {
        answer((const uint8_t[]){0x40, 2, 0, (uint8_t)node.mqtt.slots[0].packet_id}, 4);
    }
    expect_both("b#2 ");
    assert_int_equal(node.queue.waiting, 0);
    assert_int_equal(node.in_flight, 0);
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
    central_connect(185);
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
        central.seed = run;
        central.loss = run % 3 * 5;
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
                central.connected ? central_disconnect() : central_connect(what % 2 ? BLE_MTU : 185);
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
        central.loss = 0;
        acks = 1000;
        if (central.connected) {
            central_disconnect();
        }
        if (run % 2) {
            assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
            talk();
            gateway(true);
            talk();
        } else {
            node_link_down(&node, now_ms);
            central_connect(185);
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
        cmocka_unit_test_setup(test_a_gateway_that_comes_back_inside_a_message, setup),
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
        cmocka_unit_test_setup(test_mqtt_is_preferred_while_it_works, setup),
        cmocka_unit_test_setup(test_the_broker_keeps_what_it_was_sent, setup),
        cmocka_unit_test_setup(test_a_link_that_does_not_come_up, setup),
        cmocka_unit_test_setup(test_the_other_carrier_waits_for_the_end_of_an_event, setup),
        cmocka_unit_test_setup(test_changes_of_carrier_lose_nothing, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
