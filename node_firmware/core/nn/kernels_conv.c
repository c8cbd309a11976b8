/* Convolution and fully connected: where the time goes. The patches of a block of pixels are expanded into scratch
 * once, then every filter passes over them. */
#ifndef NN_SMALL
#include "filters.h"

typedef struct layer {
    pass_t pass;
    int32_t in_zero;
    bool fast;
    uint32_t held, block; /* patches that are there, and that make a block */
    uint32_t pixels;      /* left, with the block */
} layer_t;

__attribute__((noinline)) static void layer_init(layer_t *l, const factors_t *factors, const int8_t *filter,
                                                 const int32_t *bias, uint32_t units)
{
    static const int32_t no_bias[2] = {0, 0};
    const uint32_t factor_count = units * factors->step;
    l->pass.filter = filter;
    l->pass.unit = -(int32_t)units;
    l->pass.bias_mask = bias ? -1 : 0;
    l->pass.bias = bias ? bias + units : no_bias;
    l->pass.factor_mask = factors->step ? -1 : 0;
    l->pass.multiplier = factors->multiplier + factor_count;
    l->pass.shift = factors->shift + factor_count;
}

__attribute__((noinline)) static void start(layer_t *l, uint32_t pixels, int8_t *out)
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
    expand(l->pass.patches + l->held, l->block, bytes, l->pass.depth, l->in_zero);
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

/* Collects the bytes under a filter whose first element is at (x0, y0) of the input, rows of the filter at once. */
static void gather_rows(const window_t *w, const int8_t *in, int32_t x0, int32_t y0, int8_t *to)
{
    const int32_t c = w->in_c, row = w->filter_w * c, pitch = w->in_w * c;
    const int32_t left = x0 < 0 ? -x0 : 0, top = y0 < 0 ? -y0 : 0;
    const int32_t width = (x0 + w->filter_w < w->in_w ? w->filter_w : w->in_w - x0) - left;
    int32_t height = (y0 + w->filter_h < w->in_h ? w->filter_h : w->in_h - y0) - top;
    if (width < w->filter_w || height < w->filter_h) {
        memset(to, w->in_zero, (size_t)(w->filter_h * row));
        to += top * row + left * c;
    }
    in += (y0 + top) * pitch + (x0 + left) * c;
    for (; height > 0; height--, to += row, in += pitch) {
        copy(to, in, (uint32_t)(width * c));
    }
}

/* The same for one element of the filter after another. */
static void gather_each(const window_t *w, const int8_t *in, int32_t x0, int32_t y0, int8_t *to)
{
    for (int32_t ky = 0, y = y0; ky < w->filter_h; ky++, y += w->dilation_h) {
        for (int32_t kx = 0, x = x0; kx < w->filter_w; kx++, x += w->dilation_w, to += w->filter_c) {
            if (y < 0 || y >= w->in_h || x < 0 || x >= w->in_w) {
                memset(to, w->in_zero, w->filter_c);
            } else {
                memmove(to, in + (y * w->in_w + x) * w->in_c, w->filter_c);
            }
        }
    }
}

void kernel_dense(const dense_t *d, const factors_t *factors, const int8_t *in, const int8_t *filter,
                  const int32_t *bias, int8_t *out, void *scratch)
{
    layer_t l = {
        .pass = {.zero = d->out_zero, .pitch = d->units, .depth = d->depth},
        .in_zero = d->in_zero,
        .fast = d->fast,
    };
    l.pass.patches = scratch;
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
    int8_t *bytes = (int8_t *)l->pass.patches + patch_scratch(pixels, l->pass.depth) - padded_depth(l->pass.depth);
    const bool rows = (w->dilation_h | w->dilation_w) == 1 && w->filter_c == w->in_c;
    const bool in_place = rows && (w->filter_h | w->filter_w | w->stride_h | w->stride_w) == 1; /* a patch is a pixel */
    start(l, pixels, out);
    for (int32_t y = 0; y < w->out_h; y++) {
        for (int32_t x = 0; x < w->out_w; x++, in += in_place ? w->in_c : 0) {
            if (!in_place) {
                (rows ? gather_rows : gather_each)(w, in, x * w->stride_w - w->pad_left, y * w->stride_h - w->pad_top,
                                                   bytes);
            }
            take(l, in_place ? in : bytes);
        }
    }
}

void kernel_conv(const window_t *w, const factors_t *factors, const int8_t *in, const int8_t *filter,
                 const int32_t *bias, int8_t *out, void *scratch)
{
    const uint32_t pixels = (uint32_t)w->out_h * w->out_w, groups = w->in_c / w->filter_c, units = w->out_c / groups;
    layer_t l = {
        .pass = {.zero = w->out_zero, .pitch = w->out_c, .depth = (uint32_t)w->filter_h * w->filter_w * w->filter_c},
        .in_zero = w->in_zero,
        .fast = w->fast,
    };
    l.pass.patches = scratch;
    for (uint32_t first = 0; first < w->out_c; first += units, in += w->filter_c) {
        const factors_t own = {factors->multiplier + first * factors->step, factors->shift + first * factors->step,
                               factors->step};
        layer_init(&l, &own, filter + first * l.pass.depth, bias ? bias + first : NULL, units);
        for (uint32_t n = 0; n < w->batches; n++) {
            conv(&l, w, in + n * w->in_h * w->in_w * w->in_c, out + n * pixels * w->out_c + first + units);
        }
    }
    clamp_all(out, w->batches * pixels * w->out_c, w->low, w->high);
}
#endif
