/* Addition and multiplication with broadcasting, changes of type and scale, strided copies. */
#include <stdbool.h>
#include <string.h>

#include "dsp.h"
#include "kernels.h"

/* scale() of an |x| < 2^30. */
static int32_t scale_small(int32_t x, const factor_t *factor)
{
#if NN_DSP
    if (factor->shift <= 0) {
        const int32_t y = smmulr(x * 2, factor->multiplier);
        return factor->shift == 0 ? y : shift_add(y + (y >> 31), -factor->shift, 0);
    }
#endif
    return scale(x, factor->multiplier, factor->shift);
}

static int32_t combine(operation_t operation, const arithmetic_t *p, int32_t a, int32_t b)
{
    switch (operation) {
    case MINIMUM:
        return a < b ? a : b;
    case MAXIMUM:
        return a > b ? a : b;
    case MUL:
        return scale_small(a * b, &p->out);
    default:
        a = scale_small(a * (1 << ADD_HEADROOM), &p->in[0]);
        b = scale_small(b * (1 << ADD_HEADROOM), &p->in[1]);
        /* SUB scales b, not -b: halves are rounded up whatever the sign. */
        return scale_small(operation == ADD ? a + b : a - b, &p->out);
    }
}

/* The next index in raster order, or false. */
static bool advance(uint32_t index[4], const uint32_t count[4])
{
    for (int k = 3; k >= 0; k--) {
        if (++index[k] < count[k]) {
            return true;
        }
        index[k] = 0;
    }
    return false;
}

static int32_t offset(const uint32_t index[4], const int32_t stride[4])
{
    int32_t elements = 0;
    for (int k = 0; k < 4; k++) {
        elements += (int32_t)index[k] * stride[k];
    }
    return elements;
}

void kernel_arithmetic(operation_t operation, const arithmetic_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    const uint32_t *dims = p->over.dims, rows[4] = {dims[0], dims[1], dims[2], 1};
    const int32_t *sa = p->over.stride[0], *sb = p->over.stride[1];
    uint32_t index[4] = {0};
    do {
        const int8_t *pa = a + offset(index, sa), *pb = b + offset(index, sb);
        for (uint32_t i = dims[3]; i > 0; i--, pa += sa[3], pb += sb[3]) {
            const int32_t result = combine(operation, p, *pa - p->in_zero[0], *pb - p->in_zero[1]);
            *out++ = (int8_t)(clamp(result, p->low - p->out_zero, p->high - p->out_zero) + p->out_zero);
        }
    } while (advance(index, rows));
}

void kernel_requantize(const requantize_t *p, const uint8_t *in, uint8_t *out, uint8_t in_flip, uint8_t out_flip)
{
    for (uint32_t i = 0; i < p->count; i++) {
        const int32_t x = (int8_t)(in[i] ^ in_flip) + in_flip - p->in_zero;
        out[i] = out_flip ^ (uint8_t)requantize_int8(x, p->scale.multiplier, p->scale.shift, p->out_zero - out_flip);
    }
}

void kernel_relu(const relu_t *p, const int8_t *in, int8_t *out)
{
    kernel_requantize(&p->to, (const uint8_t *)in, (uint8_t *)out, 0, 0);
    clamp_all(out, p->to.count, p->low, p->high);
}

void kernel_float_to_int8(const affine_t *p, const float *in, int8_t *out)
{
    for (uint32_t i = 0; i < p->count; i++) {
        out[i] = (int8_t)(clamp(round_saturate(in[i] / p->scale), INT8_MIN - p->zero, INT8_MAX - p->zero) + p->zero);
    }
}

void kernel_to_float(const affine_t *p, const uint8_t *in, float *out, uint8_t flip)
{
    for (uint32_t i = 0; i < p->count; i++) {
        out[i] = p->scale * (float)((int8_t)(in[i] ^ flip) + flip - p->zero);
    }
}

void kernel_slice(const slice_t *p, const uint8_t *in, uint8_t *out)
{
    const int32_t bytes = (int32_t)p->element_bytes;
    uint32_t run = p->element_bytes, count[4], index[4] = {0};
    memcpy(count, p->count, sizeof count);
    for (int k = 3; k >= 0 && (count[k] == 1 || p->stride[k] * bytes == (int32_t)run); k--) {
        run *= count[k]; /* what lies together is copied at once */
        count[k] = 1;
    }
    in += p->first * p->element_bytes;
    do {
        memmove(out, in + offset(index, p->stride) * bytes, run);
        out += run;
    } while (advance(index, count));
}
