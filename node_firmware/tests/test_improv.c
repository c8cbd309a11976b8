/* A node that is nobody yet: Improv's service, the map that makes it one node, and the sector when the power fails. */
#include <stdio.h>
#include <string.h>

#include "ble.h"
#include "flash.h"
#include "node/node.h"
#include "provision.h"
#include "session.h"
#include "test.h"

#define SECTOR      256
#define BYTES(...)  (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})
#define STATE(n)    "state " #n ";"
#define ERROR(n)    "error " #n ";"
#define MAP_MESSAGE 4

static flash_t flash;
static node_flash_t sector;
static node_port_t port;
static node_t node;
static uint32_t now_ms;
static segment_sender_t down;
static char did[512]; /* what the port was asked for, and what was notified */
static uint8_t map[256];
static size_t map_size;

static void note(const char *word, const char *more)
{
    strcat(did, word);
    strcat(did, more);
    strcat(did, ";");
}

static void port_identify(void *context)
{
    (void)context;
    note("identify", "");
}

static int port_wifi(void *context, const char *ssid, const char *password)
{
    (void)context;
    note("wifi ", ssid);
    note("with ", password);
    return strcmp(ssid, "away") == 0 ? -1 : 0;
}

static void port_reset(void *context)
{
    (void)context;
    note("reset", "");
}

static void write_map(const char *id, bool wifi)
{
    static const uint8_t psk[32] = {1, 2, 3};
    cbor_writer_t w = cbor_writer(map, sizeof map);
    cbor_put_map(&w, wifi ? 8 : 6);
    cbor_put_uint(&w, 0);
    cbor_put_text(&w, id);
    cbor_put_uint(&w, 1);
    cbor_put_text(&w, "gw.local");
    cbor_put_uint(&w, 2);
    cbor_put_uint(&w, 8883);
    cbor_put_uint(&w, 3);
    cbor_put_text(&w, "psk");
    cbor_put_uint(&w, 4);
    cbor_put_array(&w, 1);
    cbor_put_bytes(&w, psk, 32);
    cbor_put_uint(&w, 5);
    cbor_put_bytes(&w, psk, 32);
    if (wifi) {
        cbor_put_uint(&w, 12);
        cbor_put_text(&w, "theirs");
        cbor_put_uint(&w, 13);
        cbor_put_text(&w, "other words");
    }
    map_size = cbor_written(&w);
    assert_true(map_size != 0);
}

static int nobody(void **state)
{
    (void)state;
    now_ms = 0;
    did[0] = '\0';
    flash_init(&flash, PROVISION_BYTES);
    sector = flash_driver(&flash, SECTOR);
    port = (node_port_t){.provisioning = &sector, .reset = port_reset, .identify = port_identify, .wifi = port_wifi};
    node_ble_unprovisioned(&node, &port, now_ms);
    write_map("n-1", false);
    return 0;
}

static void connect(bool paired)
{
    down = (segment_sender_t){0};
    node_ble_connected(&node, 247, now_ms);
    if (paired) {
        node_ble_secured(&node, BLE_AUTHENTICATED);
    }
}

static void listen(void)
{
    ble_characteristic_t characteristic;
    const uint8_t *data;
    char text[16];
    for (size_t size; (size = node_ble_notification(&node, &characteristic, &data, now_ms)) != 0;) {
        if (characteristic == BLE_STATE || characteristic == BLE_ERROR) {
            snprintf(text, sizeof text, "%u", data[0]);
            note(characteristic == BLE_STATE ? "state " : "error ", text);
            assert_int_equal(size, 1);
        } else if (characteristic == BLE_RESULT) {
            assert_int_equal(size, 3);
            assert_memory_equal(data, "\1\0\1", 3);
            note("result", "");
        }
        node_ble_notified(&node, now_ms);
    }
}

static void expect(const char *words)
{
    listen();
    assert_string_equal(did, words);
    did[0] = '\0';
}

static int write_command(const uint8_t *data, size_t size)
{
    return node_ble_written(&node, BLE_COMMAND, data, size, now_ms);
}

/* With its checksum, and cut in two. */
static void command(const uint8_t *data, size_t size)
{
    uint8_t whole[300], sum = 0;
    memcpy(whole, data, size);
    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + data[i]);
    }
    whole[size] = sum;
    assert_int_equal(write_command(whole, size / 2), NODE_OK);
    assert_int_equal(write_command(whole + size / 2, size + 1 - size / 2), NODE_OK);
}

