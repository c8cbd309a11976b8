/* Keeps the last seconds of a sensor for the gateway's larger model, audio at a quarter of its size. */
#include "node/clip.h"

#define HEADER 4
#define STEPS  89

static const int16_t steps[STEPS] = {
    7,    8,     9,     10,    11,    12,    13,    14,    16,    17,    19,    21,    23,    25,   28,
    31,   34,    37,    41,    45,    50,    55,    60,    66,    73,    80,    88,    97,    107,  118,
    130,  143,   157,   173,   190,   209,   230,   253,   279,   307,   337,   371,   408,   449,  494,
    544,  598,   658,   724,   796,   876,   963,   1060,  1166,  1282,  1411,  1552,  1707,  1878, 2066,
    2272, 2499,  2749,  3024,  3327,  3660,  4026,  4428,  4871,  5358,  5894,  6484,  7132,  7845, 8630,
    9493, 10442, 11487, 12635, 13899, 15289, 16818, 18500, 20350, 22385, 24623, 27086, 29794, 32767};

static int32_t clamp(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

static uint32_t unit(const clip_t *clip)
{
    return clip->kind == CLIP_ADPCM ? ADPCM_BLOCK : sizeof(int16_t);
}

/* One sample to four bits: a sign and the difference in quarters of the step, which then adapts. */
static uint8_t encode(clip_t *clip, int16_t sample)
{
    static const int8_t adapt[8] = {-1, -1, -1, -1, 2, 4, 6, 8};
    int32_t step = steps[clip->step_index];
    const int32_t difference = sample - clip->predictor;
    int32_t rest = difference < 0 ? -difference : difference;
    int32_t decoded = step >> 3; /* what a decoder will add */
    unsigned code = 0;
    for (unsigned bit = 4; bit != 0; bit >>= 1, step >>= 1) {
        if (rest >= step) {
            code |= bit;
            rest -= step;
            decoded += step;
        }
    }
    clip->predictor = (int16_t)clamp(clip->predictor + (difference < 0 ? -decoded : decoded), INT16_MIN, INT16_MAX);
    clip->step_index = (uint8_t)clamp(clip->step_index + adapt[code], 0, STEPS - 1);
    return (uint8_t)(difference < 0 ? code | 8 : code);
}

static void write_int16(uint8_t *at, int16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)((uint16_t)value >> 8);
}

static void end_unit(clip_t *clip)
{
    const uint32_t size = unit(clip);
    clip->head = clip->head + size < clip->capacity ? clip->head + size : 0;
    clip->held = clip->held + size < clip->capacity ? clip->held + size : clip->capacity;
}

static void write_adpcm(clip_t *clip, int16_t sample)
{
    uint8_t *block = clip->ring + clip->head;
    if (clip->in_block == 0) {
        clip->predictor = sample;
        write_int16(block, sample);
        block[2] = clip->step_index;
        block[3] = 0;
    } else {
        uint8_t *at = block + HEADER + (clip->in_block - 1) / 2;
        const uint8_t code = encode(clip, sample);
        *at = clip->in_block & 1 ? code : (uint8_t)(*at | code << 4);
    }
    if (++clip->in_block == ADPCM_BLOCK_SAMPLES) {
        clip->in_block = 0;
        end_unit(clip);
    }
}

void clip_init(clip_t *clip, clip_kind_t kind, uint8_t *ring, uint32_t capacity)
{
    *clip = (clip_t){.kind = kind, .ring = ring};
    clip->capacity = capacity - capacity % unit(clip);
}

void clip_write(clip_t *clip, const int16_t *samples, size_t count)
{
    if (clip->capacity == 0) {
        return;
    }
    for (; count != 0; count--, samples++) {
        if (clip->kind == CLIP_ADPCM) {
            write_adpcm(clip, *samples);
        } else {
            write_int16(clip->ring + clip->head, *samples);
            end_unit(clip);
        }
    }
}

uint32_t clip_last(const clip_t *clip, uint32_t size, const uint8_t *piece[2], uint32_t piece_size[2])
{
    const uint32_t unfinished = clip->in_block != 0 ? ADPCM_BLOCK : 0; /* lies over the oldest unit of a full ring */
    const uint32_t most = clip->held < clip->capacity - unfinished ? clip->held : clip->capacity - unfinished;
    const uint32_t total = size < most ? size - size % unit(clip) : most;
    const uint32_t wrapped = total > clip->head ? total - clip->head : 0; /* before the ring's end */
    piece[0] = clip->ring + (wrapped != 0 ? clip->capacity - wrapped : clip->head - total);
    piece_size[0] = wrapped != 0 ? wrapped : total;
    piece[1] = clip->ring;
    piece_size[1] = total - piece_size[0];
    return total;
}
