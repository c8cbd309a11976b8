/* The client against bytes: what it sends, what it accepts, and what makes it drop the link. */
#include "mqtt.h"

#include <string.h>

#include "node/types.h"
#include "test.h"

#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

static mqtt_t mqtt;
static char heard[4096]; /* what came back, as words */
static uint8_t sent[131072];

static void on_connected(void *context, bool session_present)
{
    (void)context;
    strcat(heard, session_present ? "connected+ " : "connected ");
}

static void on_subscribed(void *context)
{
    (void)context;
    strcat(heard, "subscribed ");
}

static void on_received(void *context, const mqtt_piece_t *piece)
{
    (void)context;
    if (piece->offset == 0) {
        strcat(heard, piece->topic);
        strcat(heard, "=");
    }
    strncat(heard, (const char *)piece->data, piece->size);
    strcat(heard, piece->offset + piece->size == piece->total ? " " : "");
}

static void on_published(void *context, uint32_t token)
{
    (void)context;
    const char word[] = {'p', (char)('0' + token), ' ', '\0'};
    strcat(heard, word);
}

static const mqtt_handler_t handler = {on_connected, on_subscribed, on_received, on_published};

/* Takes everything that the client has to say. */
static size_t transmit(uint32_t now_ms)
{
    size_t size, total = 0;
    const uint8_t *data;
    while ((size = mqtt_transmit(&mqtt, &data)) != 0) {
        const size_t taken = size > 1000 ? 1000 : size;
        memcpy(sent + total, data, taken);
        total += taken;
        mqtt_transmitted(&mqtt, taken, now_ms);
    }
    return total;
}

static void expect_sent(const uint8_t *expected, size_t size)
{
    assert_int_equal(transmit(0), size);
    assert_memory_equal(sent, expected, size);
}

static void expect_heard(const char *expected)
{
    assert_string_equal(heard, expected);
    heard[0] = '\0';
}

static int receive(const uint8_t *data, size_t size)
{
    return mqtt_receive(&mqtt, data, size, 0);
}

static int link_up(void)
{
    const mqtt_connect_t connect = {.client_id = "n",
                                    .user = "u",
                                    .password = "pw",
                                    .will_prefix = "w/",
                                    .will_tail = "s",
                                    .will = (const uint8_t *)"x",
                                    .will_size = 1,
                                    .keepalive_s = 40};
    return mqtt_link_up(&mqtt, &connect, 0);
}

static void up(bool session_present)
{
    assert_int_equal(link_up(), NODE_OK);
    transmit(0);
    const uint8_t connack[] = {0x20, 2, session_present, 0};
    assert_int_equal(receive(connack, sizeof connack), NODE_OK);
    heard[0] = '\0';
}

static int setup(void **state)
{
    (void)state;
    heard[0] = '\0';
    mqtt_init(&mqtt, &handler, NULL);
    return 0;
}

static int publish(uint32_t token, uint8_t qos, const char *payload)
{
    const mqtt_publish_t p = {.prefix = "t/",
                              .tail = "e",
                              .payload = (const uint8_t *)payload,
                              .size = (uint32_t)strlen(payload),
                              .token = token,
                              .qos = qos};
    return mqtt_publish(&mqtt, &p);
}

static void test_connect(void **state)
{
    (void)state;
    assert_int_equal(publish(1, 1, "a"), NODE_OK);
    assert_int_equal(link_up(), NODE_OK);
    /* will, QoS 1, retained, user, password, clean session off; keepalive 40 s; and nothing else before CONNACK */
    expect_sent(BYTES(0x10, 28, 0, 4, 'M', 'Q', 'T', 'T', 4, 0xec, 0, 40, 0, 1, 'n', 0, 3, 'w', '/', 's', 0, 1, 'x', 0,
                      1, 'u', 0, 2, 'p', 'w'));
    assert_int_equal(receive(BYTES(0x20, 2, 1, 0)), NODE_OK);
    expect_heard("connected+ ");
    expect_sent(BYTES(0x32, 8, 0, 3, 't', '/', 'e', 0, 1, 'a'));
}

static void test_refusals(void **state)
{
    (void)state;
    assert_int_equal(link_up(), NODE_OK);
    assert_int_equal(receive(BYTES(0x20, 2, 0, 5)), NODE_E_REFUSED);
    up(false);
    const mqtt_filter_t filter = {"a/", "b", "/c"};
    assert_int_equal(mqtt_subscribe(&mqtt, &filter, 1), NODE_OK);
    expect_sent(BYTES(0x82, 10, 0, 1, 0, 5, 'a', '/', 'b', '/', 'c', 1));
    assert_int_equal(receive(BYTES(0x90, 3, 0, 1, 0x80)), NODE_E_REFUSED);
}

