/* MQTT 3.1.1, the client's half that a node needs: QoS 0 and 1, will, persistent session, keepalive. */
#include "mqtt.h"

#include <string.h>

#include "mqtt_parts.h"
#include "node/types.h"

#define NO_WAIT INT32_MAX

void mqtt_init(mqtt_t *m, const mqtt_handler_t *handler, void *context)
{
    memset(m, 0, sizeof *m);
    m->handler = handler;
    m->context = context;
}

uint8_t *mqtt_put_u16(uint8_t *out, size_t value)
{
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
    return out + 2;
}

static uint8_t *put_length(uint8_t *out, size_t length)
{
    do {
        const uint8_t low = length & 0x7f;
        length >>= 7;
        *out++ = (uint8_t)(low | (length != 0 ? 0x80 : 0));
    } while (length != 0);
    return out;
}

static uint8_t *put_data(uint8_t *out, const void *data, size_t size)
{
    memcpy(out, data, size);
    return out + size;
}

static uint8_t *put_string(uint8_t *out, const char *text)
{
    return put_data(mqtt_put_u16(out, strlen(text)), text, strlen(text));
}

static uint8_t *put_topic(uint8_t *out, const char *prefix, const char *tail)
{
    out = mqtt_put_u16(out, strlen(prefix) + strlen(tail));
    return put_data(put_data(out, prefix, strlen(prefix)), tail, strlen(tail));
}

static size_t string_size(const char *text)
{
    return text != NULL ? 2 + strlen(text) : 0;
}

/* Begins a packet with `length` bytes to follow its fixed header, or gives NULL where the buffer cannot hold it. */
uint8_t *mqtt_begin_control(mqtt_t *m, uint8_t first, size_t length)
{
    m->control_size = (uint16_t)(m->control_size - m->control_sent);
    memmove(m->control, m->control + m->control_sent, m->control_size);
    m->control_sent = 0;
    uint8_t fixed[5] = {first};
    const size_t fixed_size = (size_t)(put_length(fixed + 1, length) - fixed);
    if (fixed_size + length > sizeof m->control - m->control_size) {
        return NULL;
    }
    uint8_t *const out = put_data(m->control + m->control_size, fixed, fixed_size);
    m->control_size = (uint16_t)(m->control_size + fixed_size + length);
    return out;
}

int mqtt_link_up(mqtt_t *m, const mqtt_connect_t *connect, uint32_t now_ms)
{
    mqtt_link_down(m);
    const size_t length = 10 + string_size(connect->client_id) + 2 + strlen(connect->will_prefix) +
                          strlen(connect->will_tail) + 2 + connect->will_size + string_size(connect->user) +
                          string_size(connect->password);
    uint8_t *out = mqtt_begin_control(m, CONNECT << 4, length);
    if (out == NULL) {
        return NODE_E_FULL;
    }
    const unsigned will = 0x04 | 0x08 | 0x20; /* present, QoS 1, retained */
    const unsigned login = (connect->user != NULL ? 0x80 : 0) | (connect->password != NULL ? 0x40 : 0);
    out = put_string(out, "MQTT");
    *out++ = 4; /* the protocol level of 3.1.1 */
    *out++ = (uint8_t)(will | login);
    out = mqtt_put_u16(out, connect->keepalive_s);
    out = put_string(out, connect->client_id);
    out = put_topic(out, connect->will_prefix, connect->will_tail);
    out = put_data(mqtt_put_u16(out, connect->will_size), connect->will, connect->will_size);
    if (connect->user != NULL) {
        out = put_string(out, connect->user);
    }
    if (connect->password != NULL) {
        put_string(out, connect->password);
    }
    m->link = MQTT_CONNECTING;
    m->keepalive_s = connect->keepalive_s;
    m->sent_ms = m->received_ms = now_ms;
    return NODE_OK;
}

static bool in_use(const mqtt_t *m, uint16_t packet_id)
{
    for (unsigned i = 0; i < m->slot_count; i++) {
        if (m->slots[i].packet_id == packet_id) {
            return true;
        }
    }
    return packet_id == 0 || packet_id == m->subscribe_id;
}

