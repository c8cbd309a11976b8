/* MEAN over some axes. */
#include "graph.h"
#include "kernels.h"
#include "op_common.h"
#include "schema.h"

/* Bit n: axis n is averaged. An axis may be named twice. */
static nn_status_t load_axes(build_t *b, uint8_t rank, unsigned *axes)
{
    tensor_t named;
    TRY(build_input(b, 1, &named));
    NEED(is_constant_int32(&named, named.elements), NN_E_TYPE);
    *axes = 0;
    for (uint32_t i = 0; i < named.elements; i++) {
        uint8_t axis;
        TRY(find_axis(constant_at(b, &named, i), rank, &axis));
        *axes |= 1U << axis;
    }
    return NN_OK;
}

/* Neighbours that are averaged, or kept, are one; the last group is kept, if only with a size of 1. */
static nn_status_t group_axes(const tensor_t *in, unsigned axes, mean_t *p)
{
    unsigned group = MEAN_GROUPS - 1;
    for (unsigned i = 0; i < MEAN_GROUPS; i++) {
        p->size[i] = 1;
    }
    for (unsigned i = in->rank; i-- > 0;) {
        if ((axes >> i & 1) != (group & 1)) {
            NEED(group-- != 0, NN_E_LIMIT);
        }
        p->size[group] *= (uint32_t)in->dims[i];
    }
    return NN_OK;
}

/* Divides a factor as TFLM does: the multiplier by `count`, and shifts it so that it keeps most of its bits. */
static void divide_factor(factor_t *f, uint32_t count)
{
    uint32_t quotient = (uint32_t)f->multiplier / count, rest = (uint32_t)f->multiplier % count;
    for (uint32_t power = 2; power <= count && f->shift > -31; power <<= 1) {
        rest <<= 1;
        quotient = quotient << 1 | (rest >= count);
        rest -= rest >= count ? count : 0;
        f->shift--;
    }
    f->multiplier = (int32_t)quotient;
}

nn_status_t mean_prepare(build_t *b)
{
    tensor_t in, out;
    unsigned axes;
    mean_t p = {0};
    TRY(build_in_out(b, &in, &out));
    NEED(is_quantized_int8(&in) && is_quantized_int8(&out), NN_E_TYPE);
    TRY(load_axes(b, in.rank, &axes));
    TRY(group_axes(&in, axes, &p));
    const uint32_t count = p.size[1] * p.size[3]; /* no product is larger than in.elements */
    NEED(p.size[0] * p.size[2] * p.size[4] == out.elements, NN_E_SHAPE);
    NEED(count <= INT32_MAX / 256, NN_E_LIMIT); /* a sum fits an int32 */
    TRY(build_work(b, in.elements));
    NEED(factor_from_ratio(in.scale, 1, out.scale, 0, &p.scale), NN_E_TYPE);
    divide_factor(&p.scale, count);
    p.in_zero = (int16_t)in.zero_point;
    p.out_zero = (int16_t)out.zero_point;
    build_overlap(b, &in, 0, 1);
    return build_put_in_out(b, &in, &out, &p, sizeof p);
}

void mean_run(const run_t *run)
{
    kernel_mean(run->parameters, run->operands[0], run->operands[1]);
}
