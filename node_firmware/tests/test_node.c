/* The whole node and a broker: birth, events, verdicts, broken links, full flash, goodbye. */
#include "node/node.h"

#include <string.h>

#include "session.h"
#include "site.h"
#include "smp.h"
#include "test.h"

#define QUEUE (8 * SECTOR)

static int setup(void **state)
{
    (void)state;
    site_start((SESSION_SECTORS + JOURNAL_SECTORS) * SECTOR + QUEUE);
    boot();
    return 0;
}

static void online(void)
{
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    expect("CONNECT SUBSCRIBE infor stater vitals ");
    assert_true(node_ready(&node));
}

static void test_birth_and_goodbye(void **state)
{
    (void)state;
    online();
    node_stop(&node, now_ms);
    assert_false(node_stopped(&node));
    expect("stater DISCONNECT ");
    assert_true(node_stopped(&node));
}

static void test_every_boot_is_a_session(void **state)
{
    (void)state;
    assert_int_equal(node.session, 1);
    for (uint32_t session = 2; session < 100; session++) {
        boot();
        assert_int_equal(node.session, session);
    }
}

static void test_events_wait_for_a_gateway(void **state)
{
    (void)state;
    assert_int_equal(event(0), NODE_OK);
    online();
    assert_int_equal(event(100), NODE_OK);
    expect("");
    gateway(true);
    expect("#0 #1 ");
    assert_int_equal(node.queue.waiting, 0);
    gateway(false);
    assert_int_equal(event(0), NODE_OK);
    expect("");
    boot(); /* and outlive the power */
    assert_int_equal(node.queue.waiting, 1);
    online();
    gateway(true);
    expect("#2 ");
}

static void test_unacknowledged_events_come_again(void **state)
{
    (void)state;
    online();
    gateway(true);
    acks = 0;
    for (unsigned i = 0; i < NODE_EVENTS_IN_FLIGHT + 2; i++) {
        assert_int_equal(event(0), NODE_OK);
    }
    expect("#0 #1 #2 #3 "); /* no more in flight */
    node_link_down(&node, now_ms);
    acks = 1000;
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    expect("CONNECT SUBSCRIBE #0+ #1+ #2+ #3+ infor stater ");
    gateway(true);
    expect("#4 #5 ");
    assert_int_equal(node.queue.waiting, 0);
    assert_int_equal(node.counts.acknowledged, 6);
}

static void test_verdicts(void **state)
{
    (void)state;
    online();
    gateway(true);
    assert_int_equal(event(0), NODE_OK);
    assert_int_equal(event(0), NODE_OK);
    expect("#0 #1 ");
    now_ms += 6000;
    verdict(0, 2, "open", 60000); /* another session */
    verdict(0, 1, "open", 5999);  /* too late */
    verdict(5, 1, "open", 60000); /* no such event */
    assert_string_equal(acted, "");
    assert_int_equal(node.counts.late, 3);
    verdict(1, 1, "open", 6000);
    verdict(1, 1, "open", 6000); /* delivered twice */
    assert_string_equal(acted, "c:open:yes ");
    verdict(0, 1, "", 6000); /* nothing to do */
    assert_string_equal(acted, "c:open:yes ");
    assert_int_equal(node.counts.verdicts, 2);
    deliver(VERDICT, (const uint8_t *)"nonsense", 8);
    assert_int_equal(node.counts.refused, 1);
}

static void test_full_flash_drops_the_oldest(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(event(100), NODE_OK); /* one sector each */
    }
    assert_int_equal(node.queue.dropped, 4);
    online();
    gateway(true);
    expect("#4 #5 #6 #7 #8 #9 #10 #11 ");
    assert_int_equal(event(QUEUE), NODE_E_ARGUMENT);
    assert_int_equal(node.counts.lost, 1);
    assert_int_equal(event(0), NODE_OK);
    expect("#13 "); /* the gateway sees the gap */
}

static void test_full_flash_while_events_are_in_flight(void **state)
{
    (void)state;
    online();
    gateway(true);
    acks = 0;
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(event(100), NODE_OK);
    }
    expect("#0 #1 #2 #3 ");
    assert_int_equal(event(100), NODE_E_FULL); /* they may be on their way out */
    node_link_down(&node, now_ms);
    assert_int_equal(event(100), NODE_OK); /* now the oldest can go */
    assert_int_equal(node.queue.dropped, 1);
    acks = 1000;
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    expect("CONNECT SUBSCRIBE infor stater ");
    gateway(true);
    expect("#1 #2 #3 #4 #5 #6 #7 #9 ");
}

static void test_vitals_in_time(void **state)
{
    (void)state;
    online();
    const int wait_ms = node_step(&node, now_ms);
    assert_int_equal(wait_ms, 15004); /* half of 30 s, and the port's random number */
    now_ms += 15003;
    assert_int_equal(node_step(&node, now_ms), 1);
    expect("");
    now_ms += 1;
    assert_true(node_step(&node, now_ms) > 0);
    expect("vitals ");
}

static void port_health(void *context, node_health_t *health)
{
    (void)context;
    health->rssi_dbm = -61;
    health->stack_free_bytes = 1024;
    health->battery_percent = 101; /* no gauge is perfect */
}

