/* CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, AVERAGE_POOL_2D and MAX_POOL_2D: checks what a file asks for, then calls
 * kernels. */
#include <stddef.h>

#include "graph.h"
#include "kernels.h"
#include "op_common.h"
#include "schema.h"

enum { BATCH, HEIGHT, WIDTH, CHANNEL };

/* The fields of the options, which differ only in their positions. */
typedef struct fields {
    uint8_t padding, stride_w, stride_h, activation, dilation_w, dilation_h;
} fields_t;
#define NO_FIELD 0xff

static nn_status_t side(int32_t value, uint16_t *out)
{
    NEED(value > 0 && value <= NN_MAX_SIDE, NN_E_LIMIT);
    *out = (uint16_t)value;
    return NN_OK;
}

static nn_status_t image(const tensor_t *t, uint16_t *height, uint16_t *width, uint16_t *channels)
{
    NEED(is_quantized_int8(t), NN_E_TYPE);
    NEED(t->rank == 4, NN_E_SHAPE);
    TRY(side(t->dims[HEIGHT], height));
    TRY(side(t->dims[WIDTH], width));
    return side(t->dims[CHANNEL], channels);
}

/* Checks one direction's output size and gives the padding before the first element. */
static nn_status_t fit(uint8_t padding, uint16_t in, uint16_t out, uint16_t filter, uint16_t stride, uint16_t dilation,
                       uint16_t *pad)
{
    const int64_t reach = (int64_t)(filter - 1) * dilation + 1; /* a dilated filter's extent */
    NEED(reach <= NN_MAX_SIDE, NN_E_LIMIT);
    NEED(padding == PADDING_SAME || padding == PADDING_VALID, NN_E_SHAPE);
    NEED(out == (padding == PADDING_SAME ? (in + stride - 1) / stride : (in - reach + stride) / stride), NN_E_SHAPE);
    const int64_t total = (int64_t)(out - 1) * stride + reach - in;
    *pad = (uint16_t)(total > 0 ? total / 2 : 0);
    return NN_OK;
}

/* All of a window but its filter's size, which is in `w` already. */
static nn_status_t load_window(build_t *b, const fields_t *f, const tensor_t *in, const tensor_t *out, window_t *w)
{
    TRY(image(in, &w->in_h, &w->in_w, &w->in_c));
    TRY(image(out, &w->out_h, &w->out_w, &w->out_c));
    NEED(in->dims[BATCH] == out->dims[BATCH], NN_E_SHAPE);
    TRY(side(in->dims[BATCH], &w->batches));
    TRY(side(fb_i32(&b->fb, b->options, f->stride_h, 0), &w->stride_h));
    TRY(side(fb_i32(&b->fb, b->options, f->stride_w, 0), &w->stride_w));
    w->dilation_h = w->dilation_w = 1;
    if (f->dilation_h != NO_FIELD) {
        TRY(side(fb_i32(&b->fb, b->options, f->dilation_h, 1), &w->dilation_h));
        TRY(side(fb_i32(&b->fb, b->options, f->dilation_w, 1), &w->dilation_w));
    }
    const uint8_t padding = fb_u8(&b->fb, b->options, f->padding, PADDING_SAME);
    TRY(fit(padding, w->in_h, w->out_h, w->filter_h, w->stride_h, w->dilation_h, &w->pad_top));
    TRY(fit(padding, w->in_w, w->out_w, w->filter_w, w->stride_w, w->dilation_w, &w->pad_left));
    w->in_zero = (int16_t)in->zero_point;
    w->out_zero = (int16_t)out->zero_point;
    return activation_range(fb_u8(&b->fb, b->options, f->activation, ACTIVATION_NONE), out, &w->low, &w->high);
}

/* A bias is optional: int32, one for each output channel. */
static nn_status_t check_bias(build_t *b, uint16_t channels)
{
    tensor_t bias;
    if (!build_has_input(b, 2)) {
        return NN_OK;
    }
    TRY(build_input(b, 2, &bias));
    NEED(bias.type == NN_INT32, NN_E_TYPE);
    NEED(bias.elements == channels, NN_E_SHAPE);
    return NN_OK;
}

