/* RESHAPE, EXPAND_DIMS, SQUEEZE, CONCATENATION, PACK, SPLIT_V, STRIDED_SLICE and TRANSPOSE: operators that only move
 * elements, of any type. */
#include <string.h>

#include "graph.h"
#include "kernels.h"
#include "op_common.h"
#include "schema.h"

/* RESHAPE, EXPAND_DIMS and SQUEEZE: the target shape is the output's own; an input that repeats it is not read. */
nn_status_t reshape_prepare(build_t *b)
{
    tensor_t in, out;
    TRY(build_in_out(b, &in, &out));
    NEED(movable(&in, &out), NN_E_TYPE);
    NEED(in.elements == out.elements, NN_E_SHAPE);
    return build_view(b, &in, 0, &out);
}

nn_status_t find_axis(int32_t axis, uint8_t rank, uint8_t *found)
{
    const int32_t positive = axis < 0 && axis >= -rank ? axis + rank : axis;
    NEED(positive >= 0 && positive < rank, NN_E_SHAPE);
    *found = (uint8_t)positive;
    return NN_OK;
}

/* A tensor seen as rows, each made of a row of each of its pieces. */
typedef struct whole {
    tensor_t tensor;
    uint8_t axis;
    uint32_t rows, row_bytes;
    uint32_t at; /* where in a row the next piece begins */
} whole_t;

static void begin_whole(whole_t *w)
{
    w->rows = 1;
    w->at = 0;
    for (uint8_t i = 0; i < w->axis; i++) {
        w->rows *= (uint32_t)w->tensor.dims[i];
    }
    w->row_bytes = w->tensor.bytes / w->rows;
}

/* Checks that `piece` has the whole's shape but along the axis. Returns the bytes of its row. */
static nn_status_t next_piece(whole_t *w, const tensor_t *piece, uint32_t *row_bytes)
{
    NEED(movable(piece, &w->tensor), NN_E_TYPE);
    NEED(piece->scale == w->tensor.scale && piece->zero_point == w->tensor.zero_point, NN_E_TYPE);
    tensor_t shape = *piece;
    shape.dims[w->axis] = w->tensor.dims[w->axis];
    NEED(same_shape(&shape, &w->tensor), NN_E_SHAPE);
    *row_bytes = piece->bytes / w->rows;
    w->at += *row_bytes;
    NEED(w->at <= w->row_bytes, NN_E_SHAPE);
    return NN_OK;
}

/* Gives a tensor an axis of size 1 more. */
static nn_status_t insert_axis(tensor_t *t, uint8_t axis)
{
    NEED(t->rank < NN_MAX_RANK && axis <= t->rank, NN_E_SHAPE);
    memmove(&t->dims[axis + 1], &t->dims[axis], (size_t)(t->rank++ - axis) * sizeof *t->dims);
    t->dims[axis] = 1;
    return NN_OK;
}

/* How the whole and its pieces belong together: pieces of a pack do not have the axis. */
typedef enum way { WAY_JOIN, WAY_PACK, WAY_SPLIT } way_t;

static nn_status_t move_pieces(build_t *b, whole_t *w, int32_t axis, way_t way)
{
    const uint32_t count = fb_count(&b->fb, way == WAY_SPLIT ? b->outputs : b->inputs);
    TRY(find_axis(axis, w->tensor.rank, &w->axis));
    begin_whole(w);
    for (uint32_t i = 0; i < count; i++) {
        tensor_t piece;
        const uint32_t at = w->at;
        uint32_t row_bytes;
        TRY(way == WAY_SPLIT ? build_output(b, i, &piece) : build_input(b, i, &piece));
        if (way == WAY_PACK) {
            TRY(insert_axis(&piece, w->axis));
        }
        TRY(next_piece(w, &piece, &row_bytes));
        if (way == WAY_SPLIT && w->rows == 1) {
            TRY(build_view(b, &w->tensor, at, &piece));
            continue;
        }
        move_t m = {.rows = w->rows, .bytes = row_bytes};
        if (way == WAY_SPLIT) {
            m.from = &w->tensor;
            m.to = &piece;
            m.from_offset = at;
            m.from_step = w->row_bytes;
            m.to_step = row_bytes;
        } else {
            m.from = &piece;
            m.to = &w->tensor;
            m.to_offset = at;
            m.from_step = row_bytes;
            m.to_step = w->row_bytes;
        }
        TRY(build_move(b, &m));
    }
    NEED(w->at == w->row_bytes, NN_E_SHAPE);
    return NN_OK;
}

