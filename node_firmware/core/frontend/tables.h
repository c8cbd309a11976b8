/* The front ends' constant tables, made by tables.py: only what the flash must hold. */
#ifndef NODE_FRONTEND_TABLES_H
#define NODE_FRONTEND_TABLES_H

#include "node/frontend.h"

#define AUDIO_FIRST_BIN 5 /* 31.25 Hz each */
#define AUDIO_END_BIN   241

extern const uint32_t fft_twiddles[FFT_SIZE * 3 / 8];   /* w, w^2, w^3; w = e^(-2 pi i k / 256), k = 0..63; Q15 */
extern const uint32_t fft_split_twiddles[FFT_SIZE / 4]; /* -i e^(-2 pi i k / 512), k = 1..128; Q15 */
extern const uint32_t audio_window[AUDIO_WINDOW / 2];   /* pairs, Q12 */
/* Bins below the first centre, then from each centre to the next; each bin's share for the filter below it, Q12. */
extern const uint8_t audio_band_widths[AUDIO_CHANNELS + 1];
extern const uint16_t audio_band_weights[AUDIO_END_BIN - AUDIO_FIRST_BIN];
extern const int16_t audio_gain[3 * 33]; /* value, linear and square term, by the bit length of the noise estimate */
extern const uint16_t audio_log[129];    /* log2(1 + x/128) - x/128, Q16 */

#endif
