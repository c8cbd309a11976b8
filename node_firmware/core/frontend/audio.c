/* The TensorFlow Lite Micro audio front end, equal to it to the bit. */
#include <string.h>

#include "dsp.h"
#include "tables.h"

#define SMOOTHING_BITS  10  /* the noise estimate's fractional bits above the signal's */
#define EVEN_SMOOTHING  409 /* 0.025, Q14 */
#define ODD_SMOOTHING   983 /* 0.06, Q14 */
#define MIN_REMAINING   819 /* 0.05, Q14 */
#define SNR_SHIFT       6   /* the gain's 21 fractional bits, to 12, of a signal that has 3 */
#define SNR_BITS        12
#define OUTPUT_BITS     6
#define CORRECTION_BITS 3 /* log2(FFT_SIZE) - half of the weights' 12 bits */
#define LOG_SHIFT       6
#define LN_2_Q16        45426

/* Position of the highest set bit, counted from 1; 0 for 0. */
static unsigned bit_length(uint32_t x)
{
    return x == 0 ? 0 : 32 - (unsigned)__builtin_clz(x);
}

/* Windows pairs of samples into `out`. Returns the bits that their magnitudes have, -32768 as bit 15 of a half. */
static uint32_t apply_window(const uint32_t *samples, const uint32_t *window, size_t pairs, uint32_t *out)
{
    uint32_t bits = 0;
    for (size_t i = 0; i < pairs; i++) {
        const uint32_t high = (uint32_t)smultt(samples[i], window[i]) << 4;
        out[i] = pkhtb(high, (uint32_t)smulbb(samples[i], window[i]), 12);
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
static void filter_bank(const uint32_t spectrum[FFT_SIZE / 2 + 1], unsigned shift, uint32_t amplitudes[AUDIO_CHANNELS])
{
    const uint32_t *bin = spectrum + AUDIO_FIRST_BIN;
    const uint16_t *weight = audio_band_weights;
    uint64_t next = 0; /* the rising flank of the filter above */
    for (unsigned band = 0; band <= AUDIO_CHANNELS; band++) {
        uint64_t sum = next;
        next = 0;
        for (const uint32_t *end = bin + audio_band_widths[band]; bin < end; bin++, weight++) {
            const uint32_t energy = (uint32_t)smuad(*bin, *bin);
            sum += (uint64_t)energy * *weight;
            next += (uint64_t)energy * (4096U - *weight);
        }
        if (band > 0) {
            amplitudes[band - 1] = square_root(sum) >> shift;
        }
    }
}

/* Spectral subtraction: takes off what has been there for long, but leaves a twentieth. Wraps above 2^22 as the
 * reference does. */
static uint32_t subtract_noise(uint32_t signal, uint32_t *noise, uint32_t smoothing)
{
    const uint32_t scaled = signal << SMOOTHING_BITS;
    *noise = (uint32_t)(((uint64_t)scaled * smoothing + (uint64_t)*noise * ((1U << 14) - smoothing)) >> 14);
    const uint32_t least = (uint32_t)(((uint64_t)signal * MIN_REMAINING) >> 14);
    const uint32_t rest = (scaled - (*noise < scaled ? *noise : scaled)) >> SMOOTHING_BITS;
    return rest > least ? rest : least;
}

/* Per-channel automatic gain (PCAN): the louder the noise, the smaller. A parabola for each octave of the noise. */
static uint32_t apply_gain(uint32_t signal, uint32_t noise)
{
    const unsigned bits = bit_length(noise);
    const int16_t *row = audio_gain + 3 * bits;
    const int32_t x = (int32_t)(noise << ((32 - bits) & 31) >> 21 & 0x3ff); /* the ten bits below the highest one */
    const int32_t gain = (((((row[2] * x) >> 5) + row[1] * 32) * x + (1 << 14)) >> 15) + row[0];
    const uint32_t snr = (uint32_t)(((uint64_t)signal * (uint32_t)gain) >> SNR_SHIFT);
    if (snr < 2U << SNR_BITS) { /* square below 2, linear above */
        return (snr * snr) >> (2 + 2 * SNR_BITS - OUTPUT_BITS);
    }
    return (snr >> (SNR_BITS - OUTPUT_BITS)) - (1U << OUTPUT_BITS);
}

/* 64 ln(8 x), by a table of log2's mantissa with linear interpolation. */
static uint16_t log_scale(uint32_t x)
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
    return (uint16_t)(((ln << LOG_SHIFT) + (1U << 15)) >> 16);
}

void audio_frontend_init(audio_frontend_t *fe)
{
    memset(fe, 0, sizeof *fe);
    fe->missing = AUDIO_WINDOW;
}

/* The window that begins at the oldest sample, `fe->at`, to features. */
static void make_features(audio_frontend_t *fe, uint16_t features[AUDIO_CHANNELS])
{
    uint32_t windowed[FFT_SIZE / 2], spectrum[FFT_SIZE / 2 + 1], amplitudes[AUDIO_CHANNELS];
    const unsigned newest = fe->at / 2, oldest = AUDIO_WINDOW / 2 - newest;
    uint32_t bits = apply_window(fe->samples + newest, audio_window, oldest, windowed);
    bits |= apply_window(fe->samples, audio_window + oldest, newest, windowed + oldest);
    memset(windowed + AUDIO_WINDOW / 2, 0, sizeof windowed - AUDIO_WINDOW * sizeof(int16_t));
    const unsigned shift = find_shift(bits, windowed);
    fft_real(windowed, shift, spectrum);
    filter_bank(spectrum, shift, amplitudes);
    for (unsigned i = 0; i < AUDIO_CHANNELS; i++) {
        const uint32_t signal = subtract_noise(amplitudes[i], &fe->noise[i], i & 1 ? ODD_SMOOTHING : EVEN_SMOOTHING);
        features[i] = log_scale(apply_gain(signal, fe->noise[i]));
    }
}

size_t audio_frontend_feed(audio_frontend_t *fe, const int16_t *samples, size_t count,
                           uint16_t features[AUDIO_CHANNELS], bool *ready)
{
    const size_t room = AUDIO_WINDOW - (size_t)fe->at;
    size_t taken = count < fe->missing ? count : fe->missing;
    taken = taken < room ? taken : room;
    memcpy((uint8_t *)fe->samples + fe->at * sizeof *samples, samples, taken * sizeof *samples);
    fe->at = (uint16_t)(taken == room ? 0 : fe->at + taken);
    fe->missing = (uint16_t)(fe->missing - taken);
    *ready = fe->missing == 0;
    if (*ready) {
        make_features(fe, features);
        fe->missing = AUDIO_STEP;
    }
    return taken;
}

void audio_frontend_quantize(const uint16_t features[AUDIO_CHANNELS], int8_t out[AUDIO_CHANNELS])
{
    for (unsigned i = 0; i < AUDIO_CHANNELS; i++) {
        const int32_t value = (features[i] * 256 + 333) / 666 - 128;
        out[i] = (int8_t)(value > INT8_MAX ? INT8_MAX : value);
    }
}
