/* Front ends: samples in, int8 feature rows out. Integer arithmetic only, so that every machine computes the same bits.
 */
#ifndef NODE_FRONTEND_H
#define NODE_FRONTEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FFT_SIZE 512 /* points; all front ends share one transform */

/* Real FFT of FFT_SIZE int16 samples, two in a word (the first one low), each shifted left by `shift` <= 15 first,
 * where none may overflow. Bit-exact with kissfft's 16-bit kiss_fftr (which scales by 1/FFT_SIZE): out[k] is bin k, its
 * real part in the low half. */
void fft_real(const uint32_t in[FFT_SIZE / 2], unsigned shift, uint32_t out[FFT_SIZE / 2 + 1]);

/* ---- audio: the TensorFlow Lite Micro "microfrontend", bit-exact with PyPI pymicro-features ---- */
#define AUDIO_RATE_HZ      16000
#define AUDIO_MAX_CHANNELS 64

/* What audio_parameters_read() found; the tables stay where they are, aligned or not. */
typedef struct audio_parameters {
    uint16_t window, step; /* samples */
    uint8_t channels, first_bin, smoothing_bits, gain_shift, log_shift;
    uint16_t smoothing[2], least; /* of even and odd channels' noise; of the signal that is left; Q14 */
    uint16_t multiplier, divisor; /* int8 = saturate((f * multiplier + divisor / 2) / divisor - 128) */
    const uint8_t *coefficients;  /* of the window, Q12 */
    const uint8_t *gains;         /* NULL: none */
    const uint8_t *weights;       /* each bin's for the filter below and above it, Q12 */
    const uint8_t *widths;        /* bins below the first centre, then from each centre to the next */
} audio_parameters_t;

/* Parameters and tables as gatewayd/core/microfrontend.py makes them; `data` NULL: the standard ones, 30 ms every 10
 * ms, 40 channels from 125 to 7500 Hz. `data` need not be trusted, and must stay. -1 where something is out of range.
 */
__attribute__((warn_unused_result)) int audio_parameters_read(audio_parameters_t *parameters, const uint8_t *data,
                                                              size_t size);

typedef struct audio_frontend {
    audio_parameters_t parameters;
    uint32_t samples[FFT_SIZE / 2]; /* a ring of pairs, as long as the window */
    uint16_t at;                    /* of the oldest sample, where the next one goes */
    uint16_t missing;               /* samples until the next row */
    uint32_t noise[AUDIO_MAX_CHANNELS];
} audio_frontend_t;

void audio_frontend_init(audio_frontend_t *fe, const audio_parameters_t *parameters);
/* Takes at most `count` samples, and none beyond the next row. Returns how many it took; when `*ready` is set,
 * `features` holds a value for each channel (log-scaled filter bank; standard: about 0..670). */
size_t audio_frontend_feed(audio_frontend_t *fe, const int16_t *samples, size_t count,
                           uint16_t features[AUDIO_MAX_CHANNELS], bool *ready);
/* Standard: ESPHome's (f * 256 + 333) / 666 - 128. */
void audio_frontend_quantize(const audio_frontend_t *fe, const uint16_t features[AUDIO_MAX_CHANNELS],
                             int8_t out[AUDIO_MAX_CHANNELS]);

/* ---- vibration: log-spectrum of an accelerometer (one axis), Welch-averaged ---- */
#define VIBRATION_MAX_BANDS 64

typedef struct vibration_config {
    uint32_t rate_hz;
    uint16_t frames; /* half-overlapping FFT_SIZE frames averaged into one feature row */
    uint16_t bands;  /* <= VIBRATION_MAX_BANDS, log-spaced from low_hz to high_hz */
    uint16_t low_hz, high_hz;
    /* int8 = saturate(((f - offset) * gain) >> 8), f = log2 of the band's mean power in 1/256 */
    int16_t offset[VIBRATION_MAX_BANDS];
    int16_t gain[VIBRATION_MAX_BANDS];
} vibration_config_t;

typedef struct vibration_frontend {
    vibration_config_t config;
    int16_t samples[FFT_SIZE];
    uint16_t filled, frames_done;
    uint64_t power[VIBRATION_MAX_BANDS];
    uint16_t first_bin[VIBRATION_MAX_BANDS + 1];
} vibration_frontend_t;

bool vibration_frontend_accepts(const vibration_config_t *config); /* it is in range */
/* 0, or -1 where the configuration is out of range. */
__attribute__((warn_unused_result)) int vibration_frontend_init(vibration_frontend_t *fe,
                                                                const vibration_config_t *config);
/* As audio_frontend_feed(); `features` are int16 (log2 of band power, 1/256) before normalisation. */
size_t vibration_frontend_feed(vibration_frontend_t *fe, const int16_t *samples, size_t count,
                               int16_t features[VIBRATION_MAX_BANDS], bool *ready);
void vibration_frontend_quantize(const vibration_frontend_t *fe, const int16_t features[VIBRATION_MAX_BANDS],
                                 int8_t out[VIBRATION_MAX_BANDS]);

#endif
