/* A node that is nobody yet: it offers Improv's service (improv-wifi.com/ble) to anybody, and once somebody has paired
 * it takes a Wi-Fi from them and, from a gateway, the map that makes it one node (docs/nodelink.md, "Provisioning").
 * Then it restarts. Of what it does not need before it is one, `answer` holds the Wi-Fi, `ble_answers` the command that
 * comes, and `message` the sector. */
#include <string.h>

#include "ble_parts.h"
#include "provision.h"

#define RESTART_MS          1000 /* until then the gateway hears how it went */
#define LONGEST             255  /* data of a command */
#define DUE(characteristic) ((uint8_t)(1U << ((characteristic)-BLE_STATE)))
#define MAP                 0xa0 /* CBOR's head of a map, and the number of its pairs below 24 */

enum { AUTHORIZATION_REQUIRED = 1, AUTHORIZED, PROVISIONING, PROVISIONED };
enum { NO_ERROR, INVALID, UNKNOWN, UNABLE_TO_CONNECT, NOT_AUTHORIZED, OTHER_ERROR = 0xff };
enum { WIFI = 1, IDENTIFY };
enum { CAN_IDENTIFY = 1 };
enum { SSID_KEY = 12, PASSWORD_KEY = 13 }; /* of the map */

static const node_config_t nobody; /* not even a name */

void node_ble_unprovisioned(node_t *n, const node_port_t *port, uint32_t now_ms)
{
    memset(n, 0, offsetof(node_t, message));
    n->config = &nobody;
    n->port = port;
    n->last_ms = now_ms;
    n->speaking = n->receiving = CARRIER_NONE;
    node_ble_disconnected(n, now_ms);
}

bool improv_waits(const node_t *n)
{
    return n->config == &nobody;
}

static void become(node_t *n, uint8_t state)
{
    n->improv.due |= n->improv.state != state ? DUE(BLE_STATE) : 0;
    n->improv.state = state;
}

/* How a command went. Whoever sent the same nonsense again wants to hear of it again. */
static void report(node_t *n, uint8_t error)
{
    n->improv.due |= n->improv.error != error || error != NO_ERROR ? DUE(BLE_ERROR) : 0;
    n->improv.error = error;
}

static bool authorized(const node_t *n)
{
    return n->ble.level == BLE_AUTHENTICATED;
}

void improv_secured(node_t *n)
{
    if (improv_waits(n) && authorized(n) && n->improv.state == AUTHORIZATION_REQUIRED) {
        become(n, AUTHORIZED);
    }
}

void improv_disconnected(node_t *n)
{
    improv_t *const im = &n->improv;
    if (im->state != PROVISIONED) {
        im->state = im->wifi_bytes != 0 ? PROVISIONING : AUTHORIZATION_REQUIRED;
    }
    im->error = NO_ERROR;
    im->due = 0;
    im->taken = 0;
}

/* ---- commands ---- */

/* Keeps it as it will be in the map: texts of UTF-8 without zero bytes. Whether it is one. */
static bool keep_wifi(node_t *n, span_t ssid, span_t password)
{
    cbor_writer_t w = cbor_writer(n->answer, sizeof n->answer);
    cbor_put_uint(&w, SSID_KEY);
    cbor_put_span(&w, ssid);
    if (password.size != 0) {
        cbor_put_uint(&w, PASSWORD_KEY);
        cbor_put_span(&w, password);
    }
    cbor_reader_t r = cbor_reader(n->answer, cbor_written(&w));
    n->improv.wifi_pairs = password.size != 0 ? 2 : 1;
    for (unsigned texts = n->improv.wifi_pairs; texts != 0; texts--) {
        cbor_uint(&r, PASSWORD_KEY);
        const span_t text = cbor_text(&r);
        r.failed = r.failed || memchr(text.data, '\0', text.size) != NULL;
    }
    n->improv.wifi_bytes = r.failed ? 0 : (uint16_t)w.size;
    return !r.failed;
}

static uint8_t take_wifi(node_t *n, const uint8_t *data, size_t size)
{
    char name[PROVISION_SSID + 1] = "", word[PROVISION_TEXT + 1] = "";
    const size_t ssid = size != 0 ? data[0] : 0, at = 1 + ssid;
    if (!authorized(n)) {
        return NOT_AUTHORIZED;
    }
    if (ssid == 0 || ssid > PROVISION_SSID || at >= size || data[at] > PROVISION_TEXT || size != at + 1 + data[at] ||
        !keep_wifi(n, (span_t){data + 1, (uint32_t)ssid}, (span_t){data + at + 1, data[at]})) {
        return INVALID;
    }
    memcpy(name, data + 1, ssid);
    memcpy(word, data + at + 1, data[at]);
    if (n->port->wifi == NULL || n->port->wifi(n->port->context, name, word) < 0) {
        n->improv.wifi_bytes = 0;
        return UNABLE_TO_CONNECT;
    }
    return NO_ERROR;
}

static void obey(node_t *n, const uint8_t *data, size_t size)
{
    improv_t *const im = &n->improv;
    uint8_t sum = 0, error = UNKNOWN;
    for (size_t i = 0; i + 1 < size; i++) {
        sum = (uint8_t)(sum + data[i]);
    }
    if (sum != data[size - 1]) {
        error = INVALID;
    } else if (data[0] == WIFI) {
        error = take_wifi(n, data + 2, data[1]);
        if (error == NO_ERROR) {
            become(n, PROVISIONING);
            im->command = WIFI;
            im->due |= DUE(BLE_RESULT);
        }
    } else if (data[0] == IDENTIFY && n->port->identify != NULL) {
        error = data[1] != 0 ? INVALID : NO_ERROR;
        if (error == NO_ERROR) {
            n->port->identify(n->port->context);
        }
    }
    report(n, error);
}

