/* Fuzz target: any order of what a central and a radio may do, with any bytes, to a node that has events and a broker
 * that comes and goes. Each step is [what, size, bytes]. */
#include <stdlib.h>
#include <string.h>

#include "ble.h"
#include "flash.h"
#include "node/node.h"
#include "session.h"

#define SECTOR 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static flash_t flash;
static node_t node;
static node_port_t port;
static const node_config_t config = {.id = "fuzz",
                                     .hardware = "fuzz",
                                     .board = "fuzz",
                                     .firmware = "1",
                                     .reset_reason = "power-on",
                                     .keepalive_s = 60,
                                     .vitals_s = 60};
static uint16_t mtu;

static uint32_t port_random(void *context)
{
    (void)context;
    return 4;
}

static void require(bool what)
{
    if (!what) {
        abort();
    }
}

static void put_event(size_t window_bytes)
{
    static const uint8_t data[512];
    const node_window_t window = {.rate_hz = 1,
                                  .channels = 1,
                                  .shape = {1},
                                  .rank = 1,
                                  .piece = {data, NULL},
                                  .piece_size = {(uint32_t)window_bytes, 0}};
    (void)!node_event(&node, &(node_event_t){.window = &window}, node.last_ms);
}

static void transmit(unsigned count, uint32_t now_ms)
{
    ble_characteristic_t characteristic;
    const uint8_t *bytes;
    size_t size;
    while (count-- != 0 && (size = node_ble_notification(&node, &characteristic, &bytes, now_ms)) != 0) {
        require(size <= mtu - 3U && characteristic < BLE_CHARACTERISTICS && !node_ble_broken(&node));
        volatile uint8_t last = bytes[size - 1];
        (void)last;
        node_ble_notified(&node, now_ms);
    }
}

/* All that is for the broker. */
static void drain(uint32_t now_ms)
{
    const uint8_t *out;
    size_t size;
    while ((size = node_transmit(&node, &out)) != 0) {
        node_transmitted(&node, size, now_ms);
    }
}

static void broker(const uint8_t *bytes, size_t size, uint32_t now_ms)
{
    if (size == 0) {
        node_link_down(&node, now_ms);
        (void)!node_link_up(&node, now_ms);
        drain(now_ms);
    } else if (node_receive(&node, bytes, size, now_ms) < 0) {
        node_link_down(&node, now_ms);
    }
}

/* A write, exactly as long as it is, so that a read beyond it is seen. */
static void write(ble_characteristic_t characteristic, const uint8_t *bytes, size_t size, uint32_t now_ms)
{
    uint8_t *const copy = malloc(size + 1);
    memcpy(copy, bytes, size);
    if (characteristic == BLE_DOWN && size != 0 && (copy[0] & 0x20) != 0) { /* a counter that may be taken */
        copy[0] = (uint8_t)((copy[0] & 0xc0) | node.ble.down.expected);
    }
    if (node_ble_written(&node, characteristic, copy, size, now_ms) < 0) {
        node_ble_disconnected(&node, now_ms);
    }
    free(copy);
}

/* What an honest gateway does, since chance would seldom find it. */
static void be_honest(unsigned what, uint32_t now_ms)
{
    static const uint8_t gateway[] = {0xa2, 0, 0x66, 'o', 'n', 'l', 'i', 'n', 'e', 1, 1};
    static const uint8_t topic[] = {0x30, 2 + 26 + sizeof gateway, 0, 26};
    ble_t *const b = &node.ble;
    uint8_t bytes[64] = {(uint8_t)(0xc0 | b->down.expected)};
    switch (what) {
    case 0: /* it listens, and says that it is online */
        node_ble_subscribed(&node, BLE_UP, true, now_ms);
        node_ble_subscribed(&node, BLE_FLOW, true, now_ms);
        bytes[1] = 1;
        memcpy(bytes + 2, gateway, sizeof gateway);
        write(BLE_DOWN, bytes, 2 + sizeof gateway, now_ms);
        break;
    case 1: /* it has all that was sent */
        bytes[0] = (uint8_t)((b->up.first + b->up.most) % 64);
        write(BLE_FLOW, bytes, 1, now_ms);
        break;
    case 2: /* it has stored the first event */
        memcpy(bytes + 1, (const uint8_t[]){3, 0xa2, 0, 1, 1, 0x81, b->out[0].seq & 0x0f}, 7);
        write(BLE_DOWN, bytes, 8, now_ms);
        break;
    case 3: /* the broker lets the node in */
        broker((const uint8_t[]){0x20, 2, 0, 0}, 4, now_ms);
        break;
    default: /* and has a gateway */
        memcpy(bytes, topic, sizeof topic);
        memcpy(bytes + 4, "nodelink/1/gateway/g/state", 26);
        memcpy(bytes + 30, gateway, sizeof gateway);
        broker(bytes, 30 + sizeof gateway, now_ms);
        drain(now_ms);
        while (node.mqtt.slot_count != 0 && node.mqtt.slots[0].stage == PUBLISH_SENT) {
            broker((const uint8_t[]){0x40, 2, 0, (uint8_t)node.mqtt.slots[0].packet_id}, 4, now_ms);
            drain(now_ms);
        }
    }
}

static void act(unsigned what, const uint8_t *bytes, size_t size, uint32_t now_ms)
{
    switch (what) {
    case 0:
        mtu = (uint16_t)(BLE_MTU + size * 2 < BLE_MTU_MOST ? BLE_MTU + size * 2 : BLE_MTU_MOST);
        node_ble_connected(&node, mtu, now_ms);
        break;
    case 1:
        node_ble_disconnected(&node, now_ms);
        break;
    case 2:
        if (size != 0) {
            node_ble_subscribed(&node, (ble_characteristic_t)(bytes[0] % BLE_CHARACTERISTICS), bytes[0] < 200, now_ms);
        }
        break;
    case 3:
        transmit((unsigned)size, now_ms);
        break;
    case 4:
        put_event(size);
        break;
    case 5:
        broker(bytes, size, now_ms);
        break;
    case 6:
    case 7:
    case 8:
        write(what == 6 ? BLE_SMP : what == 7 ? BLE_FLOW : BLE_DOWN, bytes, size, now_ms);
        break;
    case 9:
        transmit(UINT32_MAX, now_ms);
        break;
    default:
        be_honest(what % 5, now_ms);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t model[NODE_MODEL_BYTES];
    uint32_t now_ms = 0;
    flash_init(&flash, (SESSION_SECTORS + JOURNAL_SECTORS + 16) * SECTOR);
    port = (node_port_t){.flash = flash_driver(&flash, SECTOR), .random = port_random};
    require(node_init(&node, &config, &port, now_ms) == NODE_OK && node_add_cascade(&node, "c", model) == 0);
    while (size >= 2) {
        const size_t wanted = data[1], length = wanted < size - 2 ? wanted : size - 2;
        now_ms += data[0] / 16 * 200U;
        act(data[0] % 16, data + 2, length, now_ms);
        const int wait_ms = node_step(&node, now_ms);
        if (wait_ms < 0) {
            node_link_down(&node, now_ms);
        }
        if (node_ble_broken(&node)) {
            node_ble_disconnected(&node, now_ms);
        }
        require(node.in_flight <= NODE_EVENTS_IN_FLIGHT && node.in_flight <= node.queue.waiting);
        require(node.carrier != CARRIER_BLE || node.in_flight == node.ble.out_count);
        require(node.queue.waiting - node.queue.unsent == node.in_flight);
        data += 2 + length;
        size -= 2 + length;
    }
    require(flash.broken_rules == 0);
    return 0;
}
