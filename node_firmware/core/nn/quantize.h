/* Requantisation: the fixed-point arithmetic of TFLite's reference kernels (gemmlowp), to the bit.
 *
 * A real factor m is kept as a Q0.31 multiplier in [2^30, 2^31) and a power of two: m = multiplier * 2^(shift - 31). */
#ifndef NN_QUANTIZE_H
#define NN_QUANTIZE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct factor {
    int32_t multiplier;
    int8_t shift; /* -31 .. 30 */
    int8_t unused[3];
} factor_t;

/* Above 0, and neither subnormal nor infinite. */
static inline bool is_normal(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits - UINT32_C(0x800000) < UINT32_C(0x7f000000);
}

/* The factor of a * b / c * 2^exponent, of normal floats above 0: what double precision and rounding to 31 bits give.
 * Returns its shift, which may be any. */
int ratio_factor(float a, float b, float c, int exponent, int32_t *multiplier);
/* The same; false where it is too large. Below 2^-31 it becomes 0. */
bool factor_from_ratio(float a, float b, float c, int exponent, factor_t *factor);
/* round(x) to the nearest integer, halves away from zero; saturates, NaN becomes 0. */
int32_t round_saturate(float x);

static inline int32_t clamp(int32_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* 2's complement sum; hostile biases may overflow. */
static inline int32_t add_wrap(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a + (uint32_t)b);
}

/* a * b * 2^-31, rounded to nearest, halves up; not both are INT32_MIN, as factors are not negative. */
int32_t high_mul(int32_t a, int32_t b);

/* x / 2^exponent, rounded to nearest, halves away from zero; exponent 0..31. */
int32_t shift_right_round(int32_t x, int exponent);
/* x times the factor. */
int32_t scale(int32_t x, int32_t multiplier, int shift);
/* The same, plus `zero`, saturated to int8. */
int8_t requantize_int8(int32_t x, int32_t multiplier, int shift, int32_t zero);
/* Clamps int8 values. */
void clamp_all(int8_t *values, uint32_t count, int32_t low, int32_t high);

static inline int32_t shift_left_wrap(int32_t x, int exponent)
{
    return (int32_t)((uint32_t)x << exponent);
}

#endif
