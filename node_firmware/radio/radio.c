/* See radio.h, and docs/radio.md. Of what is to be said only a bit is kept; a frame is made when the line has room. */
#include "radio.h"

#include <string.h>

#include "crc32.h"

#define VERSION     2
#define PAYLOAD     600
#define HEAD        2 /* type, number */
#define CRC         4
#define ROOM        5 /* before a frame: a zero byte, and what COBS adds */
#define MOST_OUT    8
#define RESET_MS    1000
#define SILENCE_MS  10000
#define PATIENCE_MS 20000

/* What can be owed, in the order in which it is said. */
enum { RESET, SECURITY, VALUE, ADVERTISE, CONFIRM, ALIVE, NOTHING };

static const uint8_t types[NOTHING] = {
    [RESET] = 0x00, [SECURITY] = 0x05, [VALUE] = 0x02, [ADVERTISE] = 0x01, [CONFIRM] = 0x06, [ALIVE] = 0x07};
#define TYPE_NOTIFY     0x03
#define TYPE_DISCONNECT 0x04
#define TYPE_STARTED    0x81

/* What has a value from the beginning. */
static const uint8_t readable[] = {BLE_IDENTITY, BLE_STATE, BLE_ERROR, BLE_CAPABILITIES};

static void owe(radio_t *r, unsigned what)
{
    r->owed |= 1u << what;
}

static uint32_t get_u32(const uint8_t at[4])
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint16_t get_u16(const uint8_t at[2])
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static void put_u32(uint8_t at[4], uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> 8 * i);
    }
}

void radio_init(radio_t *r, node_t *node)
{
    *r = (radio_t){.node = node};
}

void radio_start(radio_t *r, uint32_t now_ms)
{
    if (r->connected) {
        node_ble_disconnected(r->node, now_ms);
    }
    r->started = r->connected = r->ending = r->compares = r->asked = false;
    r->out = r->secured = r->value = 0;
    r->in_size = r->frame_size = r->frame_sent = 0;
    r->owed = 1u << RESET;
}

/* Something was lost, or cannot be. */
static void restart(radio_t *r, uint32_t now_ms)
{
    r->restarts += r->started;
    radio_start(r, now_ms);
}

/* ---- from the radio ---- */

static void on_started(radio_t *r, const uint8_t *payload, size_t size, uint32_t now_ms)
{
    (void)size;
    radio_start(r, now_ms);
    r->started = payload[0] == VERSION;
    if (r->started) {
        r->owed = 1u << SECURITY | 1u << VALUE | 1u << ADVERTISE;
    } else { /* it is asked again, in a while: perhaps it gets new firmware */
        r->owed = 0;
        r->asked = true;
        r->asked_ms = now_ms;
    }
}

static bool valid_mtu(uint16_t mtu)
{
    return mtu >= BLE_MTU && mtu <= BLE_MTU_MOST;
}

static void on_connected(radio_t *r, const uint8_t *payload, size_t size, uint32_t now_ms)
{
    (void)size;
    if (r->connected || !valid_mtu(get_u16(payload))) {
        restart(r, now_ms);
        return;
    }
    r->connected = true;
    r->out = r->secured = 0;
    node_ble_connected(r->node, get_u16(payload), now_ms);
}

static void on_mtu(radio_t *r, const uint8_t *payload, size_t size, uint32_t now_ms)
{
    (void)size;
    if (!valid_mtu(get_u16(payload))) {
        restart(r, now_ms);
        return;
    }
    node_ble_mtu(r->node, get_u16(payload));
}

static void on_subscribed(radio_t *r, const uint8_t *payload, size_t size, uint32_t now_ms)
{
    (void)size;
    if (payload[0] >= BLE_CHARACTERISTICS) {
        restart(r, now_ms);
        return;
    }
    node_ble_subscribed(r->node, (ble_characteristic_t)payload[0], payload[1] != 0, now_ms);
}

static void on_written(radio_t *r, const uint8_t *payload, size_t size, uint32_t now_ms)
{
    if (payload[0] >= BLE_CHARACTERISTICS) {
        restart(r, now_ms);
        return;
    }
    /* The node remembers what it did not like: node_ble_broken(). */
    (void)!node_ble_written(r->node, (ble_characteristic_t)payload[0], payload + 1, size - 1, now_ms);
}

static void on_sent(radio_t *r, const uint8_t *payload, size_t size, uint32_t now_ms)
{
    (void)size;
    if (payload[0] > r->out) {
        restart(r, now_ms);
        return;
    }
    r->out -= payload[0];
}

