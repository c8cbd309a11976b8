/* Convolution and fully connected: where the time goes. The patches of a block of pixels are expanded into scratch
 * once, then every filter passes over them. */
#ifndef NN_SMALL
#include "filters.h"

typedef struct layer {
    pass_t pass;
    patch_t *patches;
    int32_t in_zero;
    bool fast;
    uint32_t held, block; /* patches that are there, and that make a block */
    uint32_t pixels;      /* left, with the block */
} layer_t;

__attribute__((noinline)) static void layer_init(layer_t *l, const factors_t *factors, const int8_t *filter, const int32_t *bias, uint32_t units)
{
    static const int32_t no_bias[2] = {0, 0};
    const uint32_t factor_count = units * factors->step;
    l->pass.filter = filter;
    l->pass.unit = -(int32_t)units;
    l->pass.patches = l->patches;
    l->pass.bias_mask = bias ? -1 : 0;
    l->pass.bias = bias ? bias + units : no_bias;
    l->pass.factor_mask = factors->step ? -1 : 0;
    l->pass.multiplier = factors->multiplier + factor_count;
    l->pass.shift = factors->shift + factor_count;
}

static void start(layer_t *l, uint32_t pixels, int8_t *out)
{
    l->held = 0;
    l->pixels = pixels;
    l->block = l->fast && pixels >= BLOCK && l->pass.depth >= 4 ? BLOCK : 1;
    l->pass.out = out;
}

/* Applies all filters to one patch. Not inlined, so that its loop keeps its registers. */
__attribute__((noinline)) static void filter_pixel(layer_t *l)
{
    pass_t *p = &l->pass;
    int32_t unit = p->unit + (l->fast ? filter_pairs(p) : 0);
    const int8_t *filter = p->filter + (unit - p->unit) * (int32_t)p->depth;
    for (; unit < 0; unit++, filter += p->depth) {
        const int32_t sum = dot(p->bias[unit & p->bias_mask], p->patches, 1, filter, p->depth);
        const int32_t i = unit & p->factor_mask;
        p->out[unit] = requantize_int8(sum, p->multiplier[i], p->shift[i], p->zero);
    }
}

/* Takes the bytes of the next pixel's patch. */
static void take(layer_t *l, const int8_t *bytes)
{
    expand(l->patches + l->held, l->block, bytes, l->pass.depth, l->in_zero);
    l->held++;
    if (l->held < l->block) {
        return;
    }
    if (l->block == 1) {
        filter_pixel(l);
    } else {
        filter_block(&l->pass);
    }
    start(l, l->pixels - l->block, l->pass.out + l->block * l->pass.pitch);
}

static void copy(int8_t *to, const int8_t *from, uint32_t count)
{
    if (count < 4) {
        for (uint32_t i = 0; i < count; i++) {
            to[i] = from[i];
        }
        return;
    }
    const int8_t *last = from + count - 4;
    do {
        store32(to, load32(from));
        from += 4;
        to += 4;
    } while (from < last);
    store32(to - (from - last), load32(last)); /* overlaps what is there */
}

/* Collects the bytes under a filter whose first element is at (x0, y0) of the input: of a row those of all elements at
 * once, if they lie together. */
static void gather(const window_t *w, const int8_t *in, int32_t x0, int32_t y0, int8_t *to)
{
    const int32_t row = w->filter_w * w->filter_c, dx = w->dilation_w, dy = w->dilation_h;
    const int32_t x_end = x0 + (w->filter_w - 1) * dx + 1, y_end = y0 + (w->filter_h - 1) * dy + 1;
    const bool together = dx == 1 && w->filter_c == w->in_c;
    const int32_t left = x0 < 0 ? -x0 : 0, width = (x_end < w->in_w ? x_end : w->in_w) - x0 - left;
    if (x0 < 0 || y0 < 0 || x_end > w->in_w || y_end > w->in_h) {
        memset(to, w->in_zero, (size_t)(w->filter_h * row));
    }
    for (int32_t y = y0; y < y_end; y += dy, to += row) {
        const int8_t *from = in + (y * w->in_w + x0) * w->in_c;
        if (y < 0 || y >= w->in_h) {
            continue;
        }
        if (together) {
            copy(to + left * w->in_c, from + left * w->in_c, (uint32_t)(width * w->in_c));
            continue;
        }
        for (int32_t k = 0; k < w->filter_w; k++) {
            if (x0 + k * dx >= 0 && x0 + k * dx < w->in_w) {
                copy(to + k * w->filter_c, from + k * dx * w->in_c, w->filter_c);
            }
        }
    }
}

void kernel_dense(const dense_t *d, const factors_t *factors, const int8_t *in, const int8_t *filter,
                  const int32_t *bias, int8_t *out, void *scratch)
{
    layer_t l = {
        .pass = {.zero = d->out_zero, .pitch = d->units, .depth = d->depth},
        .patches = scratch,
        .in_zero = d->in_zero,
        .fast = d->fast,
    };
    layer_init(&l, factors, filter, bias, d->units);
    start(&l, d->rows, out + d->units);
    for (uint32_t row = 0; row < d->rows; row++, in += d->depth) {
        take(&l, in);
    }
    clamp_all(out, d->rows * d->units, d->low, d->high);
}

/* One group of filters over one image. */
static void conv(layer_t *l, const window_t *w, const int8_t *in, int8_t *out)
{
    const uint32_t pixels = (uint32_t)w->out_h * w->out_w;
    int8_t *bytes = (int8_t *)l->patches + patch_scratch(pixels, l->pass.depth) - padded_depth(l->pass.depth);
    start(l, pixels, out);
    for (int32_t y = 0; y < w->out_h; y++) {
        for (int32_t x = 0; x < w->out_w; x++) {
            gather(w, in, x * w->stride_w - w->pad_left, y * w->stride_h - w->pad_top, bytes);
            take(l, bytes);
        }
    }
}

void kernel_conv(const window_t *w, const factors_t *factors, const int8_t *in, const int8_t *filter,
                 const int32_t *bias, int8_t *out, void *scratch)
{
    const uint32_t pixels = (uint32_t)w->out_h * w->out_w, groups = w->in_c / w->filter_c, units = w->out_c / groups;
    if (groups == 1 && (w->filter_h | w->filter_w | w->stride_h | w->stride_w) == 1) {
        const dense_t rows = {w->batches * pixels, w->in_c, w->out_c, w->in_zero, w->out_zero, w->low, w->high, w->fast,
                              w->factors};
        kernel_dense(&rows, factors, in, filter, bias, out, scratch);
        return;
    }
    layer_t l = {
        .pass = {.zero = w->out_zero, .pitch = w->out_c, .depth = (uint32_t)w->filter_h * w->filter_w * w->filter_c},
        .patches = scratch,
        .in_zero = w->in_zero,
        .fast = w->fast,
    };
    for (uint32_t group = 0; group < groups; group++) {
        const uint32_t first = group * units;
        const factors_t own = {factors->multiplier + first * factors->step, factors->shift + first * factors->step,
                               factors->step};
        layer_init(&l, &own, filter + first * l.pass.depth, bias ? bias + first : NULL, units);
        for (uint32_t n = 0; n < w->batches; n++) {
            conv(&l, w, in + n * w->in_h * w->in_w * w->in_c + group * w->filter_c,
                 out + n * pixels * w->out_c + first + units);
        }
    }
    clamp_all(out, w->batches * pixels * w->out_c, w->low, w->high);
}
#endif
