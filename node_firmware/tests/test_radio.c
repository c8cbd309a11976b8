/* The host's side of docs/radio.md against a radio chip: what it says, what it hears, and how it finds back. */
#include "radio.h"

#include <string.h>

#include "radio_chip.h"
#include "test.h"

#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})
#define STARTED    0x81, BYTES(2, 1, 2, 3, 4, 5, 6)
#define CONNECTED  0x82, BYTES(247, 0)

#define VALUES 4 /* identity, and three of Improv's */

static radio_t radio;
static uint8_t number; /* of the chip's next frame */
static struct {
    uint8_t type, number, payload[CHIP_FRAME];
    size_t size;
} said[24]; /* by the host */

static void hear(const uint8_t *line, size_t size, uint32_t now_ms)
{
    for (size_t at = 0; at < size; at += 7) { /* in pieces */
        radio_receive(&radio, line + at, size - at < 7 ? size - at : 7, now_ms);
    }
}

static void chip_says(uint8_t type, const uint8_t *payload, size_t size)
{
    uint8_t line[CHIP_FRAME];
    number = type == 0x81 ? 0 : number;
    hear(line, chip_encode(line, type, number++, payload, size), 0);
}

/* Takes all that the host says, in pieces; the number of frames. */
static unsigned listen(uint32_t now_ms)
{
    static uint8_t line[24 * CHIP_FRAME];
    size_t got = 0, size;
    const uint8_t *data;
    while ((size = radio_transmit(&radio, &data, now_ms)) != 0) {
        const size_t taken = size < 10 ? size : 10;
        memcpy(line + got, data, taken);
        got += taken;
        radio_transmitted(&radio, taken);
    }
    unsigned frames = 0;
    for (size_t at = 0, end; at < got; at = end + 1) {
        end = at + strlen((const char *)line + at);
        uint8_t frame[CHIP_FRAME];
        if (end == at) {
            continue;
        }
        const size_t frame_size = chip_decode(frame, line + at, end - at);
        assert_true(frame_size >= 2);
        assert_in_range(frames, 0, 23);
        said[frames].type = frame[0];
        said[frames].number = frame[1];
        said[frames].size = frame_size - 2;
        memcpy(said[frames++].payload, frame + 2, frame_size - 2);
    }
    return frames;
}

static void expect_said(unsigned index, uint8_t type, const uint8_t *payload, size_t size)
{
    assert_int_equal(said[index].type, type);
    assert_int_equal(said[index].size, size);
    assert_memory_equal(said[index].payload, payload, size);
}

static void expect_heard(const char *expected)
{
    assert_string_equal(stub.heard, expected);
    stub.heard[0] = '\0';
}

/* The host has nothing to say but that the chip is to start anew; and then it does. */
static void expect_restart(void)
{
    assert_int_equal(listen(0), 1);
    expect_said(0, 0x00, NULL, 0);
    stub.heard[0] = '\0';
    chip_says(STARTED);
    assert_int_equal(listen(0), 1 + VALUES + 1);
}

static int start(void **state)
{
    (void)state;
    memset(&stub, 0, sizeof stub);
    stub.notification_size = 244;
    radio_init(&radio, NULL);
    radio.level = 2;
    radio.input_output = 1;
    radio.passkey = 123456;
    radio_start(&radio, 0);
    assert_int_equal(listen(0), 1);
    chip_says(STARTED);
    assert_int_equal(listen(0), 1 + VALUES + 1);
    return 0;
}

static int connect(void **state)
{
    start(state);
    chip_says(CONNECTED);
    expect_heard("connected 247;");
    return 0;
}

static void test_start(void **state)
{
    (void)state;
    const uint8_t *data;
    radio_init(&radio, NULL);
    radio_start(&radio, 0);
    radio_transmit(&radio, &data, 0);
    assert_int_equal(data[0], 0); /* what was cut off before does not spoil it */
    assert_int_equal(listen(0), 1);
    expect_said(0, 0x00, NULL, 0);
    assert_int_equal(listen(999), 0);
    assert_int_equal(listen(1000), 1); /* nobody answers */
    chip_says(CONNECTED);              /* of a life before */
    assert_int_equal(radio.restarts, 0);
    radio.level = 2;
    radio.input_output = 1;
    radio.passkey = 123456;
    chip_says(STARTED);
    assert_int_equal(listen(1100), 1 + VALUES + 1);
    expect_said(0, 0x05, BYTES(2, 1, 0x40, 0xe2, 0x01, 0));
    expect_said(1, 0x02, BYTES(0, 'n', '-', '1'));
    expect_said(2, 0x02, BYTES(BLE_STATE, BLE_STATE));
    expect_said(3, 0x02, BYTES(BLE_ERROR, BLE_ERROR));
    expect_said(4, 0x02, BYTES(BLE_CAPABILITIES, BLE_CAPABILITIES));
    assert_int_equal(said[5].type, 0x01);
    assert_int_equal(said[5].size, 1 + 31 + 3);
    assert_memory_equal(said[5].payload, "\037aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaarrr", 35);
    assert_int_equal(said[5].number, 5);
    assert_int_equal(listen(1100), 0);
    stub.changed = true;
    assert_int_equal(listen(1100), 1);
    assert_int_equal(said[0].type, 0x01);
}

