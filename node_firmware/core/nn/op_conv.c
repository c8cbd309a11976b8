/* CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, AVERAGE_POOL_2D and MAX_POOL_2D: checks what a file asks for, then calls
 * kernels. */
#include "graph.h"
#include "kernels.h"
#include "op_common.h"
#include "schema.h"

enum { BATCH, HEIGHT, WIDTH, CHANNEL };

/* The tensors of an operator with weights. */
typedef struct weighted {
    tensor_t in, filter, out, loaded_bias;
    const tensor_t *bias; /* NULL: none */
    bool depthwise;
} weighted_t;

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
    NEED(t->rank == 4, NN_E_SHAPE);
    TRY(side(t->dims[HEIGHT], height));
    TRY(side(t->dims[WIDTH], width));
    return side(t->dims[CHANNEL], channels);
}

/* Checks one direction's output size and gives the padding before the first element. */
static nn_status_t fit(uint8_t padding, uint16_t in, uint16_t out, uint16_t filter, uint16_t stride, uint16_t dilation,
                       uint16_t *pad)
{
    NEED((filter - 1U) * dilation < NN_MAX_SIDE, NN_E_LIMIT);
    const int32_t reach = (filter - 1) * dilation + 1; /* a dilated filter's extent */
    NEED(padding == PADDING_SAME || padding == PADDING_VALID, NN_E_SHAPE);
    NEED(out == (padding == PADDING_SAME ? (in + stride - 1) / stride : (in - reach + stride) / stride), NN_E_SHAPE);
    const int32_t total = (out - 1) * stride + reach - in; /* (out - 1) * stride < in */
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
    return activation_range(b, f->activation, out, &w->low, &w->high);
}

/* A bias is optional: int32, one for each output channel. `bias` then points to `loaded`. */
static nn_status_t load_bias(build_t *b, uint32_t channels, tensor_t *loaded, const tensor_t **bias)
{
    *bias = NULL;
    if (!build_has_input(b, 2)) {
        return NN_OK;
    }
    TRY(build_input(b, 2, loaded));
    NEED(loaded->type == NN_INT32, NN_E_TYPE);
    NEED(loaded->elements == channels, NN_E_SHAPE);
    *bias = loaded;
    return NN_OK;
}

static float scale_at(const build_t *b, const weighted_t *p, uint32_t i)
{
    return fb_load_float(b->fb.data + fb_elements(p->filter.scales) + 4 * i);
}

/* Requantisation of output channel i, where each weight has the scale i, or all have one. */
static nn_status_t factor_at(build_t *b, const weighted_t *p, uint32_t i, factor_t *factor)
{
    const float scale = scale_at(b, p, i);
    NEED(is_normal(scale), NN_E_TYPE);
    NEED(factor_from_ratio(p->in.scale, scale, p->out.scale, 0, factor), NN_E_TYPE);
    return NN_OK;
}

/* Weights that an operator has made could be overwritten by its own output. */
static bool is_constant(const weighted_t *p)
{
    return p->filter.data != 0 && (p->bias == NULL || p->bias->data != 0);
}

/* Channels are the last dimension of a depthwise filter, else the first. */
static bool has_weights(const build_t *b, const weighted_t *p, uint32_t depth, uint32_t channel)
{
    const uint32_t channels = p->filter.elements / depth, step = p->depthwise ? channels : 1;
    const uint8_t *weight = b->fb.data + p->filter.data + (p->depthwise ? channel : channel * depth);
    for (uint32_t k = 0; k < depth; k++, weight += step) {
        if (*weight != 0) {
            return true;
        }
    }
    return false;
}

/* Converters leave channels without weights, whose outputs are the same whatever comes in, with biases of 2^30 and a
 * bit more: requantize_fast() saturates where it doubles them, which seldom matters. */
