/* Factors from real scales, in integers: a microcontroller has no double precision; and what is done with them. */
#include "quantize.h"

/* x = mantissa * 2^exponent; the mantissa has 24 bits. */
static uint32_t mantissa_of(float x, int *exponent)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    *exponent = (int)(bits >> 23) - 150;
    return (bits & ((1U << 23) - 1)) | 1U << 23;
}

/* One digit of a long division, of `bits` <= 8. */
static uint32_t divide_digit(uint32_t quotient, uint32_t *remainder, uint32_t digit, int bits, uint32_t divisor)
{
    const uint32_t dividend = *remainder << bits | digit;
    *remainder = dividend % divisor;
    return quotient << bits | dividend / divisor;
}

/* a * b has 48 bits, which a double holds; a double's quotient has 53. So 31 bits of the quotient are divided out, and
 * the rest rounds up not from a half on, but from what a double would have rounded to a half: 2^-23 less. */
int ratio_factor(float a, float b, float c, int exponent, int32_t *multiplier)
{
    int ea, eb, ec;
    uint64_t dividend = (uint64_t)mantissa_of(a, &ea) * mantissa_of(b, &eb);
    const uint32_t divisor = mantissa_of(c, &ec);
    int shift = ea + eb - ec + exponent + 25;
    for (; (dividend >> 24) < divisor; dividend <<= 1) { /* at most twice; then the quotient's first bit is 1 */
        shift--;
    }
    const uint32_t low = (uint32_t)dividend & 0xffffff;
    uint32_t remainder = (uint32_t)(dividend >> 24) - divisor, quotient = 1;
    quotient = divide_digit(quotient, &remainder, low >> 16, 8, divisor);
    quotient = divide_digit(quotient, &remainder, low >> 8 & 0xff, 8, divisor);
    quotient = divide_digit(quotient, &remainder, low & 0xff, 8, divisor);
    quotient = divide_digit(quotient, &remainder, 0, 6, divisor);
    quotient += 2 * remainder + (divisor >> 22) >= divisor;
    if (quotient == UINT32_C(1) << 31) {
        quotient >>= 1;
        shift++;
    }
    *multiplier = (int32_t)quotient;
    return shift;
}

bool factor_from_ratio(float a, float b, float c, int exponent, factor_t *factor)
{
    const int shift = ratio_factor(a, b, c, exponent, &factor->multiplier);
    factor->shift = (int8_t)shift;
    if (shift < -31) {
        *factor = (factor_t){.shift = -1}; /* any shift will do; requantize_fast() needs one to the right */
    }
    return shift <= 30;
}

int32_t round_saturate(float x)
{
    if (x >= 2147483648.0F) {
        return INT32_MAX;
    }
    if (x <= -2147483648.0F) {
        return INT32_MIN;
    }
    if (!(x == x)) {
        return 0;
    }
    const int32_t whole = (int32_t)x;
    const float rest = x - (float)whole; /* exact: |x| < 2^23 or rest is 0 */
    return rest >= 0.5F ? whole + 1 : rest <= -0.5F ? whole - 1 : whole;
}

int32_t high_mul(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (INT64_C(1) << 30)) >> 31);
}

int32_t shift_right_round(int32_t x, int exponent)
{
    const int32_t mask = (int32_t)((UINT32_C(1) << exponent) - 1);
    const int32_t threshold = (mask >> 1) + (x < 0);
    return (x >> exponent) + ((x & mask) > threshold);
}

int32_t scale(int32_t x, int32_t multiplier, int shift)
{
    const int left = shift > 0 ? shift : 0;
    return shift_right_round(high_mul(shift_left_wrap(x, left), multiplier), left - shift);
}

int8_t requantize_int8(int32_t x, int32_t multiplier, int shift, int32_t zero)
{
    /* clamped first, the sum is in range */
    return (int8_t)(clamp(scale(x, multiplier, shift), INT8_MIN - zero, INT8_MAX - zero) + zero);
}

void clamp_all(int8_t *values, uint32_t count, int32_t low, int32_t high)
{
    if (low == INT8_MIN && high == INT8_MAX) {
        return;
    }
    for (; count > 0; count--, values++) {
        *values = (int8_t)clamp(*values, low, high);
    }
}
