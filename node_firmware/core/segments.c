/* See segments.h. Go-back-N: a receiver takes segments in order or not at all, so that it needs no memory for them. */
#include "segments.h"

#include <string.h>

#define FIRST    0x80
#define LAST     0x40
#define MISSING  0x80
#define COUNTERS 64
#define EVERY    8 /* segments `flow` is sent at least */
#define NO_WAIT  INT32_MAX

/* ---- the sender ---- */

bool segments_busy(const segment_sender_t *s)
{
    return s->count != 0;
}

void segments_begin(segment_sender_t *s, uint8_t code, const uint8_t *payload, uint32_t size, uint16_t cut,
                    uint32_t now_ms)
{
    const uint8_t first = s->first;
    *s = (segment_sender_t){.payload = payload,
                            .size = size,
                            .code = code,
                            .first = first,
                            .cut = cut,
                            .count = (uint16_t)((1 + size + cut - 1) / cut),
                            .since_ms = now_ms};
}

size_t segments_next(const segment_sender_t *s, uint8_t *out)
{
    if (s->next == s->count || s->next - s->acked >= SEGMENT_WINDOW) {
        return 0;
    }
    const uint32_t at = (uint32_t)s->next * s->cut, left = 1 + s->size - at;
    const uint32_t size = left < s->cut ? left : s->cut;
    const unsigned ends = (at == 0 ? FIRST : 0U) | (size == left ? LAST : 0U);
    out[0] = (uint8_t)(ends | (unsigned)(s->first + s->next) % COUNTERS);
    if (at != 0) {
        memcpy(out + 1, s->payload + at - 1, size);
    } else {
        out[1] = s->code;
        memcpy(out + 2, s->payload, size - 1);
    }
    return 1 + size;
}

void segments_sent(segment_sender_t *s, uint32_t now_ms)
{
    s->next++;
    if (s->most < s->next) {
        s->most = s->next;
    }
    s->since_ms = now_ms;
}

static int go_back(segment_sender_t *s, uint32_t now_ms)
{
    if (s->returns == SEGMENT_RETURNS) {
        return NODE_E_TIMEOUT;
    }
    s->returns++;
    s->next = s->acked;
    s->since_ms = now_ms;
    return NODE_OK;
}

int segments_acknowledged(segment_sender_t *s, uint8_t flow, uint32_t now_ms)
{
    const unsigned acked = (unsigned)(flow - s->first - s->acked) % COUNTERS;
    if ((flow & ~MISSING) >= COUNTERS) {
        return NODE_E_PROTOCOL;
    }
    if (acked > (unsigned)(s->most - s->acked)) {
        return acked >= COUNTERS - SEGMENT_WINDOW ? 0 : NODE_E_PROTOCOL; /* a newer one has overtaken it, or nonsense */
    }
    if (acked != 0) {
        s->acked = (uint16_t)(s->acked + acked);
        s->next = s->next > s->acked ? s->next : s->acked;
        s->returns = 0;
        s->since_ms = now_ms;
    }
    if (s->count != 0 && s->acked == s->count) {
        *s = (segment_sender_t){.first = (uint8_t)((s->first + s->count) % COUNTERS)};
        return 1;
    }
    return (flow & MISSING) != 0 && s->most != s->acked ? go_back(s, now_ms) : 0;
}

int segments_step(segment_sender_t *s, uint32_t now_ms)
{
    const uint32_t waited_ms = now_ms - s->since_ms;
    if (!segments_busy(s)) {
        return NO_WAIT;
    }
    return waited_ms < SEGMENT_WAIT_MS ? (int)(SEGMENT_WAIT_MS - waited_ms) : go_back(s, now_ms);
}

/* ---- the receiver ---- */

int segments_receive(segment_receiver_t *r, const uint8_t *segment, size_t size)
{
    if (size < 2) {
        return NODE_E_PROTOCOL;
    }
    const unsigned ahead = (unsigned)(segment[0] - r->expected) % COUNTERS;
    if (ahead >= COUNTERS - SEGMENT_WINDOW) { /* it came before, and its sender has not heard so */
        r->flow_due = true;
        return 0;
    }
    if (ahead != 0) {
        r->missing = r->missing || !r->gap;
        r->flow_due = r->flow_due || !r->gap;
        r->gap = true;
        return ahead < SEGMENT_WINDOW ? 0 : NODE_E_PROTOCOL;
    }
    const bool first = (segment[0] & FIRST) != 0, last = (segment[0] & LAST) != 0;
    const uint32_t taken = (uint32_t)size - 1;
    if (first != (r->size == 0)) {
        return NODE_E_PROTOCOL;
    }
    if (taken > r->capacity - r->size) {
        return NODE_E_FULL;
    }
    memcpy(r->data + r->size, segment + 1, taken);
    r->expected = (uint8_t)((r->expected + 1) % COUNTERS);
    r->gap = r->missing = false;
    r->flow_due = r->flow_due || last || ++r->unsaid >= EVERY;
    const int whole = (int)(r->size + taken);
    r->size = last ? 0 : (uint32_t)whole;
    return last ? whole : 0;
}

uint8_t segments_flow(const segment_receiver_t *r)
{
    return (uint8_t)(r->expected | (r->missing ? MISSING : 0));
}

void segments_flow_sent(segment_receiver_t *r)
{
    r->flow_due = r->missing = false;
    r->unsaid = 0;
}