static uint16_t new_packet_id(mqtt_t *m)
{
    do {
        m->next_packet_id++;
    } while (in_use(m, m->next_packet_id));
    return m->next_packet_id;
}

int mqtt_subscribe(mqtt_t *m, const mqtt_filter_t *filters, uint16_t count)
{
    size_t length = 2;
    for (unsigned i = 0; i < count; i++) {
        length += 3 + strlen(filters[i].prefix) + strlen(filters[i].middle) + strlen(filters[i].tail);
    }
    uint8_t *out = m->subscribe_id == 0 ? mqtt_begin_control(m, SUBSCRIBE << 4 | 2, length) : NULL;
    if (out == NULL) {
        return NODE_E_FULL;
    }
    m->subscribe_id = new_packet_id(m);
    m->subscribe_count = count;
    out = mqtt_put_u16(out, m->subscribe_id);
    for (unsigned i = 0; i < count; i++) {
        const mqtt_filter_t *filter = &filters[i];
        out = mqtt_put_u16(out, strlen(filter->prefix) + strlen(filter->middle) + strlen(filter->tail));
        out = put_data(out, filter->prefix, strlen(filter->prefix));
        out = put_data(out, filter->middle, strlen(filter->middle));
        out = put_data(out, filter->tail, strlen(filter->tail));
        *out++ = 1; /* QoS */
    }
    return NODE_OK;
}

int mqtt_publish(mqtt_t *m, const mqtt_publish_t *publish)
{
    const size_t topic_size = strlen(publish->prefix) + strlen(publish->tail);
    if (topic_size == 0 || topic_size > MQTT_TOPIC_BYTES || publish->qos > 1) {
        return NODE_E_ARGUMENT;
    }
    if (m->slot_count == MQTT_MAX_PUBLISHES) {
        return NODE_E_FULL;
    }
    const uint16_t packet_id = publish->qos != 0 ? new_packet_id(m) : 0;
    m->slots[m->slot_count++] = (mqtt_slot_t){.publish = *publish, .packet_id = packet_id};
    return NODE_OK;
}

void mqtt_remove_slot(mqtt_t *m, unsigned index)
{
    m->slot_count--;
    memmove(&m->slots[index], &m->slots[index + 1], (m->slot_count - index) * sizeof m->slots[0]);
    if (m->sending && index < m->sending_slot) {
        m->sending_slot--;
    }
}

void mqtt_cancel(mqtt_t *m, uint32_t token)
{
    for (unsigned i = 0; i < m->slot_count && m->link != MQTT_UP; i++) {
        if (m->slots[i].publish.token == token) {
            mqtt_remove_slot(m, i);
            return;
        }
    }
}

int mqtt_disconnect(mqtt_t *m)
{
    return mqtt_begin_control(m, DISCONNECT << 4, 0) != NULL ? NODE_OK : NODE_E_FULL;
}

void mqtt_link_down(mqtt_t *m)
{
    m->link = MQTT_DOWN;
    m->sending = m->ping_out = false;
    m->control_size = m->control_sent = 0;
    m->stage = R_FIRST;
    m->subscribe_id = 0;
    for (unsigned i = 0; i < m->slot_count;) {
        mqtt_slot_t *slot = &m->slots[i];
        if (slot->publish.qos == 0) {
            const uint32_t token = slot->publish.token;
            mqtt_remove_slot(m, i);
            m->handler->published(m->context, token);
        } else {
            slot->again = slot->again || slot->stage == PUBLISH_SENT;
            slot->stage = PUBLISH_WAITING;
            i++;
        }
    }
}