static nn_status_t is_harmless(build_t *b, const weighted_t *p, uint32_t depth, uint32_t i, int32_t bias,
                               bool *harmless)
{
    const int32_t limit = INT32_C(1) << 30;
    factor_t factor;
    *harmless = is_constant(p) && !has_weights(b, p, depth, i);
    if (!*harmless) {
        return NN_OK;
    }
    TRY(factor_at(b, p, p->filter.scale_count > 1 ? i : 0, &factor));
    const int32_t doubled = bias >= limit ? INT32_MAX : bias < -limit ? INT32_MIN : 2 * bias;
    const int32_t high = (int32_t)(((int64_t)doubled * factor.multiplier + (INT64_C(1) << 31)) >> 32);
    *harmless = shift_right_round(high, -factor.shift) == scale(bias, factor.multiplier, factor.shift);
    return NN_OK;
}

/* Whether the short way of requantisation is exact: see window_t. The largest scale has the largest shift. */
static nn_status_t is_fast(build_t *b, const weighted_t *p, uint32_t depth, uint16_t *fast)
{
    const int32_t room = (INT32_C(1) << 30) - (int32_t)depth * (255 * 128); /* depth <= NN_MAX_DEPTH */
    uint32_t largest = 0;
    factor_t factor;
    *fast = 0;
    if (b->pass == PASS_MEASURE) {
        return NN_OK;
    }
    for (uint32_t i = 1; i < p->filter.scale_count; i++) {
        largest = scale_at(b, p, i) > scale_at(b, p, largest) ? i : largest;
    }
    TRY(factor_at(b, p, largest, &factor));
    bool exact = factor.shift < 0;
    for (uint32_t i = 0; p->bias != NULL && exact && i < p->bias->elements; i++) {
        const int32_t bias = p->bias->data != 0 ? constant_at(b, p->bias, i) : INT32_MIN;
        if (bias >= room || bias <= -room) {
            TRY(is_harmless(b, p, depth, i, bias, &exact));
        }
    }
    *fast = exact;
    return NN_OK;
}

