/* What a node is told: verdicts, SMP requests, and which gateways are there. */
#include <string.h>

#include "message.h"
#include "node_parts.h"
#include "smp.h"

#define TEXT_BYTES 257 /* the longest action or label of a verdict: 64 characters, in UTF-8, with its end */

static bool to_string(char out[TEXT_BYTES], span_t text)
{
    if (text.size >= TEXT_BYTES || (text.size != 0 && memchr(text.data, '\0', text.size) != NULL)) {
        return false;
    }
    if (text.size != 0) {
        memcpy(out, text.data, text.size);
    }
    out[text.size] = '\0';
    return true;
}

void node_take_verdict(node_t *n, const uint8_t *data, size_t size)
{
    verdict_t verdict;
    char action[TEXT_BYTES], label[TEXT_BYTES];
    if (verdict_decode(&verdict, data, size) != NODE_OK || !to_string(action, verdict.action) ||
        !to_string(label, verdict.label)) {
        n->counts.refused++;
        return;
    }
    node_recent_t *const event = &n->recent[verdict.seq % NODE_MAX_RECENT];
    if (verdict.session != n->session || !event->open || event->seq != verdict.seq ||
        n->clock_ms - event->t_ms > verdict.ttl_ms) {
        n->counts.late++;
        return;
    }
    event->open = false; /* a verdict may be delivered twice, but is carried out once */
    n->counts.verdicts++;
    const node_cascade_t *const cascade = &n->cascades[event->cascade];
    if (cascade->sense != NULL && strcmp(action, "listen") == 0) {
        sense_follow(cascade->sense, verdict.seq, event->sample);
    }
    if (action[0] != '\0' && n->port->action != NULL) {
        n->port->action(n->port->context, cascade->name, action, label);
    }
}

/* FNV-1a: tells a handful of gateways apart without keeping their names. */
static uint32_t hash(const char *text, size_t size)
{
    uint32_t h = 2166136261U;
    for (size_t i = 0; i < size; i++) {
        h = (h ^ (uint8_t)text[i]) * 16777619U;
    }
    return h;
}

/* An empty payload is how a retained message is cleared: that gateway is gone. */
static void take_gateway_state(node_t *n, const char *name, size_t name_size, const uint8_t *data, size_t size)
{
    bool online = false;
    if (size != 0 && gateway_state_decode(&online, data, size) != NODE_OK) {
        n->counts.refused++;
        return;
    }
    const uint32_t gateway = hash(name, name_size);
    unsigned i = 0;
    while (i < n->gateway_count && n->gateways[i] != gateway) {
        i++;
    }
    if (i < n->gateway_count && !online) {
        n->gateways[i] = n->gateways[--n->gateway_count];
    } else if (i == n->gateway_count && online && i < NODE_MAX_GATEWAYS) {
        n->gateways[n->gateway_count++] = gateway;
    }
}

/* One that comes before the last answer is out gets none: its sender has not waited. */
static void take_request(node_t *n, const uint8_t *data, size_t size)
{
    if (n->answering) {
        n->counts.unanswered++;
        return;
    }
    const mqtt_publish_t publish = {.prefix = n->up,
                                    .tail = "smp",
                                    .payload = n->answer,
                                    .size = (uint32_t)smp_answer(n, data, size, n->answer, sizeof n->answer, 1),
                                    .token = OWN_ANSWER};
    n->answering = publish.size != 0 && mqtt_publish(&n->mqtt, &publish) == NODE_OK;
}

static bool ends_with(const char *topic, const char *tail)
{
    const size_t length = strlen(topic), size = strlen(tail);
    return length > size && strcmp(topic + length - size, tail) == 0;
}

void node_take(node_t *n, const char *topic, const uint8_t *data, size_t size, bool whole)
{
    static const char state[] = "/state";
    const size_t prefix = sizeof TOPIC_GATEWAY - 1, length = strlen(topic);
    const bool down =
        strncmp(topic, TOPIC_DOWN, sizeof TOPIC_DOWN - 1) == 0; /* the filters say that it is this node's */
    if (down && ends_with(topic, "/smp")) {
        take_request(n, data, size); /* also a piece of one: its header is enough for a refusal */
    } else if (!whole) {
        n->counts.refused++;
    } else if (down) {
        node_take_verdict(n, data, size);
    } else if (strncmp(topic, TOPIC_GATEWAY, prefix) == 0 && ends_with(topic + prefix, state)) {
        take_gateway_state(n, topic + prefix, length - prefix - (sizeof state - 1), data, size);
    }
}
