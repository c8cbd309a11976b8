/* The TensorFlow Lite Micro audio front end, equal to it to the bit. */
#include <string.h>

#include "dsp.h"
#include "tables.h"

#define HEADER          20 /* bytes of the parameters before their tables; docs/nodelink.md has the format */
#define ROW_BYTES       6  /* of the gain: value, linear and square term, by the bit length of the noise */
#define ROWS            33
#define NO_GAIN         255
#define ONE_Q14         (1U << 14)
#define SNR_BITS        12
#define OUTPUT_BITS     6
#define CORRECTION_BITS 3 /* log2(FFT_SIZE) - half of the weights' 12 bits */
#define LN_2_Q16        45426

static bool times_fit(const audio_parameters_t *p)
{
    return p->window > FFT_SIZE / 2 && p->window <= FFT_SIZE && p->window % 2 == 0 && p->step != 0 &&
           p->step <= p->window && p->step % 2 == 0;
}

static bool numbers_fit(const audio_parameters_t *p)
{
    return p->smoothing_bits <= 31 && p->smoothing[0] <= ONE_Q14 && p->smoothing[1] <= ONE_Q14 &&
           (p->gain_shift <= 31 || p->gain_shift == NO_GAIN) && p->log_shift <= 11 && p->divisor != 0;
}

/* Finds the tables: coefficients, gains, weights, widths. False where they are not what `size` leaves room for. */
static bool place_tables(audio_parameters_t *p, const uint8_t *data, size_t size)
{
    const size_t bands = p->channels + 1U;
    const size_t weights = HEADER + 2U * p->window + (p->gain_shift == NO_GAIN ? 0 : ROWS * ROW_BYTES);
    if (p->channels == 0 || p->channels > AUDIO_MAX_CHANNELS || p->first_bin == 0 || size < weights + bands) {
        return false;
    }
    p->coefficients = data + HEADER;
    p->gains = p->gain_shift == NO_GAIN ? NULL : p->coefficients + 2U * p->window;
    p->weights = data + weights;
    p->widths = data + size - bands;
    size_t bins = 0;
    for (size_t i = 0; i < bands; i++) {
        bins += p->widths[i];
    }
    return p->first_bin + bins <= FFT_SIZE / 2 && size == weights + 4 * bins + bands;
}

int audio_parameters_read(audio_parameters_t *p, const uint8_t *data, size_t size)
{
    if (data == NULL) {
        data = audio_standard;
        size = AUDIO_STANDARD_BYTES;
    }
    if (size < HEADER || data[15] != 0) {
        return -1;
    }
    *p = (audio_parameters_t){.window = load16(data),
                              .step = load16(data + 2),
                              .channels = data[4],
                              .first_bin = data[5],
                              .smoothing_bits = data[6],
                              .gain_shift = data[7],
                              .smoothing = {load16(data + 8), load16(data + 10)},
                              .least = load16(data + 12),
                              .log_shift = data[14],
                              .multiplier = load16(data + 16),
                              .divisor = load16(data + 18)};
    return times_fit(p) && numbers_fit(p) && place_tables(p, data, size) ? 0 : -1;
}

/* Position of the highest set bit, counted from 1; 0 for 0. */
static unsigned bit_length(uint32_t x)
{
    return x == 0 ? 0 : 32 - (unsigned)__builtin_clz(x);
}

/* Windows pairs of samples into `out`. Returns the bits that their magnitudes have, -32768 as bit 15 of a half. */
static uint32_t apply_window(const uint32_t *samples, const uint8_t *coefficients, size_t pairs, uint32_t *out)
{
    uint32_t bits = 0;
    for (size_t i = 0; i < pairs; i++) {
        const uint32_t window = load32(coefficients + 4 * i);
        const uint32_t high = (uint32_t)smultt(samples[i], window) << 4;
        out[i] = pkhtb(high, (uint32_t)smulbb(samples[i], window), 12);
        bits |= magnitudes(out[i]);
    }
    return bits;
}

/* How far left the windowed samples go so that the FFT has all the resolution there is. The reference takes -32768 for
 * no magnitude, and so may shift its only bit out. */