int improv_take(node_t *n, const uint8_t *data, size_t size)
{
    improv_t *const im = &n->improv;
    uint8_t *const command = n->ble_answers;
    const size_t most = 2 + LONGEST + 1;
    if (im->state == PROVISIONED) {
        return NODE_E_STATE;
    }
    if (size > most - im->taken) {
        return NODE_E_FULL;
    }
    memcpy(command + im->taken, data, size);
    im->taken = (uint16_t)(im->taken + size);
    if (im->taken < 2 || im->taken < 3U + command[1]) {
        return NODE_OK;
    }
    if (im->taken == 3U + command[1]) {
        obey(n, command, im->taken);
    } else {
        report(n, INVALID);
    }
    im->taken = 0;
    return NODE_OK;
}

/* ---- the map ---- */

/* Of the sector: the map, with the Wi-Fi where only the node has it. Its size, 0 where it has no room. */
static size_t compose(node_t *n, const uint8_t *map, size_t size)
{
    uint8_t *const out = n->message + PROVISION_HEADER_BYTES;
    const size_t room = sizeof n->message - PROVISION_HEADER_BYTES, wifi = n->improv.wifi_bytes;
    cbor_reader_t r = cbor_reader(map, size);
    uint32_t seen = 0;
    const uint32_t pairs = cbor_map(&r);
    for (uint32_t i = 0; i < pairs && !r.failed; i++) {
        cbor_key(&r, &seen);
        cbor_skip(&r);
    }
    const bool adds = wifi != 0 && (seen >> SSID_KEY & 1) == 0;
    if (r.failed || size + wifi > room || (adds && map[0] != (MAP | pairs))) {
        return 0;
    }
    memcpy(out, map, size);
    if (!adds) {
        return size;
    }
    out[0] = (uint8_t)(MAP | (pairs + n->improv.wifi_pairs));
    memcpy(out + size, n->answer, wifi);
    return size + wifi;
}

void improv_take_map(node_t *n, const uint8_t *map, size_t size)
{
    improv_t *const im = &n->improv;
    if (im->state == PROVISIONED) {
        return;
    }
    if (!authorized(n) || n->port->provisioning == NULL) {
        n->counts.refused++;
        report(n, NOT_AUTHORIZED);
        return;
    }
    const size_t whole = compose(n, map, size);
    const int status =
        whole != 0 ? provision_write(n->port->provisioning, n->message, sizeof n->message, whole) : NODE_E_FORMAT;
    memset(n->message, 0, sizeof n->message); /* there is a key in it */
    memset(n->ble_down, 0, sizeof n->ble_down);
    if (status == NODE_OK) {
        report(n, NO_ERROR);
        become(n, PROVISIONED);
        n->reset_due_ms = n->clock_ms + RESTART_MS;
        node_say(n, "provisioned");
    } else {
        n->counts.refused++;
        report(n, status == NODE_E_FLASH ? OTHER_ERROR : INVALID);
    }
}

/* ---- what can be read and is notified ---- */

size_t improv_value(const node_t *n, ble_characteristic_t characteristic, uint8_t *data, size_t capacity)
{
    if (capacity == 0) {
        return 0;
    }
    if (characteristic == BLE_STATE) {
        data[0] = improv_waits(n) ? n->improv.state : PROVISIONED;
    } else if (characteristic == BLE_ERROR) {
        data[0] = n->improv.error;
    } else if (characteristic == BLE_CAPABILITIES) {
        data[0] = improv_waits(n) && n->port->identify != NULL ? CAN_IDENTIFY : 0;
    } else {
        return 0;
    }
    return 1;
}

/* The error first, since a client that sees the state may look at it. A result has its command's number and no text. */
size_t improv_next(node_t *n, ble_characteristic_t *characteristic, const uint8_t **data)
{
    static const ble_characteristic_t order[] = {BLE_ERROR, BLE_STATE, BLE_RESULT};
    improv_t *const im = &n->improv;
    for (unsigned i = 0; i < 3; i++) {
        if ((im->due & DUE(order[i])) != 0) {
            *characteristic = order[i];
            *data = n->ble_segment;
            if (order[i] != BLE_RESULT) {
                return improv_value(n, order[i], n->ble_segment, 1);
            }
            memcpy(n->ble_segment, (const uint8_t[]){im->command, 0, im->command}, 3);
            return 3;
        }
    }
    return 0;
}

void improv_sent(node_t *n, ble_characteristic_t characteristic)
{
    n->improv.due &= (uint8_t) ~(1U << (characteristic - BLE_STATE));
}

size_t improv_advertise(const node_t *n, uint8_t response[BLE_ADVERTISEMENT_BYTES])
{
    static const uint8_t service[] = {1 + 16, 0x07, 0x00, 0x80, 0x26, 0x78, 0x74, 0x27, 0x63,
                                      0x46,   0x72, 0x22, 0x28, 0x62, 0x68, 0x77, 0x46, 0x00};
    uint8_t state, capabilities;
    improv_value(n, BLE_STATE, &state, 1);
    improv_value(n, BLE_CAPABILITIES, &capabilities, 1);
    const uint8_t data[] = {1 + 2 + 6, 0x16, 0x77, 0x46, state, capabilities, 0, 0, 0, 0};
    memcpy(response, service, sizeof service);
    memcpy(response + sizeof service, data, sizeof data);
    return sizeof service + sizeof data;
}
