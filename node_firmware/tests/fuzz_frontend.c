/* Fuzz target: any bytes as the audio front end's parameters. With what is taken, samples of all sizes become rows. */
#include <stdlib.h>
#include <string.h>

#include "node/frontend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

/* Full scale, then ever quieter. */
static int16_t sample(uint32_t i)
{
    return (int16_t)(i * i * UINT32_C(40503) >> 8 & 0xffff) >> (i / FFT_SIZE);
}

static void run(const audio_parameters_t *parameters)
{
    audio_frontend_t *const fe = malloc(sizeof *fe); /* guarded by the sanitizer at its end */
    unsigned rows = 0;
    require(fe != NULL);
    audio_frontend_init(fe, parameters);
    for (uint32_t at = 0; at < 4 * FFT_SIZE;) {
        int16_t samples[100];
        uint16_t features[AUDIO_MAX_CHANNELS];
        int8_t quantized[AUDIO_MAX_CHANNELS];
        bool ready;
        for (uint32_t i = 0; i < 100; i++) {
            samples[i] = sample(at + i);
        }
        const size_t taken = audio_frontend_feed(fe, samples, 100, features, &ready);
        require(taken > 0 && taken <= 100);
        at += (uint32_t)taken;
        if (ready) {
            audio_frontend_quantize(fe, features, quantized);
            rows++;
        }
        if (rows == 64) { /* the step may be two samples */
            break;
        }
    }
    require(rows > 0);
    free(fe);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *const copy = malloc(size + 1);
    audio_parameters_t parameters;
    require(copy != NULL);
    memcpy(copy + 1, data, size); /* not aligned */
    if (audio_parameters_read(&parameters, copy + 1, size) == 0) {
        run(&parameters);
    }
    free(copy);
    return 0;
}
