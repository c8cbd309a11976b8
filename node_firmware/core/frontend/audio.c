/* The TensorFlow Lite Micro audio front end, equal to it to the bit. */
#include <string.h>

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

/* Windows into `out` and shifts left so that the FFT has all the resolution there is. Returns the shift. */
static unsigned apply_window(const int16_t in[AUDIO_WINDOW], int16_t out[FFT_SIZE])
{
    int32_t peak = 0;
    for (unsigned i = 0; i < AUDIO_WINDOW; i++) {
        const int32_t value = (in[i] * audio_window[i]) >> 12;
        const int16_t magnitude =
            (int16_t)(value < 0 ? -value : value); /* -32768 stays negative, as in the reference */
        out[i] = (int16_t)value;
        if (magnitude > peak) {
            peak = magnitude;
        }
    }
    const unsigned shift = 15 - bit_length((uint32_t)peak);
    for (unsigned i = 0; i < AUDIO_WINDOW; i++) {
        out[i] = (int16_t)(uint16_t)((uint32_t)out[i] << shift);
    }
    memset(out + AUDIO_WINDOW, 0, (FFT_SIZE - AUDIO_WINDOW) * sizeof *out);
    return shift;
}

/* Rounded to nearest, but below 2^32 never to more than 16 bits, as in the reference. `x` < 2^58 keeps `rest` in
 * 32 bits. */
static uint32_t square_root(uint64_t x)
{
    const uint32_t high = (uint32_t)(x >> 32);
    unsigned bits = (high != 0 ? 32 + bit_length(high) : bit_length((uint32_t)x));
    uint32_t root = 0, rest = 0;
    for (bits += bits & 1; bits != 0; bits -= 2) {
        const uint32_t try = root << 2 | 1;
        rest = rest << 2 | ((uint32_t)(x >> (bits - 2)) & 3);
        root <<= 1;
        if (rest >= try) {
            rest -= try;
            root |= 1;
        }
    }
    return root + (rest > root && (root != UINT16_MAX || high != 0));
}

/* Energies of triangular, half-overlapping mel filters, then their roots: amplitudes. */
static void filter_bank(const int16_t spectrum[FFT_SIZE + 2], unsigned shift, uint32_t amplitudes[AUDIO_CHANNELS])
{
    const int16_t *bin = spectrum + 2 * AUDIO_FIRST_BIN;
    const uint16_t *weight = audio_band_weights;
    uint64_t next = 0; /* the rising flank of the filter above */
    for (unsigned band = 0; band <= AUDIO_CHANNELS; band++) {
        uint64_t sum = next;
        next = 0;
        for (unsigned i = audio_band_widths[band]; i != 0; i--, bin += 2, weight++) {
            const uint32_t energy = (uint32_t)(bin[0] * bin[0]) + (uint32_t)(bin[1] * bin[1]);
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
    const int32_t x = (int32_t)(bits < 11 ? noise << (11 - bits) : noise >> (bits - 11)) & 0x3ff;
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
    const unsigned exponent = bit_length(x) - 1;
    const uint32_t mantissa = x - (1U << exponent);
    const int32_t fraction = (int32_t)(exponent < 16 ? mantissa << (16 - exponent) : mantissa >> (exponent - 16));
    const uint16_t *at = audio_log + (fraction >> 9);
    const int32_t rise = ((at[1] - at[0]) * (fraction & 0x1ff)) >> 16;
    const uint32_t log2 = (exponent << 16) + (uint32_t)(fraction + at[0] + rise);
    const uint32_t ln = (uint32_t)(((uint64_t)log2 * LN_2_Q16 + (1U << 15)) >> 16);
    return (uint16_t)(((ln << LOG_SHIFT) + (1U << 15)) >> 16);
}

void audio_frontend_init(audio_frontend_t *fe)
{
    memset(fe, 0, sizeof *fe);
}

size_t audio_frontend_feed(audio_frontend_t *fe, const int16_t *samples, size_t count,
                           uint16_t features[AUDIO_CHANNELS], bool *ready)
{
    const size_t room = AUDIO_WINDOW - (size_t)fe->filled;
    const size_t taken = count < room ? count : room;
    memcpy(fe->samples + fe->filled, samples, taken * sizeof *samples);
    fe->filled = (uint16_t)(fe->filled + taken);
    *ready = fe->filled == AUDIO_WINDOW;
    if (!*ready) {
        return taken;
    }
    int16_t windowed[FFT_SIZE], spectrum[FFT_SIZE + 2];
    uint32_t amplitudes[AUDIO_CHANNELS];
    const unsigned shift = apply_window(fe->samples, windowed);
    fft_real(windowed, spectrum);
    filter_bank(spectrum, shift, amplitudes);
    for (unsigned i = 0; i < AUDIO_CHANNELS; i++) {
        const uint32_t signal = subtract_noise(amplitudes[i], &fe->noise[i], i & 1 ? ODD_SMOOTHING : EVEN_SMOOTHING);
        features[i] = log_scale(apply_gain(signal, fe->noise[i]));
    }
    fe->filled = AUDIO_WINDOW - AUDIO_STEP;
    memmove(fe->samples, fe->samples + AUDIO_STEP, fe->filled * sizeof *fe->samples);
    return taken;
}

void audio_frontend_quantize(const uint16_t features[AUDIO_CHANNELS], int8_t out[AUDIO_CHANNELS])
{
    for (unsigned i = 0; i < AUDIO_CHANNELS; i++) {
        const int32_t value = (features[i] * 256 + 333) / 666 - 128;
        out[i] = (int8_t)(value > INT8_MAX ? INT8_MAX : value);
    }
}
