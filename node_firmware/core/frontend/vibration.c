/* The vibration front end: Welch's averaged spectrum of an accelerometer's axis in log-spaced bands, in integers.
 *
 * A frame's mean (gravity, drift) is removed and the frame is shifted left as far as it will go: a 16-bit transform
 * that scales by 1/FFT_SIZE would drown a quiet machine in its own rounding. The shift is taken back from the power, so
 * rows stay comparable. The Hann window is applied after the transform, where it is exact and needs no table:
 * four times the windowed spectrum is 2 X[k] - X[k-1] - X[k+1]. */
#include <string.h>

#include "dsp.h"
#include "node/frontend.h"

#define HOP        (FFT_SIZE / 2)
#define BINS       (FFT_SIZE / 2) /* bins 1 .. BINS - 1 have two neighbours */
#define FFT_LOG2   9
#define MAX_FRAMES 1024
/* By Parseval one frame's sum over all bins is below 2^36 (with the window's factor of 4 and a right shift by one),
 * so MAX_FRAMES of them leave this many fractional bits in 64, and two to spare for the transform's rounding. */
#define POWER_FRACTION 16

/* floor(256 * log2(x)), within 1/256; 0 for 0. */
static int32_t log2_q8(uint64_t x)
{
    if (x == 0) {
        return 0;
    }
    const uint32_t high = (uint32_t)(x >> 32);
    const int zeros = high != 0 ? __builtin_clz(high) : 32 + __builtin_clz((uint32_t)x);
    uint32_t mantissa = (uint32_t)(x << zeros >> 33); /* 1 <= mantissa / 2^30 < 2 */
    int32_t result = 63 - zeros;
    for (int bit = 0; bit < 8; bit++) { /* squaring doubles the logarithm: its next bit is whether that reached 2 */
        mantissa = (uint32_t)(((uint64_t)mantissa * mantissa) >> 30);
        const uint32_t one = mantissa >> 31;
        mantissa >>= one;
        result = result * 2 + (int32_t)one;
    }
    return result;
}

/* Cuts the spectrum into bands; false where there are more bands than bins. */
static bool find_bands(uint16_t first_bin[VIBRATION_MAX_BANDS + 1], const vibration_config_t *config)
{
    int32_t low = log2_q8((uint64_t)config->low_hz * FFT_SIZE);
    int32_t span = log2_q8((uint64_t)config->high_hz * FFT_SIZE) - low;
    uint32_t bin = 1;
    for (int32_t i = 0; i <= config->bands; i++, bin++) { /* at least one bin a band */
        int32_t edge = low + i * span / config->bands;
        while (bin < BINS && log2_q8((uint64_t)bin * config->rate_hz) < edge) {
            bin++;
        }
        if (bin > BINS) {
            return false;
        }
        first_bin[i] = (uint16_t)bin;
    }
    return true;
}

static bool in_range(const vibration_config_t *config)
{
    return config->rate_hz != 0 && config->rate_hz <= 1000000 && config->frames != 0 && config->frames <= MAX_FRAMES &&
           config->bands != 0 && config->bands <= VIBRATION_MAX_BANDS && config->low_hz != 0 &&
           config->low_hz < config->high_hz && 2u * config->high_hz <= config->rate_hz;
}

bool vibration_frontend_accepts(const vibration_config_t *config)
{
    uint16_t first_bin[VIBRATION_MAX_BANDS + 1];
    return in_range(config) && find_bands(first_bin, config);
}

int vibration_frontend_init(vibration_frontend_t *fe, const vibration_config_t *config)
{
    if (!in_range(config)) {
        return -1;
    }
    memset(fe, 0, sizeof *fe);
    fe->config = *config;
    return find_bands(fe->first_bin, config) ? 0 : -1;
}

/* x * 2^shift, rounded. */
static int32_t scaled(int32_t x, int shift)
{
    return shift >= 0 ? x * (1 << shift) : (x + (1 << (-shift - 1))) >> -shift;
}

