/* See microphone.h. It stands for an I2S microphone whose DMA fills blocks. */
#include "microphone.h"

#include <string.h>

#include "semihosting.h"

#define BLOCK_US    (MICROPHONE_BLOCK * UINT64_C(1000000) / MICROPHONE_RATE_HZ)
#define BUFFERED_US (5 * BLOCK_US) /* what waits longer is overwritten */

static int file = -1;
static uint64_t next_us;

void microphone_open(void)
{
    file = semihosting_open("audio.raw");
    if (file >= 0) {
        semihosting_seek(file, semihosting_length(file)); /* what was said before, it has not heard */
    }
}

bool microphone_read(int16_t samples[MICROPHONE_BLOCK], uint64_t now_us)
{
    if (now_us < next_us) {
        return false;
    }
    next_us = now_us - next_us > BUFFERED_US ? now_us + BLOCK_US : next_us + BLOCK_US;
    const size_t bytes = MICROPHONE_BLOCK * sizeof *samples;
    const size_t got = file >= 0 ? semihosting_read(file, samples, bytes) : 0;
    memset((uint8_t *)samples + got, 0, bytes - got);
    return true;
}

uint32_t microphone_wait_ms(uint64_t now_us)
{
    return now_us < next_us ? (uint32_t)((next_us - now_us + 999) / 1000) : 0;
}
