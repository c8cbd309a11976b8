/* Average and maximum over windows of an image. */
#include "kernels.h"

typedef struct range {
    int32_t begin, end;
} range_t;

/* The part of the window of output `o` that lies in the input. */
static range_t visible(uint16_t o, uint16_t stride, uint16_t pad, uint16_t filter, uint16_t size)
{
    const int32_t origin = o * stride - pad;
    return (range_t){origin < 0 ? 0 : origin, origin + filter < size ? origin + filter : size};
}

static int32_t average(const int8_t *in, const window_t *w, range_t ys, range_t xs)
{
    const int32_t count = (ys.end - ys.begin) * (xs.end - xs.begin);
    int32_t sum = 0;
    for (int32_t y = ys.begin; y < ys.end; y++) {
        for (int32_t x = xs.begin; x < xs.end; x++) {
            sum += in[(y * w->in_w + x) * w->in_c];
        }
    }
    return (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
}

static int32_t maximum(const int8_t *in, const window_t *w, range_t ys, range_t xs)
{
    int32_t best = INT8_MIN;
    for (int32_t y = ys.begin; y < ys.end; y++) {
        for (int32_t x = xs.begin; x < xs.end; x++) {
            const int8_t value = in[(y * w->in_w + x) * w->in_c];
            best = value > best ? value : best;
        }
    }
    return best;
}

static void pool(const window_t *w, const int8_t *in, int8_t *out,
                 int32_t (*reduce)(const int8_t *, const window_t *, range_t, range_t))
{
    for (uint16_t n = 0; n < w->batches; n++, in += w->in_h * w->in_w * w->in_c) {
        for (uint16_t y = 0; y < w->out_h; y++) {
            const range_t ys = visible(y, w->stride_h, w->pad_top, w->filter_h, w->in_h);
            for (uint16_t x = 0; x < w->out_w; x++) {
                const range_t xs = visible(x, w->stride_w, w->pad_left, w->filter_w, w->in_w);
                for (uint16_t c = 0; c < w->in_c; c++) {
                    *out++ = (int8_t)clamp(reduce(in + c, w, ys, xs), w->low, w->high);
                }
            }
        }
    }
}

void kernel_average_pool(const window_t *w, const int8_t *in, int8_t *out)
{
    pool(w, in, out, average);
}

void kernel_max_pool(const window_t *w, const int8_t *in, int8_t *out)
{
    pool(w, in, out, maximum);
}
