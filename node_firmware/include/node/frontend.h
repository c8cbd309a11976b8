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
#define AUDIO_CHANNELS 40
#define AUDIO_RATE_HZ  16000
#define AUDIO_WINDOW   480 /* samples, 30 ms */
#define AUDIO_STEP     160 /* samples, 10 ms */

typedef struct audio_frontend {
    uint32_t samples[AUDIO_WINDOW / 2]; /* a ring of pairs */
    uint16_t at;                        /* of the oldest sample, where the next one goes */
    uint16_t missing;                   /* until the next row */
    uint32_t noise[AUDIO_CHANNELS];
} audio_frontend_t;

void audio_frontend_init(audio_frontend_t *fe);
/* Takes at most `count` samples, up to the next whole hop. Returns how many it took; when `*ready` is set, `features`
 * holds AUDIO_CHANNELS values as uint16 (log-scaled filter bank, about 0..670). */
size_t audio_frontend_feed(audio_frontend_t *fe, const int16_t *samples, size_t count,
                           uint16_t features[AUDIO_CHANNELS], bool *ready);
/* ESPHome's quantisation: (f * 256 + 333) / 666 - 128, saturated. */
void audio_frontend_quantize(const uint16_t features[AUDIO_CHANNELS], int8_t out[AUDIO_CHANNELS]);

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
