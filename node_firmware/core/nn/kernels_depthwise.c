/* Depthwise convolution: each output channel sees one input channel.
 *
 * With DSP a 3x3 filter goes over one channel after the other, row by row: each column of three inputs is loaded once
 * for the three outputs that it is part of. All other filters take four channels of a pixel at a time. */
#include <stdbool.h>
#include <stddef.h>

#include "dsp.h"
#include "kernels_common.h"

/* The filter rows and columns that lie over the image from one output, the fewer of them outside. Steps are bytes; the
 * outer ones go from behind the inner ones' last to the next one's first. */
typedef struct patch {
    const int8_t *in, *filter; /* of channel 0 */
    uint32_t outer, inner;
    int32_t in_step, in_next, filter_step, filter_next;
} patch_t;

typedef struct range {
    int32_t begin, end;
} range_t;

static range_t visible(int32_t origin, int32_t filter, int32_t dilation, int32_t size)
{
    const int32_t end = (size - origin + dilation - 1) / dilation;
    return (range_t){origin < 0 ? (dilation - 1 - origin) / dilation : 0, end < filter ? end : filter};
}

static patch_t patch_at(const window_t *w, const int8_t *in, const int8_t *filter, uint16_t y, uint16_t x)
{
    const int32_t top = y * w->stride_h - w->pad_top, left = x * w->stride_w - w->pad_left;
    const range_t rows = visible(top, w->filter_h, w->dilation_h, w->in_h);
    const range_t columns = visible(left, w->filter_w, w->dilation_w, w->in_w);
    const int32_t height = rows.end - rows.begin, width = columns.end - columns.begin;
    const int32_t in_down = w->dilation_h * w->in_w * w->in_c, in_across = w->dilation_w * w->in_c;
    const int32_t filter_down = w->filter_w * w->out_c, filter_across = w->out_c;
    const bool tall = height > width;
    patch_t p = {
        .in = in + (top * w->in_w + left) * w->in_c + rows.begin * in_down + columns.begin * in_across,
        .filter = filter + rows.begin * filter_down + columns.begin * filter_across,
        .outer = (uint32_t)(tall ? width : height),
        .inner = (uint32_t)(tall ? height : width),
        .in_step = tall ? in_down : in_across,
        .filter_step = tall ? filter_down : filter_across,
    };
    p.in_next = (tall ? in_across : in_down) - (int32_t)p.inner * p.in_step;
    p.filter_next = (tall ? filter_across : filter_down) - (int32_t)p.inner * p.filter_step;
    return p;
}

static int32_t sum_one(const patch_t *p, uint32_t in_channel, uint32_t channel, int32_t zero)
{
    const int8_t *in = p->in + in_channel, *filter = p->filter + channel;
    int32_t sum = 0;
    for (uint32_t i = p->outer; i > 0; i--, in += p->in_next, filter += p->filter_next) {
        for (uint32_t k = p->inner; k > 0; k--, in += p->in_step, filter += p->filter_step) {
            sum += (*in - zero) * *filter;
        }
    }
    return sum;
}

#if NN_DSP

/* Whether every output is requantize_fast()'s, and sees an input channel of its own. */
static bool is_simple(const window_t *w)
{
    return w->fast && w->low == INT8_MIN && w->high == INT8_MAX && w->out_c == w->in_c;
}

