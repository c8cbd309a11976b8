/* microphone: an analog one on ADC 0 (GPIO 26), its silence at half the supply, at 16 kHz. */
#ifndef MICROPHONE_H
#define MICROPHONE_H

#include <stdbool.h>
#include <stdint.h>

#define MICROPHONE_BLOCK 320U /* samples: 20 ms */

void microphone_start(void);
bool microphone_read(int16_t samples[MICROPHONE_BLOCK]); /* the next block, where there is one: whether there was */

#endif
