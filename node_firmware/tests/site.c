/* See site.h. */
#include "site.h"

#include <stdio.h>
#include <string.h>

#include "message.h"
#include "session.h"
#include "test.h"
#include "vector.h"

#define UP "nodelink/1/up/n-1/"

flash_t flash;
node_t node;
node_port_t port;
node_config_t config;
uint32_t now_ms;
char heard[16384];
char acted[256];
unsigned acks;

static uint32_t port_random(void *context)
{
    (void)context;
    return 4;
}

static void port_action(void *context, const char *cascade, const char *action, const char *label)
{
    (void)context;
    strcat(acted, cascade);
    strcat(acted, ":");
    strcat(acted, action);
    strcat(acted, ":");
    strcat(acted, label);
    strcat(acted, " ");
}

/* An event to `#seq`, any other message to its topic's tail; + for DUP, r for retained. */
static void hear_publish(const uint8_t *packet, const uint8_t *topic, size_t topic_size, const uint8_t *payload,
                         size_t size)
{
    char word[128];
    assert_memory_equal(topic, UP, sizeof UP - 1);
    const int tail = (int)(topic_size - (sizeof UP - 1));
    const char *const marks = packet[0] & 8 ? "+" : packet[0] & 1 ? "r" : "";
    if (tail == 5 && memcmp(topic + sizeof UP - 1, "event", 5) == 0) {
        cbor_reader_t r = cbor_reader(payload, size);
        cbor_map(&r);
        cbor_uint(&r, 0);
        snprintf(word, sizeof word, "#%u%s ", (unsigned)cbor_uint(&r, UINT32_MAX), marks);
    } else {
        snprintf(word, sizeof word, "%.*s%s ", tail, (const char *)topic + sizeof UP - 1, marks);
    }
    strcat(heard, word);
}

void answer(const uint8_t *data, size_t size)
{
    assert_int_equal(node_receive(&node, data, size, now_ms), NODE_OK);
}

/* One packet of the node; returns its size, or 0 where it is not whole. */
static size_t hear(const uint8_t *data, size_t there)
{
    size_t length = 0, at = 1;
    for (unsigned shift = 0; at < there; shift += 7) {
        length |= (size_t)(data[at] & 0x7f) << shift;
        if ((data[at++] & 0x80) == 0) {
            break;
        }
    }
    if (there < 2 || there < at + length) {
        return 0;
    }
    const uint8_t *const body = data + at;
    if (data[0] >> 4 == 3) {
        const size_t topic = (size_t)body[0] << 8 | body[1], head = 2 + topic + (data[0] & 2 ? 2U : 0U);
        hear_publish(data, body + 2, topic, body + head, length - head);
        if ((data[0] & 2) != 0 && acks != 0) {
            acks--;
            answer((const uint8_t[]){0x40, 2, body[2 + topic], body[3 + topic]}, 4);
        }
    } else if (data[0] == 0x10) {
        strcat(heard, "CONNECT ");
        answer((const uint8_t[]){0x20, 2, 0, 0}, 4);
    } else if (data[0] == 0x82) {
        strcat(heard, "SUBSCRIBE ");
        answer((const uint8_t[]){0x90, 5, body[0], body[1], 1, 1, 1}, 7);
    } else if (data[0] == 0xe0) {
        strcat(heard, "DISCONNECT ");
    }
    return at + length;
}

/* Lets the node and the broker talk until both are silent. */
void talk(void)
{
    static uint8_t stream[65536];
    size_t there = 0, taken;
    for (;;) {
        const uint8_t *data;
        const size_t size = node_transmit(&node, &data);
        if (size != 0) {
            memcpy(stream + there, data, size);
            there += size;
            node_transmitted(&node, size, now_ms);
            continue;
        }
        if ((taken = hear(stream, there)) == 0) {
            break;
        }
        memmove(stream, stream + taken, there -= taken);
    }
    assert_int_equal(there, 0);
}

void expect(const char *words)
{
    talk();
    assert_string_equal(heard, words);
    heard[0] = '\0';
}