static void test_what_the_board_knows_is_told(void **state)
{
    (void)state;
    port.health = port_health;
    online();
    cbor_reader_t r = cbor_reader(node.message, sizeof node.message);
    assert_int_equal(cbor_map(&r), 8);
    for (unsigned key = 0; key < 3; key++) {
        assert_int_equal(cbor_uint(&r, 31), key);
        cbor_skip(&r);
    }
    assert_int_equal(cbor_uint(&r, 31), 4);
    assert_int_equal(cbor_int(&r), -61);
    assert_int_equal(cbor_uint(&r, 31), 6);
    assert_int_equal(cbor_uint(&r, UINT32_MAX), 1024);
    assert_int_equal(cbor_uint(&r, 31), 7);
}

static const uint8_t echo[] = {8 | 2, 0, 0, 5, 0, 0, 1, 0, 0xa1, 0x61, 'd', 0x61, '!'};

static void test_requests_are_answered(void **state)
{
    (void)state;
    online();
    deliver(REQUEST, echo, sizeof echo);
    deliver(REQUEST, echo, sizeof echo); /* nobody asks twice before there is an answer */
    expect("smp ");
    assert_int_equal(node.counts.unanswered, 1);
    deliver(REQUEST, echo, sizeof echo);
    node_link_down(&node, now_ms); /* its answer is gone, too */
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    expect("CONNECT SUBSCRIBE infor stater ");
    deliver(REQUEST, echo, sizeof echo);
    expect("smp ");
    assert_int_equal(node.counts.unanswered, 1);
    deliver(REQUEST, echo, 7); /* no frame at all */
    expect("");
    deliver(REQUEST, echo, sizeof echo);
    expect("smp ");
}

static void test_messages_that_are_too_large(void **state)
{
    (void)state;
    static uint8_t large[NODE_RECEIVE_BYTES + 1];
    memcpy(large, echo, sizeof echo);
    online();
    deliver(VERDICT, large, sizeof large);
    assert_int_equal(node.counts.refused, 1);
    expect("");
    deliver(REQUEST, large, sizeof large); /* a request is refused with an answer */
    expect("smp ");
    assert_int_equal(node.answer[SMP_HEADER_BYTES + 4], 3);
}

static void test_what_changes_is_told(void **state)
{
    (void)state;
    static const uint8_t vitals_5s[] = {8 | 2, 0,    0,   24,  0,   3,   1,   0,   0xa2, 0x64, 'n',
                                        'a',   'm',  'e', 104, 'v', 'i', 't', 'a', 'l',  's',  '_',
                                        's',   0x63, 'v', 'a', 'l', 68,  5,   0,   0,    0};
    online();
    deliver(REQUEST, vitals_5s, sizeof vitals_5s);
    expect("smp infor vitals ");
    assert_int_equal(node_step(&node, now_ms), 2504); /* half of 5 s, and the port's random number */
}

static void test_several_gateways(void **state)
{
    (void)state;
    online();
    gateway(true);
    gateway(true);
    assert_int_equal(node.gateway_count, 1);
    deliver("nodelink/1/gateway/g2/state", (const uint8_t *)"", 0); /* cleared, never seen */
    deliver("nodelink/1/gateway/g1/state", (const uint8_t *)"", 0);
    assert_int_equal(node.gateway_count, 0);
}

static void test_configurations_that_cannot_be(void **state)
{
    (void)state;
    static const char *const ids[] = {"", "a", "-a", "A1", "a/b", "a+", "an-id-that-has-thirty-two-letters"};
    for (unsigned i = 0; i < sizeof ids / sizeof *ids; i++) {
        node_config_t bad = config;
        bad.id = ids[i];
        assert_int_equal(node_init(&node, &bad, &port, 0), NODE_E_ARGUMENT);
    }
    node_config_t bad = config;
    bad.images = 1;
    bad.image_bytes = QUEUE; /* nothing left for the queue */
    assert_int_equal(node_init(&node, &bad, &port, 0), NODE_E_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_birth_and_goodbye, setup),
        cmocka_unit_test_setup(test_every_boot_is_a_session, setup),
        cmocka_unit_test_setup(test_events_wait_for_a_gateway, setup),
        cmocka_unit_test_setup(test_unacknowledged_events_come_again, setup),
        cmocka_unit_test_setup(test_verdicts, setup),
        cmocka_unit_test_setup(test_full_flash_drops_the_oldest, setup),
        cmocka_unit_test_setup(test_full_flash_while_events_are_in_flight, setup),
        cmocka_unit_test_setup(test_vitals_in_time, setup),
        cmocka_unit_test_setup(test_what_the_board_knows_is_told, setup),
        cmocka_unit_test_setup(test_requests_are_answered, setup),
        cmocka_unit_test_setup(test_messages_that_are_too_large, setup),
        cmocka_unit_test_setup(test_what_changes_is_told, setup),
        cmocka_unit_test_setup(test_several_gateways, setup),
        cmocka_unit_test_setup(test_configurations_that_cannot_be, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
