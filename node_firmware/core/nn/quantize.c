/* Factors from real scales, without the C library's math functions: a microcontroller may not have them. */
#include "quantize.h"

#include <string.h>

bool factor_from_real(double real, factor_t *factor)
{
    uint64_t bits;
    memcpy(&bits, &real, sizeof bits);
    factor->multiplier = 0;
    factor->shift = 0;
    if (bits >> 63) {
        return false;
    }
    /* real = 1.mantissa * 2^(exponent - 1023); a subnormal is far below 2^-31. */
    const int exponent = (int)(bits >> 52);
    int shift = exponent - 1022;
    uint64_t multiplier = (bits & ((UINT64_C(1) << 52) - 1)) | UINT64_C(1) << 52; /* 53 bits: to 31, halves up */
    multiplier = (multiplier + (UINT64_C(1) << 21)) >> 22;
    if (multiplier == UINT64_C(1) << 31) {
        multiplier >>= 1;
        shift++;
    }
    if (shift < -31) {
        return true;
    }
    if (shift > 30) {
        return false;
    }
    factor->multiplier = (int32_t)multiplier;
    factor->shift = (int8_t)shift;
    return true;
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