/* Writes the frame without its mean, as large as int16 holds. Returns the left shift that took, -1 to 15. The mean is
 * taken out with all its fractional bits: of a quiet machine's few counts, half a count would be a tone in bin 1. */
static int scale_frame(const int16_t samples[FFT_SIZE], uint32_t out[FFT_SIZE / 2])
{
    int32_t sum = 0;
    for (int i = 0; i < FFT_SIZE; i++) {
        sum += samples[i];
    }
    int32_t peak = FFT_SIZE / 2; /* the least that a frame has which is not constant: bounds the shift */
    for (int i = 0; i < FFT_SIZE; i++) {
        int32_t x = samples[i] * FFT_SIZE - sum;
        peak = x > peak ? x : -x > peak ? -x : peak;
    }
    int shift = -(FFT_LOG2 + 1); /* enough for |x| < 2^16 * FFT_SIZE */
    while (scaled(peak, shift + 1) <= INT16_MAX) {
        shift++;
    }
    for (int i = 0; i < FFT_SIZE; i += 2) {
        const uint32_t low = (uint32_t)scaled(samples[i] * FFT_SIZE - sum, shift);
        const uint32_t high = (uint32_t)scaled(samples[i + 1] * FFT_SIZE - sum, shift);
        out[i / 2] = pkhbt(low, high << 16);
    }
    return shift + FFT_LOG2;
}

static void add_frame(vibration_frontend_t *fe)
{
    uint32_t frame[FFT_SIZE / 2], spectrum[FFT_SIZE / 2 + 1];
    int shift = scale_frame(fe->samples, frame);
    fft_real(frame, 0, spectrum);
    for (int band = 0; band < fe->config.bands; band++) {
        uint64_t power = 0;
        for (int k = fe->first_bin[band]; k < fe->first_bin[band + 1]; k++) {
            const uint32_t *x = &spectrum[k];
            const int32_t re = 2 * low_half(x[0]) - low_half(x[-1]) - low_half(x[1]);
            const int32_t im = 2 * high_half(x[0]) - high_half(x[-1]) - high_half(x[1]);
            power += (uint64_t)((int64_t)re * re) + (uint64_t)((int64_t)im * im);
        }
        fe->power[band] += power << (POWER_FRACTION + 2) >> (2 * (shift + 1));
    }
    fe->frames_done++;
}

size_t vibration_frontend_feed(vibration_frontend_t *fe, const int16_t *samples, size_t count,
                               int16_t features[VIBRATION_MAX_BANDS], bool *ready)
{
    size_t room = (size_t)(FFT_SIZE - fe->filled);
    size_t taken = count < room ? count : room;
    memcpy(&fe->samples[fe->filled], samples, taken * sizeof *samples);
    fe->filled = (uint16_t)(fe->filled + taken);
    *ready = false;
    if (fe->filled < FFT_SIZE) {
        return taken;
    }
    add_frame(fe);
    memmove(fe->samples, &fe->samples[HOP], HOP * sizeof *samples);
    fe->filled = HOP;
    if (fe->frames_done == fe->config.frames) {
        for (int band = 0; band < fe->config.bands; band++) {
            uint32_t terms = (uint32_t)fe->frames_done * (uint32_t)(fe->first_bin[band + 1] - fe->first_bin[band]);
            features[band] = (int16_t)(log2_q8(fe->power[band]) - log2_q8(terms));
        }
        memset(fe->power, 0, sizeof fe->power);
        fe->frames_done = 0;
        *ready = true;
    }
    return taken;
}

void vibration_frontend_quantize(const vibration_frontend_t *fe, const int16_t features[VIBRATION_MAX_BANDS],
                                 int8_t out[VIBRATION_MAX_BANDS])
{
    for (int band = 0; band < fe->config.bands; band++) {
        int64_t value = ((int64_t)(features[band] - fe->config.offset[band]) * fe->config.gain[band]) >> 8;
        out[band] = (int8_t)(value > INT8_MAX ? INT8_MAX : value < INT8_MIN ? INT8_MIN : value);
    }
}
