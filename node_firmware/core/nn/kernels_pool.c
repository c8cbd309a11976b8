/* Average and maximum over windows of an image; with DSP of four channels at a time. */
#include <stdbool.h>

#include "dsp.h"
#include "kernels.h"

#define PAIR_SUMMANDS 256 /* int8 values that an int16 sums up */

/* The part of a window that lies in the image. */
typedef struct view {
    const int8_t *in;
    uint32_t rows, columns;
    uint32_t pixel, row; /* bytes from one to the next */
    int32_t count;
} view_t;

typedef struct range {
    int32_t begin, end;
} range_t;

static range_t visible(uint16_t o, uint16_t stride, uint16_t pad, uint16_t filter, uint16_t size)
{
    const int32_t origin = o * stride - pad;
    return (range_t){origin < 0 ? 0 : origin, origin + filter < size ? origin + filter : size};
}

static view_t view_at(const window_t *w, const int8_t *in, uint16_t y, uint16_t x)
{
    const range_t ys = visible(y, w->stride_h, w->pad_top, w->filter_h, w->in_h);
    const range_t xs = visible(x, w->stride_w, w->pad_left, w->filter_w, w->in_w);
    view_t v = {
        .in = in + (ys.begin * w->in_w + xs.begin) * w->in_c,
        .rows = (uint32_t)(ys.end - ys.begin),
        .columns = (uint32_t)(xs.end - xs.begin),
        .pixel = w->in_c,
        .row = (uint32_t)(w->in_w * w->in_c),
        .count = (ys.end - ys.begin) * (xs.end - xs.begin),
    };
    if (v.columns == w->in_w) { /* rows without a gap are one */
        v.columns *= v.rows;
        v.rows = 1;
    }
    return v;
}

static int32_t divide(int32_t sum, int32_t count)
{
    return (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
}

static int32_t average_one(const view_t *v, uint32_t channel)
{
    int32_t sum = 0;
    for (uint32_t y = 0; y < v->rows; y++) {
        const int8_t *in = v->in + channel + y * v->row;
        for (uint32_t x = 0; x < v->columns; x++) {
            sum += in[x * v->pixel];
        }
    }
    return divide(sum, v->count);
}

static int32_t max_one(const view_t *v, uint32_t channel)
{
    int32_t best = INT8_MIN;
    for (uint32_t y = 0; y < v->rows; y++) {
        const int8_t *in = v->in + channel + y * v->row;
        for (uint32_t x = 0; x < v->columns; x++) {
            const int8_t value = in[x * v->pixel];
            best = value > best ? value : best;
        }
    }
    return best;
}

#if NN_DSP

static uint32_t average_four(const view_t *v, uint32_t channel)
{
    uint32_t sums[2] = {0, 0};
    for (uint32_t y = 0; y < v->rows; y++) {
        const int8_t *in = v->in + channel + y * v->row;
        for (uint32_t x = v->columns; x > 0; x--, in += v->pixel) {
            const uint32_t bytes = load32(in);
            sums[0] = sxtab16(sums[0], bytes);
            sums[1] = sxtab16_ror8(sums[1], bytes);
        }
    }
    uint32_t averages = 0;
    for (int i = 3; i >= 0; i--) {
        const int16_t sum = (int16_t)(sums[i & 1] >> (i & 2) * 8);
        averages = averages << 8 | (uint8_t)divide(sum, v->count);
    }
    return averages;
}

static uint32_t max_four(const view_t *v, uint32_t channel)
{
    uint32_t best = 0x80808080;
    for (uint32_t y = 0; y < v->rows; y++) {
        const int8_t *in = v->in + channel + y * v->row;
        for (uint32_t x = v->columns; x > 0; x--, in += v->pixel) {
            best = max_bytes(best, load32(in));
        }
    }
    return best;
}

#endif

static void pixel(const window_t *w, const view_t *v, int8_t *out, bool average)
{
    uint32_t c = 0;
#if NN_DSP
    const uint32_t low = (uint8_t)w->low * 0x01010101U, high = (uint8_t)w->high * 0x01010101U;
    for (; (!average || v->count <= PAIR_SUMMANDS) && c + 4 <= w->in_c; c += 4) {
        const uint32_t four = average ? average_four(v, c) : max_four(v, c);
        store32(out + c, min_bytes(max_bytes(four, low), high));
    }
#endif
    for (; c < w->in_c; c++) {
        out[c] = (int8_t)clamp(average ? average_one(v, c) : max_one(v, c), w->low, w->high);
    }
}

static void pool(const window_t *w, const int8_t *in, int8_t *out, bool average)
{
    for (uint16_t n = 0; n < w->batches; n++, in += w->in_h * w->in_w * w->in_c) {
        for (uint16_t y = 0; y < w->out_h; y++) {
            for (uint16_t x = 0; x < w->out_w; x++, out += w->in_c) {
                const view_t v = view_at(w, in, y, x);
                pixel(w, &v, out, average);
            }
        }
    }
}

void kernel_average_pool(const window_t *w, const int8_t *in, int8_t *out)
{
    pool(w, in, out, true);
}

void kernel_max_pool(const window_t *w, const int8_t *in, int8_t *out)
{
    pool(w, in, out, false);
}