/* The multipliers of all channels, then their shifts, behind the operator's parameters. */
static nn_status_t store_factors(build_t *b, const tensor_t *in, const tensor_t *filter, const tensor_t *out,
                                 uint32_t count)
{
    int32_t *multiplier = build_alloc(b, count * (uint32_t)sizeof *multiplier);
    int8_t *shift = build_alloc(b, count);
    NEED(multiplier != NULL && shift != NULL, NN_E_ARENA);
    for (uint32_t i = 0; i < count; i++) {
        const float filter_scale = fb_f32_at(&b->fb, filter->scales, i);
        factor_t factor;
        NEED(factor_from_real((double)in->scale * (double)filter_scale / (double)out->scale, &factor), NN_E_TYPE);
        multiplier[i] = factor.multiplier;
        shift[i] = factor.shift;
    }
    return NN_OK;
}

static factors_t factors_behind(const void *parameters, uint32_t parameter_bytes, uint32_t count)
{
    const uint8_t *behind = (const uint8_t *)parameters + parameter_bytes;
    return (factors_t){
        .multiplier = (const int32_t *)(const void *)behind,
        .shift = (const int8_t *)(behind + 4 * count),
        .step = count > 1,
    };
}

/* One scale for all, or one for each of `channels` along `dimension`. */
static nn_status_t check_filter(const tensor_t *filter, int32_t dimension, uint16_t channels, uint16_t *factors)
{
    NEED(is_quantized_int8(filter) && filter->zero_point == 0, NN_E_TYPE);
    NEED(filter->scales.count == 1 || (filter->scales.count == channels && filter->scale_dimension == dimension),
         NN_E_TYPE);
    *factors = (uint16_t)filter->scales.count;
    return NN_OK;
}

static nn_status_t convolution(build_t *b, const fields_t *fields, bool depthwise)
{
    tensor_t in, filter, out;
    TRY(build_input(b, 0, &in));
    TRY(build_input(b, 1, &filter));
    TRY(build_output(b, 0, &out));
    window_t *w = build_alloc(b, sizeof *w);
    NEED(w != NULL, NN_E_ARENA);
    TRY(image(&filter, &w->filter_h, &w->filter_w, &w->filter_c));
    TRY(load_window(b, fields, &in, &out, w));
    if (depthwise) {
        NEED(filter.dims[0] == 1 && w->filter_c == w->out_c && w->out_c % w->in_c == 0, NN_E_SHAPE);
        NEED(fb_i32(&b->fb, b->options, DEPTHWISE_MULTIPLIER, 0) == w->out_c / w->in_c, NN_E_SHAPE);
    } else {
        NEED(filter.dims[0] == w->out_c && w->in_c % w->filter_c == 0, NN_E_SHAPE);
        NEED(w->out_c % (w->in_c / w->filter_c) == 0, NN_E_SHAPE);
    }
    const uint32_t depth = filter.elements / w->out_c; /* both cases */
    NEED(depth <= NN_MAX_DEPTH, NN_E_LIMIT);
    TRY(check_filter(&filter, depthwise ? 3 : 0, w->out_c, &w->factors));
    TRY(check_bias(b, w->out_c));
    TRY(build_work(b, (uint64_t)out.elements * depth));
    return store_factors(b, &in, &filter, &out, w->factors);
}

nn_status_t conv_prepare(build_t *b)
{
    static const fields_t fields = {CONV_PADDING,    CONV_STRIDE_W,   CONV_STRIDE_H,
                                    CONV_ACTIVATION, CONV_DILATION_W, CONV_DILATION_H};
    return convolution(b, &fields, false);
}

nn_status_t depthwise_prepare(build_t *b)
{
    static const fields_t fields = {DEPTHWISE_PADDING,    DEPTHWISE_STRIDE_W,   DEPTHWISE_STRIDE_H,
                                    DEPTHWISE_ACTIVATION, DEPTHWISE_DILATION_W, DEPTHWISE_DILATION_H};
    return convolution(b, &fields, true);
}