static void test_publish_and_acknowledge(void **state)
{
    (void)state;
    up(false);
    assert_int_equal(publish(1, 1, "a"), NODE_OK);
    assert_int_equal(publish(2, 0, "b"), NODE_OK);
    assert_int_equal(publish(3, 1, ""), NODE_OK);
    expect_sent(BYTES(0x32, 8, 0, 3, 't', '/', 'e', 0, 1, 'a', 0x30, 6, 0, 3, 't', '/', 'e', 'b', 0x32, 7, 0, 3, 't',
                      '/', 'e', 0, 2));
    expect_heard("p2 "); /* QoS 0 is over when it is sent */
    assert_int_equal(receive(BYTES(0x40, 2, 0, 2, 0x40, 2, 0, 1)), NODE_OK);
    expect_heard("p3 p1 ");
    assert_int_equal(mqtt.slot_count, 0);
}

static void test_again_after_a_broken_link(void **state)
{
    (void)state;
    up(false);
    assert_int_equal(publish(1, 1, "a"), NODE_OK);
    transmit(0);
    assert_int_equal(publish(2, 1, "b"), NODE_OK);
    assert_int_equal(publish(3, 0, "c"), NODE_OK);
    mqtt_link_down(&mqtt);
    expect_heard("p3 "); /* QoS 0 does not outlive its link */
    up(true);
    /* the first was sent: DUP; the second was not */
    expect_sent(BYTES(0x3a, 8, 0, 3, 't', '/', 'e', 0, 1, 'a', 0x32, 8, 0, 3, 't', '/', 'e', 0, 2, 'b'));
    assert_int_equal(receive(BYTES(0x40, 2, 0, 1)), NODE_OK);
    mqtt_link_down(&mqtt);
    mqtt_cancel(&mqtt, 2);
    assert_int_equal(mqtt.slot_count, 0);
}

static void test_large_payload_in_place(void **state)
{
    (void)state;
    static char payload[98305];
    memset(payload, 'z', sizeof payload - 1);
    up(false);
    assert_int_equal(publish(1, 1, payload), NODE_OK);
    const size_t size = transmit(0);
    assert_int_equal(size, 1 + 3 + 7 + 98304); /* the length takes three bytes */
    assert_memory_equal(sent, ((const uint8_t[]){0x32, 0x87, 0x80, 0x06}), 4);
    assert_int_equal(sent[size - 1], 'z');
}

static void test_full(void **state)
{
    (void)state;
    for (unsigned i = 0; i < MQTT_MAX_PUBLISHES; i++) {
        assert_int_equal(publish(1, 1, "a"), NODE_OK);
    }
    assert_int_equal(publish(1, 1, "a"), NODE_E_FULL);
    assert_int_equal(publish(1, 2, "a"), NODE_E_ARGUMENT);
}

static void test_receives_in_any_pieces(void **state)
{
    (void)state;
    static const uint8_t stream[] = {0x30, 7, 0, 3, 'a', '/', 'b', 'h', 'i',      /* QoS 0 */
                                     0x32, 8, 0, 3, 'a', '/', 'c', 1,   2,   'x', /* QoS 1 */
                                     0x3b, 7, 0, 3, 'a', '/', 'd', 0,   9,        /* DUP, retained, empty */
                                     0xd0, 0};
    for (size_t piece = 1; piece <= sizeof stream; piece++) {
        up(false);
        mqtt.ping_out = true;
        for (size_t at = 0; at < sizeof stream; at += piece) {
            const size_t rest = sizeof stream - at;
            assert_int_equal(receive(stream + at, rest < piece ? rest : piece), NODE_OK);
        }
        expect_heard("a/b=hi a/c=x a/d= ");
        expect_sent(BYTES(0x40, 2, 1, 2, 0x40, 2, 0, 9));
    }
}

static void test_a_long_topic_is_no_error(void **state)
{
    (void)state;
    uint8_t packet[MQTT_TOPIC_BYTES + 7] = {0x32, MQTT_TOPIC_BYTES + 5, 0, MQTT_TOPIC_BYTES};
    memset(packet + 4, 'a', MQTT_TOPIC_BYTES);
    packet[4 + MQTT_TOPIC_BYTES + 1] = 7; /* packet identifier */
    packet[4 + MQTT_TOPIC_BYTES + 2] = 'x';
    up(false);
    assert_int_equal(receive(packet, sizeof packet), NODE_OK);
    expect_heard("=x ");
    expect_sent(BYTES(0x40, 2, 0, 7));
}

