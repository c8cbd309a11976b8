/* RESHAPE, CONCATENATION, SPLIT_V and STRIDED_SLICE: operators that only move elements, of any type. */
#include <string.h>

#include "graph.h"
#include "kernels.h"
#include "schema.h"

static bool movable(const tensor_t *in, const tensor_t *out)
{
    return in->bytes != 0 && in->type == out->type;
}

/* The target shape is the output's own; an input that repeats it is not read. */
nn_status_t reshape_prepare(build_t *b)
{
    tensor_t in, out;
    TRY(build_input(b, 0, &in));
    TRY(build_output(b, 0, &out));
    NEED(movable(&in, &out), NN_E_TYPE);
    NEED(in.elements == out.elements, NN_E_SHAPE);
    uint32_t *bytes = build_alloc(b, sizeof *bytes);
    NEED(bytes != NULL, NN_E_ARENA);
    *bytes = in.bytes;
    build_alias(b, &in, &out);
    return NN_OK;
}

void reshape_run(const run_t *run)
{
    const void *in = run_input(run, 0);
    void *out = run_output(run, 0);
    if (in != out) {
        memcpy(out, in, *(const uint32_t *)run_parameters(run));
    }
}

/* A tensor seen as `outer` rows, each made of the rows of its pieces. */
typedef struct pieces {
    uint32_t outer;
    uint32_t row_bytes[]; /* one for each piece */
} pieces_t;

static nn_status_t find_axis(int32_t axis, uint8_t rank, uint8_t *found)
{
    const int32_t positive = axis < 0 && axis >= -rank ? axis + rank : axis;
    NEED(positive >= 0 && positive < rank, NN_E_SHAPE);
    *found = (uint8_t)positive;
    return NN_OK;
}

/* Checks that the pieces are `whole` cut along `axis`. `load` is how the pieces are got: as inputs or as outputs. */
static nn_status_t load_pieces(build_t *b, const tensor_t *whole, uint8_t axis, uint32_t count,
                               nn_status_t (*load)(build_t *, uint32_t, tensor_t *))
{
    pieces_t *p = build_alloc(b, (uint32_t)sizeof *p + 4 * count);
    NEED(p != NULL, NN_E_ARENA);
    p->outer = 1;
    for (uint8_t i = 0; i < axis; i++) {
        p->outer *= (uint32_t)whole->dims[i];
    }
    int64_t along = 0;
    for (uint32_t i = 0; i < count; i++) {
        tensor_t piece;
        TRY(load(b, i, &piece));
        NEED(movable(&piece, whole), NN_E_TYPE);
        NEED(piece.scale == whole->scale && piece.zero_point == whole->zero_point, NN_E_TYPE);
        p->row_bytes[i] = piece.bytes / p->outer;
        along += piece.dims[axis];
        piece.dims[axis] = whole->dims[axis];
        NEED(same_shape(&piece, whole), NN_E_SHAPE);
    }
    NEED(along == whole->dims[axis], NN_E_SHAPE);
    return NN_OK;
}

nn_status_t concatenation_prepare(build_t *b)
{
    tensor_t out;
    uint8_t axis;
    TRY(build_output(b, 0, &out));
    NEED(fb_u8(&b->fb, b->options, CONCATENATION_ACTIVATION, ACTIVATION_NONE) == ACTIVATION_NONE, NN_E_OPERATOR);
    TRY(find_axis(fb_i32(&b->fb, b->options, CONCATENATION_AXIS, 0), out.rank, &axis));
    return load_pieces(b, &out, axis, b->inputs.count, build_input);
}

void concatenation_run(const run_t *run)
{
    const pieces_t *p = run_parameters(run);
    uint8_t *out = run_output(run, 0);
    for (uint32_t row = 0; row < p->outer; row++) {
        for (uint32_t i = 0; i < run->op->input_count; i++) {
            memcpy(out, (const uint8_t *)run_input(run, i) + row * p->row_bytes[i], p->row_bytes[i]);
            out += p->row_bytes[i];
        }
    }
}

/* Inputs: the tensor, the sizes of the pieces (the outputs' shapes say the same), the axis. */
nn_status_t split_v_prepare(build_t *b)
{
    tensor_t in, axis_tensor;
    uint8_t axis;
    TRY(build_input(b, 0, &in));
    TRY(build_input(b, 2, &axis_tensor));
    NEED(axis_tensor.type == NN_INT32 && axis_tensor.data.count == 4, NN_E_TYPE);
    TRY(find_axis(constant_at(b, &axis_tensor, 0), in.rank, &axis));
    return load_pieces(b, &in, axis, b->outputs.count, build_output);
}

void split_v_run(const run_t *run)
{
    const pieces_t *p = run_parameters(run);
    const uint8_t *in = run_input(run, 0);
    for (uint32_t row = 0; row < p->outer; row++) {
        for (uint32_t i = 0; i < run->op->output_count; i++) {
            memcpy((uint8_t *)run_output(run, i) + row * p->row_bytes[i], in, p->row_bytes[i]);
            in += p->row_bytes[i];
        }
    }
}