void conv_run(const run_t *run)
{
    const window_t *w = run_parameters(run);
    const factors_t factors = factors_behind(w, sizeof *w, w->factors);
    kernel_conv(w, &factors, run_input(run, 0), run_input(run, 1), run_input(run, 2), run_output(run, 0), NULL);
}

void depthwise_run(const run_t *run)
{
    const window_t *w = run_parameters(run);
    const factors_t factors = factors_behind(w, sizeof *w, w->factors);
    kernel_depthwise(w, &factors, run_input(run, 0), run_input(run, 1), run_input(run, 2), run_output(run, 0));
}

/* The filter is [units, depth]; the input is cut into rows of `depth`, whatever its shape. */
nn_status_t fully_connected_prepare(build_t *b)
{
    tensor_t in, filter, out;
    TRY(build_input(b, 0, &in));
    TRY(build_input(b, 1, &filter));
    TRY(build_output(b, 0, &out));
    NEED(is_quantized_int8(&in) && is_quantized_int8(&out), NN_E_TYPE);
    NEED(fb_u8(&b->fb, b->options, FULLY_CONNECTED_FORMAT, 0) == 0, NN_E_TYPE);
    dense_t *d = build_alloc(b, sizeof *d);
    NEED(d != NULL, NN_E_ARENA);
    NEED(filter.rank == 2, NN_E_SHAPE);
    TRY(side(filter.dims[0], &d->units));
    TRY(side(filter.dims[1], &d->depth));
    NEED(d->depth <= NN_MAX_DEPTH, NN_E_LIMIT);
    d->rows = in.elements / d->depth;
    NEED(in.elements % d->depth == 0 && out.elements == (uint64_t)d->rows * d->units, NN_E_SHAPE);
    NEED(out.rank > 0 && out.dims[out.rank - 1] == d->units, NN_E_SHAPE);
    d->in_zero = (int16_t)in.zero_point;
    d->out_zero = (int16_t)out.zero_point;
    TRY(activation_range(fb_u8(&b->fb, b->options, FULLY_CONNECTED_ACTIVATION, ACTIVATION_NONE), &out, &d->low,
                         &d->high));
    TRY(check_filter(&filter, 0, d->units, &d->factors));
    TRY(check_bias(b, d->units));
    TRY(build_work(b, (uint64_t)out.elements * d->depth));
    return store_factors(b, &in, &filter, &out, d->factors);
}

void fully_connected_run(const run_t *run)
{
    const dense_t *d = run_parameters(run);
    const factors_t factors = factors_behind(d, sizeof *d, d->factors);
    kernel_dense(d, &factors, run_input(run, 0), run_input(run, 1), run_input(run, 2), run_output(run, 0), NULL);
}

nn_status_t pool_prepare(build_t *b)
{
    static const fields_t fields = {POOL_PADDING, POOL_STRIDE_W, POOL_STRIDE_H, POOL_ACTIVATION, NO_FIELD, NO_FIELD};
    tensor_t in, out;
    TRY(build_input(b, 0, &in));
    TRY(build_output(b, 0, &out));
    window_t *w = build_alloc(b, sizeof *w);
    NEED(w != NULL, NN_E_ARENA);
    TRY(side(fb_i32(&b->fb, b->options, POOL_FILTER_H, 0), &w->filter_h));
    TRY(side(fb_i32(&b->fb, b->options, POOL_FILTER_W, 0), &w->filter_w));
    TRY(load_window(b, &fields, &in, &out, w));
    NEED(w->in_c == w->out_c, NN_E_SHAPE);
    NEED(in.scale == out.scale && in.zero_point == out.zero_point, NN_E_TYPE);
    const uint64_t area = (uint64_t)(w->filter_h < w->in_h ? w->filter_h : w->in_h) *
                          (uint64_t)(w->filter_w < w->in_w ? w->filter_w : w->in_w);
    NEED(area <= INT32_MAX / 256, NN_E_LIMIT); /* a sum fits an int32 */
    return build_work(b, out.elements * area);
}

void average_pool_run(const run_t *run)
{
    kernel_average_pool(run_parameters(run), run_input(run, 0), run_output(run, 0));
}

void max_pool_run(const run_t *run)
{
    kernel_max_pool(run_parameters(run), run_input(run, 0), run_output(run, 0));
}
