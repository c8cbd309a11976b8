/* Depthwise convolution: each output channel sees one input channel. */
#include "kernels_common.h"

static int32_t depthwise_sum(const window_t *w, const int8_t *in, const int8_t *filter, uint16_t y, uint16_t x)
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
                sum +=
                    (in[(in_y * w->in_w + in_x) * w->in_c] - w->in_zero) * filter[(ky * w->filter_w + kx) * w->out_c];
            }
        }
    }
    return sum;
}

void kernel_depthwise(const window_t *w, const factors_t *factors, const int8_t *in, const int8_t *filter,
                      const int32_t *bias, int8_t *out)
{
    const uint16_t depth_multiplier = (uint16_t)(w->out_c / w->in_c);
    for (uint16_t n = 0; n < w->batches; n++, in += w->in_h * w->in_w * w->in_c) {
        for (uint16_t y = 0; y < w->out_h; y++) {
            for (uint16_t x = 0; x < w->out_w; x++) {
                for (uint16_t c = 0; c < w->out_c; c++) {
                    const int32_t sum = depthwise_sum(w, in + c / depth_multiplier, filter + c, y, x);
                    *out++ = requantize(add_wrap(sum, bias ? bias[c] : 0), factors, c, w->out_zero, w->low, w->high);
                }
            }
        }
    }
}
