/* One function a message, its keys in the order of docs/nodelink.cddl. */
#include "message.h"

#include <string.h>

static const char *const reasons[] = {"trigger", "audit", "follow"};
static const char *const window_kinds[] = {"pcm16", "adpcm",       "features",   "vibration",
                                           "ecg",   "image_gray8", "image_rgb8", "tabular"};
static const char *const bases[] = {"gateway", "node", "overload", "timeout", "failed"};
static const char *const gateway_states[] = {"offline", "online"};
static const char *const front_end_kinds[] = {"audio", "vibration"};
static const char *const rules[] = {"average", "error"};
#define COUNT(array) ((uint32_t)(sizeof(array) / sizeof *(array)))

static void put_uint(cbor_writer_t *w, unsigned key, uint64_t value)
{
    cbor_put_uint(w, key);
    cbor_put_uint(w, value);
}

static void put_text(cbor_writer_t *w, unsigned key, const char *value)
{
    cbor_put_uint(w, key);
    cbor_put_text(w, value);
}

static void put_float(cbor_writer_t *w, unsigned key, float value)
{
    cbor_put_uint(w, key);
    cbor_put_float(w, value);
}

static void put_bytes(cbor_writer_t *w, unsigned key, const uint8_t *data, uint32_t size)
{
    cbor_put_uint(w, key);
    cbor_put_bytes(w, data, size);
}

static void put_array(cbor_writer_t *w, unsigned key, uint32_t count)
{
    cbor_put_uint(w, key);
    cbor_put_array(w, count);
}

size_t state_encode(uint8_t *out, size_t capacity, const char *state, uint32_t session)
{
    cbor_writer_t w = cbor_writer(out, capacity);
    cbor_put_map(&w, 2);
    put_text(&w, 0, state);
    put_uint(&w, 1, session);
    return cbor_written(&w);
}

size_t slot_encode(uint8_t *out, size_t capacity, const slot_info_t *slot)
{
    cbor_writer_t w = cbor_writer(out, capacity);
    const bool known = slot->sha256 != NULL, read = slot->cascade != NULL;
    cbor_put_map(&w, 4 + (read ? 3U : 0U) + (known ? 2U : 0U) + (slot->rejected != NULL ? 1U : 0U));
    put_uint(&w, 0, slot->image);
    put_uint(&w, 1, slot->slot);
    put_text(&w, 2, slot->state);
    put_uint(&w, 3, slot->capacity_bytes);
    if (read) {
        put_text(&w, 4, slot->cascade);
    }
    if (known) {
        put_bytes(&w, 5, slot->sha256, 32);
    }
    if (read) {
        put_text(&w, 6, slot->version);
        put_uint(&w, 7, slot->counter);
    }
    if (known) {
        put_uint(&w, 8, slot->size_bytes);
    }
    if (slot->rejected != NULL) {
        put_text(&w, 9, slot->rejected);
    }
    return cbor_written(&w);
}

static void put_limits(cbor_writer_t *w, const limits_t *limits)
{
    cbor_put_map(w, 5);
    put_uint(w, 0, limits->tensors);
    put_uint(w, 1, limits->operators);
    put_uint(w, 2, limits->rank);
    put_uint(w, 3, limits->work);
    put_uint(w, 4, limits->plan_version);
}

static void put_crash(cbor_writer_t *w, const node_crash_t *crash)
{
    cbor_put_map(w, 4);
    put_uint(w, 0, crash->pc);
    put_uint(w, 1, crash->lr);
    put_uint(w, 2, crash->status);
    put_uint(w, 3, crash->stack_bytes);
}

size_t info_encode_head(uint8_t *out, size_t capacity, const info_t *info)
{
    cbor_writer_t w = cbor_writer(out, capacity);
    cbor_put_map(&w, 11 + (info->crash != NULL ? 1U : 0U));
    put_uint(&w, 0, info->session);
    put_text(&w, 1, info->hardware);
    put_text(&w, 2, info->board);
    put_text(&w, 3, info->firmware);
    put_text(&w, 4, info->reset_reason);
    put_bytes(&w, 5, info->operators, info->operators_bytes);
    put_uint(&w, 6, info->arena_bytes);
    put_array(&w, 7, info->front_end_count);
    for (uint32_t i = 0; i < info->front_end_count; i++) {
        cbor_put_text(&w, info->front_ends[i]);
    }
    put_uint(&w, 8, info->vitals_interval_s);
    cbor_put_uint(&w, 10);
    put_limits(&w, &info->limits);
    if (info->crash != NULL) {
        cbor_put_uint(&w, 11);
        put_crash(&w, info->crash);
    }
    put_array(&w, 9, info->slot_count);
    return cbor_written(&w);
}

