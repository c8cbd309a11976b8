/* Depthwise convolution: each output channel sees one input channel.
 *
 * With DSP a 3x3 filter goes over one channel after the other, row by row: each column of three inputs is loaded once
 * for the three outputs that it is part of. All other filters take four channels of a pixel at a time. */
#include <stdbool.h>
#include <stddef.h>

#include "dsp.h"
#include "kernels_common.h"

/* The filter's rows and columns that lie over the image from one output. Steps are bytes. */
typedef struct patch {
    const int8_t *in, *filter; /* of channel 0 */
    int32_t height, width;
    int32_t in_down, in_across, filter_down, filter_across;
} patch_t;

typedef struct range {
    uint16_t begin, end;
} range_t;

/* Of `count` rows or columns of a filter those that lie over the image, which has `size`; `first`: where the first one
 * lies. */
__attribute__((noinline)) static range_t visible(int32_t first, int32_t count, int32_t dilation, int32_t size)
{
    range_t r = {0, (uint16_t)count};
    int32_t last = first + (count - 1) * dilation;
    for (; first < 0; first += dilation) {
        r.begin++;
    }
    for (; last >= size; last -= dilation) {
        r.end--;
    }
    return r;
}

static patch_t patch_at(const window_t *w, const int8_t *in, const int8_t *filter, int32_t y, int32_t x)
{
    const int32_t top = y * w->stride_h - w->pad_top, left = x * w->stride_w - w->pad_left;
    const range_t rows = visible(top, w->filter_h, w->dilation_h, w->in_h);
    const range_t columns = visible(left, w->filter_w, w->dilation_w, w->in_w);
    patch_t p = {
        .height = rows.end - rows.begin,
        .width = columns.end - columns.begin,
        .in_down = w->dilation_h * w->in_w * w->in_c,
        .in_across = w->dilation_w * w->in_c,
        .filter_down = w->filter_w * w->out_c,
        .filter_across = w->out_c,
    };
    p.in = in + ((top + rows.begin * w->dilation_h) * w->in_w + left + columns.begin * w->dilation_w) * w->in_c;
    p.filter = filter + (rows.begin * w->filter_w + columns.begin) * w->out_c;
    if (p.width == w->filter_w && p.in_down == w->filter_w * p.in_across) {
        p.width *= p.height; /* rows without a gap between them are one */
        p.height = 1;
    }
    return p;
}

__attribute__((noinline)) static int8_t one(const window_t *w, const factors_t *f, const patch_t *p,
                                            const int32_t *bias, uint32_t channel)
{
    const int8_t *in = p->in + channel * w->in_c / w->out_c, *filter = p->filter + channel;
    int32_t sum = 0;
    for (int32_t y = 0; y < p->height; y++) {
        for (int32_t x = 0; x < p->width; x++) {
            sum += (in[x * p->in_across] - w->in_zero) * filter[x * p->filter_across];
        }
        in += p->in_down;
        filter += p->filter_down;
    }
    return requantize(add_wrap(sum, bias ? bias[channel] : 0), f, channel, w->out_zero, w->low, w->high);
}

#if NN_DSP

/* GCC spills registers of the innermost loops where it optimises for size. */
#if defined __OPTIMIZE_SIZE__ && !defined __clang__
#define FAST __attribute__((noinline, optimize("O2")))
#else
#define FAST __attribute__((noinline))
#endif

/* What the forms below ask of a layer; others are done by one(). */
static bool is_simple(const window_t *w, const int32_t *bias)
{
    return w->fast && w->low == INT8_MIN && w->high == INT8_MAX && w->out_c == w->in_c && w->dilation_w == 1 &&
           bias != NULL;
}

/* A pixel, four channels at a time; returns how many channels that are. */
FAST static uint32_t fours(const window_t *w, const factors_t *f, const patch_t *p, const int32_t *bias, int8_t *out)
{
    const uint32_t minus_zero = pkhbt((uint32_t)-w->in_zero, (uint32_t)-w->in_zero);
    const int32_t pixel = w->out_c, row = p->width * pixel, zero = w->out_zero;
    const int8_t *in_end = p->in + row, *filter_end = p->filter + row;
    int8_t *const end = out + pixel / 4 * 4;
    uint32_t factor = 0;
    for (; out < end; in_end += 4, filter_end += 4, bias += 4) {
        int32_t a = bias[0], b = bias[1], c = bias[2], d = bias[3];
        const int8_t *in = in_end, *filter = filter_end;
        for (int32_t y = p->height; y > 0; y--, in += p->in_down, filter += p->filter_down) {
            for (int32_t tap = -row; tap < 0; tap += pixel) {
                const uint32_t x = load32(in + tap), weights = load32(filter + tap);
                const uint32_t x02 = sxtab16(minus_zero, x), w02 = sxtb16(weights);
                const uint32_t x13 = sxtab16_ror8(minus_zero, x), w13 = sxtb16_ror8(weights);
                a = smlabb(x02, w02, a);
                b = smlabb(x13, w13, b);
                c = smlatt(x02, w02, c);
                d = smlatt(x13, w13, d);
            }
        }
        const int32_t sums[] = {a, b, c, d};
        for (uint32_t i = 0; i < 4; i++) {
            *out++ = (int8_t)requantize_fast(sums[i], f->multiplier[factor], -f->shift[factor], zero);
            factor += f->step;
        }
    }
    return (uint32_t)pixel / 4 * 4;
}

