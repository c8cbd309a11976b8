/* Convolution and fully connected: where the time goes. */
#include <stddef.h>

#include "kernels_common.h"

static int32_t dot(const int8_t *a, const int8_t *weights, uint32_t count, int32_t zero)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += (a[i] - zero) * weights[i];
    }
    return sum;
}

static int32_t conv_sum(const window_t *w, const int8_t *in, const int8_t *filter, uint16_t y, uint16_t x)
{
    int32_t sum = 0;
    for (uint16_t ky = 0; ky < w->filter_h; ky++) {
        const int32_t in_y = look(y, w->stride_h, w->pad_top, ky, w->dilation_h);
        if (in_y < 0 || in_y >= w->in_h) {
            continue;
        }
        for (uint16_t kx = 0; kx < w->filter_w; kx++) {
            const int32_t in_x = look(x, w->stride_w, w->pad_left, kx, w->dilation_w);
            if (in_x >= 0 && in_x < w->in_w) {
                sum += dot(in + (in_y * w->in_w + in_x) * w->in_c, filter + (ky * w->filter_w + kx) * w->filter_c,
                           w->filter_c, w->in_zero);
            }
        }
    }
    return sum;
}

void kernel_conv(const window_t *w, const factors_t *factors, const int8_t *in, const int8_t *filter,
                 const int32_t *bias, int8_t *out, void *scratch)
{
    (void)scratch;
    const uint16_t group = (uint16_t)(w->out_c / (w->in_c / w->filter_c)); /* output channels that share inputs */
    const int32_t filter_size = w->filter_h * w->filter_w * w->filter_c;
    for (uint16_t n = 0; n < w->batches; n++, in += w->in_h * w->in_w * w->in_c) {
        for (uint16_t y = 0; y < w->out_h; y++) {
            for (uint16_t x = 0; x < w->out_w; x++) {
                for (uint16_t c = 0; c < w->out_c; c++) {
                    const int32_t sum = conv_sum(w, in + c / group * w->filter_c, filter + c * filter_size, y, x);
                    *out++ = requantize(add_wrap(sum, bias ? bias[c] : 0), factors, c, w->out_zero, w->low, w->high);
                }
            }
        }
    }
}

void kernel_dense(const dense_t *d, const factors_t *factors, const int8_t *in, const int8_t *filter,
                  const int32_t *bias, int8_t *out, void *scratch)
{
    (void)scratch;
    for (uint32_t row = 0; row < d->rows; row++, in += d->depth) {
        for (uint16_t unit = 0; unit < d->units; unit++) {
            const int32_t sum = dot(in, filter + (size_t)unit * d->depth, d->depth, d->in_zero);
            *out++ = requantize(add_wrap(sum, bias ? bias[unit] : 0), factors, unit, d->out_zero, d->low, d->high);
        }
    }
}