static void put_cascade_vitals(cbor_writer_t *w, const cascade_vitals_t *cascade)
{
    const score_stats_t *scores = &cascade->scores;
    cbor_put_map(w, 9 + (cascade->listened_ms != 0 ? 1U : 0U));
    put_text(w, 0, cascade->cascade);
    put_bytes(w, 1, cascade->model, NODE_MODEL_BYTES);
    put_uint(w, 2, cascade->invokes);
    put_uint(w, 3, cascade->invoke_us);
    put_uint(w, 4, cascade->arena_bytes);
    put_uint(w, 5, scores->count);
    put_float(w, 6, scores->mean);
    put_float(w, 7, scores->count != 0 ? scores->m2 / (float)scores->count : 0);
    put_array(w, 8, SCORE_BINS);
    for (unsigned i = 0; i < SCORE_BINS; i++) {
        cbor_put_uint(w, scores->histogram[i]);
    }
    if (cascade->listened_ms != 0) {
        put_uint(w, 9, cascade->listened_ms);
    }
}

static bool within(int32_t value, int32_t low, int32_t high)
{
    return value >= low && value <= high;
}

size_t vitals_encode(uint8_t *out, size_t capacity, const vitals_t *vitals)
{
    cbor_writer_t w = cbor_writer(out, capacity);
    const node_health_t *const health = &vitals->health;
    const bool battery = within(health->battery_percent, 0, 100), rssi = within(health->rssi_dbm, INT8_MIN, INT8_MAX);
    const bool heap = health->heap_free_bytes >= 0, stack = health->stack_free_bytes >= 0;
    cbor_put_map(&w, 6U + battery + rssi + heap + stack);
    put_uint(&w, 0, vitals->session);
    put_uint(&w, 1, vitals->uptime_s);
    put_uint(&w, 2, vitals->t_ms);
    if (battery) {
        put_float(&w, 3, (float)health->battery_percent / 100);
    }
    if (rssi) {
        cbor_put_uint(&w, 4);
        cbor_put_int(&w, health->rssi_dbm);
    }
    if (heap) {
        put_uint(&w, 5, (uint32_t)health->heap_free_bytes);
    }
    if (stack) {
        put_uint(&w, 6, (uint32_t)health->stack_free_bytes);
    }
    put_uint(&w, 7, vitals->queued);
    put_uint(&w, 8, vitals->dropped);
    put_array(&w, 9, vitals->cascade_count);
    for (uint32_t i = 0; i < vitals->cascade_count; i++) {
        put_cascade_vitals(&w, &vitals->cascades[i]);
    }
    return cbor_written(&w);
}

static void put_window_head(cbor_writer_t *w, const node_window_t *window)
{
    cbor_put_map(w, 5);
    put_text(w, 0, window_kinds[window->kind]);
    put_uint(w, 1, window->rate_hz);
    put_uint(w, 2, window->channels);
    put_array(w, 3, window->rank);
    for (unsigned i = 0; i < window->rank; i++) {
        cbor_put_uint(w, window->shape[i]);
    }
    cbor_put_uint(w, 6);
    cbor_put_bytes_head(w, window->piece_size[0] + window->piece_size[1]);
}

size_t event_encode_head(uint8_t *out, size_t capacity, const event_stamp_t *stamp, const node_event_t *event)
{
    cbor_writer_t w = cbor_writer(out, capacity);
    const bool follow = event->reason == NODE_FOLLOW;
    cbor_put_map(&w, 8 + (follow ? 1U : 0U) + (event->window != NULL ? 1U : 0U));
    put_uint(&w, 0, stamp->seq);
    put_uint(&w, 1, stamp->session);
    put_text(&w, 2, stamp->cascade);
    put_bytes(&w, 3, stamp->model, NODE_MODEL_BYTES);
    put_float(&w, 4, event->score);
    put_uint(&w, 5, event->label);
    put_uint(&w, 6, stamp->t_ms);
    put_text(&w, 7, reasons[event->reason]);
    if (follow) {
        put_uint(&w, 9, event->ref);
    }
    if (event->window != NULL) { /* last, so that its data can follow from where it lies */
        cbor_put_uint(&w, 8);
        put_window_head(&w, event->window);
    }
    return cbor_written(&w);
}

static int finish(const cbor_reader_t *r, uint32_t seen, uint32_t required)
{
    return cbor_ended(r) && (seen & required) == required ? NODE_OK : NODE_E_FORMAT;
}

int verdict_decode(verdict_t *verdict, const uint8_t *data, size_t size)
{
    cbor_reader_t r = cbor_reader(data, size);
    uint32_t seen = 0;
    for (uint32_t pairs = cbor_map(&r); pairs != 0 && !r.failed; pairs--) {
        switch (cbor_key(&r, &seen)) {
        case 0:
            verdict->seq = (uint32_t)cbor_uint(&r, UINT32_MAX);
            break;
        case 1:
            verdict->session = (uint32_t)cbor_uint(&r, UINT32_MAX);
            break;
        case 2:
            verdict->accepted = cbor_bool(&r);
            break;
        case 3:
            verdict->label = cbor_text(&r);
            break;
        case 4:
            verdict->score = cbor_float(&r);
            break;
        case 5:
            verdict->action = cbor_text(&r);
            break;
        case 6:
            verdict->ttl_ms = cbor_uint(&r, UINT64_MAX);
            break;
        case 7:
            verdict->basis = (basis_t)cbor_word(&r, bases, COUNT(bases));
            break;
        default:
            r.failed = true;
        }
    }
    return finish(&r, seen, 0xff);
}

