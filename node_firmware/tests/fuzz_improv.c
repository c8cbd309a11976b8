/* Fuzz target: any order of what a central and a radio may do, with any bytes, to a node that is nobody yet. Who has
 * not paired changes nothing, and what gets into the sector makes a node. Each step is [what, size, bytes]. */
#include <stdlib.h>
#include <string.h>

#include "ble.h"
#include "flash.h"
#include "node/node.h"
#include "provision.h"

#define SECTOR 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static flash_t flash;
static node_t node;
static bool authenticated, was_reset, was_heard;

static void require(bool what)
{
    if (!what) {
        abort();
    }
}

static int port_wifi(void *context, const char *ssid, const char *password)
{
    (void)context;
    require(authenticated && strlen(ssid) <= PROVISION_SSID && strlen(password) <= PROVISION_TEXT);
    was_heard = true;
    return ssid[0] == '!' ? -1 : 0;
}

static void port_identify(void *context)
{
    (void)context;
}

static void port_reset(void *context)
{
    (void)context;
    was_reset = true;
}

static void connect(size_t more, bool pair, uint32_t now_ms)
{
    node_ble_connected(&node, (uint16_t)(BLE_MTU + more * 2 < BLE_MTU_MOST ? BLE_MTU + more * 2 : BLE_MTU_MOST),
                       now_ms);
    authenticated = pair;
    if (pair) {
        node_ble_secured(&node, BLE_AUTHENTICATED);
    }
}

/* Exactly as long as it is, so that a read beyond it is seen. */
static void write(ble_characteristic_t characteristic, const uint8_t *bytes, size_t size, uint32_t now_ms)
{
    uint8_t *const copy = malloc(size + 1);
    memcpy(copy, bytes, size);
    if (node_ble_written(&node, characteristic, copy, size, now_ms) < 0) {
        node_ble_disconnected(&node, now_ms);
        authenticated = false;
    }
    free(copy);
}

/* A command with the checksum that it must have. */
static void command(const uint8_t *bytes, size_t size, uint32_t now_ms)
{
    uint8_t whole[2 + 255 + 1] = {0}, sum = 0;
    const size_t length = size > 255 ? 255 : size;
    whole[0] = 1;
    whole[1] = (uint8_t)length;
    memcpy(whole + 2, bytes, length);
    for (size_t i = 0; i < 2 + length; i++) {
        sum = (uint8_t)(sum + whole[i]);
    }
    whole[2 + length] = sum;
    write(BLE_COMMAND, whole, 3 + length, now_ms);
}

/* A map in one segment. */
static void tell(const uint8_t *bytes, size_t size, uint32_t now_ms)
{
    uint8_t segment[2 + 255] = {(uint8_t)(0xc0 | node.ble.down.expected), 4};
    memcpy(segment + 2, bytes, size);
    node_ble_subscribed(&node, BLE_UP, true, now_ms);
    node_ble_subscribed(&node, BLE_FLOW, true, now_ms);
    write(BLE_DOWN, segment, 2 + size, now_ms);
}

static void listen(uint32_t now_ms)
{
    ble_characteristic_t characteristic;
    const uint8_t *bytes;
    for (size_t size; (size = node_ble_notification(&node, &characteristic, &bytes, now_ms)) != 0;) {
        require(characteristic < BLE_CHARACTERISTICS && !node_ble_broken(&node));
        volatile uint8_t last = bytes[size - 1];
        (void)last;
        node_ble_notified(&node, now_ms);
    }
}

static void act(unsigned what, const uint8_t *bytes, size_t size, uint32_t now_ms)
{
    static const uint8_t honest[] = {0xa5, 0, 0x62, 'n', '1', 1,   0x61, 'h', 2, 0x19, 0x22,
                                     0xb3, 3, 0x65, 'p', 'l', 'a', 'i',  'n', 4, 0x80};
    static const ble_characteristic_t heard[] = {BLE_UP, BLE_FLOW, BLE_STATE, BLE_ERROR, BLE_RESULT};
    switch (what) {
    case 0:
    case 1:
        connect(size, what == 0, now_ms);
        break;
    case 2:
        node_ble_disconnected(&node, now_ms);
        authenticated = false;
        break;
    case 3:
        for (size_t i = 0; i < size; i++) {
            node_ble_subscribed(&node, heard[bytes[i] % 5], bytes[i] < 200, now_ms);
        }
        break;
    case 4:
        write(BLE_COMMAND, bytes, size, now_ms);
        break;
    case 5:
        command(bytes, size, now_ms);
        break;
    case 6:
        write(BLE_DOWN, bytes, size, now_ms);
        break;
    case 7:
        tell(bytes, size, now_ms);
        break;
    case 8: /* what a gateway says, since chance would seldom find it */
        tell(honest, sizeof honest, now_ms);
        break;
    default:
        listen(now_ms);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t now_ms = 0;
    flash_init(&flash, PROVISION_BYTES);
    node_flash_t sector = flash_driver(&flash, SECTOR);
    const node_port_t port = {
        .provisioning = &sector, .reset = port_reset, .identify = port_identify, .wifi = port_wifi};
    authenticated = was_reset = was_heard = false;
    bool ever = false;
    node_ble_unprovisioned(&node, &port, now_ms);
    while (size >= 2 && !was_reset) {
        const size_t wanted = data[1], length = wanted < size - 2 ? wanted : size - 2;
        provision_t p;
        uint8_t value[BLE_VALUE_MOST];
        now_ms += data[0] / 16 * 100U;
        act(data[0] % 16, data + 2, length, now_ms);
        ever = ever || authenticated;
        (void)!node_step(&node, now_ms);
        if (node_ble_broken(&node)) {
            node_ble_disconnected(&node, now_ms);
            authenticated = false;
        }
        require(node_ble_value(&node, BLE_STATE, value, sizeof value) == 1);
        require((value[0] == 4) == (provision_load(&p, &sector) == NODE_OK)); /* provisioned */
        require(ever || (value[0] != 4 && !was_heard));
        data += 2 + length;
        size -= 2 + length;
    }
    require(flash.broken_rules == 0);
    return 0;
}
