/* The front ends' constant tables, made by tables.py: only what the flash must hold. */
#ifndef NODE_FRONTEND_TABLES_H
#define NODE_FRONTEND_TABLES_H

#include "node/frontend.h"

#define AUDIO_STANDARD_BYTES 2163

extern const uint32_t fft_twiddles[FFT_SIZE * 3 / 8];   /* w, w^2, w^3; w = e^(-2 pi i k / 256), k = 0..63; Q15 */
extern const uint32_t fft_split_twiddles[FFT_SIZE / 4]; /* -i e^(-2 pi i k / 512), k = 1..128; Q15 */
extern const uint8_t audio_standard[AUDIO_STANDARD_BYTES] __attribute__((aligned(4))); /* parameters */
extern const uint16_t audio_log[129]; /* log2(1 + x/128) - x/128, Q16 */

#endif