static nn_status_t join(build_t *b, int32_t axis, way_t way)
{
    whole_t w;
    TRY(build_output(b, 0, &w.tensor));
    return move_pieces(b, &w, axis, way);
}

nn_status_t concatenation_prepare(build_t *b)
{
    NEED(fb_u8(&b->fb, b->options, CONCATENATION_ACTIVATION, ACTIVATION_NONE) == ACTIVATION_NONE, NN_E_OPERATOR);
    return join(b, fb_i32(&b->fb, b->options, CONCATENATION_AXIS, 0), WAY_JOIN);
}

nn_status_t pack_prepare(build_t *b)
{
    NEED(fb_i32(&b->fb, b->options, PACK_COUNT, 0) == (int32_t)fb_count(&b->fb, b->inputs), NN_E_SHAPE);
    return join(b, fb_i32(&b->fb, b->options, PACK_AXIS, 0), WAY_PACK);
}

/* Inputs: the tensor, the sizes of the pieces (the outputs' shapes say the same), the axis. */
nn_status_t split_v_prepare(build_t *b)
{
    whole_t w;
    tensor_t axis;
    TRY(build_input(b, 0, &w.tensor));
    TRY(build_input(b, 2, &axis));
    NEED(is_constant_int32(&axis, 1), NN_E_TYPE);
    return move_pieces(b, &w, constant_at(b, &axis, 0), WAY_SPLIT);
}

enum { BEGIN, END, STRIDES };

typedef struct slice_options {
    uint32_t vectors[3];                  /* where the elements of BEGIN, END, STRIDES are in the model */
    int32_t masks[SLICE_SHRINK_MASK + 1]; /* by their fields; bit n: axis n */
} slice_options_t;

static nn_status_t load_slice_options(build_t *b, uint8_t rank, slice_options_t *o)
{
    for (uint32_t i = 0; i < 3; i++) {
        tensor_t t;
        TRY(build_input(b, i + 1, &t));
        NEED(is_constant_int32(&t, rank), NN_E_TYPE);
        o->vectors[i] = t.data;
    }
    for (unsigned field = 0; field <= SLICE_SHRINK_MASK; field++) {
        o->masks[field] = fb_i32(&b->fb, b->options, field, 0);
    }
    NEED((o->masks[SLICE_ELLIPSIS_MASK] | o->masks[SLICE_NEW_AXIS_MASK]) == 0, NN_E_OPERATOR);
    NEED(fb_u8(&b->fb, b->options, SLICE_OFFSET, 0) == 0, NN_E_OPERATOR);
    return NN_OK;
}

static int32_t option_at(const build_t *b, const slice_options_t *o, int vector, int axis)
{
    return (int32_t)fb_load32(b->fb.data + o->vectors[vector] + 4 * (uint32_t)axis);
}

/* Which indices of an axis are taken, as Python's slices but for `shrink`, which takes the one at BEGIN. */
static nn_status_t axis_range(const build_t *b, const slice_options_t *o, int axis, int32_t size, int32_t *first,
                              int32_t *count)
{
    const int32_t stride = option_at(b, o, STRIDES, axis), low = stride < 0 ? -1 : 0, high = size + low;
    const bool shrink = o->masks[SLICE_SHRINK_MASK] >> axis & 1;
    int32_t ends[2];
    for (int k = BEGIN; k <= END; k++) {
        const int32_t index = option_at(b, o, k, axis), edge = (k == BEGIN) == (stride < 0) ? high : low;
        ends[k] = o->masks[k] >> axis & 1 ? edge : clamp(index < 0 ? index + size : index, low, high);
    }
    const int32_t distance = shrink ? 1 : stride < 0 ? ends[BEGIN] - ends[END] : ends[END] - ends[BEGIN];
    NEED(stride != 0 && stride != INT32_MIN && ends[BEGIN] >= 0 && ends[BEGIN] < size && distance > 0, NN_E_SHAPE);
    NEED(!shrink || (stride > 0 && !(o->masks[BEGIN] >> axis & 1)), NN_E_SHAPE);
    *first = ends[BEGIN];
    *count = (distance - 1) / (stride < 0 ? -stride : stride) + 1;
    return NN_OK;
}

