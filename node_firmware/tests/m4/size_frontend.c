/* Nothing but the calls that make features of audio: what the front end takes of a firmware's flash and RAM. */
#include "node/frontend.h"

#define SAMPLES ((const int16_t *)0x21000000)
#define OUT     ((int8_t *)0x21800000)

void reset(void);

void reset(void)
{
    static audio_frontend_t fe;
    audio_parameters_t parameters;
    if (audio_parameters_read(&parameters, NULL, 0) != 0) {
        return;
    }
    audio_frontend_init(&fe, &parameters);
    for (bool ready;;) {
        uint16_t features[AUDIO_MAX_CHANNELS];
        (void)audio_frontend_feed(&fe, SAMPLES, parameters.step, features, &ready);
        if (ready) {
            audio_frontend_quantize(&fe, features, OUT);
        }
    }
}