static void on_disconnected(radio_t *r, const uint8_t *payload, size_t size, uint32_t now_ms)
{
    (void)payload, (void)size;
    r->connected = r->ending = r->compares = false;
    r->out = r->secured = 0;
    r->owed &= ~(1u << CONFIRM);
    r->value = 0;
    owe(r, VALUE); /* as notified, it was for that connection only */
    owe(r, ADVERTISE);
    node_ble_disconnected(r->node, now_ms);
}

static void on_secured(radio_t *r, const uint8_t *payload, size_t size, uint32_t now_ms)
{
    (void)size, (void)now_ms;
    r->secured = payload[0];
    node_ble_secured(r->node, payload[0] <= BLE_AUTHENTICATED ? (ble_level_t)payload[0] : BLE_OPEN);
}

static void on_compare(radio_t *r, const uint8_t *payload, size_t size, uint32_t now_ms)
{
    (void)size, (void)now_ms;
    r->compares = true;
    r->number = get_u32(payload);
}

static void on_alive(radio_t *r, const uint8_t *payload, size_t size, uint32_t now_ms)
{
    (void)r, (void)payload, (void)size, (void)now_ms; /* as any frame, it was heard */
}

static const struct {
    bool of_connection;   /* cannot be without one */
    uint16_t least, most; /* bytes of payload */
    void (*handle)(radio_t *, const uint8_t *, size_t, uint32_t);
} heard[] = {{false, 7, 7, on_started}, /* 0x81, and so on */
             {false, 2, 2, on_connected}, {true, 2, 2, on_mtu},
             {true, 2, 2, on_subscribed}, {true, 1, 1 + BLE_MTU_MOST - 3, on_written},
             {true, 1, 1, on_sent},       {true, 1, 1, on_disconnected},
             {true, 1, 1, on_secured},    {true, 4, 4, on_compare},
             {false, 0, 0, on_alive}};

/* A frame that holds, without its CRC. */
static void take(radio_t *r, const uint8_t *frame, size_t size, uint32_t now_ms)
{
    const unsigned index = frame[0] - TYPE_STARTED;
    const size_t payload = size - HEAD;
    const bool starts = index == 0;
    if (!starts && !r->started) {
        return; /* said before it was reset */
    }
    if (index >= sizeof heard / sizeof heard[0] || frame[1] != (starts ? 0 : r->next_received) ||
        payload < heard[index].least || payload > heard[index].most || (heard[index].of_connection && !r->connected)) {
        restart(r, now_ms);
        return;
    }
    r->next_received = (uint8_t)(frame[1] + 1);
    r->heard_ms = now_ms;
    r->asked = false;
    heard[index].handle(r, frame + HEAD, payload, now_ms);
}

/* Decodes in place; 0 where it is not COBS. */
static size_t cobs_decode(uint8_t *data, size_t size)
{
    size_t written = 0;
    for (size_t at = 0; at < size;) {
        const size_t block = data[at++];
        if (block - 1 > size - at) {
            return 0;
        }
        memmove(data + written, data + at, block - 1);
        written += block - 1;
        at += block - 1;
        if (block != 255 && at < size) {
            data[written++] = 0;
        }
    }
    return written;
}

static void end_frame(radio_t *r, uint32_t now_ms)
{
    const size_t got = r->in_size;
    const size_t size = got <= sizeof r->in ? cobs_decode(r->in, got) : 0;
    r->in_size = 0;
    if (got == 0) {
        return;
    }
    if (size < HEAD + CRC || get_u32(r->in + size - CRC) != node_crc32(0, r->in, size - CRC)) {
        r->dropped++;
        return;
    }
    take(r, r->in, size - CRC, now_ms);
}

void radio_receive(radio_t *r, const uint8_t *data, size_t size, uint32_t now_ms)
{
    for (size_t i = 0; i < size; i++) {
        if (data[i] == 0) {
            end_frame(r, now_ms);
        } else if (r->in_size < sizeof r->in) {
            r->in[r->in_size++] = data[i];
        } else {
            r->in_size = sizeof r->in + 1; /* too long: to its end nothing of it is kept */
        }
    }
}

/* ---- to the radio ---- */

static size_t make_security(const radio_t *r, uint8_t payload[6])
{
    payload[0] = r->level;
    payload[1] = r->input_output;
    put_u32(payload + 2, r->passkey);
    return 6;
}

/* 0 where there is nothing new to say. */
static size_t make_advertise(radio_t *r, uint8_t payload[1 + 2 * BLE_ADVERTISEMENT_BYTES])
{
    uint8_t response[BLE_ADVERTISEMENT_BYTES];
    size_t size, response_size;
    const bool changed = node_ble_advertisement(r->node, payload + 1, &size, response, &response_size);
    if (!changed && (r->owed & 1u << ADVERTISE) == 0) {
        return 0;
    }
    payload[0] = (uint8_t)size;
    memcpy(payload + 1 + size, response, response_size);
    return 1 + size + response_size;
}

