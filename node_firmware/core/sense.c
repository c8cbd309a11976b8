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

static bool is_samples(uint32_t ms, uint32_t samples)
{
    return (uint64_t)ms * AUDIO_RATE_HZ == (uint64_t)samples * 1000;
}

/* False where the front end has no valid parameters, or others than its numbers say. */
static bool read_audio(audio_parameters_t *p, const front_end_t *f)
{
    const bool standard = f->parameters.data == NULL;
    return audio_parameters_read(p, f->parameters.data, f->parameters.size) == 0 && f->rate_hz == AUDIO_RATE_HZ &&
           is_samples(f->window, p->window) && is_samples(f->step, p->step) && f->channels == p->channels &&
           (!standard || (f->low_hz == 125 && f->high_hz == 7500));
}

static int16_t get_i16(const uint8_t *at)
{
    return (int16_t)(at[0] | at[1] << 8);
}

/* False where the front end has a number that the configuration cannot hold. */
static bool configure_vibration(vibration_config_t *config, const front_end_t *f)
{
    if (f->window != FFT_SIZE || f->step > UINT16_MAX || f->channels > VIBRATION_MAX_BANDS || f->low_hz > UINT16_MAX ||
        f->high_hz > UINT16_MAX || f->parameters.size != 4 * f->channels) {
        return false;
    }
    *config = (vibration_config_t){.rate_hz = f->rate_hz,
                                   .frames = (uint16_t)f->step,
                                   .bands = (uint16_t)f->channels,
                                   .low_hz = (uint16_t)f->low_hz,
                                   .high_hz = (uint16_t)f->high_hz};
    for (uint32_t i = 0; i < f->channels; i++) {
        config->offset[i] = get_i16(f->parameters.data + 4 * i);
        config->gain[i] = get_i16(f->parameters.data + 4 * i + 2);
    }
    return true;
}

image_fault_t sense_check(const image_t *image, uint32_t ring_bytes)
{
    audio_parameters_t parameters;
    vibration_config_t config;
    const front_end_t *const f = &image->front_end;
    const bool fits = f->kind == FRONT_END_AUDIO
                          ? read_audio(&parameters, f)
                          : configure_vibration(&config, f) && vibration_frontend_accepts(&config);
    if (!fits) {
        return FAULT_FRONT_END;
    }
    return detect_accepts(&image->decision.detect) && ring_bytes >= sense_ring_bytes(image) ? FAULT_NONE
                                                                                            : FAULT_DECISION;
}

/* Whether the model takes whole feature rows and gives what the decision rule needs. */
static bool tensors_fit(const nn_t *nn, const image_t *image)
{
    nn_tensor_t in, out, another;
    const uint32_t channels = image->front_end.channels;
    if (channels == 0 || nn_input(nn, 0, &in) != NN_OK || nn_output(nn, 0, &out) != NN_OK ||
        nn_input(nn, 1, &another) == NN_OK || in.type != NN_INT8 || in.size == 0 || in.size > SENSE_INPUT_BYTES ||
        in.size % channels != 0) {
        return false;
    }
    if (image->decision.detect.rule == DETECT_ERROR) {
        return out.type == NN_INT8 && out.size == in.size;
    }
    return (out.type == NN_UINT8 || out.type == NN_INT8) && out.size == 1;
}

image_fault_t sense_open_model(nn_t *nn, const image_t *image, uint8_t *arena, uint32_t arena_bytes)
{
    switch (nn_open(nn, image->payload.data, image->payload.size, arena, arena_bytes)) {
    case NN_OK:
        return tensors_fit(nn, image) ? FAULT_NONE : FAULT_MODEL;
    case NN_E_ARENA:
        return FAULT_ARENA;
    case NN_E_OPERATOR:
        return FAULT_OPERATORS;
    case NN_E_LIMIT:
        return FAULT_LIMITS;
    case NN_E_PLAN:
        return FAULT_PLAN;
    default:
        return FAULT_MODEL;
    }
}

/* After sense_check(), which it cannot contradict. */
static bool init_front_end(sense_t *s)
{
    audio_parameters_t parameters;
    vibration_config_t config;
    if (s->image.front_end.kind == FRONT_END_AUDIO) {
        const bool fits = read_audio(&parameters, &s->image.front_end);
        if (fits) {
            audio_frontend_init(&s->front_end.audio, &parameters);
        }
        return fits;
    }
    return configure_vibration(&config, &s->image.front_end) &&
           vibration_frontend_init(&s->front_end.vibration, &config) == 0;
}

image_fault_t sense_open(sense_t *s, const sense_memory_t *memory)
{
    const image_t *const image = &s->image;
    image_fault_t fault = sense_check(image, memory->ring_bytes);
    if (fault == FAULT_NONE) {
        fault = sense_open_model(&s->nn, image, memory->arena, memory->arena_bytes);
    }
    if (fault != FAULT_NONE) {
        return fault;
    }
    if (!init_front_end(s) || detect_init(&s->detect, &image->decision.detect) != 0 ||
        nn_input(&s->nn, 0, &s->in) != NN_OK || nn_output(&s->nn, 0, &s->out) != NN_OK) {
        return FAULT_FRONT_END;
    }
    clip_init(&s->clip, clip_kind(image), memory->ring, memory->ring_bytes);
    s->filled = 0;
    s->following = false;
    return FAULT_NONE;
}

/* Feeds the front end up to its next row, which goes to the end of `input`. */
static size_t feed_front_end(sense_t *s, const int16_t *samples, size_t count, bool *ready)
{
    int8_t *const row = s->input + s->filled;
    size_t taken;
    if (s->image.front_end.kind == FRONT_END_AUDIO) {
        uint16_t features[AUDIO_MAX_CHANNELS];
        taken = audio_frontend_feed(&s->front_end.audio, samples, count, features, ready);
        if (*ready) {
            audio_frontend_quantize(&s->front_end.audio, features, row);
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
    s->filled = 0;
    memcpy(s->in.data, s->input, s->in.size);
    const uint32_t start_us = port->micros(port->context);
    if (nn_invoke(&s->nn) != NN_OK) {
        return NODE_E_IMAGE;
    }
    s->invoke_us += port->micros(port->context) - start_us;
    s->invokes++;
    if (s->image.decision.detect.rule == DETECT_ERROR) {
        *value = reconstruction_error(s->input, &s->in, &s->out);
    } else {
        const uint8_t raw = *(const uint8_t *)s->out.data;
        *value = (float)(s->out.type == NN_INT8 ? raw ^ 0x80 : raw); /* int8 counts from -128 */
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
        if (!ready || s->filled < s->in.size) {
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