/* Words that are needed two by two: LDRD. */
typedef struct doubles {
    uint64_t bias_first, second_third, multiplier_zero;
} doubles_t;

/* One channel. Weights and bias are doubled, which is requantisation's first step, and the zero point is part of the
 * bias. Of a column of the filter rows 0 and 1 are a pair; row 2 is apart: in `lower` those of the first and second
 * column, in `last` that of the third, above requantisation's shift. */
typedef struct plane {
    doubles_t k;
    uint32_t lower, last;
    uint32_t row;          /* of the input, bytes */
    int32_t columns;       /* that end an output */
    int32_t left, right;   /* what a column of padding adds to a sum: the bias too, at the left */
    int16_t weights[3][5]; /* by columns; 0 above and below */
} plane_t;

/* The first column's weights begin a sum. */
static inline int32_t begin(const doubles_t *d, uint32_t lower, column_t in)
{
    const words_t k = ldrd(&d->bias_first);
    return smlabb(in.lower, lower, smlad(in.upper, k.high, (int32_t)k.low));
}

/* The second column's weights, or the third one's. */
static inline int32_t add(uint32_t upper, uint32_t lower, column_t in, int32_t sum)
{
    return smlabt(in.lower, lower, smlad(in.upper, upper, sum));
}

static inline int8_t finish(const doubles_t *d, uint32_t last, int32_t sum)
{
    const words_t k = ldrd(&d->multiplier_zero);
    return (int8_t)requantize_doubled(sum, (int32_t)k.low, (int32_t)last, (int32_t)k.high);
}

/* Where a row has got to, and what a plane has for all its rows: what should be in registers. */
typedef struct cursor {
    const int8_t *in;
    int8_t *out;
    int32_t sum; /* all but the last column of the output to come */
    const uint32_t pixel, row, lower, last;
} cursor_t;

__attribute__((always_inline)) static inline column_t take(cursor_t *at)
{
    const column_t column = load_column(at->in, at->row);
    at->in += at->pixel;
    return column;
}

static inline void put(cursor_t *at, const doubles_t *d, int32_t sum)
{
    *at->out = finish(d, at->last, sum);
    at->out += at->pixel;
}

/* Of a row in which every column ends an output, all columns but padding. */
static inline void go_by_one(cursor_t *at, const doubles_t *d, int32_t count)
{
    column_t column = take(at);
    at->sum = add(ldrd(&d->second_third).low, at->lower, column, at->sum);
    int32_t next = begin(d, at->lower, column);
    for (; count > 0; count--) {
        column = take(at);
        const words_t k = ldrd(&d->second_third);
        const int32_t done = add(k.high, at->last, column, at->sum);
        at->sum = add(k.low, at->lower, column, next);
        next = begin(d, at->lower, column);
        put(at, d, done);
    }
}

/* The same of a row in which every other column does; before padding there is one more. */
static inline void go_by_two(cursor_t *at, const doubles_t *d, int32_t count, bool padding)
{
    for (; count > 0; count--) {
        at->sum = add(ldrd(&d->second_third).low, at->lower, take(at), at->sum);
        const column_t column = take(at);
        const int32_t done = add(ldrd(&d->second_third).high, at->last, column, at->sum);
        at->sum = begin(d, at->lower, column);
        put(at, d, done);
    }
    if (padding) {
        at->sum = add(ldrd(&d->second_third).low, at->lower, take(at), at->sum);
    }
}

