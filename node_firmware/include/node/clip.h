/* The last seconds of a sensor: IMA ADPCM blocks (audio) or plain int16 (vibration) in a ring of the caller's memory.
 */
#ifndef NODE_CLIP_H
#define NODE_CLIP_H

#include <stddef.h>
#include <stdint.h>

#define ADPCM_BLOCK         256 /* bytes */
#define ADPCM_BLOCK_SAMPLES 505 /* header sample + two for each of 252 bytes */

typedef enum clip_kind { CLIP_PCM16, CLIP_ADPCM } clip_kind_t;

typedef struct clip {
    clip_kind_t kind;
    uint8_t *ring;
    uint32_t capacity; /* bytes, whole units: of ADPCM_BLOCK or of 2 */
    uint32_t head;     /* where the next unit goes; an ADPCM block is written there sample by sample */
    uint32_t held;     /* bytes of whole units in the ring */
    uint16_t in_block; /* samples in the block being filled */
    int16_t predictor; /* the encoder's state */
    uint8_t step_index;
} clip_t;

/* `capacity` is in bytes; what is over whole units stays unused. */
void clip_init(clip_t *clip, clip_kind_t kind, uint8_t *ring, uint32_t capacity);
void clip_write(clip_t *clip, const int16_t *samples, size_t count);
/* The newest whole units, at most `size` bytes, as up to two pieces in order of time. Returns their total. The pieces
 * are valid until the next clip_write(). */
uint32_t clip_last(const clip_t *clip, uint32_t size, const uint8_t *piece[2], uint32_t piece_size[2]);

#endif