static size_t make_value(radio_t *r, uint8_t payload[PAYLOAD])
{
    payload[0] = readable[r->value];
    return 1 + node_ble_value(r->node, (ble_characteristic_t)payload[0], payload + 1, BLE_MTU_MOST - 3);
}

static size_t make_notify(radio_t *r, uint8_t payload[PAYLOAD], uint32_t now_ms)
{
    const uint8_t *data;
    ble_characteristic_t characteristic;
    const size_t size = node_ble_notification(r->node, &characteristic, &data, now_ms);
    if (size == 0 || size > BLE_MTU_MOST - 3) {
        return 0;
    }
    payload[0] = (uint8_t)characteristic;
    memcpy(payload + 1, data, size);
    node_ble_notified(r->node, now_ms);
    r->out++;
    return 1 + size;
}

/* The payload of what is owed; its size. */
static size_t make_owed(radio_t *r, unsigned what, uint8_t payload[PAYLOAD], uint32_t now_ms)
{
    size_t size = 0;
    if (what == RESET || what == ALIVE) {
        r->asked = true;
        r->asked_ms = now_ms;
    } else if (what == SECURITY) {
        size = make_security(r, payload);
    } else if (what == ADVERTISE) {
        size = make_advertise(r, payload);
    } else if (what == CONFIRM) {
        payload[size++] = r->yes;
    } else if (what == VALUE) {
        size = make_value(r, payload);
    }
    if (what == RESET || what == SECURITY) {
        r->next_sent = 0;
    }
    if (what != VALUE || ++r->value == sizeof readable) {
        r->owed &= ~(1u << what);
    }
    return size;
}

/* In place: `size` bytes from ROOM on become a zero byte and the frame, from 0 on. Returns the size of both. */
static size_t cobs_encode(uint8_t frame[RADIO_FRAME_BYTES], size_t size)
{
    const uint8_t *const in = frame + ROOM;
    size_t code = 1, written = 2; /* code: where the open block begins */
    frame[0] = 0;
    for (size_t at = 0; at < size; at++) {
        if (in[at] != 0) {
            frame[written++] = in[at];
        }
        if (in[at] == 0 || written - code == 255) {
            frame[code] = (uint8_t)(written - code);
            code = written++;
        }
    }
    frame[code] = (uint8_t)(written - code);
    frame[written++] = 0;
    return written;
}

/* Type and payload of the next frame into their places; its size, 0 where there is none. */
static size_t make_frame(radio_t *r, uint8_t *frame, uint32_t now_ms)
{
    for (unsigned what = 0; what < NOTHING; what++) {
        if ((r->owed & 1u << what) != 0) {
            frame[0] = types[what];
            return HEAD + make_owed(r, what, frame + HEAD, now_ms);
        }
    }
    size_t size = 0;
    if (r->connected && !r->ending && node_ble_broken(r->node)) {
        r->ending = true;
        frame[0] = TYPE_DISCONNECT;
        return HEAD;
    }
    if (r->connected && !r->ending && r->out < MOST_OUT) {
        frame[0] = TYPE_NOTIFY;
        size = make_notify(r, frame + HEAD, now_ms);
    } else if (r->started && !r->connected) {
        frame[0] = types[ADVERTISE];
        size = make_advertise(r, frame + HEAD);
    }
    return size != 0 ? HEAD + size : 0;
}

static void watch(radio_t *r, uint32_t now_ms)
{
    if (r->asked && now_ms - r->asked_ms >= (r->started ? PATIENCE_MS : RESET_MS)) {
        restart(r, now_ms);
    } else if (r->started && !r->asked && now_ms - r->heard_ms >= SILENCE_MS) {
        owe(r, ALIVE);
    }
}

size_t radio_transmit(radio_t *r, const uint8_t **data, uint32_t now_ms)
{
    watch(r, now_ms);
    if (r->frame_sent == r->frame_size) {
        uint8_t *const frame = r->frame + ROOM;
        size_t size = make_frame(r, frame, now_ms);
        r->frame_sent = r->frame_size = 0;
        if (size != 0) {
            const bool resets = frame[0] == types[RESET];
            frame[1] = r->next_sent++;
            put_u32(frame + size, node_crc32(0, frame, size));
            r->frame_size = cobs_encode(r->frame, size + CRC);
            r->frame_sent = resets ? 0 : 1; /* a zero byte ends what was cut off before */
        }
    }
    *data = r->frame + r->frame_sent;
    return r->frame_size - r->frame_sent;
}

void radio_transmitted(radio_t *r, size_t size)
{
    r->frame_sent += size;
}

void radio_confirm(radio_t *r, bool yes)
{
    r->compares = false;
    r->yes = yes;
    owe(r, CONFIRM);
}