static unsigned find_shift(uint32_t bits, uint32_t windowed[FFT_SIZE / 2])
{
    bits |= bits >> 16;
    const unsigned shift = 15 - bit_length(bits & 0x7fff);
    for (unsigned i = 0; (bits & 0x8000) != 0 && shift != 0 && i < FFT_SIZE / 2; i++) {
        if (low_half(windowed[i]) == INT16_MIN) {
            windowed[i] &= 0xffff0000;
        }
        if (high_half(windowed[i]) == INT16_MIN) {
            windowed[i] &= 0xffff;
        }
    }
    return shift;
}

/* floor(sqrt(x)), x >= 2^30: two, four, eight and then all sixteen bits, each by one step of Newton's. */
static uint32_t root_of_large(uint32_t x)
{
    uint32_t root = 1 + (x >> 30);
    root = (root << 1) + (x >> 27) / root;
    root = (root << 3) + (x >> 21) / root;
    root = (root << 7) + (x >> 9) / root;
    return root - (root * root - 1 >= x);
}

/* Rounded to nearest, but below 2^32 never to more than 16 bits, as in the reference. x < 2^60. */
static uint32_t square_root(uint64_t x)
{
    const uint32_t high = (uint32_t)(x >> 32), low = (uint32_t)x;
    uint32_t root, rest;
    if (high == 0) {
        if (low == 0) {
            return 0;
        }
        const unsigned zeros = (unsigned)__builtin_clz(low) & ~1U;
        root = root_of_large(low << zeros) >> (zeros / 2);
        rest = low - root * root;
        return root + (rest > root && root != UINT16_MAX);
    }
    const unsigned zeros = (unsigned)__builtin_clz(high) & ~1U;
    const uint64_t large = x << zeros;
    root = root_of_large((uint32_t)(large >> 32));
    rest = (uint32_t)(large >> 32) - root * root;
    uint32_t next = ((rest << 15) | ((uint32_t)large >> 17)) / root; /* sixteen more bits: one too many at most */
    next -= next >> 16;
    root = ((root << 16) + next) >> (zeros / 2);
    rest = low - root * root;
    if (rest >> 31) {
        root--;
        rest += 2 * root + 1;
    }
    return root + (rest > root);
}

/* Energies of triangular, half-overlapping mel filters, then their roots: amplitudes. */
static void filter_bank(const audio_parameters_t *p, const uint32_t spectrum[FFT_SIZE / 2 + 1], unsigned shift,
                        uint32_t amplitudes[AUDIO_MAX_CHANNELS])
{
    const uint32_t *bin = spectrum + p->first_bin;
    const uint8_t *weight = p->weights;
    uint64_t next = 0; /* the rising flank of the filter above */
    for (unsigned band = 0; band <= p->channels; band++) {
        uint64_t sum = next;
        next = 0;
        for (const uint32_t *end = bin + p->widths[band]; bin < end; bin++, weight += 4) {
            const uint32_t energy = (uint32_t)smuad(*bin, *bin);
            sum += (uint64_t)energy * load16(weight);
            next += (uint64_t)energy * load16(weight + 2);
        }
        if (band > 0) {
            amplitudes[band - 1] = square_root(sum) >> shift;
        }
    }
}

/* Spectral subtraction: takes off what has been there for long, but leaves a part. Wraps where the reference does. */
static uint32_t subtract_noise(const audio_parameters_t *p, uint32_t signal, uint32_t *noise, uint32_t smoothing)
{
    const uint32_t scaled = signal << p->smoothing_bits;
    *noise = (uint32_t)(((uint64_t)scaled * smoothing + (uint64_t)*noise * (ONE_Q14 - smoothing)) >> 14);
    const uint32_t least = (uint32_t)(((uint64_t)signal * p->least) >> 14);
    const uint32_t rest = (scaled - (*noise < scaled ? *noise : scaled)) >> p->smoothing_bits;
    return rest > least ? rest : least;
}

/* Per-channel automatic gain (PCAN): the louder the noise, the smaller. A parabola for each octave of the noise. */
static uint32_t apply_gain(const audio_parameters_t *p, uint32_t signal, uint32_t noise)
{
    const unsigned bits = bit_length(noise);
    const uint8_t *row = p->gains + ROW_BYTES * bits;
    const int32_t x = (int32_t)(noise << ((32 - bits) & 31) >> 21 & 0x3ff); /* the ten bits below the highest one */
    const int32_t slope = (((int16_t)load16(row + 4) * x) >> 5) + (int16_t)load16(row + 2) * 32;
    const int32_t rise = (int32_t)((uint32_t)slope * (uint32_t)x + (1U << 14)) >> 15;
    const uint32_t gain = (uint32_t)(int16_t)(rise + (int16_t)load16(row));
    const uint32_t snr = (uint32_t)(((uint64_t)signal * gain) >> p->gain_shift);
    if (snr < 2U << SNR_BITS) { /* square below 2, linear above */
        return (snr * snr) >> (2 + 2 * SNR_BITS - OUTPUT_BITS);
    }
    return (snr >> (SNR_BITS - OUTPUT_BITS)) - (1U << OUTPUT_BITS);
}