/* Channels 4 * n to 4 * n + 3; as many as there are is returned. */
__attribute__((noinline)) static uint32_t fours(const window_t *w, const factors_t *f, const patch_t *p,
                                                const int32_t *bias, int8_t *out)
{
    const uint32_t minus_zero = pkhbt((uint32_t)-w->in_zero, (uint32_t)-w->in_zero), step = f->step;
    const int32_t zero = w->out_zero;
    uint32_t channel = 0;
    for (; channel + 4 <= w->out_c; channel += 4) {
        const int8_t *in = p->in + channel, *filter = p->filter + channel;
        int32_t a = 0, b = 0, c = 0, d = 0;
        for (uint32_t i = p->outer; i > 0; i--, in += p->in_next, filter += p->filter_next) {
            for (uint32_t k = p->inner; k > 0; k--, in += p->in_step, filter += p->filter_step) {
                const uint32_t x = load32(in), weights = load32(filter);
                const uint32_t x02 = sxtab16(minus_zero, x), w02 = sxtb16(weights);
                const uint32_t x13 = sxtab16_ror8(minus_zero, x), w13 = sxtb16_ror8(weights);
                a = smlabb(x02, w02, a);
                b = smlabb(x13, w13, b);
                c = smlatt(x02, w02, c);
                d = smlatt(x13, w13, d);
            }
        }
        const int32_t sums[] = {a, b, c, d};
        const int32_t *multiplier = f->multiplier + channel * step;
        const int8_t *shift = f->shift + channel * step;
        for (const int32_t *sum = sums; sum < sums + 4; sum++, multiplier += step, shift += step) {
            *out++ = (int8_t)requantize_fast(*sum + *bias++, *multiplier, -*shift, zero);
        }
    }
    return channel;
}

#endif

static void pixel(const window_t *w, const factors_t *f, const patch_t *p, const int32_t *bias, int8_t *out)
{
    const uint32_t depth_multiplier = w->out_c / w->in_c;
    uint32_t c = 0;
#if NN_DSP
    if (is_simple(w) && bias != NULL) {
        c = fours(w, f, p, bias, out);
    }
#endif
    for (; c < w->out_c; c++) {
        const int32_t sum = sum_one(p, c / depth_multiplier, c, w->in_zero);
        out[c] = requantize(add_wrap(sum, bias ? bias[c] : 0), f, c, w->out_zero, w->low, w->high);
    }
}

#if NN_DSP

/* Rows of outputs for which the same rows of a 3x3 filter lie over the image. */
typedef struct band {
    uint32_t rows;
    uint32_t in;      /* offset of the first row's input, bytes */
    uint32_t weights; /* index of the first row's among `plane_t.weights` */
} band_t;

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
    int32_t left, right;            /* what a column of padding adds to a sum: the bias too, at the left */
    uint32_t pixel, row, next_row;  /* bytes; the latter from one output's row to the next one's */
    uint32_t columns;               /* that end an output */
    bool pad_left, pad_right, skip; /* skip: of two columns only one ends an output */
    uint32_t zeros, minuses;        /* the zero point and its negative, as pairs */
    int16_t weights[3][5];          /* by columns; 0 above and below */
    band_t bands[3];
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

static inline column_t take(cursor_t *at)
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
static inline void go_by_one(cursor_t *at, const doubles_t *d, uint32_t count)
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
static inline void go_by_two(cursor_t *at, const doubles_t *d, uint32_t count, bool padding)
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

/* Returns where the next band's outputs begin. */
__attribute__((noinline)) static int8_t *band_3x3(const plane_t *p, const int8_t *in, int8_t *out, uint32_t rows)
{
    const doubles_t d = p->k; /* on the stack, where any word is in reach */
    cursor_t at = {in, out, 0, p->pixel, p->row, p->lower, p->last};
    for (; rows > 0; rows--, in += p->next_row) {
        at.in = in;
        at.sum = p->left;
        if (!p->pad_left) {
            at.sum = begin(&d, at.lower, take(&at));
        }
        if (p->skip) {
            go_by_two(&at, &d, p->columns, p->pad_right);
        } else {
            go_by_one(&at, &d, p->columns);
        }
        if (p->pad_right) {
            put(&at, &d, at.sum + p->right);
        }
    }
    return at.out;
}

/* Sets all that depends on the rows of the filter that see the image. */
static inline void weigh(plane_t *p, uint32_t row, int32_t bias, uint32_t right)
{
    const int16_t *weights = p->weights[0] + row;
    const uint32_t first = load32(weights), second = load32(weights + 5), third = load32(weights + 10);
    const uint32_t zeros = p->zeros, minuses = p->minuses;
    const uint32_t lower = pkhbt((uint32_t)weights[2], (uint32_t)weights[7]),
                   last = pkhbt(right, (uint32_t)weights[12]);
    bias = smlad(minuses, second, smlad(minuses, first, bias));
    bias = smlad(minuses, third, bias);
    bias = smlabt(minuses, last, smlad(minuses, lower, bias));
    p->lower = lower;
    p->last = last;
    p->k.bias_first = (uint32_t)bias | (uint64_t)first << 32;
    p->k.second_third = second | (uint64_t)third << 32;
    p->left = smlabb(zeros, lower, smlad(zeros, first, bias));
    p->right = smlabt(zeros, last, smlad(zeros, third, 0));
}