/* Whether what the slice takes is one run. Axes outside the outermost that has more than one element do not matter. */
static bool is_run(const slice_t *p)
{
    int32_t step = 1;
    for (int i = 3; i >= 0; i--) {
        if (p->count[i] > 1 && p->stride[i] != step) {
            return false;
        }
        step *= (int32_t)p->count[i];
    }
    return true;
}

static nn_status_t put_slice(build_t *b, const slice_t *p, const tensor_t *in, const tensor_t *out)
{
    if (is_run(p)) {
        return build_view(b, in, p->first * p->element_bytes, out);
    }
    return build_put_in_out(b, in, out, p, sizeof *p);
}

nn_status_t strided_slice_prepare(build_t *b)
{
    tensor_t in, out;
    slice_options_t options;
    slice_t p = {0};
    TRY(build_in_out(b, &in, &out));
    NEED(movable(&in, &out), NN_E_TYPE);
    NEED(in.rank <= 4, NN_E_LIMIT);
    TRY(load_slice_options(b, in.rank, &options));
    p.element_bytes = in.element_bytes;
    int32_t step = 1; /* elements from one index of the axis to the next */
    int out_rank = out.rank;
    for (int i = 3; i >= 0; i--) {
        const int axis = i - (4 - in.rank);
        p.count[i] = 1;
        if (axis < 0) {
            continue;
        }
        int32_t first = 0, count = 0;
        TRY(axis_range(b, &options, axis, in.dims[axis], &first, &count));
        NEED(options.masks[SLICE_SHRINK_MASK] >> axis & 1 || (out_rank-- > 0 && out.dims[out_rank] == count),
             NN_E_SHAPE);
        p.first += (uint32_t)(first * step);
        p.count[i] = (uint32_t)count;
        p.stride[i] = count > 1 ? option_at(b, &options, STRIDES, axis) * step : 1;
        step *= in.dims[axis];
    }
    NEED(out_rank == 0, NN_E_SHAPE);
    return put_slice(b, &p, &in, &out);
}

/* Inputs: the tensor; for each axis of the output the one of the input that it is. */
nn_status_t transpose_prepare(build_t *b)
{
    tensor_t in, out, axes;
    TRY(build_in_out(b, &in, &out));
    TRY(build_input(b, 1, &axes));
    NEED(movable(&in, &out), NN_E_TYPE);
    NEED(in.rank <= 4, NN_E_LIMIT);
    NEED(is_constant_int32(&axes, in.rank) && out.rank == in.rank, NN_E_SHAPE);
    slice_t p = {.element_bytes = in.element_bytes, .count = {1, 1, 1, 1}, .stride = {1, 1, 1, 1}};
    unsigned seen = 0; /* bit n: axis n of the input */
    for (uint32_t i = 0; i < in.rank; i++) {
        uint8_t axis;
        TRY(find_axis(constant_at(b, &axes, i), in.rank, &axis));
        NEED(!(seen >> axis & 1) && out.dims[i] == in.dims[axis], NN_E_SHAPE);
        seen |= 1U << axis;
        p.count[4 - in.rank + i] = (uint32_t)out.dims[i];
        for (uint32_t inner = axis; ++inner < in.rank;) {
            p.stride[4 - in.rank + i] *= in.dims[inner];
        }
    }
    return put_slice(b, &p, &in, &out);
}

void slice_run(const run_t *run)
{
    kernel_slice(run->parameters, run->operands[0], run->operands[1]);
}
