/* Samples in, decisions out: the only file that knows how front end, model and detection fit together. */
#include "sense.h"

#include <string.h>

static clip_kind_t clip_kind(const image_t *image)
{
    return image->front_end.kind == FRONT_END_AUDIO ? CLIP_ADPCM : CLIP_PCM16;
}

/* Bytes of the clip for that time, in whole units, at most what an event may carry. */
static uint32_t clip_bytes(const image_t *image, uint32_t ms)
{
    const uint64_t samples = (uint64_t)ms * image->front_end.rate_hz / 1000;
    const uint64_t bytes = clip_kind(image) == CLIP_ADPCM
                               ? (samples + ADPCM_BLOCK_SAMPLES - 1) / ADPCM_BLOCK_SAMPLES * ADPCM_BLOCK
                               : samples * sizeof(int16_t);
    return bytes < NODE_MAX_WINDOW ? (uint32_t)bytes : NODE_MAX_WINDOW;
}

uint32_t sense_ring_bytes(const image_t *image)
{
    const decision_t *decision = &image->decision;
    const uint32_t ms = decision->clip_ms > decision->listen_ms ? decision->clip_ms : decision->listen_ms;
    /* one more ADPCM block: the one that is being filled takes the oldest one's place */
    return clip_bytes(image, ms) + ADPCM_BLOCK;
}

static bool open_audio(sense_t *s)
{
    const front_end_t *f = &s->image.front_end;
    audio_frontend_init(&s->front_end.audio);
    return f->rate_hz == AUDIO_RATE_HZ && f->window * f->rate_hz == AUDIO_WINDOW * 1000U &&
           f->step * f->rate_hz == AUDIO_STEP * 1000U && f->channels == AUDIO_CHANNELS && f->low_hz == 125 &&
           f->high_hz == 7500;
}

static int16_t get_i16(const uint8_t *at)
{
    return (int16_t)(at[0] | at[1] << 8);
}

static bool open_vibration(sense_t *s)
{
    const front_end_t *f = &s->image.front_end;
    if (f->window != FFT_SIZE || f->step > UINT16_MAX || f->channels > VIBRATION_MAX_BANDS || f->low_hz > UINT16_MAX ||
        f->high_hz > UINT16_MAX || f->normalisation.size != 4 * f->channels) {
        return false;
    }
    vibration_config_t config = {.rate_hz = f->rate_hz,
                                 .frames = (uint16_t)f->step,
                                 .bands = (uint16_t)f->channels,
                                 .low_hz = (uint16_t)f->low_hz,
                                 .high_hz = (uint16_t)f->high_hz};
    for (uint32_t i = 0; i < f->channels; i++) {
        config.offset[i] = get_i16(f->normalisation.data + 4 * i);
        config.gain[i] = get_i16(f->normalisation.data + 4 * i + 2);
    }
    return vibration_frontend_init(&s->front_end.vibration, &config) == 0;
}

/* Whether the model takes whole feature rows and gives what the decision rule needs. */
static bool tensors_fit(sense_t *s)
{
    nn_tensor_t in, out;
    if (nn_input(&s->nn, 0, &in) != NN_OK || nn_output(&s->nn, 0, &out) != NN_OK || in.type != NN_INT8 ||
        in.size == 0 || in.size > sizeof s->input || in.size % s->image.front_end.channels != 0) {
        return false;
    }
    s->input_bytes = (uint16_t)in.size;
    if (s->image.decision.detect.rule == DETECT_ERROR) {
        return out.type == NN_INT8 && out.size == in.size;
    }
    return (out.type == NN_UINT8 || out.type == NN_INT8) && out.size == 1;
}

int sense_open(sense_t *s, const sense_memory_t *memory, const char **why)
{
    const image_t *image = &s->image;
    s->filled = 0;
    s->samples = s->invoke_us = s->invokes = 0;
    s->following = false;
    if (!(image->front_end.kind == FRONT_END_AUDIO ? open_audio(s) : open_vibration(s))) {
        *why = "front end";
        return NODE_E_IMAGE;
    }
    if (detect_init(&s->detect, &image->decision.detect) != 0) {
        *why = "decision";
        return NODE_E_IMAGE;
    }
    if (memory->ring_bytes < sense_ring_bytes(image)) {
        *why = "clip";
        return NODE_E_IMAGE;
    }
    clip_init(&s->clip, clip_kind(image), memory->ring, memory->ring_bytes);
    const nn_status_t status =
        nn_open(&s->nn, image->payload.data, image->payload.size, memory->arena, memory->arena_bytes);
    if (status != NN_OK) {
        *why = nn_status_name(status);
        return NODE_E_IMAGE;
    }
    if (!tensors_fit(s)) {
        *why = "tensors";
        return NODE_E_IMAGE;
    }
    return NODE_OK;
}

