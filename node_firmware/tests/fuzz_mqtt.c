/* Fuzz target: any bytes from a broker, in any pieces, with links that break. The first byte of each piece says how
 * long it is, and 255 that the link is made anew. */
#include <stdlib.h>
#include <string.h>

#include "mqtt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static mqtt_t mqtt;
static unsigned waiting;
static uint32_t received;

static void on_connected(void *context, bool session_present)
{
    (void)context, (void)session_present;
    const mqtt_filter_t filters[] = {{"a/", "b", "/c"}, {"d", "", ""}};
    (void)!mqtt_subscribe(&mqtt, filters, 2);
}

static void on_subscribed(void *context)
{
    (void)context;
}

static void on_received(void *context, const mqtt_piece_t *piece)
{
    (void)context;
    if (piece->offset != 0 && piece->offset != received) {
        abort(); /* a piece is missing */
    }
    received = piece->offset + piece->size;
    if (received > piece->total || strlen(piece->topic) >= MQTT_TOPIC_BYTES) {
        abort();
    }
}

static void on_published(void *context, uint32_t token)
{
    (void)context, (void)token;
    waiting--;
}

static void transmit(uint32_t now_ms)
{
    const uint8_t *piece;
    size_t size;
    while ((size = mqtt_transmit(&mqtt, &piece)) != 0) {
        volatile uint8_t last = piece[size - 1];
        (void)last;
        mqtt_transmitted(&mqtt, size > 7 ? 7 : size, now_ms);
    }
}

static void link_up(uint32_t now_ms)
{
    const mqtt_connect_t connect = {.client_id = "n",
                                    .will_prefix = "w",
                                    .will_tail = "",
                                    .will = (const uint8_t *)"x",
                                    .will_size = 1,
                                    .keepalive_s = 10};
    (void)!mqtt_link_up(&mqtt, &connect, now_ms);
    const mqtt_publish_t publish = {
        .prefix = "p/", .tail = "q", .payload = (const uint8_t *)"payload", .size = 7, .qos = (uint8_t)(now_ms & 1)};
    if (mqtt_publish(&mqtt, &publish) == 0) {
        waiting++;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const mqtt_handler_t handler = {on_connected, on_subscribed, on_received, on_published};
    mqtt_init(&mqtt, &handler, NULL);
    waiting = 0;
    link_up(0);
    for (size_t at = 0; at < size;) {
        const uint32_t now_ms = (uint32_t)at * 100;
        const uint8_t length = data[at++];
        const size_t taken = length < size - at ? length : size - at;
        if (length == 255 || mqtt_receive(&mqtt, data + at, taken, now_ms) < 0 || mqtt_step(&mqtt, now_ms) < 0) {
            mqtt_link_down(&mqtt);
            link_up(now_ms);
        }
        transmit(now_ms);
        at += taken;
    }
    if (waiting != mqtt.slot_count) {
        abort();
    }
    return 0;
}