static void test_another_version(void **state)
{
    (void)state;
    chip_says(0x81, BYTES(1, 1, 2, 3, 4, 5, 6));
    assert_int_equal(listen(0), 0);
    chip_says(CONNECTED);
    expect_heard("");
    assert_int_equal(listen(1000), 1);
    expect_said(0, 0x00, NULL, 0);
}

static void test_a_connection(void **state)
{
    (void)state;
    chip_says(0x83, BYTES(5, 2));
    chip_says(0x84, BYTES(1, 1));
    chip_says(0x85, BYTES(2, 0x55, 0x77));
    chip_says(0x88, BYTES(2));
    expect_heard("mtu 517;subscribed 1 1;written 2 2 77;secured 2;");
    assert_int_equal(radio.secured, 2);
    stub.changed = true;
    assert_int_equal(listen(0), 0); /* nothing is advertised */
    chip_says(0x87, BYTES(0x13));
    expect_heard("disconnected;");
    assert_int_equal(listen(0), VALUES + 1);
    assert_int_equal(said[VALUES].type, 0x01);
    assert_int_equal(radio.restarts, 0);
}

static void test_at_most_eight_are_out(void **state)
{
    (void)state;
    stub.waiting = 20;
    assert_int_equal(listen(0), 8);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(said[i].type, 0x03);
        assert_int_equal(said[i].size, 245);
        assert_int_equal(said[i].payload[0], 1);
        assert_int_equal(said[i].payload[1], i + 1);
    }
    assert_int_equal(listen(0), 0);
    chip_says(0x86, BYTES(3));
    assert_int_equal(listen(0), 3);
    chip_says(0x87, BYTES(8)); /* what was out is lost */
    chip_says(CONNECTED);
    assert_int_equal(listen(0), VALUES + 1 + 8);
    assert_int_equal(said[VALUES + 1].payload[1], 12);
}

static void test_the_longest_frames(void **state)
{
    (void)state;
    uint8_t written[1 + 514];
    memset(written, 0x11, sizeof written);
    written[0] = 2;
    chip_says(0x85, written, sizeof written);
    expect_heard("written 2 514 11;");
    stub.waiting = 1;
    stub.notification_size = 514;
    assert_int_equal(listen(0), 1);
    assert_int_equal(said[0].size, 515);
    for (size_t size = 240; size < 262; size++) { /* around COBS' block */
        memset(written, (int)size & 1, sizeof written);
        written[0] = 2;
        chip_says(0x85, written, size);
        stub.waiting = 1;
        stub.notification_size = size;
        assert_int_equal(listen(0), 1);
        assert_int_equal(said[0].size, size + 1);
        chip_says(0x86, BYTES(1));
    }
    assert_int_equal(radio.dropped + radio.restarts, 0);
}

static void test_a_connection_that_the_node_does_not_want(void **state)
{
    (void)state;
    stub.refuses = true;
    chip_says(0x85, BYTES(2, 0));
    stub.waiting = 1;
    assert_int_equal(listen(0), 1); /* once, and nothing after it */
    expect_said(0, 0x04, NULL, 0);
    stub.refuses = false;
    chip_says(0x87, BYTES(0x16));
    chip_says(CONNECTED);
    assert_int_equal(listen(0), VALUES + 2);
    assert_int_equal(said[VALUES + 1].type, 0x03);
}

static void test_numbers_that_are_compared(void **state)
{
    (void)state;
    chip_says(0x89, BYTES(0x40, 0xe2, 0x01, 0));
    assert_true(radio.compares);
    assert_int_equal(radio.number, 123456);
    assert_int_equal(listen(0), 0);
    radio_confirm(&radio, true);
    assert_false(radio.compares);
    assert_int_equal(listen(0), 1);
    expect_said(0, 0x06, BYTES(1));
    chip_says(0x89, BYTES(1, 0, 0, 0));
    radio_confirm(&radio, true);
    chip_says(0x87, BYTES(8)); /* the peer went: nobody is to hear a yes */
    assert_int_equal(listen(0), VALUES + 1);
    assert_int_equal(said[VALUES].type, 0x01);
}

static void test_garbage(void **state)
{
    (void)state;
    uint8_t line[CHIP_FRAME], noise[1500];
    memset(noise, 0xaa, sizeof noise);
    noise[700] = noise[800] = noise[1499] = 0;
    hear(noise, sizeof noise, 0);
    assert_int_equal(radio.dropped, 3);
    const size_t size = chip_encode(line, 0x83, number, BYTES(100, 0));
    for (size_t at = 0; at + 1 < size; at++) { /* each byte damaged */
        uint8_t damaged[CHIP_FRAME];
        memcpy(damaged, line, size);
        damaged[at] ^= 0x55;
        hear(damaged, size, 0);
    }
    expect_heard("");
    assert_int_equal(radio.restarts, 0);
    hear(line, size, 0); /* and the real one still comes through */
    expect_heard("mtu 100;");
}

