/* SOFTMAX, LOGISTIC and TANH in fixed point: gemmlowp's functions, to the bit.
 *
 * A value "in Qn" is an int32 with n integer bits before the 31 - n fractional ones. */
#include "kernels.h"

#define ONE_Q0 INT32_MAX /* nearly */
#define ONE_Q2 (INT32_C(1) << 29)

static int32_t shift_left_saturate(int32_t x, int exponent) /* of x that are not far below 0 */
{
    return x > INT32_MAX >> exponent ? INT32_MAX : shift_left_wrap(x, exponent);
}

/* exp(x) for x in [-1/4, 0) of Q0: a Taylor series around -1/8. */
static int32_t exp_of_quarter(int32_t x)
{
    const int32_t exp_minus_eighth = 1895147668, third = 715827883;
    const int32_t d = x + (INT32_C(1) << 28);
    const int32_t d2 = high_mul(d, d);
    const int32_t d3 = high_mul(d2, d);
    const int32_t d4_4 = shift_right_round(high_mul(d2, d2), 2);
    const int32_t tail = shift_right_round(high_mul(d4_4 + d3, third) + d2, 1); /* d2/2 + d3/6 + d4/24 */
    return exp_minus_eighth + high_mul(exp_minus_eighth, d + tail);
}

/* exp(x) in Q0 for x <= 0 in Q<integer_bits> (4 or 5): the remainder modulo 1/4 by the series, the rest bit by bit. */
static int32_t exp_of_negative(int32_t x, int integer_bits)
{
    static const int32_t exp_of_minus_power[] = {/* exp(-2^k), k = -2 .. 4 */
                                                 1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int fraction_bits = 31 - integer_bits;
    const int32_t quarter = INT32_C(1) << (fraction_bits - 2);
    if (x == 0) {
        return ONE_Q0;
    }
    const int32_t remainder = (x & (quarter - 1)) - quarter;
    const int32_t rest = remainder - x; /* a multiple of 1/4 */
    int32_t result = exp_of_quarter(shift_left_wrap(remainder, integer_bits));
    for (int k = -2; k < integer_bits; k++) {
        if (rest & (INT32_C(1) << (fraction_bits + k))) {
            result = high_mul(result, exp_of_minus_power[k + 2]);
        }
    }
    return result;
}

/* 2 / (1 + x) in Q2 for x in [0, 1] of Q0: Newton's division. */
static int32_t two_over_one_plus(int32_t x)
{
    const int32_t half_denominator = (int32_t)(((uint32_t)x + (UINT32_C(1) << 31)) >> 1);
    int32_t y = 1515870810 + high_mul(half_denominator, -1010580540); /* 48/17 - 32/17 d */
    for (int i = 0; i < 3; i++) {
        const int32_t error = ONE_Q2 - high_mul(half_denominator, y);
        y += shift_left_wrap(high_mul(y, error), 2); /* both are small */
    }
    return y;
}

/* Both are functions of e = exp(-|x|) or exp(-|2x|), of which the same bits are read in Q4 and Q5: the logistic one is
 * 1 / (1 + e), TANH 2 / (1 + e) - 1, of the positive x; y(-x) is 1 - y(x), or -y(x). */
static void sigmoid(const sigmoid_t *p, const int8_t *in, int8_t *out, int tanh)
{
    for (uint32_t i = 0; i < p->count; i++) {
        const int32_t x = in[i] - p->in_zero;
        if (x <= -p->radius || x >= p->radius) {
            out[i] = x <= -p->radius ? INT8_MIN : INT8_MAX;
            continue;
        }
        const int32_t scaled = scale(x, p->scale.multiplier, p->scale.shift);
        int32_t y = two_over_one_plus(exp_of_negative(scaled > 0 ? -scaled : scaled, 4 + tanh));
        y = shift_left_saturate(tanh ? y - ONE_Q2 : y, 1 + tanh);
        if (scaled < 0) {
            y = (tanh ? 0 : ONE_Q0) - y;
        }
        y = shift_right_round(y, 23 + tanh) + (tanh ? 0 : INT8_MIN);
        out[i] = (int8_t)clamp(y, INT8_MIN, INT8_MAX);
    }
}

void kernel_logistic(const sigmoid_t *p, const int8_t *in, int8_t *out)
{
    sigmoid(p, in, out, 0);
}

void kernel_tanh(const sigmoid_t *p, const int8_t *in, int8_t *out)
{
    sigmoid(p, in, out, 1);
}

__attribute__((noinline)) static int32_t softmax_exp(const softmax_t *p, int32_t diff)
{
    if (diff < p->diff_min) {
        return 0;
    }
    return exp_of_negative(high_mul(shift_left_wrap(diff, p->scale.shift), p->scale.multiplier), 5);
}

static int leading_zeros(uint32_t x)
{
    int count = 0;
    for (; count < 32 && !(x >> 31); x <<= 1) {
        count++;
    }
    return count;
}

static void softmax_row(const softmax_t *p, const int8_t *in, int8_t *out)
{
    int32_t max = INT8_MIN;
    for (uint32_t i = 0; i < p->depth; i++) {
        max = in[i] > max ? in[i] : max;
    }
    int32_t sum = 0; /* Q12 */
    for (uint32_t i = 0; i < p->depth; i++) {
        sum += shift_right_round(softmax_exp(p, in[i] - max), 12);
    }
    /* 1 / sum = reciprocal * 2^-exponent, with the sum normalised to [1, 2). */
    const int zeros = leading_zeros((uint32_t)sum);
    const int exponent = 12 - zeros + 31 - 8;
    const int32_t normalised = (int32_t)(((uint32_t)sum << zeros) - (UINT32_C(1) << 31));
    const int32_t reciprocal = shift_left_saturate(two_over_one_plus(normalised), 1);
    for (uint32_t i = 0; i < p->depth; i++) {
        const int32_t y = high_mul(reciprocal, softmax_exp(p, in[i] - max));
        const int32_t part = exponent > 31 ? 0 : shift_right_round(y, exponent);
        out[i] = (int8_t)clamp(part + INT8_MIN, INT8_MIN, INT8_MAX);
    }
}

void kernel_softmax(const softmax_t *p, const int8_t *in, int8_t *out)
{
    for (uint32_t row = 0; row < p->rows; row++) {
        softmax_row(p, in + (uintptr_t)row * p->depth, out + (uintptr_t)row * p->depth);
    }
}