static void plane_3x3(plane_t *p, const int8_t *in, const int8_t *filter, int32_t bias, uint32_t right, int8_t *out)
{
    for (uint32_t i = 1; i < 4; i++, filter += 3 * p->pixel) {
        p->weights[0][i] = (int16_t)(2 * filter[0]);
        p->weights[1][i] = (int16_t)(2 * filter[p->pixel]);
        p->weights[2][i] = (int16_t)(2 * filter[2 * p->pixel]);
    }
    for (const band_t *b = p->bands; b < p->bands + 3; b++) {
        if (b->rows > 0) {
            weigh(p, b->weights, bias, right);
            out = band_3x3(p, in + b->in, out, b->rows);
        }
    }
}

static bool fits_3x3(const window_t *w)
{
    return is_simple(w) && w->filter_h == 3 && w->filter_w == 3 && w->stride_w <= 2 && w->dilation_h == 1 &&
           w->dilation_w == 1 && w->in_h >= 3 && w->in_w >= 3;
}

static void image_3x3(const window_t *w, const factors_t *f, const int8_t *in, const int8_t *filter,
                      const int32_t *bias, int8_t *out)
{
    const bool pad_right = (w->out_w - 1) * w->stride_w - w->pad_left + 3 > w->in_w;
    const bool pad_bottom = (w->out_h - 1) * w->stride_h - w->pad_top + 3 > w->in_h;
    const uint32_t row = (uint32_t)w->in_w * w->in_c;
    plane_t p = {
        .pixel = w->in_c,
        .row = row,
        .next_row = row * w->stride_h,
        .columns = (uint32_t)(w->out_w - pad_right),
        .pad_left = w->pad_left > 0,
        .pad_right = pad_right,
        .skip = w->stride_w == 2,
        .zeros = pkhbt((uint32_t)w->in_zero, (uint32_t)w->in_zero),
        .minuses = pkhbt((uint32_t)-w->in_zero, (uint32_t)-w->in_zero),
        .bands = {{w->pad_top, 0, 2},
                  {(uint32_t)(w->out_h - w->pad_top - pad_bottom), row * (uint32_t)(w->pad_top * (w->stride_h - 1)), 1},
                  {pad_bottom, row * (uint32_t)(w->in_h - 3), 0}}};
    for (uint32_t c = 0; c < w->in_c; c++) {
        const uint32_t i = c * f->step;
        p.k.multiplier_zero = (uint32_t)f->multiplier[i] | (uint64_t)(uint32_t)w->out_zero << 32;
        plane_3x3(&p, in + c, filter + c, bias ? doubled(bias[c]) : 0, (uint32_t)-f->shift[i], out + c);
    }
}

#endif

static void image(const window_t *w, const factors_t *f, const int8_t *in, const int8_t *filter, const int32_t *bias,
                  int8_t *out)
{
    for (uint16_t y = 0; y < w->out_h; y++) {
        for (uint16_t x = 0; x < w->out_w; x++, out += w->out_c) {
            const patch_t patch = patch_at(w, in, filter, y, x);
            pixel(w, f, &patch, bias, out);
        }
    }
}

void kernel_depthwise(const window_t *w, const factors_t *factors, const int8_t *in, const int8_t *filter,
                      const int32_t *bias, int8_t *out)
{
    const uint32_t in_size = (uint32_t)(w->in_h * w->in_w) * w->in_c,
                   out_size = (uint32_t)(w->out_h * w->out_w) * w->out_c;
    for (uint16_t n = 0; n < w->batches; n++, in += in_size, out += out_size) {
#if NN_DSP
        if (fits_3x3(w)) {
            image_3x3(w, factors, in, filter, bias, out);
            continue;
        }
#endif
        image(w, factors, in, filter, bias, out);
    }
}