/* The multipliers of all channels, then their shifts. */
static nn_status_t put_factors(build_t *b, const weighted_t *p)
{
    const uint32_t count = p->filter.scale_count, padded = (count + 3) & ~UINT32_C(3), multipliers = b->head;
    if (b->pass == PASS_MEASURE) {
        return NN_OK;
    }
    TRY(build_take(b, 4 * count + padded));
    for (uint32_t i = 0; i < padded; i++) {
        factor_t factor = {0};
        if (i < count) {
            TRY(factor_at(b, p, i, &factor));
            TRY(build_set(b, multipliers + 4 * i, &factor.multiplier, sizeof factor.multiplier));
        }
        TRY(build_set(b, multipliers + 4 * count + i, &factor.shift, sizeof factor.shift));
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

/* Loads what an operator with weights has, but the bias. */
static nn_status_t load_weighted(build_t *b, weighted_t *p, bool depthwise)
{
    p->depthwise = depthwise;
    TRY(build_in_out(b, &p->in, &p->out));
    TRY(build_input(b, 1, &p->filter));
    NEED(is_quantized_int8(&p->in) && is_quantized_int8(&p->filter) && is_quantized_int8(&p->out), NN_E_TYPE);
    NEED(p->filter.zero_point == 0, NN_E_TYPE);
    return NN_OK;
}

/* Checks scales, one for all weights or one for each of `channels` along `dimension`, and the bias. */
static nn_status_t check_weights(build_t *b, weighted_t *p, int32_t dimension, uint32_t channels, uint16_t *factors,
                                 uint16_t *fast)
{
    const uint32_t depth = p->filter.elements / channels, count = p->filter.scale_count;
    NEED(depth <= NN_MAX_DEPTH, NN_E_LIMIT);
    NEED(count == 1 || (count == channels && p->filter.scale_dimension == dimension), NN_E_TYPE);
    *factors = (uint16_t)count;
    TRY(load_bias(b, channels, &p->loaded_bias, &p->bias));
    TRY(build_work(b, (uint64_t)p->out.elements * depth));
    return is_fast(b, p, depth, fast);
}

/* Input, filter, bias, output, scratch memory if there is any, the kernel's parameters, factors. */
static nn_status_t put_weighted(build_t *b, const weighted_t *p, uint32_t scratch_bytes, const void *parameters,
                                uint32_t bytes)
{
    TRY(build_operand(b, &p->in));
    TRY(build_operand(b, &p->filter));
    TRY(build_operand(b, p->bias));
    TRY(build_operand(b, &p->out));
    if (scratch_bytes != 0) {
        TRY(build_scratch(b, scratch_bytes));
    }
    TRY(build_put(b, parameters, bytes));
    return put_factors(b, p);
}

/* How far the output must begin before the input so that none is written over what a later one reads, in bytes: pixels
 * come in raster order, and a pixel's inputs are read before it is written. Along a row and from row to row the
 * distance changes evenly but where the window leaves the image's edge, so a few pixels tell. */
static uint32_t reach(const build_t *b, const window_t *w)
{
    const int32_t left_edge = w->pad_left / w->stride_w, top_edge = w->pad_top / w->stride_h;
    const int32_t columns[] = {left_edge, left_edge + 1, w->out_w - 1, w->out_w}; /* how many of a row are written */
    const int32_t rows[] = {top_edge - 1, top_edge, top_edge + 1, w->out_h - 2, w->out_h - 1};
    int32_t most = 0; /* windows begin inside the image, so no offset is larger than it */
    for (unsigned i = 0; i < 20 && b->given && b->pass == PASS_RECORD; i++) { /* nobody else asks */
        const int32_t y = rows[i / 4], x = columns[i % 4];
        const bool wraps = x == w->out_w;
        if (y < 0 || x < 1 || x > w->out_w || y + wraps >= w->out_h) {
            continue;
        }
        const int32_t top = (y + wraps) * w->stride_h - w->pad_top;
        const int32_t left = wraps ? 0 : x * w->stride_w - w->pad_left;
        const int32_t read = (top > 0 ? top * w->in_w : 0) + (left > 0 ? left : 0);
        const int32_t distance = (y * w->out_w + x) * w->out_c - read * w->in_c;
        most = distance > most ? distance : most;
    }
    return (uint32_t)most;
}

static nn_status_t convolution(build_t *b, const fields_t *fields, bool depthwise)
{
    weighted_t p;
    window_t w;
    TRY(load_weighted(b, &p, depthwise));
    TRY(image(&p.filter, &w.filter_h, &w.filter_w, &w.filter_c));
    TRY(load_window(b, fields, &p.in, &p.out, &w));
    if (depthwise) {
        NEED(p.filter.dims[0] == 1 && w.filter_c == w.out_c && w.out_c % w.in_c == 0, NN_E_SHAPE);
        NEED(fb_i32(&b->fb, b->options, DEPTHWISE_MULTIPLIER, 0) == w.out_c / w.in_c, NN_E_SHAPE);
    } else {
        NEED(p.filter.dims[0] == w.out_c && w.in_c % w.filter_c == 0, NN_E_SHAPE);
        NEED(w.out_c % (w.in_c / w.filter_c) == 0, NN_E_SHAPE);
    }
    TRY(check_weights(b, &p, depthwise ? 3 : 0, w.out_c, &w.factors, &w.fast));
    if (w.batches == 1 && is_constant(&p) && (depthwise ? w.in_c == w.out_c : w.in_c == w.filter_c)) {
        build_overlap(b, &p.in, reach(b, &w), depthwise ? w.in_c : 1);
    }
    const uint32_t scratch = patch_scratch(p.out.elements / w.out_c, p.filter.elements / w.out_c);
    return put_weighted(b, &p, depthwise ? 0 : scratch, &w, sizeof w);
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
    const window_t *w = run->parameters;
    const factors_t factors = factors_behind(w, sizeof *w, w->factors);
    kernel_conv(w, &factors, run->operands[0], run->operands[1], run->operands[2], run->operands[3], run->operands[4]);
}

void depthwise_run(const run_t *run)
{
    const window_t *w = run->parameters;
    const factors_t factors = factors_behind(w, sizeof *w, w->factors);
    kernel_depthwise(w, &factors, run->operands[0], run->operands[1], run->operands[2], run->operands[3]);
}

/* The filter is [units, depth]; the input is cut into rows of `depth`, whatever its shape. */
nn_status_t fully_connected_prepare(build_t *b)
{
    weighted_t p;
    dense_t d;
    TRY(load_weighted(b, &p, false));
    NEED(fb_u8(&b->fb, b->options, FULLY_CONNECTED_FORMAT, 0) == 0, NN_E_TYPE);
    NEED(p.filter.rank == 2, NN_E_SHAPE);
    TRY(side(p.filter.dims[0], &d.units));
    TRY(side(p.filter.dims[1], &d.depth));
    d.rows = p.in.elements / d.depth;
    NEED(p.in.elements % d.depth == 0 && p.out.elements % d.units == 0, NN_E_SHAPE);
    NEED(p.out.elements / d.units == d.rows && p.out.rank > 0 && p.out.dims[p.out.rank - 1] == d.units, NN_E_SHAPE);
    d.in_zero = (int16_t)p.in.zero_point;
    d.out_zero = (int16_t)p.out.zero_point;
    TRY(activation_range(b, FULLY_CONNECTED_ACTIVATION, &p.out, &d.low, &d.high));
    TRY(check_weights(b, &p, 0, d.units, &d.factors, &d.fast));
    if (is_constant(&p)) { /* a block is read before it is written, so only growing outputs run into later rows */
        build_overlap(b, &p.in, d.units > d.depth ? (d.rows - 1) * (d.units - d.depth) : 0U, 1);
    }
    return put_weighted(b, &p, patch_scratch(d.rows, d.depth), &d, sizeof d);
}

void fully_connected_run(const run_t *run)
{
    const dense_t *d = run->parameters;
    const factors_t factors = factors_behind(d, sizeof *d, d->factors);
    kernel_dense(d, &factors, run->operands[0], run->operands[1], run->operands[2], run->operands[3], run->operands[4]);
}

nn_status_t pool_prepare(build_t *b)
{
    static const fields_t fields = {POOL_PADDING, POOL_STRIDE_W, POOL_STRIDE_H, POOL_ACTIVATION, NO_FIELD, NO_FIELD};
    tensor_t in, out;
    TRY(build_in_out(b, &in, &out));
    NEED(is_quantized_int8(&in) && is_quantized_int8(&out), NN_E_TYPE);
    window_t w = {0};
    TRY(side(fb_i32(&b->fb, b->options, POOL_FILTER_H, 0), &w.filter_h));
    TRY(side(fb_i32(&b->fb, b->options, POOL_FILTER_W, 0), &w.filter_w));
    TRY(load_window(b, &fields, &in, &out, &w));
    NEED(w.in_c == w.out_c, NN_E_SHAPE);
    NEED(in.scale == out.scale && in.zero_point == out.zero_point, NN_E_TYPE);
    const uint32_t height = w.filter_h < w.in_h ? w.filter_h : w.in_h,
                   width = w.filter_w < w.in_w ? w.filter_w : w.in_w;
    NEED(height * width <= INT32_MAX / 256, NN_E_LIMIT); /* a sum fits an int32 */
    TRY(build_work(b, (uint64_t)out.elements * (height * width)));
    if (w.batches == 1) {
        build_overlap(b, &in, reach(b, &w), 1);
    }
    return build_put_in_out(b, &in, &out, &w, sizeof w);
}

void average_pool_run(const run_t *run)
{
    kernel_average_pool(run->parameters, run->operands[0], run->operands[1]);
}

void max_pool_run(const run_t *run)
{
    kernel_max_pool(run->parameters, run->operands[0], run->operands[1]);
}