static void read_seqs(cbor_reader_t *r, stored_t *stored)
{
    stored->count = cbor_array(r);
    if (stored->count < 1 || stored->count > COUNT(stored->seqs)) {
        r->failed = true;
    }
    for (uint32_t i = 0; i < stored->count && !r->failed; i++) {
        stored->seqs[i] = (uint32_t)cbor_uint(r, UINT32_MAX);
    }
}

int stored_decode(stored_t *stored, const uint8_t *data, size_t size)
{
    cbor_reader_t r = cbor_reader(data, size);
    uint32_t seen = 0;
    for (uint32_t pairs = cbor_map(&r); pairs != 0 && !r.failed; pairs--) {
        switch (cbor_key(&r, &seen)) {
        case 0:
            stored->session = (uint32_t)cbor_uint(&r, UINT32_MAX);
            break;
        case 1:
            read_seqs(&r, stored);
            break;
        default:
            r.failed = true;
        }
    }
    return finish(&r, seen, 0x3);
}

int event_decode_name(uint32_t *session, uint32_t *seq, const uint8_t *data, size_t size)
{
    cbor_reader_t r = cbor_reader(data, size);
    cbor_map(&r);
    const bool first = cbor_uint(&r, 0) == 0;
    *seq = (uint32_t)cbor_uint(&r, UINT32_MAX);
    const bool second = cbor_uint(&r, 1) == 1;
    *session = (uint32_t)cbor_uint(&r, UINT32_MAX);
    return first && second && !r.failed ? NODE_OK : NODE_E_FORMAT;
}

int gateway_state_decode(bool *online, const uint8_t *data, size_t size)
{
    cbor_reader_t r = cbor_reader(data, size);
    uint32_t seen = 0;
    for (uint32_t pairs = cbor_map(&r); pairs != 0 && !r.failed; pairs--) {
        switch (cbor_key(&r, &seen)) {
        case 0:
            *online = cbor_word(&r, gateway_states, COUNT(gateway_states)) == 1;
            break;
        case 1:
            (void)cbor_uint(&r, UINT64_MAX);
            break;
        default:
            r.failed = true;
        }
    }
    return finish(&r, seen, 0x3);
}

int front_end_decode(front_end_t *front_end, span_t cbor)
{
    cbor_reader_t r = cbor_reader(cbor.data, cbor.size);
    uint32_t seen = 0;
    uint32_t *const numbers[] = {NULL,
                                 &front_end->rate_hz,
                                 &front_end->window,
                                 &front_end->step,
                                 &front_end->channels,
                                 &front_end->low_hz,
                                 &front_end->high_hz};
    front_end->parameters = (span_t){NULL, 0};
    for (uint32_t pairs = cbor_map(&r); pairs != 0 && !r.failed; pairs--) {
        const unsigned k = cbor_key(&r, &seen);
        if (k == 0) {
            front_end->kind = (front_end_kind_t)cbor_word(&r, front_end_kinds, COUNT(front_end_kinds));
        } else if (k < COUNT(numbers)) {
            *numbers[k] = (uint32_t)cbor_uint(&r, UINT32_MAX);
        } else if (k == COUNT(numbers)) {
            front_end->parameters = cbor_bytes(&r);
        } else {
            r.failed = true;
        }
    }
    return finish(&r, seen, 0x7f);
}

static void read_labels(cbor_reader_t *r)
{
    const uint32_t count = cbor_array(r);
    if (count < 1 || count > 16) {
        r->failed = true;
    }
    for (uint32_t i = 0; i < count && !r->failed; i++) {
        (void)cbor_text(r);
    }
}

int decision_decode(decision_t *decision, span_t cbor)
{
    cbor_reader_t r = cbor_reader(cbor.data, cbor.size);
    uint32_t seen = 0;
    for (uint32_t pairs = cbor_map(&r); pairs != 0 && !r.failed; pairs--) {
        switch (cbor_key(&r, &seen)) {
        case 0:
            decision->detect.rule = (detect_rule_t)cbor_word(&r, rules, COUNT(rules));
            break;
        case 1:
            decision->detect.cutoff = cbor_float(&r);
            break;
        case 2:
            decision->detect.window = (uint16_t)cbor_uint(&r, UINT16_MAX);
            break;
        case 3:
            read_labels(&r);
            break;
        case 4:
            decision->detect.hold_off_ms = (uint32_t)cbor_uint(&r, UINT32_MAX);
            break;
        case 5:
            decision->detect.audit_mean_s = (uint32_t)cbor_uint(&r, UINT32_MAX);
            break;
        case 6:
            decision->clip_ms = (uint32_t)cbor_uint(&r, UINT32_MAX);
            break;
        case 7:
            decision->listen_ms = (uint32_t)cbor_uint(&r, UINT32_MAX);
            break;
        default:
            r.failed = true;
        }
    }
    return finish(&r, seen, 0xff);
}
