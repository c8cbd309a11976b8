/* What a node advertises: that it is there, who it is, and whether somebody should connect. */
#include <string.h>

#include "ble_parts.h"
#include "crc32.h"

#define REFRESH_MS 8000 /* for scanners that hear changes only */

enum { VERSION = 1 << 4, WANTS = 1, UNPROVISIONED = 2, ON_MQTT = 4 };
enum { FLAGS, SESSION, COUNTER, BATTERY, MODEL, ID = 6 }; /* offsets in the service data */

#define NODELINK_UUID 0x66, 0x41, 0xb0, 0x6d, 0xe0, 0xc4, 0x20, 0x95, 0x94, 0x49, 0xfe, 0x9d, 0xca, 0x92, 0xc4, 0x10
#define SMP_UUID      0x84, 0xaa, 0x60, 0x74, 0x52, 0x8a, 0x8b, 0x86, 0xd3, 0x4c, 0xb7, 0x1d, 0x1d, 0xdc, 0x53, 0x8d

/* Something waits to be said that MQTT does not take. */
static bool wants(const node_t *n)
{
    const bool mqtt = node_ready(n) && n->gateway_count != 0;
    const bool info = n->info_changed || (n->info_due[CARRIER_MQTT] && n->info_due[CARRIER_BLE]);
    return !mqtt && (n->queue.waiting != 0 || info);
}

static uint8_t battery(const node_t *n)
{
    node_health_t health = {NODE_UNKNOWN, NODE_UNKNOWN, NODE_UNKNOWN, NODE_UNKNOWN};
    if (n->port->health != NULL) {
        n->port->health(n->port->context, &health);
    }
    return health.battery_percent >= 0 && health.battery_percent <= 100 ? (uint8_t)health.battery_percent : 0xff;
}

static uint8_t flags(const node_t *n)
{
    return improv_waits(n) ? VERSION | UNPROVISIONED
                           : (uint8_t)(VERSION | (wants(n) ? WANTS : 0) | (node_ready(n) ? ON_MQTT : 0));
}

/* Brings it up to date, with another counter where it is another one, or was the same for long. */
static void refresh(node_t *n)
{
    beacon_t *const b = &n->beacon;
    const bool due = n->clock_ms >= b->due_ms;
    const uint32_t id = improv_waits(n) ? 0 : node_crc32(0, n->config->id, strlen(n->config->id));
    uint8_t data[BLE_BEACON_BYTES] = {[FLAGS] = flags(n),
                                      [SESSION] = (uint8_t)n->session,
                                      [COUNTER] = b->data[COUNTER],
                                      [BATTERY] = due ? battery(n) : b->data[BATTERY]};
    for (unsigned i = 0; i < n->config->images; i++) {
        const int slot = slots_confirmed(&n->models[i].slots);
        for (unsigned byte = 0; byte < 2 && slot >= 0; byte++) {
            data[MODEL + byte] ^= n->models[i].slots.slot[slot].sha256[byte];
        }
    }
    for (unsigned byte = 0; byte < 4; byte++) {
        data[ID + byte] = (uint8_t)(id >> 8 * byte);
    }
    if (due || memcmp(data, b->data, sizeof data) != 0) {
        data[COUNTER]++;
        memcpy(b->data, data, sizeof data);
        b->due_ms = n->clock_ms + REFRESH_MS;
        b->changed = true;
    }
}

uint64_t beacon_step(node_t *n)
{
    if (!n->beacon.used || n->ble.connected) {
        return UINT64_MAX;
    }
    refresh(n);
    return n->beacon.due_ms - n->clock_ms;
}

bool node_ble_advertisement(node_t *n, uint8_t data[BLE_ADVERTISEMENT_BYTES], size_t *size,
                            uint8_t response[BLE_ADVERTISEMENT_BYTES], size_t *response_size)
{
    static const uint8_t head[] = {2, 0x01, 0x06, 1 + 16 + BLE_BEACON_BYTES, 0x21, NODELINK_UUID};
    static const uint8_t services[] = {1 + 16, 0x07, SMP_UUID};
    n->beacon.used = true;
    refresh(n);
    memcpy(data, head, sizeof head);
    memcpy(data + sizeof head, n->beacon.data, BLE_BEACON_BYTES);
    memcpy(response, services, sizeof services);
    *size = sizeof head + BLE_BEACON_BYTES;
    *response_size = improv_waits(n) ? improv_advertise(n, response) : sizeof services;
    const bool changed = n->beacon.changed;
    n->beacon.changed = false;
    return changed;
}
