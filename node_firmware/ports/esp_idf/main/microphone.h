/* microphone: an I2S one with 24 bits in a slot of 32 (INMP441 and its kind), on the left channel, at 16 kHz. */
#ifndef MICROPHONE_H
#define MICROPHONE_H

#include <stddef.h>
#include <stdint.h>

#define MICROPHONE_BLOCK 320U /* samples: 20 ms */

void microphone_start(void);
/* Waits at most `wait_ms`; how many samples there are. */
size_t microphone_read(int16_t samples[MICROPHONE_BLOCK], uint32_t wait_ms);

#endif
