/* See radio_chip.h. */
#include "radio_chip.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ble.h"
#include "crc32.h"

size_t chip_encode(uint8_t line[CHIP_FRAME], uint8_t type, uint8_t number, const uint8_t *payload, size_t size)
{
    uint8_t plain[CHIP_FRAME] = {type, number};
    if (size != 0) {
        memcpy(plain + 2, payload, size);
    }
    const uint32_t crc = node_crc32(0, plain, size + 2);
    for (unsigned i = 0; i < 4; i++) {
        plain[size + 2 + i] = (uint8_t)(crc >> 8 * i);
    }
    size_t written = 0;
    for (size_t at = 0, total = size + 6; at <= total;) { /* as if a zero followed the last byte */
        size_t run = 0;
        while (at + run < total && plain[at + run] != 0 && run < 254) {
            run++;
        }
        line[written++] = (uint8_t)(run + 1);
        memcpy(line + written, plain + at, run);
        written += run;
        at += run + (run < 254);
    }
    line[written++] = 0;
    return written;
}

size_t chip_decode(uint8_t frame[CHIP_FRAME], const uint8_t *line, size_t size)
{
    size_t written = 0;
    for (size_t at = 0; at < size;) {
        const uint8_t code = line[at++];
        for (unsigned i = 1; i < code && at < size; i++) {
            frame[written++] = line[at++];
        }
        if (code != 255 && at < size) {
            frame[written++] = 0;
        }
    }
    if (written < 6) {
        return 0;
    }
    const uint32_t crc = node_crc32(0, frame, written - 4);
    const uint8_t expected[4] = {(uint8_t)crc, (uint8_t)(crc >> 8), (uint8_t)(crc >> 16), (uint8_t)(crc >> 24)};
    return memcmp(frame + written - 4, expected, 4) == 0 ? written - 4 : 0;
}

struct stub stub;

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
    const size_t used = strlen(stub.heard);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(stub.heard + used, sizeof stub.heard - used, format, arguments);
    va_end(arguments);
}

/* The contract of ble.h: all but the advertisement and the value belong to a connection. */
static void needs_connection(bool connection)
{
    if (stub.connected != connection) {
        abort();
    }
}

bool node_ble_advertisement(struct node *n, uint8_t data[BLE_ADVERTISEMENT_BYTES], size_t *size,
                            uint8_t response[BLE_ADVERTISEMENT_BYTES], size_t *response_size)
{
    (void)n;
    const bool changed = stub.changed;
    memset(data, 'a', *size = BLE_ADVERTISEMENT_BYTES);
    memset(response, 'r', *response_size = 3);
    stub.changed = false;
    return changed;
}

void node_ble_connected(struct node *n, uint16_t mtu, uint32_t now_ms)
{
    (void)n, (void)now_ms;
    needs_connection(false);
    stub.connected = true;
    note("connected %u;", mtu);
}

void node_ble_mtu(struct node *n, uint16_t mtu)
{
    (void)n;
    needs_connection(true);
    note("mtu %u;", mtu);
}

void node_ble_secured(struct node *n, ble_level_t level)
{
    (void)n;
    needs_connection(true);
    note("secured %d;", level);
}

void node_ble_subscribed(struct node *n, ble_characteristic_t characteristic, bool on, uint32_t now_ms)
{
    (void)n, (void)now_ms;
    needs_connection(true);
    note("subscribed %d %d;", characteristic, on);
}

int node_ble_written(struct node *n, ble_characteristic_t characteristic, const uint8_t *data, size_t size,
                     uint32_t now_ms)
{
    (void)n, (void)now_ms;
    needs_connection(true);
    note("written %d %zu %02x;", characteristic, size, size != 0 ? data[size - 1] : 0);
    return stub.refuses ? NODE_E_PROTOCOL : NODE_OK;
}

size_t node_ble_value(const struct node *n, ble_characteristic_t characteristic, uint8_t *data, size_t capacity)
{
    (void)n;
    if (characteristic != BLE_IDENTITY || capacity < 3) {
        data[0] = (uint8_t)characteristic;
        return 1;
    }
    memcpy(data, "n-1", 3);
    return 3;
}

size_t node_ble_notification(struct node *n, ble_characteristic_t *characteristic, const uint8_t **data,
                             uint32_t now_ms)
{
    static uint8_t bytes[BLE_MTU_MOST];
    (void)n, (void)now_ms;
    needs_connection(true);
    memset(bytes, (int)stub.notified + 1, sizeof bytes);
    *characteristic = BLE_UP;
    *data = bytes;
    return stub.waiting != 0 ? stub.notification_size : 0;
}

void node_ble_notified(struct node *n, uint32_t now_ms)
{
    (void)n, (void)now_ms;
    needs_connection(true);
    if (stub.waiting == 0) {
        abort();
    }
    stub.waiting--;
    stub.notified++;
}

bool node_ble_broken(const struct node *n)
{
    (void)n;
    return stub.refuses;
}

void node_ble_disconnected(struct node *n, uint32_t now_ms)
{
    (void)n, (void)now_ms;
    needs_connection(true);
    stub.connected = false;
    note("disconnected;");
}
