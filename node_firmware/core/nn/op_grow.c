/* PAD and RESIZE_NEAREST_NEIGHBOR: operators that make a tensor larger, of any type, or smaller. */
#include "graph.h"
#include "kernels.h"
#include "op_common.h"
#include "schema.h"

/* Input and output as four axes: those that are not padded are one with the axis outside them. */
typedef struct padded {
    uint32_t in[4], before[4], out[4]; /* bytes along the last axis */
} padded_t;

static nn_status_t load_padded(build_t *b, const tensor_t *in, const tensor_t *out, padded_t *p)
{
    tensor_t paddings; /* of each axis: before, after */
    TRY(build_input(b, 1, &paddings));
    NEED(is_constant_int32(&paddings, 2U * in->rank) && out->rank == in->rank, NN_E_SHAPE);
    const uint32_t element_bytes = in->element_bytes;
    *p = (padded_t){.in = {1, 1, 1, element_bytes}, .out = {1, 1, 1, element_bytes}};
    unsigned axis = 3;
    for (uint32_t i = in->rank; i-- > 0;) {
        const uint32_t size = (uint32_t)in->dims[i], padded = (uint32_t)out->dims[i];
        const uint32_t before = (uint32_t)constant_at(b, &paddings, 2 * i);
        const uint32_t after = (uint32_t)constant_at(b, &paddings, 2 * i + 1);
        NEED(before <= padded && after <= padded && size + before + after == padded, NN_E_SHAPE);
        if (p->in[axis] != p->out[axis]) {
            NEED(axis-- != 0, NN_E_LIMIT);
        }
        p->before[axis] = before * p->in[axis];
        p->in[axis] *= size;
        p->out[axis] *= padded;
    }
    return NN_OK;
}

nn_status_t pad_prepare(build_t *b)
{
    tensor_t in, out;
    padded_t p;
    TRY(build_in_out(b, &in, &out));
    NEED(movable(&in, &out), NN_E_TYPE);
    TRY(load_padded(b, &in, &out, &p));
    const uint32_t images = p.in[0] * p.in[1];
    NEED(images < UINT16_MAX / (sizeof(piece_t) / 4), NN_E_LIMIT); /* what a record holds */
    TRY(build_fill(b, &out, out.type == NN_INT8 ? out.zero_point : 0));
    move_t m = {.from = &in, .to = &out, .rows = p.in[2], .bytes = p.in[3], .from_step = p.in[3], .to_step = p.out[3]};
    for (uint32_t i = 0; i < images; i++) {
        const uint32_t y = p.before[0] + i / p.in[1], x = p.before[1] + i % p.in[1];
        m.from_offset = i * p.in[2] * p.in[3];
        m.to_offset = ((y * p.out[1] + x) * p.out[2] + p.before[2]) * p.out[3] + p.before[3];
        TRY(build_move(b, &m));
    }
    return NN_OK;
}

/* The row or column of the input that number `i` of the output repeats: TFLM's, in single precision. */
static uint16_t nearest(int32_t i, int32_t in, int32_t out, bool align_corners, bool half_pixel_centers)
{
    const int32_t less = align_corners && out > 1;
    const float step = (float)(in - less) / (float)(out - less);
    const float position = ((float)i + (half_pixel_centers ? 0.5F : 0)) * step;
    const int32_t whole = (int32_t)position, found = whole + (align_corners && position - (float)whole >= 0.5F);
    return (uint16_t)(found < in ? found : in - 1);
}

/* The size is the output's own; the input that repeats it is not read. */
nn_status_t resize_prepare(build_t *b)
{
    tensor_t in, out;
    TRY(build_in_out(b, &in, &out));
    NEED(movable(&in, &out), NN_E_TYPE);
    NEED(in.rank == 4 && out.rank == 4 && in.dims[0] == out.dims[0] && in.dims[3] == out.dims[3], NN_E_SHAPE);
    NEED(in.dims[1] <= NN_MAX_SIDE && in.dims[2] <= NN_MAX_SIDE, NN_E_LIMIT);
    NEED(out.dims[1] <= NN_MAX_SIDE && out.dims[2] <= NN_MAX_SIDE, NN_E_LIMIT);
    const bool align = fb_u8(&b->fb, b->options, RESIZE_ALIGN_CORNERS, 0);
    const bool half = fb_u8(&b->fb, b->options, RESIZE_HALF_PIXEL_CENTERS, 0);
    const uint32_t pixel_bytes = in.element_bytes * (uint32_t)in.dims[3];
    const resize_t p = {.images = (uint32_t)in.dims[0],
                        .row_bytes = pixel_bytes * (uint32_t)in.dims[2],
                        .image_bytes = pixel_bytes * (uint32_t)(in.dims[2] * in.dims[1]),
                        .pixel_bytes = pixel_bytes,
                        .rows = (uint16_t)out.dims[1],
                        .columns = (uint16_t)out.dims[2]};
    TRY(build_put_in_out(b, &in, &out, &p, sizeof p));
    for (uint32_t axis = 1; axis <= 2; axis++) {
        for (int32_t i = 0; i < out.dims[axis]; i++) {
            const uint16_t from = nearest(i, in.dims[axis], out.dims[axis], align, half);
            TRY(build_put(b, &from, sizeof from));
        }
    }
    return build_put(b, (const uint16_t[]){0}, (p.rows + p.columns) % 2U * 2);
}

void resize_run(const run_t *run)
{
    const resize_t *p = run->parameters;
    kernel_resize(p, (const uint16_t *)(p + 1), run->operands[0], run->operands[1]);
}