static void test_a_frame_that_is_missing(void **state)
{
    (void)state;
    number++;
    chip_says(0x83, BYTES(100, 0));
    expect_heard("disconnected;");
    assert_int_equal(radio.restarts, 1);
    chip_says(0x83, BYTES(100, 0)); /* until it starts, it is not heeded */
    expect_heard("");
    expect_restart();
    chip_says(CONNECTED);
    expect_heard("connected 247;");
}

static void test_what_cannot_be(void **state)
{
    (void)state;
    static const struct {
        uint8_t type, payload[8];
        size_t size;
        bool connected;
    } impossible[] = {{0x82, {247, 0}, 2, true}, /* a second connection */
                      {0x82, {22, 0}, 2, false},  {0x82, {6, 2}, 2, false}, {0x82, {23}, 1, false},
                      {0x83, {247, 0}, 2, false}, /* without one */
                      {0x83, {0, 0}, 2, true},    {0x84, {10, 1}, 2, true}, {0x84, {1, 1}, 2, false},
                      {0x85, {10, 1}, 2, true},   {0x85, {2, 1}, 2, false}, {0x85, {0}, 0, true},
                      {0x86, {1}, 1, true}, /* more than was out */
                      {0x87, {8}, 1, false},      {0x89, {0}, 4, false},    {0x8a, {0}, 1, true},
                      {0x8b, {0}, 0, true},       {0x01, {0}, 1, true}};
    for (size_t i = 0; i < sizeof impossible / sizeof impossible[0]; i++) {
        if (impossible[i].connected) {
            chip_says(CONNECTED);
        }
        chip_says(impossible[i].type, impossible[i].payload, impossible[i].size);
        assert_int_equal(radio.restarts, i + 1);
        assert_false(stub.connected);
        expect_restart();
    }
}

static void test_the_radio_restarts(void **state)
{
    (void)state;
    stub.waiting = 20;
    listen(0);
    chip_says(STARTED);
    expect_heard("disconnected;");
    assert_int_equal(listen(0), 1 + VALUES + 1);
    expect_said(0, 0x05, BYTES(2, 1, 0x40, 0xe2, 0x01, 0));
    chip_says(CONNECTED);
    assert_int_equal(listen(0), 8);
    assert_int_equal(radio.restarts, 0);
}

static void test_it_restarts_in_the_middle_of_a_frame(void **state)
{
    (void)state;
    const uint8_t *data;
    stub.waiting = 1;
    assert_true(radio_transmit(&radio, &data, 0) > 100);
    radio_transmitted(&radio, 100);
    chip_says(STARTED);
    assert_int_equal(listen(0), 1 + VALUES + 1);
}

static void test_a_radio_that_is_silent(void **state)
{
    (void)state;
    assert_int_equal(listen(9999), 0);
    assert_int_equal(listen(10000), 1);
    expect_said(0, 0x07, NULL, 0);
    assert_int_equal(listen(29999), 0);
    uint8_t line[CHIP_FRAME];
    hear(line, chip_encode(line, 0x8a, number++, NULL, 0), 29999);
    assert_int_equal(listen(39998), 0);
    assert_int_equal(listen(39999), 1);
    expect_said(0, 0x07, NULL, 0);
    assert_int_equal(listen(59999), 1);
    expect_said(0, 0x00, NULL, 0);
    expect_heard("disconnected;");
}

static void test_the_line_is_gone(void **state)
{
    (void)state;
    radio_start(&radio, 0);
    radio_start(&radio, 0);
    expect_heard("disconnected;");
    expect_restart();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),
        cmocka_unit_test_setup(test_another_version, start),
        cmocka_unit_test_setup(test_a_connection, connect),
        cmocka_unit_test_setup(test_at_most_eight_are_out, connect),
        cmocka_unit_test_setup(test_the_longest_frames, connect),
        cmocka_unit_test_setup(test_a_connection_that_the_node_does_not_want, connect),
        cmocka_unit_test_setup(test_numbers_that_are_compared, connect),
        cmocka_unit_test_setup(test_garbage, connect),
        cmocka_unit_test_setup(test_a_frame_that_is_missing, connect),
        cmocka_unit_test_setup(test_what_cannot_be, start),
        cmocka_unit_test_setup(test_the_radio_restarts, connect),
        cmocka_unit_test_setup(test_it_restarts_in_the_middle_of_a_frame, connect),
        cmocka_unit_test_setup(test_a_radio_that_is_silent, connect),
        cmocka_unit_test_setup(test_the_line_is_gone, connect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