/* One axis of a slice, as Python's but for `shrink`, which takes the one element at `begin`. */
typedef struct axis_slice {
    int32_t begin, end, stride;
    bool from_edge, to_edge, shrink;
} axis_slice_t;

static int32_t position(int32_t index, int32_t size, int32_t low, int32_t high)
{
    return clamp(index < 0 ? index + size : index, low, high);
}

static nn_status_t axis_range(const axis_slice_t *s, int32_t size, int32_t *start, int32_t *count)
{
    NEED(s->stride != 0 && s->stride != INT32_MIN, NN_E_SHAPE);
    NEED(!s->shrink || (s->stride > 0 && !s->from_edge), NN_E_SHAPE);
    const bool forward = s->stride > 0;
    const int32_t low = forward ? 0 : -1, high = forward ? size : size - 1;
    const int32_t first = s->from_edge ? (forward ? 0 : size - 1) : position(s->begin, size, low, high);
    const int32_t stop = s->to_edge ? (forward ? size : -1) : position(s->end, size, low, high);
    const int32_t distance = forward ? stop - first : first - stop;
    NEED(first >= 0 && first < size && (s->shrink || distance > 0), NN_E_SHAPE);
    *start = first;
    *count = s->shrink ? 1 : (distance - 1) / (forward ? s->stride : -s->stride) + 1;
    return NN_OK;
}

typedef struct slice_options {
    tensor_t begin, end, strides;
    int32_t begin_mask, end_mask, shrink_mask; /* bit n: axis n */
} slice_options_t;

static nn_status_t load_slice_vector(build_t *b, uint32_t input, uint8_t rank, tensor_t *t)
{
    TRY(build_input(b, input, t));
    NEED(t->type == NN_INT32 && t->data.count == 4U * rank, NN_E_TYPE);
    return NN_OK;
}

static nn_status_t load_slice_options(build_t *b, uint8_t rank, slice_options_t *o)
{
    TRY(load_slice_vector(b, 1, rank, &o->begin));
    TRY(load_slice_vector(b, 2, rank, &o->end));
    TRY(load_slice_vector(b, 3, rank, &o->strides));
    NEED(fb_i32(&b->fb, b->options, SLICE_ELLIPSIS_MASK, 0) == 0, NN_E_OPERATOR);
    NEED(fb_i32(&b->fb, b->options, SLICE_NEW_AXIS_MASK, 0) == 0, NN_E_OPERATOR);
    NEED(fb_u8(&b->fb, b->options, SLICE_OFFSET, 0) == 0, NN_E_OPERATOR);
    o->begin_mask = fb_i32(&b->fb, b->options, SLICE_BEGIN_MASK, 0);
    o->end_mask = fb_i32(&b->fb, b->options, SLICE_END_MASK, 0);
    o->shrink_mask = fb_i32(&b->fb, b->options, SLICE_SHRINK_MASK, 0);
    return NN_OK;
}

static axis_slice_t axis_of(build_t *b, const slice_options_t *o, int axis)
{
    return (axis_slice_t){
        .begin = constant_at(b, &o->begin, (uint32_t)axis),
        .end = constant_at(b, &o->end, (uint32_t)axis),
        .stride = constant_at(b, &o->strides, (uint32_t)axis),
        .from_edge = o->begin_mask >> axis & 1,
        .to_edge = o->end_mask >> axis & 1,
        .shrink = o->shrink_mask >> axis & 1,
    };
}

nn_status_t strided_slice_prepare(build_t *b)
{
    tensor_t in, out;
    slice_options_t options;
    TRY(build_input(b, 0, &in));
    TRY(build_output(b, 0, &out));
    NEED(movable(&in, &out), NN_E_TYPE);
    NEED(in.rank <= 4, NN_E_LIMIT);
    TRY(load_slice_options(b, in.rank, &options));
    slice_t *p = build_alloc(b, sizeof *p);
    NEED(p != NULL, NN_E_ARENA);
    p->element_bytes = in.bytes / in.elements;
    int32_t step = 1; /* elements from one index of the axis to the next */
    int out_rank = out.rank;
    for (int i = 3; i >= 0; i--) {
        const int axis = i - (4 - in.rank);
        p->count[i] = 1;
        if (axis < 0) {
            continue;
        }
        const axis_slice_t slice = axis_of(b, &options, axis);
        int32_t start = 0, count = 0;
        TRY(axis_range(&slice, in.dims[axis], &start, &count));
        NEED(slice.shrink || (out_rank-- > 0 && out.dims[out_rank] == count), NN_E_SHAPE);
        p->first += (uint32_t)(start * step);
        p->count[i] = (uint32_t)count;
        p->stride[i] = count > 1 ? slice.stride * step : 1;
        step *= in.dims[axis];
    }
    NEED(out_rank == 0, NN_E_SHAPE);
    return NN_OK;
}

void strided_slice_run(const run_t *run)
{
    kernel_slice(run_parameters(run), run_input(run, 0), run_output(run, 0));
}