void deliver(const char *topic, const uint8_t *payload, size_t size)
{
    static uint8_t packet[2 * NODE_RECEIVE_BYTES] = {0x30};
    const size_t topic_size = strlen(topic), length = 2 + topic_size + size;
    packet[1] = (uint8_t)(length % 128 | 128); /* MQTT's lengths have as many bytes as they like */
    packet[2] = (uint8_t)(length / 128 % 128 | 128);
    packet[3] = (uint8_t)(length / 128 / 128);
    packet[4] = 0;
    packet[5] = (uint8_t)topic_size;
    memcpy(packet + 6, topic, topic_size);
    if (size != 0) {
        memcpy(packet + 6 + topic_size, payload, size);
    }
    answer(packet, 4 + length);
}

size_t write_gateway(uint8_t payload[MESSAGE_BYTES], bool online)
{
    cbor_writer_t w = cbor_writer(payload, MESSAGE_BYTES);
    cbor_put_map(&w, 2);
    cbor_put_uint(&w, 0);
    cbor_put_text(&w, online ? "online" : "offline");
    cbor_put_uint(&w, 1);
    cbor_put_uint(&w, 1800000000);
    return w.size;
}

void gateway(bool online)
{
    uint8_t payload[MESSAGE_BYTES];
    deliver(GATEWAY, payload, write_gateway(payload, online));
}

size_t write_verdict(uint8_t payload[MESSAGE_BYTES], uint32_t seq, uint32_t session, const char *action,
                     uint32_t ttl_ms)
{
    cbor_writer_t w = cbor_writer(payload, MESSAGE_BYTES);
    cbor_put_map(&w, 8);
    const uint32_t numbers[] = {seq, session};
    for (unsigned key = 0; key < 2; key++) {
        cbor_put_uint(&w, key);
        cbor_put_uint(&w, numbers[key]);
    }
    cbor_put_uint(&w, 2);
    cbor_put_bool(&w, true);
    cbor_put_uint(&w, 3);
    cbor_put_text(&w, "yes");
    cbor_put_uint(&w, 4);
    cbor_put_float(&w, 0.5F);
    cbor_put_uint(&w, 5);
    cbor_put_text(&w, action);
    cbor_put_uint(&w, 6);
    cbor_put_uint(&w, ttl_ms);
    cbor_put_uint(&w, 7);
    cbor_put_text(&w, "gateway");
    return w.size;
}

void verdict(uint32_t seq, uint32_t session, const char *action, uint32_t ttl_ms)
{
    uint8_t payload[MESSAGE_BYTES];
    deliver(VERDICT, payload, write_verdict(payload, seq, session, action, ttl_ms));
}

int event(uint32_t window_bytes)
{
    static uint8_t data[NODE_MAX_WINDOW];
    for (unsigned i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(i * 7 + i / 256);
    }
    const node_window_t window = {.kind = WINDOW_PCM16,
                                  .rate_hz = 16000,
                                  .channels = 1,
                                  .shape = {window_bytes / 2},
                                  .rank = 1,
                                  .piece = {data, NULL},
                                  .piece_size = {window_bytes, 0}};
    return node_event(&node, &(node_event_t){.score = 0.5F, .window = window_bytes != 0 ? &window : NULL}, now_ms);
}

void boot(void)
{
    static const uint8_t model[] = "8 bytes!";
    port = (node_port_t){.flash = flash_driver(&flash, SECTOR), .random = port_random, .action = port_action};
    assert_int_equal(node_init(&node, &config, &port, now_ms), NODE_OK);
    assert_int_equal(node_add_cascade(&node, "c", model), 0);
}

void site_start(uint32_t flash_bytes)
{
    config = (node_config_t){.id = "n-1",
                             .hardware = "test",
                             .board = "test",
                             .firmware = "1.0",
                             .reset_reason = "power-on",
                             .keepalive_s = 60,
                             .vitals_s = 30};
    now_ms = UINT32_MAX - 5000; /* wraps soon */
    acks = 1000;
    heard[0] = acted[0] = '\0';
    flash_init(&flash, flash_bytes);
}
