/* microphone: 16 kHz from a file of the host. What is appended to it while the board runs is heard, at the pace of
 * time. */
#ifndef MICROPHONE_H
#define MICROPHONE_H

#include <stdbool.h>
#include <stdint.h>

#define MICROPHONE_RATE_HZ 16000U
#define MICROPHONE_BLOCK   320U /* samples: 20 ms */

void microphone_open(void);
/* The next block, where it is time for one: whether there was. */
bool microphone_read(int16_t samples[MICROPHONE_BLOCK], uint64_t now_us);
uint32_t microphone_wait_ms(uint64_t now_us); /* until there is one */

#endif