static void send_map(void)
{
    uint8_t segment[BLE_SEGMENT_BYTES];
    segments_begin(&down, MAP_MESSAGE, map, (uint32_t)map_size, 100, now_ms);
    for (size_t size; (size = segments_next(&down, segment)) != 0;) {
        assert_int_equal(node_ble_written(&node, BLE_DOWN, segment, size, now_ms), NODE_OK);
        segments_sent(&down, now_ms);
    }
    node_ble_subscribed(&node, BLE_FLOW, true, now_ms);
    assert_int_equal(segments_acknowledged(&down, segments_flow(&node.ble.down), now_ms), 1);
}

static uint8_t value(ble_characteristic_t characteristic)
{
    uint8_t data = 0xaa;
    assert_int_equal(node_ble_value(&node, characteristic, &data, 1), 1);
    return data;
}

static void expect_provisioned(const char *ssid, const char *password)
{
    provision_t p;
    assert_int_equal(provision_load(&p, &sector), NODE_OK);
    assert_string_equal(p.id, "n-1");
    assert_string_equal(p.host, "gw.local");
    assert_int_equal(p.port, 8883);
    assert_int_equal(p.psk.size, 32);
    assert_string_equal(p.ssid, ssid);
    assert_string_equal(p.wifi_password, password);
    assert_int_equal(flash.broken_rules, 0);
}

static void expect_unprovisioned(void)
{
    provision_t p;
    assert_int_equal(provision_load(&p, &sector), NODE_E_FORMAT);
}

/* ---- what anybody sees ---- */

static void test_it_advertises_for_gateways_and_for_improv(void **state)
{
    (void)state;
    uint8_t data[BLE_ADVERTISEMENT_BYTES], response[BLE_ADVERTISEMENT_BYTES];
    size_t size, response_size;
    assert_true(node_ble_advertisement(&node, data, &size, response, &response_size));
    assert_int_equal(size, 31);
    assert_memory_equal(data + 21, "\x12\0\1\xff\0\0\0\0\0\0", 10); /* version 1, not provisioned */
    assert_int_equal(response_size, 28);
    assert_memory_equal(response, "\x11\x07\x00\x80\x26\x78\x74\x27\x63\x46\x72\x22\x28\x62\x68\x77\x46\x00", 18);
    assert_memory_equal(response + 18, "\x09\x16\x77\x46\x01\x01\0\0\0\0", 10);
    assert_int_equal(node_step(&node, now_ms), 8000);
}

static void test_what_can_be_read_by_anybody(void **state)
{
    (void)state;
    uint8_t data[8];
    connect(false);
    assert_int_equal(value(BLE_STATE), 1);
    assert_int_equal(value(BLE_ERROR), 0);
    assert_int_equal(value(BLE_CAPABILITIES), 1);
    assert_int_equal(node_ble_value(&node, BLE_IDENTITY, data, sizeof data), 0);
    command(BYTES(2, 0));
    expect("identify;");
    port.identify = NULL;
    assert_int_equal(value(BLE_CAPABILITIES), 0);
    command(BYTES(2, 0));
    expect(ERROR(2));
}

/* ---- commands ---- */

static void test_a_wifi_only_for_who_has_paired(void **state)
{
    (void)state;
    const uint8_t settings[] = {1, 10, 4, 'h', 'o', 'm', 'e', 4, 'w', 'o', 'r', 'd'};
    connect(false);
    command(settings, sizeof settings);
    expect(ERROR(4));
    node_ble_secured(&node, BLE_ENCRYPTED);
    command(settings, sizeof settings);
    expect(ERROR(4));
    node_ble_secured(&node, BLE_AUTHENTICATED);
    expect(STATE(2));
    command(settings, sizeof settings);
    expect("wifi home;with word;" ERROR(0) STATE(3) "result;");
    node_ble_disconnected(&node, now_ms);
    assert_int_equal(value(BLE_STATE), 3);
    expect_unprovisioned();
}

