/* The last seconds of a sensor: IMA ADPCM blocks (audio) or plain int16 (vibration) in a ring of the caller's memory. */
#ifndef NODE_CLIP_H
#define NODE_CLIP_H

#include <stddef.h>
#include <stdint.h>

#define ADPCM_BLOCK 256         /* bytes */
#define ADPCM_BLOCK_SAMPLES 505 /* header sample + two for each of 252 bytes */

typedef enum clip_kind { CLIP_PCM16, CLIP_ADPCM } clip_kind_t;

typedef struct clip {
    clip_kind_t kind;
    uint8_t *ring;
    uint32_t capacity;   /* bytes, a multiple of the unit: ADPCM_BLOCK or 2 */
    uint32_t written;    /* bytes ever written, in whole units (wraps) */
    int16_t predictor;   /* encoder state */
    uint8_t step_index;
    uint16_t in_block;   /* samples in the block being filled */
} clip_t;

void clip_init(clip_t *clip, clip_kind_t kind, uint8_t *ring, uint32_t capacity);
void clip_write(clip_t *clip, const int16_t *samples, size_t count);
/* The newest whole units, at most `size` bytes, as up to two pieces in ring order. Returns their total. The pieces are valid until
 * the next clip_write(). */
uint32_t clip_last(const clip_t *clip, uint32_t size, const uint8_t *piece[2], uint32_t piece_size[2]);

#endif