/* 2^shift ln(8 x), by a table of log2's mantissa with linear interpolation. */
static uint16_t log_scale(uint32_t x, unsigned shift)
{
    x <<= CORRECTION_BITS;
    if (x <= 1) {
        return 0;
    }
    const unsigned zeros = (unsigned)__builtin_clz(x), exponent = 31 - zeros;
    const int32_t fraction = (int32_t)(x << zeros >> 15 & 0xffff); /* the sixteen bits below the highest one */
    const uint16_t *at = audio_log + (fraction >> 9);
    const int32_t rise = ((at[1] - at[0]) * (fraction & 0x1ff)) >> 16;
    const uint32_t log2 = (exponent << 16) + (uint32_t)(fraction + at[0] + rise);
    const uint32_t ln = (uint32_t)(((uint64_t)log2 * LN_2_Q16 + (1U << 15)) >> 16);
    return (uint16_t)(((ln << shift) + (1U << 15)) >> 16);
}

void audio_frontend_init(audio_frontend_t *fe, const audio_parameters_t *parameters)
{
    memset(fe, 0, sizeof *fe);
    fe->parameters = *parameters;
    fe->missing = parameters->window;
}

/* The window that begins at the oldest sample, `fe->at`, to features. */
static void make_features(audio_frontend_t *fe, uint16_t features[AUDIO_MAX_CHANNELS])
{
    const audio_parameters_t *const p = &fe->parameters;
    uint32_t windowed[FFT_SIZE / 2], spectrum[FFT_SIZE / 2 + 1], amplitudes[AUDIO_MAX_CHANNELS];
    const unsigned at = fe->at / 2, older = p->window / 2 - at;
    uint32_t bits = apply_window(fe->samples + at, p->coefficients, older, windowed);
    bits |= apply_window(fe->samples, p->coefficients + 4 * older, at, windowed + older);
    memset(windowed + p->window / 2, 0, (FFT_SIZE - p->window) * sizeof(int16_t));
    const unsigned shift = find_shift(bits, windowed);
    fft_real(windowed, shift, spectrum);
    filter_bank(p, spectrum, shift, amplitudes);
    for (unsigned i = 0; i < p->channels; i++) {
        const uint32_t signal = subtract_noise(p, amplitudes[i], &fe->noise[i], p->smoothing[i & 1]);
        const uint32_t feature = p->gains == NULL ? signal : apply_gain(p, signal, fe->noise[i]);
        features[i] = log_scale(feature, p->log_shift);
    }
}

size_t audio_frontend_feed(audio_frontend_t *fe, const int16_t *samples, size_t count,
                           uint16_t features[AUDIO_MAX_CHANNELS], bool *ready)
{
    const size_t room = (size_t)(fe->parameters.window - fe->at);
    size_t taken = count < fe->missing ? count : fe->missing;
    taken = taken < room ? taken : room;
    memcpy((uint8_t *)fe->samples + fe->at * sizeof *samples, samples, taken * sizeof *samples);
    fe->at = (uint16_t)(taken == room ? 0 : fe->at + taken);
    fe->missing = (uint16_t)(fe->missing - taken);
    *ready = fe->missing == 0;
    if (*ready) {
        make_features(fe, features);
        fe->missing = fe->parameters.step;
    }
    return taken;
}

void audio_frontend_quantize(const audio_frontend_t *fe, const uint16_t features[AUDIO_MAX_CHANNELS],
                             int8_t out[AUDIO_MAX_CHANNELS])
{
    const audio_parameters_t *const p = &fe->parameters;
    for (unsigned i = 0; i < p->channels; i++) {
        const uint32_t value = ((uint32_t)features[i] * p->multiplier + p->divisor / 2U) / p->divisor;
        out[i] = (int8_t)((value < UINT8_MAX ? (int32_t)value : UINT8_MAX) - 128);
    }
}
