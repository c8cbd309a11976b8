/* Addition and multiplication with broadcasting, changes of type and scale, strided copies. */
#include <string.h>

#include "kernels.h"

static int32_t summand(const factor_t *factor, int32_t x)
{
    return scale(x * (1 << ADD_HEADROOM), factor->multiplier, factor->shift);
}

static int32_t add_one(const arithmetic_t *p, int32_t a, int32_t b)
{
    return scale(summand(&p->in[0], a) + summand(&p->in[1], b), p->out.multiplier, p->out.shift);
}

/* Not a sum with the negative: halves are rounded up whatever the sign. */
static int32_t sub_one(const arithmetic_t *p, int32_t a, int32_t b)
{
    return scale(summand(&p->in[0], a) - summand(&p->in[1], b), p->out.multiplier, p->out.shift);
}

static int32_t mul_one(const arithmetic_t *p, int32_t a, int32_t b)
{
    return scale(a * b, p->out.multiplier, p->out.shift);
}

static void over(const arithmetic_t *p, const int8_t *a, const int8_t *b, int8_t *out,
                 int32_t (*combine)(const arithmetic_t *, int32_t, int32_t))
{
    const uint32_t *dims = p->over.dims, *sa = p->over.stride[0], *sb = p->over.stride[1];
    const int32_t low = p->low - p->out_zero, high = p->high - p->out_zero;
    uint32_t i[4];
    for (i[0] = 0; i[0] < dims[0]; i[0]++) {
        for (i[1] = 0; i[1] < dims[1]; i[1]++) {
            for (i[2] = 0; i[2] < dims[2]; i[2]++) {
                const int8_t *pa = a + i[0] * sa[0] + i[1] * sa[1] + i[2] * sa[2];
                const int8_t *pb = b + i[0] * sb[0] + i[1] * sb[1] + i[2] * sb[2];
                for (i[3] = 0; i[3] < dims[3]; i[3]++, pa += sa[3], pb += sb[3]) {
                    const int32_t result = combine(p, *pa - p->in_zero[0], *pb - p->in_zero[1]);
                    *out++ = (int8_t)(clamp(result, low, high) + p->out_zero);
                }
            }
        }
    }
}

void kernel_add(const arithmetic_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    over(p, a, b, out, add_one);
}

void kernel_sub(const arithmetic_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    over(p, a, b, out, sub_one);
}

void kernel_mul(const arithmetic_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    over(p, a, b, out, mul_one);
}

static int32_t minimum_one(const arithmetic_t *p, int32_t a, int32_t b)
{
    (void)p;
    return a < b ? a : b;
}

static int32_t maximum_one(const arithmetic_t *p, int32_t a, int32_t b)
{
    (void)p;
    return a > b ? a : b;
}

void kernel_minimum(const arithmetic_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    over(p, a, b, out, minimum_one);
}

void kernel_maximum(const arithmetic_t *p, const int8_t *a, const int8_t *b, int8_t *out)
{
    over(p, a, b, out, maximum_one);
}

static int32_t requantize(const requantize_t *p, int32_t value, int32_t low, int32_t high)
{
    const int32_t scaled = scale(value - p->in_zero, p->scale.multiplier, p->scale.shift);
    return clamp(scaled, low - p->out_zero, high - p->out_zero) + p->out_zero;
}

void kernel_int8_to_int8(const requantize_t *p, const int8_t *in, int8_t *out)
{
    for (uint32_t i = 0; i < p->count; i++) {
        out[i] = (int8_t)requantize(p, in[i], INT8_MIN, INT8_MAX);
    }
}

void kernel_relu(const relu_t *p, const int8_t *in, int8_t *out)
{
    for (uint32_t i = 0; i < p->to.count; i++) {
        out[i] = (int8_t)requantize(&p->to, in[i], p->low, p->high);
    }
}

void kernel_int8_to_uint8(const requantize_t *p, const int8_t *in, uint8_t *out)
{
    for (uint32_t i = 0; i < p->count; i++) {
        out[i] = (uint8_t)requantize(p, in[i], 0, UINT8_MAX);
    }
}

void kernel_uint8_to_int8(const requantize_t *p, const uint8_t *in, int8_t *out)
{
    for (uint32_t i = 0; i < p->count; i++) {
        out[i] = (int8_t)requantize(p, in[i], INT8_MIN, INT8_MAX);
    }
}

void kernel_float_to_int8(const affine_t *p, const float *in, int8_t *out)
{
    for (uint32_t i = 0; i < p->count; i++) {
        out[i] = (int8_t)(clamp(round_saturate(in[i] / p->scale), INT8_MIN - p->zero, INT8_MAX - p->zero) + p->zero);
    }
}

void kernel_int8_to_float(const affine_t *p, const int8_t *in, float *out)
{
    for (uint32_t i = 0; i < p->count; i++) {
        out[i] = p->scale * (float)(in[i] - p->zero);
    }
}

void kernel_uint8_to_float(const affine_t *p, const uint8_t *in, float *out)
{
    for (uint32_t i = 0; i < p->count; i++) {
        out[i] = p->scale * (float)(in[i] - p->zero);
    }
}

void kernel_slice(const slice_t *p, const uint8_t *in, uint8_t *out)
{
    const int32_t bytes = (int32_t)p->element_bytes;
    const uint32_t row_bytes = p->count[3] * p->element_bytes;
    uint32_t i[4];
    in += p->first * p->element_bytes;
    for (i[0] = 0; i[0] < p->count[0]; i[0]++) {
        for (i[1] = 0; i[1] < p->count[1]; i[1]++) {
            for (i[2] = 0; i[2] < p->count[2]; i[2]++) {
                const uint8_t *row =
                    in + ((int32_t)i[0] * p->stride[0] + (int32_t)i[1] * p->stride[1] + (int32_t)i[2] * p->stride[2]) *
                             bytes;
                if (p->stride[3] == 1) {
                    memcpy(out, row, row_bytes);
                    out += row_bytes;
                    continue;
                }
                for (i[3] = 0; i[3] < p->count[3]; i[3]++, out += bytes) {
                    memcpy(out, row + (int32_t)i[3] * p->stride[3] * bytes, p->element_bytes);
                }
            }
        }
    }
}
