/* Average and maximum over windows of an image; with DSP of four channels at a time. */
#include <stdbool.h>

#include "dsp.h"
#include "kernels.h"

#define PAIR_SUMMANDS 256 /* int8 values that an int16 sums up */

/* The part of a window that lies in the image. */
typedef struct view {
    const int8_t *in;
    int32_t rows, columns, count;
    int32_t pixel, row; /* bytes from one to the next */
} view_t;

static view_t view_at(const window_t *w, const int8_t *in, int32_t y, int32_t x)
{
    const int32_t y_end = y + w->filter_h < w->in_h ? y + w->filter_h : w->in_h;
    const int32_t x_end = x + w->filter_w < w->in_w ? x + w->filter_w : w->in_w;
    y = y < 0 ? 0 : y;
    x = x < 0 ? 0 : x;
    view_t v = {
        .in = in + (y * w->in_w + x) * w->in_c,
        .rows = y_end - y,
        .columns = x_end - x,
        .pixel = w->in_c,
        .row = w->in_w * w->in_c,
        .count = (y_end - y) * (x_end - x),
    };
    if (v.columns == w->in_w) { /* rows without a gap are one */
        v.columns = v.count;
        v.rows = 1;
    }
    return v;
}

static int32_t divide(int32_t sum, int32_t count)
{
    return (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
}

static int8_t pool_one(const view_t *v, uint32_t channel, bool average)
{
    const int8_t *row = v->in + channel;
    int32_t sum = 0, best = INT8_MIN;
    for (int32_t y = v->rows; y > 0; y--, row += v->row) {
        const int8_t *in = row;
        for (int32_t x = v->columns; x > 0; x--, in += v->pixel) {
            sum += *in;
            best = *in > best ? *in : best;
        }
    }
    return (int8_t)(average ? divide(sum, v->count) : best);
}

#if NN_DSP
static uint32_t pool_four(const view_t *v, uint32_t channel, bool average)
{
    const int8_t *row = v->in + channel;
    uint32_t even = 0, odd = 0, best = 0x80808080;
    for (int32_t y = v->rows; y > 0; y--, row += v->row) {
        const int8_t *in = row;
        for (int32_t x = v->columns; x > 0; x--, in += v->pixel) {
            const uint32_t bytes = load32(in);
            even = sxtab16(even, bytes);
            odd = sxtab16_ror8(odd, bytes);
            best = max_bytes(best, bytes);
        }
    }
    for (int i = 0; average && i < 4; i++) { /* each one comes in from above */
        best = best >> 8 | (uint32_t)divide((int16_t)even, v->count) << 24;
        const uint32_t next = even >> 16;
        even = odd;
        odd = next;
    }
    return best;
}
#endif

static void pixel(const view_t *v, uint32_t channels, int8_t *out, bool average)
{
    uint32_t c = 0;
#if NN_DSP
    for (; (!average || v->count <= PAIR_SUMMANDS) && c + 4 <= channels; c += 4) {
        store32(out + c, pool_four(v, c, average));
    }
#endif
    for (; c < channels; c++) {
        out[c] = pool_one(v, c, average);
    }
}

static void pool(const window_t *w, const int8_t *in, int8_t *out, bool average)
{
    int8_t *const first = out;
    for (int32_t n = 0; n < w->batches; n++, in += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++, out += w->in_c) {
                const view_t v = view_at(w, in, y * w->stride_h - w->pad_top, x * w->stride_w - w->pad_left);
                pixel(&v, w->in_c, out, average);
            }
        }
    }
    clamp_all(first, (uint32_t)(out - first), w->low, w->high);
}

void kernel_average_pool(const window_t *w, const int8_t *in, int8_t *out)
{
    pool(w, in, out, true);
}

void kernel_max_pool(const window_t *w, const int8_t *in, int8_t *out)
{
    pool(w, in, out, false);
}