/* Feeds the front end up to its next row, which goes to the end of `input`. */
static size_t feed_front_end(sense_t *s, const int16_t *samples, size_t count, bool *ready)
{
    int8_t *const row = s->input + s->filled;
    size_t taken;
    if (s->image.front_end.kind == FRONT_END_AUDIO) {
        uint16_t features[AUDIO_CHANNELS];
        taken = audio_frontend_feed(&s->front_end.audio, samples, count, features, ready);
        if (*ready) {
            audio_frontend_quantize(features, row);
        }
    } else {
        int16_t features[VIBRATION_MAX_BANDS];
        taken = vibration_frontend_feed(&s->front_end.vibration, samples, count, features, ready);
        if (*ready) {
            vibration_frontend_quantize(&s->front_end.vibration, features, row);
        }
    }
    if (*ready) {
        s->filled = (uint16_t)(s->filled + s->image.front_end.channels);
    }
    return taken;
}

static float reconstruction_error(const int8_t *input, const nn_tensor_t *in, const nn_tensor_t *out)
{
    const int8_t *const output = out->data;
    float sum = 0;
    for (size_t i = 0; i < in->size; i++) {
        const float a = in->scale * (float)(input[i] - in->zero_point);
        const float b = out->scale * (float)(output[i] - out->zero_point);
        sum += (a - b) * (a - b);
    }
    return sum / (float)in->size;
}

/* Runs the model on `input`; its value for detect_push(). */
static int infer(sense_t *s, const node_port_t *port, float *value)
{
    nn_tensor_t in, out;
    s->filled = 0;
    if (nn_input(&s->nn, 0, &in) != NN_OK) {
        return NODE_E_IMAGE;
    }
    memcpy(in.data, s->input, in.size);
    const uint32_t start_us = port->micros(port->context);
    if (nn_invoke(&s->nn) != NN_OK || nn_output(&s->nn, 0, &out) != NN_OK) {
        return NODE_E_IMAGE;
    }
    s->invoke_us += port->micros(port->context) - start_us;
    s->invokes++;
    if (s->image.decision.detect.rule == DETECT_ERROR) {
        *value = reconstruction_error(s->input, &in, &out);
    } else {
        const uint8_t raw = *(const uint8_t *)out.data;
        *value = (float)(out.type == NN_INT8 ? raw ^ 0x80 : raw); /* int8 counts from -128 */
    }
    return NODE_OK;
}

int sense_feed(sense_t *s, const int16_t *samples, size_t count, const node_port_t *port, sense_outcome_t *outcome)
{
    size_t taken = 0;
    *outcome = SENSE_NOTHING;
    while (taken < count && *outcome == SENSE_NOTHING) {
        if (s->following && s->samples >= s->follow_end) {
            s->following = false;
            *outcome = SENSE_FOLLOW;
            break;
        }
        bool ready;
        const size_t step = feed_front_end(s, samples + taken, count - taken, &ready);
        clip_write(&s->clip, samples + taken, step);
        s->samples += step;
        taken += step;
        if (!ready || s->filled < s->input_bytes) {
            continue;
        }
        float value;
        if (infer(s, port, &value) != NODE_OK) {
            return NODE_E_IMAGE;
        }
        const uint32_t now_ms = (uint32_t)(s->samples * 1000 / s->image.front_end.rate_hz);
        const detect_outcome_t detected = detect_push(&s->detect, value, now_ms, port->random(port->context));
        *outcome = detected == DETECT_TRIGGER ? SENSE_TRIGGER : detected == DETECT_AUDIT ? SENSE_AUDIT : SENSE_NOTHING;
    }
    return (int)taken;
}

void sense_follow(sense_t *s, uint32_t ref, uint64_t since)
{
    const uint32_t listen_ms = s->image.decision.listen_ms;
    if (listen_ms == 0 || s->following) {
        return;
    }
    const uint32_t after_ms = listen_ms > SENSE_BEFORE_MS ? listen_ms - SENSE_BEFORE_MS : 0;
    s->following = true;
    s->follow_ref = ref;
    s->follow_end = since + (uint64_t)after_ms * s->image.front_end.rate_hz / 1000;
}

bool sense_window(const sense_t *s, uint32_t ms, node_window_t *window)
{
    const bool adpcm = clip_kind(&s->image) == CLIP_ADPCM;
    *window = (node_window_t){
        .kind = adpcm ? WINDOW_ADPCM : WINDOW_VIBRATION, .rate_hz = s->image.front_end.rate_hz, .channels = 1};
    const uint32_t size = clip_last(&s->clip, clip_bytes(&s->image, ms), window->piece, window->piece_size);
    window->shape[0] = adpcm ? size / ADPCM_BLOCK : size / (uint32_t)sizeof(int16_t);
    window->shape[1] = ADPCM_BLOCK;
    window->rank = adpcm ? 2 : 1;
    return size != 0;
}