static void test_what_a_broker_may_not_send(void **state)
{
    (void)state;
    static const struct {
        uint8_t bytes[12];
        size_t size;
    } wrong[] = {
        {{0x20, 2, 0, 0}, 4},                      /* CONNACK twice */
        {{0x00, 0}, 2},                            /* no such type */
        {{0x10, 0}, 2},                            /* what only a client sends */
        {{0x34, 7, 0, 1, 'a', 0, 1, 'x', 'y'}, 9}, /* QoS 2 was not asked for */
        {{0x36, 7, 0, 1, 'a', 0, 1, 'x', 'y'}, 9}, /* QoS 3 */
        {{0x38, 4, 0, 1, 'a', 'x'}, 6},            /* DUP with QoS 0 */
        {{0x30, 3, 0, 0, 'x'}, 5},                 /* no topic */
        {{0x30, 4, 0, 2, '+', 'x'}, 6},            /* a wildcard */
        {{0x30, 4, 0, 2, 0, 'x'}, 6},              /* NUL */
        {{0x30, 3, 0, 9, 'a', 'b', 'c', 'd'}, 8},  /* a topic longer than its packet */
        {{0x32, 5, 0, 1, 'a', 0, 0}, 7},           /* packet identifier 0 */
        {{0x30, 0xff, 0xff, 0xff, 0xff, 0x7f}, 6}, /* a length of five bytes */
        {{0x40, 2, 0, 1}, 4},                      /* nothing was published */
        {{0x40, 3, 0, 1, 0}, 5},                   /* too long */
        {{0x42, 2, 0, 1}, 4},                      /* flags */
        {{0x90, 3, 0, 1, 0}, 5},                   /* nothing was subscribed to */
        {{0xd0, 0}, 2},                            /* no ping was sent */
        {{0x90, 0x80, 0x02}, 3},                   /* longer than any that could come */
    };
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        up(false);
        int status = NODE_OK;
        for (size_t at = 0; at < wrong[i].size && status == NODE_OK; at++) {
            status = receive(wrong[i].bytes + at, 1);
        }
        if (status != NODE_E_PROTOCOL) {
            fail_msg("case %u: %d", i, status);
        }
    }
    assert_int_equal(link_up(), NODE_OK);
    assert_int_equal(receive(BYTES(0x30, 4, 0, 1, 'a', 'x')), NODE_E_PROTOCOL); /* before CONNACK */
    mqtt_link_down(&mqtt);
    assert_int_equal(receive(BYTES(0x20, 2, 0, 0)), NODE_E_PROTOCOL); /* without a link */
}

static void test_keepalive(void **state)
{
    (void)state;
    up(false);
    assert_int_equal(mqtt_step(&mqtt, 0), 30000);
    assert_int_equal(mqtt_step(&mqtt, 29000), 1000);
    assert_true(mqtt_step(&mqtt, 30000) >= 0);
    assert_int_equal(transmit(30000), 2);
    assert_memory_equal(sent, ((const uint8_t[]){0xc0, 0}), 2);
    assert_true(mqtt_step(&mqtt, 49999) >= 0);
    assert_int_equal(mqtt_receive(&mqtt, BYTES(0xd0, 0), 49999), NODE_OK);
    assert_true(mqtt_step(&mqtt, 75000) >= 0);
    assert_true(mqtt_step(&mqtt, 80000) >= 0); /* the second ping, and nobody answers */
    transmit(80000);
    assert_true(mqtt_step(&mqtt, 99999) >= 0);
    assert_int_equal(mqtt_step(&mqtt, 100000), NODE_E_TIMEOUT);
    assert_int_equal(link_up(), NODE_OK); /* at 0 */
    assert_true(mqtt_step(&mqtt, 39999) >= 0);
    assert_int_equal(mqtt_step(&mqtt, 40000), NODE_E_TIMEOUT); /* no CONNACK */
    mqtt_link_down(&mqtt);
    assert_true(mqtt_step(&mqtt, 1 << 30) > 0);
}

static void test_what_is_sent_does_not_hide_silence(void **state)
{
    (void)state;
    up(false);
    uint32_t now_ms = 0;
    int status = 0;
    for (; status >= 0 && now_ms < 200000; now_ms += 1000) {
        status = mqtt_step(&mqtt, now_ms);
        if (now_ms % 5000 == 0) {
            (void)!publish(1, 0, "alive");
        }
        transmit(now_ms);
    }
    assert_int_equal(status, NODE_E_TIMEOUT);
    assert_true(now_ms < 60000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_connect, setup),
        cmocka_unit_test_setup(test_refusals, setup),
        cmocka_unit_test_setup(test_publish_and_acknowledge, setup),
        cmocka_unit_test_setup(test_again_after_a_broken_link, setup),
        cmocka_unit_test_setup(test_large_payload_in_place, setup),
        cmocka_unit_test_setup(test_full, setup),
        cmocka_unit_test_setup(test_receives_in_any_pieces, setup),
        cmocka_unit_test_setup(test_a_long_topic_is_no_error, setup),
        cmocka_unit_test_setup(test_what_a_broker_may_not_send, setup),
        cmocka_unit_test_setup(test_keepalive, setup),
        cmocka_unit_test_setup(test_what_is_sent_does_not_hide_silence, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
