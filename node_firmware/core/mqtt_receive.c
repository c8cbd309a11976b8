/* The receiving half of the MQTT client: a byte at a time up to a payload, and that in pieces as they come. */
#include <string.h>

#include "mqtt_parts.h"
#include "node/types.h"

static uint16_t get_u16(const char *at)
{
    return (uint16_t)((uint8_t)at[0] << 8 | (uint8_t)at[1]);
}

static int connack(mqtt_t *m)
{
    const uint8_t flags = (uint8_t)m->topic[0], code = (uint8_t)m->topic[1];
    if (m->held != 2 || m->link != MQTT_CONNECTING || flags > 1) {
        return NODE_E_PROTOCOL;
    }
    if (code != 0) {
        return NODE_E_REFUSED;
    }
    m->link = MQTT_UP;
    m->handler->connected(m->context, flags == 1);
    return NODE_OK;
}

static int puback(mqtt_t *m)
{
    for (unsigned i = 0; i < m->slot_count && m->held == 2; i++) {
        const mqtt_slot_t *slot = &m->slots[i];
        if (slot->publish.qos != 0 && slot->stage == PUBLISH_SENT && slot->packet_id == get_u16(m->topic)) {
            const uint32_t token = slot->publish.token;
            mqtt_remove_slot(m, i);
            m->handler->published(m->context, token);
            return NODE_OK;
        }
    }
    return NODE_E_PROTOCOL;
}

static int suback(mqtt_t *m)
{
    if (m->subscribe_id == 0 || m->held != 2 + m->subscribe_count || get_u16(m->topic) != m->subscribe_id) {
        return NODE_E_PROTOCOL;
    }
    for (unsigned i = 2; i < m->held; i++) {
        const uint8_t code = (uint8_t)m->topic[i];
        if (code > 1) {
            return code == 0x80 ? NODE_E_REFUSED : NODE_E_PROTOCOL;
        }
    }
    m->subscribe_id = 0;
    m->handler->subscribed(m->context);
    return NODE_OK;
}

/* A packet other than PUBLISH is complete, its body in `topic`. */
static int end_body(mqtt_t *m)
{
    m->stage = R_FIRST;
    switch (m->first) {
    case CONNACK << 4:
        return connack(m);
    case PUBACK << 4:
        return puback(m);
    case SUBACK << 4:
        return suback(m);
    case PINGRESP << 4:
        if (m->held != 0 || !m->ping_out) {
            return NODE_E_PROTOCOL;
        }
        m->ping_out = false;
        return NODE_OK;
    default: /* nothing else is ours to get, and no other flags */
        return NODE_E_PROTOCOL;
    }
}

static int end_length(mqtt_t *m)
{
    m->held = 0;
    m->topic_size = 0;
    m->packet_id = 0;
    if (m->link == MQTT_CONNECTING && m->first != CONNACK << 4) {
        return NODE_E_PROTOCOL;
    }
    if (m->first >> 4 != PUBLISH) {
        m->stage = R_BODY;
        return m->remaining > sizeof m->topic ? NODE_E_PROTOCOL : m->remaining == 0 ? end_body(m) : NODE_OK;
    }
    const uint8_t flags = m->first & 0x0f;
    m->stage = R_TOPIC_SIZE;
    return (flags & FLAG_QOS_2) != 0 || (flags & (FLAG_DUP | FLAG_QOS_1)) == FLAG_DUP ? NODE_E_PROTOCOL : NODE_OK;
}

static int payload_piece(mqtt_t *m, const uint8_t *data, uint32_t size)
{
    const mqtt_piece_t piece = {m->topic_size < sizeof m->topic ? m->topic : "", data, size, m->offset, m->total};
    m->handler->received(m->context, &piece);
    m->offset += size;
    if (m->offset < m->total) {
        return NODE_OK;
    }
    m->stage = R_FIRST;
    if (m->packet_id == 0) {
        return NODE_OK;
    }
    uint8_t *const out = mqtt_begin_control(m, PUBACK << 4, 2);
    if (out == NULL) {
        return NODE_E_FULL; /* nothing of ours gets out: better a new link, on which this message comes again */
    }
    mqtt_put_u16(out, m->packet_id);
    return NODE_OK;
}

static int begin_payload(mqtt_t *m)
{
    m->stage = R_PAYLOAD;
    m->offset = 0;
    m->total = m->remaining;
    return m->total == 0 ? payload_piece(m, (const uint8_t *)"", 0) : NODE_OK;
}

static int end_topic(mqtt_t *m)
{
    m->held = 0;
    if (m->topic_size < sizeof m->topic) {
        m->topic[m->topic_size] = '\0';
        if (strlen(m->topic) != m->topic_size || strpbrk(m->topic, "+#") != NULL) {
            return NODE_E_PROTOCOL;
        }
    }
    if ((m->first & FLAG_QOS_1) == 0) {
        return begin_payload(m);
    }
    m->stage = R_PACKET_ID;
    return NODE_OK;
}

/* The next byte of a PUBLISH's variable header. */
static int publish_byte(mqtt_t *m, uint8_t byte)
{
    if (m->remaining-- == 0) {
        return NODE_E_PROTOCOL;
    }
    if (m->stage == R_TOPIC) {
        if (m->held < sizeof m->topic - 1) {
            m->topic[m->held] = (char)byte;
        }
        return ++m->held == m->topic_size ? end_topic(m) : NODE_OK;
    }
    uint16_t *const number = m->stage == R_TOPIC_SIZE ? &m->topic_size : &m->packet_id;
    *number = (uint16_t)(*number << 8 | byte);
    if (++m->held < 2) {
        return NODE_OK;
    }
    m->held = 0;
    if (*number == 0) {
        return NODE_E_PROTOCOL; /* no topic, or no packet identifier */
    }
    if (m->stage == R_PACKET_ID) {
        return begin_payload(m);
    }
    m->stage = R_TOPIC;
    return NODE_OK;
}

static int length_byte(mqtt_t *m, uint8_t byte)
{
    m->remaining |= (uint32_t)(byte & 0x7f) << m->shift;
    m->shift = (uint8_t)(m->shift + 7);
    if (byte & 0x80) {
        return m->shift > 21 ? NODE_E_PROTOCOL : NODE_OK;
    }
    return end_length(m);
}

static int receive_byte(mqtt_t *m, uint8_t byte)
{
    switch (m->stage) {
    case R_FIRST:
        m->first = byte;
        m->remaining = m->shift = 0;
        m->stage = R_LENGTH;
        return NODE_OK;
    case R_LENGTH:
        return length_byte(m, byte);
    case R_BODY:
        m->topic[m->held++] = (char)byte;
        return m->held == m->remaining ? end_body(m) : NODE_OK;
    default:
        return publish_byte(m, byte);
    }
}

int mqtt_receive(mqtt_t *m, const uint8_t *data, size_t size, uint32_t now_ms)
{
    const uint8_t *const end = data + size;
    m->received_ms = now_ms;
    while (data != end) {
        int status;
        if (m->link == MQTT_DOWN) {
            return NODE_E_PROTOCOL;
        }
        if (m->stage == R_PAYLOAD) {
            const size_t wanted = m->total - m->offset, there = (size_t)(end - data);
            const uint32_t taken = (uint32_t)(there < wanted ? there : wanted);
            status = payload_piece(m, data, taken);
            data += taken;
        } else {
            status = receive_byte(m, *data++);
        }
        if (status < 0) {
            return status;
        }
    }
    return NODE_OK;
}