static void test_commands_that_are_wrong(void **state)
{
    (void)state;
    connect(true);
    expect(STATE(2));
    assert_int_equal(write_command(BYTES(2, 0, 3)), NODE_OK); /* checksum */
    expect(ERROR(1));
    assert_int_equal(write_command(BYTES(2, 0, 3)), NODE_OK); /* and it is told again */
    expect(ERROR(1));
    assert_int_equal(write_command(BYTES(2, 0, 2, 2)), NODE_OK); /* more than it has */
    expect(ERROR(1));
    command(BYTES(2, 1, 0)); /* data for identify */
    expect(ERROR(1));
    command(BYTES(9, 0));
    expect(ERROR(2));
    command(BYTES(1, 0));
    expect(ERROR(1));
    command(BYTES(1, 2, 0, 0)); /* no name */
    expect(ERROR(1));
    command(BYTES(1, 3, 3, 'a', 0)); /* lengths beyond it */
    expect(ERROR(1));
    command(BYTES(1, 3, 1, 'a', 1));
    expect(ERROR(1));
    command(BYTES(1, 4, 1, 'a', 0, 0)); /* something behind them */
    expect(ERROR(1));
    command(BYTES(1, 3, 1, 0xff, 0)); /* no text */
    expect(ERROR(1));
    command(BYTES(1, 3, 1, 0, 0));
    expect(ERROR(1));
    command(BYTES(1, 6, 4, 'a', 'w', 'a', 'y', 0)); /* the port says no */
    expect("wifi away;with ;" ERROR(3));
    command(BYTES(2, 0));
    expect("identify;" ERROR(0));
}

static void test_a_command_that_never_ends(void **state)
{
    (void)state;
    uint8_t much[258] = {1, 255};
    connect(false);
    assert_int_equal(write_command(much, 257), NODE_OK);
    assert_true(write_command(much, 2) < 0);
    assert_true(node_ble_broken(&node));
    node_ble_disconnected(&node, now_ms);
    connect(false);
    assert_int_equal(write_command(much, 100), NODE_OK);
    node_ble_disconnected(&node, now_ms);
    connect(false);
    command(BYTES(2, 0)); /* another connection, another command */
    expect("identify;");
}

/* ---- the map ---- */

static void test_the_node_restarts_when_it_is_provisioned(void **state)
{
    (void)state;
    connect(true);
    expect(STATE(2));
    send_map();
    expect(STATE(4));
    expect_provisioned("", "");
    write_map("n-2", false); /* it does not change its mind */
    send_map();
    expect("");
    expect_provisioned("", "");
    now_ms += 999;
    assert_true(node_step(&node, now_ms) >= 0);
    expect("");
    now_ms++;
    assert_true(node_step(&node, now_ms) >= 0);
    expect("reset;");
}

static void test_a_map_only_from_who_has_paired(void **state)
{
    (void)state;
    connect(false);
    send_map();
    expect(ERROR(4));
    node_ble_secured(&node, BLE_ENCRYPTED);
    send_map();
    expect(ERROR(4));
    expect_unprovisioned();
    assert_int_equal(node.counts.refused, 2);
    assert_int_equal(flash.erases[0], 0);
}

static void test_maps_that_are_damaged(void **state)
{
    (void)state;
    connect(true);
    expect(STATE(2));
    const uint8_t head = map[0];
    for (size_t size = 0; size < map_size; size++) {
        const size_t whole = map_size;
        map_size = size;
        send_map();
        expect(ERROR(1));
        map_size = whole;
    }
    map[0] = 0xbf; /* of no definite length */
    send_map();
    expect(ERROR(1));
    map[0] = head;
    write_map("N 1", false);
    send_map();
    expect(ERROR(1));
    expect_unprovisioned();
    assert_int_equal(flash.erases[0], 0);
    write_map("n-1", false);
    send_map();
    expect(ERROR(0) STATE(4));
    expect_provisioned("", "");
}

static void test_the_wifi_that_it_has_goes_into_the_sector(void **state)
{
    (void)state;
    connect(true);
    command(BYTES(1, 10, 4, 'h', 'o', 'm', 'e', 4, 'w', 'o', 'r', 'd'));
    command(BYTES(1, 9, 3, 'd', 'e', 'n', 4, 'w', 'o', 'o', 'd')); /* and changes */
    node_ble_disconnected(&node, now_ms);
    connect(true);
    send_map();
    expect_provisioned("den", "wood");
}

static void test_a_wifi_without_a_password(void **state)
{
    (void)state;
    connect(true);
    command(BYTES(1, 5, 3, 'd', 'e', 'n', 0));
    send_map();
    expect_provisioned("den", "");
}

static void test_the_gateways_wifi_is_better(void **state)
{
    (void)state;
    connect(true);
    command(BYTES(1, 10, 4, 'h', 'o', 'm', 'e', 4, 'w', 'o', 'r', 'd'));
    write_map("n-1", true);
    send_map();
    expect_provisioned("theirs", "other words");
}

