/* A sensor for the posix node: a WAV file or raw int16 samples from a file, a FIFO or stdin. */
#ifndef INPUT_H
#define INPUT_H

#include <sys/types.h>

#include "posix.h"

#define INPUT_MAX_SAMPLES 1600 /* in one input_read() */

typedef struct input {
    front_end_kind_t sensor;
    int fd;
    bool paced; /* a file, which has no time of its own */
    bool ended;
    bool loops;        /* a WAV file begins anew at its end */
    off_t start;       /* of a WAV file's samples */
    uint32_t rate_hz;  /* of a WAV file; else 0: whatever the model wants */
    unsigned channels; /* the first is used */
    uint64_t bytes, bytes_left;
    uint64_t fed;        /* samples */
    uint8_t partial[64]; /* a frame that came in pieces */
    unsigned partial_bytes;
} input_t;

/* `spec` is audio:PATH or vibration:PATH, PATH being - for stdin. Ends the program where it cannot be. */
void input_open(input_t *input, const char *spec);
/* Up to `count` samples; 0 where none is there now. */
size_t input_read(input_t *input, int16_t *samples, size_t count);

#endif