/* Writes the header of the oldest publish that waits. */
static void begin_publish(mqtt_t *m)
{
    unsigned i = 0;
    while (i < m->slot_count && m->slots[i].stage != PUBLISH_WAITING) {
        i++;
    }
    if (i == m->slot_count || m->link != MQTT_UP) {
        return;
    }
    mqtt_slot_t *const slot = &m->slots[i];
    const mqtt_publish_t *const publish = &slot->publish;
    const size_t topic = 2 + strlen(publish->prefix) + strlen(publish->tail);
    const unsigned flags =
        (slot->again ? FLAG_DUP : 0U) | (publish->qos != 0 ? FLAG_QOS_1 : 0U) | (publish->retain ? FLAG_RETAIN : 0U);
    uint8_t *out = m->header;
    *out++ = (uint8_t)(PUBLISH << 4 | flags);
    out = put_length(out, topic + (publish->qos != 0 ? 2 : 0) + publish->size);
    out = put_topic(out, publish->prefix, publish->tail);
    if (publish->qos != 0) {
        out = mqtt_put_u16(out, slot->packet_id);
    }
    slot->stage = PUBLISH_SENDING;
    m->header_size = (uint16_t)(out - m->header);
    m->sent_bytes = 0;
    m->sending_slot = (uint8_t)i;
    m->sending = true;
}

size_t mqtt_transmit(mqtt_t *m, const uint8_t **data)
{
    if (!m->sending && m->control_size == 0) {
        begin_publish(m);
    }
    if (!m->sending) {
        *data = m->control + m->control_sent;
        return (size_t)(m->control_size - m->control_sent);
    }
    if (m->sent_bytes < m->header_size) {
        *data = m->header + m->sent_bytes;
        return m->header_size - m->sent_bytes;
    }
    const mqtt_publish_t *const publish = &m->slots[m->sending_slot].publish;
    const uint32_t at = m->sent_bytes - m->header_size;
    *data = publish->payload + at;
    return publish->size - at;
}

static void publish_transmitted(mqtt_t *m, size_t size)
{
    mqtt_slot_t *const slot = &m->slots[m->sending_slot];
    m->sent_bytes += (uint32_t)size;
    if (m->sent_bytes < m->header_size + slot->publish.size) {
        return;
    }
    m->sending = false;
    slot->stage = PUBLISH_SENT;
    if (slot->publish.qos == 0) {
        const uint32_t token = slot->publish.token;
        mqtt_remove_slot(m, m->sending_slot);
        m->handler->published(m->context, token);
    }
}

void mqtt_transmitted(mqtt_t *m, size_t size, uint32_t now_ms)
{
    m->sent_ms = now_ms;
    if (m->control_size != 0) {
        m->ping_ms = now_ms; /* a ping that waits behind other bytes is not late */
    }
    if (m->sending) {
        publish_transmitted(m, size);
        return;
    }
    m->control_sent = (uint16_t)(m->control_sent + size);
    if (m->control_sent == m->control_size) {
        m->control_sent = m->control_size = 0;
    }
}

int mqtt_step(mqtt_t *m, uint32_t now_ms)
{
    const uint32_t keepalive_ms = m->keepalive_s * UINT32_C(1000), answer_ms = keepalive_ms / 2;
    if (m->link == MQTT_DOWN) {
        return NO_WAIT;
    }
    if (m->link == MQTT_CONNECTING) {
        const uint32_t waited_ms = now_ms - m->received_ms;
        return waited_ms >= keepalive_ms ? NODE_E_TIMEOUT : (int)(keepalive_ms - waited_ms);
    }
    if (!m->ping_out) {
        const uint32_t after_ms = keepalive_ms / 4 * 3;
        const uint32_t unsent_ms = now_ms - m->sent_ms, unheard_ms = now_ms - m->received_ms;
        const uint32_t idle_ms = unsent_ms > unheard_ms ? unsent_ms : unheard_ms;
        if (idle_ms < after_ms) {
            return (int)(after_ms - idle_ms);
        }
        (void)mqtt_begin_control(m, PINGREQ << 4, 0); /* a buffer that stays full is a dead link as well */
        m->ping_out = true;
        m->ping_ms = now_ms;
    }
    const uint32_t waited_ms = now_ms - m->ping_ms;
    return waited_ms >= answer_ms ? NODE_E_TIMEOUT : (int)(answer_ms - waited_ms);
}