static void test_it_says_nothing_and_takes_nothing_else(void **state)
{
    (void)state;
    connect(true);
    expect(STATE(2));
    for (ble_characteristic_t c = BLE_UP; c < BLE_CHARACTERISTICS; c++) {
        node_ble_subscribed(&node, c, true, now_ms);
    }
    segments_begin(&down, 1, (const uint8_t *)"\xa2\x00\x66online\x01\x01", 12, 100, now_ms); /* gateway-state */
    uint8_t segment[BLE_SEGMENT_BYTES];
    const size_t size = segments_next(&down, segment);
    assert_int_equal(node_ble_written(&node, BLE_DOWN, segment, size, now_ms), NODE_OK);
    assert_true(node_step(&node, now_ms) >= 0);
    expect("");
    assert_true(node_ble_written(&node, BLE_SMP, BYTES(2, 0, 0, 0, 0, 0, 0, 0), now_ms) < 0);
}

static void test_a_flash_that_fails(void **state)
{
    (void)state;
    connect(true);
    expect(STATE(2));
    flash.steps = 20;
    flash.fails = true;
    send_map();
    expect("error 255;");
    expect_unprovisioned();
    send_map();
    expect(ERROR(0) STATE(4));
    expect_provisioned("", "");
}

/* ---- a node that is one ---- */

static void test_a_provisioned_node_takes_neither(void **state)
{
    (void)state;
    static flash_t rest;
    flash_init(&rest, 8192);
    const node_config_t config = {.id = "n-1",
                                  .hardware = "h",
                                  .board = "b",
                                  .firmware = "1",
                                  .reset_reason = "power-on",
                                  .keepalive_s = 60,
                                  .vitals_s = 60};
    port.flash = flash_driver(&rest, SECTOR);
    assert_int_equal(node_init(&node, &config, &port, now_ms), NODE_OK);
    assert_int_equal(value(BLE_STATE), 4);
    assert_int_equal(value(BLE_CAPABILITIES), 0);
    connect(true);
    send_map();
    expect("");
    assert_int_equal(node.counts.refused, 1);
    expect_unprovisioned(); /* that sector is as it was */
    assert_true(write_command(BYTES(2, 0, 2)) < 0);
    assert_true(node_ble_broken(&node));
    expect("");
}

/* ---- the power fails ---- */

/* Whether the power failed at that step. */
static bool cut(long step, flash_tear_t tear)
{
    nobody(NULL);
    connect(true);
    flash.random = (uint32_t)step * 7 + 1;
    flash.tear = tear;
    flash.steps = step;
    if (setjmp(flash.cut) != 0) {
        flash.steps = -1;
        return true;
    }
    send_map();
    return false;
}

static void test_a_power_cut_at_any_step(void **state)
{
    (void)state;
    for (int tear = TEAR_NOTHING; tear < FLASH_TEARS; tear++) {
        long step = 0;
        for (; cut(step, (flash_tear_t)tear); step++) {
            expect_unprovisioned();
            node_ble_unprovisioned(&node, &port, now_ms); /* and another try */
            connect(true);
            send_map();
            expect_provisioned("", "");
        }
        expect_provisioned("", "");
        assert_true(step > PROVISION_BYTES / SECTOR + 5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_it_advertises_for_gateways_and_for_improv, nobody),
        cmocka_unit_test_setup(test_what_can_be_read_by_anybody, nobody),
        cmocka_unit_test_setup(test_a_wifi_only_for_who_has_paired, nobody),
        cmocka_unit_test_setup(test_commands_that_are_wrong, nobody),
        cmocka_unit_test_setup(test_a_command_that_never_ends, nobody),
        cmocka_unit_test_setup(test_the_node_restarts_when_it_is_provisioned, nobody),
        cmocka_unit_test_setup(test_a_map_only_from_who_has_paired, nobody),
        cmocka_unit_test_setup(test_maps_that_are_damaged, nobody),
        cmocka_unit_test_setup(test_the_wifi_that_it_has_goes_into_the_sector, nobody),
        cmocka_unit_test_setup(test_a_wifi_without_a_password, nobody),
        cmocka_unit_test_setup(test_the_gateways_wifi_is_better, nobody),
        cmocka_unit_test_setup(test_it_says_nothing_and_takes_nothing_else, nobody),
        cmocka_unit_test_setup(test_a_flash_that_fails, nobody),
        cmocka_unit_test_setup(test_a_provisioned_node_takes_neither, nobody),
        cmocka_unit_test_setup(test_a_power_cut_at_any_step, nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
