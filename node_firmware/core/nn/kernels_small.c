/* Convolution and fully connected where flash counts more than time (NN_SMALL): a product at a time. As in
 * kernels_conv.c, the patch of a pixel is in scratch memory before its first output is written. */
#ifdef NN_SMALL
#include "kernels.h"

/* What a pixel's filters have in common. */
typedef struct layer {
    uint32_t depth, units;
    int32_t in_zero, out_zero, low, high;
} layer_t;

static void apply(const layer_t *l, const factors_t *factors, const int8_t *patch, const int8_t *filter,
                  const int32_t *bias, int8_t *out)
{
    for (uint32_t unit = 0; unit < l->units; unit++) {
        int32_t sum = bias ? bias[unit] : 0;
        for (uint32_t k = 0; k < l->depth; k++) {
            sum = add_wrap(sum, (patch[k] - l->in_zero) * *filter++);
        }
        const int32_t scaled =
            scale(sum, factors->multiplier[unit * factors->step], factors->shift[unit * factors->step]);
        out[unit] = (int8_t)(clamp(scaled, l->low - l->out_zero, l->high - l->out_zero) + l->out_zero);
    }
}

void kernel_dense(const dense_t *d, const factors_t *factors, const int8_t *in, const int8_t *filter,
                  const int32_t *bias, int8_t *out, void *scratch)
{
    const layer_t l = {d->depth, d->units, d->in_zero, d->out_zero, d->low, d->high};
    int8_t *patch = scratch;
    for (uint32_t row = 0; row < d->rows; row++, out += d->units) {
        for (uint32_t k = 0; k < d->depth; k++) {
            patch[k] = *in++;
        }
        apply(&l, factors, patch, filter, bias, out);
    }
}

/* The bytes under a filter whose first element is at (x0, y0) of the input. */
static void gather(const window_t *w, const int8_t *in, int32_t x0, int32_t y0, int8_t *patch)
{
    for (int32_t ky = 0, y = y0; ky < w->filter_h; ky++, y += w->dilation_h) {
        for (int32_t kx = 0, x = x0; kx < w->filter_w; kx++, x += w->dilation_w) {
            const bool inside = y >= 0 && y < w->in_h && x >= 0 && x < w->in_w;
            for (int32_t c = 0; c < w->filter_c; c++) {
                *patch++ = (int8_t)(inside ? in[(y * w->in_w + x) * w->in_c + c] : w->in_zero);
            }
        }
    }
}

void kernel_conv(const window_t *w, const factors_t *factors, const int8_t *in, const int8_t *filter,
                 const int32_t *bias, int8_t *out, void *scratch)
{
    const uint32_t groups = w->in_c / w->filter_c, depth = (uint32_t)w->filter_h * w->filter_w * w->filter_c;
    const layer_t l = {depth, w->out_c / groups, w->in_zero, w->out_zero, w->low, w->high};
    for (uint32_t n = 0; n < w->batches; n++, in += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++, out += w->out_c) {
                for (uint32_t first = 0, c = 0; first < w->out_c; first += l.units, c += w->filter_c) {
                    const factors_t own = {factors->multiplier + first * factors->step,
                                           factors->shift + first * factors->step, factors->step};
                    gather(w, in + c, x * w->stride_w - w->pad_left, y * w->stride_h - w->pad_top, scratch);
                    apply(&l, &own, scratch, filter + first * depth, bias ? bias + first : bias, out + first);
                }
            }
        }
    }
}
#endif