/* Rows of outputs for which the same rows of the filter lie over the image. Returns where the next row's begin. */
FAST static int8_t *band_3x3(const window_t *w, const plane_t *p, const int8_t *in, int8_t *out, int32_t rows)
{
    const doubles_t d = p->k; /* on the stack, where any word is in reach */
    const uint32_t row = p->row;
    const int32_t columns = p->columns;
    cursor_t at = {in, out, 0, w->in_c, row, p->lower, p->last};
    for (; rows > 0; rows--, in += w->stride_h * row) {
        at.in = in;
        at.sum = p->left;
        if (w->pad_left == 0) {
            at.sum = begin(&d, at.lower, take(&at));
        }
        if (w->stride_w == 2) {
            go_by_two(&at, &d, columns, columns < w->out_w);
        } else {
            go_by_one(&at, &d, columns);
        }
        if (columns < w->out_w) {
            put(&at, &d, at.sum + p->right);
        }
    }
    return at.out;
}

/* Sets all that depends on the rows of the filter that see the image. */
static void weigh(plane_t *p, int32_t row, uint32_t minus_zero, int32_t bias, uint32_t right)
{
    const int16_t *weights = p->weights[0] + row;
    const uint32_t first = load32(weights), second = load32(weights + 5), third = load32(weights + 10);
    const uint32_t lower = pkhbt((uint32_t)weights[2], (uint32_t)weights[7]),
                   last = pkhbt(right, (uint32_t)weights[12]);
    const int32_t third_zero = smlad(minus_zero, third, smlabt(minus_zero, last, 0));
    p->right = -third_zero;
    p->left = smlad(minus_zero, second, smlabt(minus_zero, lower, bias + third_zero));
    bias = smlad(minus_zero, first, smlabb(minus_zero, lower, p->left));
    p->lower = lower;
    p->last = last;
    p->k.bias_first = (uint32_t)bias | (uint64_t)first << 32;
    p->k.second_third = second | (uint64_t)third << 32;
}

static void plane_3x3(const window_t *w, plane_t *p, const int8_t *in, const int8_t *filter, int32_t bias,
                      uint32_t right, int8_t *out)
{
    for (uint32_t i = 1; i < 4; i++, filter += 3 * w->in_c) {
        p->weights[0][i] = (int16_t)(2 * filter[0]);
        p->weights[1][i] = (int16_t)(2 * filter[w->in_c]);
        p->weights[2][i] = (int16_t)(2 * filter[2 * w->in_c]);
    }
    const uint32_t minus_zero = pkhbt((uint32_t)-w->in_zero, (uint32_t)-w->in_zero);
    const int32_t bottom = w->in_h - 3;
    for (int32_t y = 0, rows; y < w->out_h; y += rows) {
        const int32_t top = y * w->stride_h - w->pad_top, first = clamp(top, 0, bottom);
        weigh(p, 1 + first - top, minus_zero, bias, right);
        rows = first == top ? (bottom - top) / w->stride_h + 1 : 1; /* at most one is beyond each edge */
        out = band_3x3(w, p, in + first * (int32_t)p->row, out, rows);
    }
}

static bool fits_3x3(const window_t *w)
{
    return w->batches == 1 && w->filter_h == 3 && w->filter_w == 3 && w->stride_w <= 2 && w->dilation_h == 1 &&
           w->in_h >= 3 && w->in_w >= 3;
}

static void image_3x3(const window_t *w, const factors_t *f, const int8_t *in, const int8_t *filter,
                      const int32_t *bias, int8_t *out)
{
    plane_t p = {
        .row = (uint32_t)w->in_w * w->in_c,
        .columns = (w->in_w + w->pad_left - 3) / w->stride_w + 1,
    };
    for (uint32_t c = 0; c < w->in_c; c++) {
        const uint32_t i = c * f->step;
        p.k.multiplier_zero = (uint32_t)f->multiplier[i] | (uint64_t)(uint32_t)w->out_zero << 32;
        plane_3x3(w, &p, in + c, filter + c, doubled(bias[c]), (uint32_t)-f->shift[i], out + c);
    }
}

#endif

void kernel_depthwise(const window_t *w, const factors_t *factors, const int8_t *in, const int8_t *filter,
                      const int32_t *bias, int8_t *out)
{
#if NN_DSP
    const bool simple = is_simple(w, bias);
    if (simple && fits_3x3(w)) {
        image_3x3(w, factors, in, filter, bias, out);
        return;
    }
#endif
    for (int32_t n = 0; n < w->batches; n++, in += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++, out += w->out_c) {
                const patch_t p = patch_at(w, in, filter, y, x);
                uint32_t channel = 0;
#if NN_DSP
                if (simple) {
                    channel = fours(w, factors, &p, bias, out);
                }
#endif
                for (; channel < w->out_c; channel++) {
                    out[channel] = one(w, factors, &p, bias, channel);
                }
            }
        }
    }
}
