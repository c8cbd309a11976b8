/* Pairs of int16 in a word, low half first, and the DSP instructions of Cortex-M4, M7 and M33 for them, by their names.
 * Elsewhere each is C of the same value, so what is made of them is tested on a host. Sums of halves wrap. */
#ifndef NODE_FRONTEND_DSP_H
#define NODE_FRONTEND_DSP_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "arrays of int16 are read as pairs: little-endian only"
#endif

static inline int32_t low_half(uint32_t pair)
{
    return (int16_t)pair;
}

static inline int32_t high_half(uint32_t pair)
{
    return (int32_t)pair >> 16;
}

static inline uint32_t load32(const void *at) /* of any alignment */
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint16_t load16(const void *at)
{
    uint16_t half;
    memcpy(&half, at, sizeof half);
    return half;
}

static inline int32_t smulbb(uint32_t a, uint32_t b)
{
    return low_half(a) * low_half(b);
}

static inline int32_t smultt(uint32_t a, uint32_t b)
{
    return high_half(a) * high_half(b);
}

#ifdef __ARM_FEATURE_DSP
#include <arm_acle.h>

#define smlabb(a, b, sum) __smlabb((int32_t)(a), (int32_t)(b), (sum))
#define smlatb(a, b, sum) __smlatb((int32_t)(a), (int32_t)(b), (sum))
#define smlatt(a, b, sum) __smlatt((int32_t)(a), (int32_t)(b), (sum))
#define smuad(a, b)       __smuad((int16x2_t)(a), (int16x2_t)(b))
#define smlsd(a, b, sum)  __smlsd((int16x2_t)(a), (int16x2_t)(b), (sum))
#define smladx(a, b, sum) __smladx((int16x2_t)(a), (int16x2_t)(b), (sum))
#define sadd16(a, b)      ((uint32_t)__sadd16((int16x2_t)(a), (int16x2_t)(b)))
#define ssub16(a, b)      ((uint32_t)__ssub16((int16x2_t)(a), (int16x2_t)(b)))
#define sasx(a, b)        ((uint32_t)__sasx((int16x2_t)(a), (int16x2_t)(b)))
#define ssax(a, b)        ((uint32_t)__ssax((int16x2_t)(a), (int16x2_t)(b)))
#define shadd16(a, b)     ((uint32_t)__shadd16((int16x2_t)(a), (int16x2_t)(b)))
#define shsub16(a, b)     ((uint32_t)__shsub16((int16x2_t)(a), (int16x2_t)(b)))
/* The high half of `high` above the low one of `low`, or with pkhtb() above bits `shift` .. `shift` + 15 of `low`;
 * `shift` is a constant from 1 to 16. */
#define pkhtb(high, low, shift)                                                                                        \
    __extension__({                                                                                                    \
        uint32_t pair_;                                                                                                \
        __asm__("pkhtb %0, %1, %2, asr %3" : "=r"(pair_) : "r"(high), "r"(low), "I"(shift));                           \
        pair_;                                                                                                         \
    })

#define pkhbt(low, high)                                                                                               \
    __extension__({                                                                                                    \
        uint32_t pair_;                                                                                                \
        __asm__("pkhbt %0, %1, %2" : "=r"(pair_) : "r"(low), "r"(high));                                               \
        pair_;                                                                                                         \
    })

/* |low|, |high|; -32768 stays as it is. */
static inline uint32_t magnitudes(uint32_t pair)
{
    const uint32_t negated = ssub16(0, pair); /* sets the flags for __sel(): where it is not negative */
    return (uint32_t)__sel((uint8x4_t)negated, (uint8x4_t)pair);
}

#else

static inline uint32_t pair_of(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xffff) | (uint32_t)high << 16;
}

static inline int32_t smlabb(uint32_t a, uint32_t b, int32_t sum)
{
    return low_half(a) * low_half(b) + sum;
}

static inline int32_t smlatb(uint32_t a, uint32_t b, int32_t sum)
{
    return high_half(a) * low_half(b) + sum;
}

static inline int32_t smlatt(uint32_t a, uint32_t b, int32_t sum)
{
    return high_half(a) * high_half(b) + sum;
}

static inline int32_t smuad(uint32_t a, uint32_t b)
{
    return (int32_t)((uint32_t)(low_half(a) * low_half(b)) + (uint32_t)(high_half(a) * high_half(b)));
}

static inline int32_t smlsd(uint32_t a, uint32_t b, int32_t sum)
{
    return low_half(a) * low_half(b) - high_half(a) * high_half(b) + sum;
}

static inline int32_t smladx(uint32_t a, uint32_t b, int32_t sum)
{
    return low_half(a) * high_half(b) + high_half(a) * low_half(b) + sum;
}

static inline uint32_t sadd16(uint32_t a, uint32_t b)
{
    return pair_of(low_half(a) + low_half(b), high_half(a) + high_half(b));
}

static inline uint32_t ssub16(uint32_t a, uint32_t b)
{
    return pair_of(low_half(a) - low_half(b), high_half(a) - high_half(b));
}

static inline uint32_t sasx(uint32_t a, uint32_t b)
{
    return pair_of(low_half(a) - high_half(b), high_half(a) + low_half(b));
}

static inline uint32_t ssax(uint32_t a, uint32_t b)
{
    return pair_of(low_half(a) + high_half(b), high_half(a) - low_half(b));
}

static inline uint32_t shadd16(uint32_t a, uint32_t b)
{
    return pair_of((low_half(a) + low_half(b)) >> 1, (high_half(a) + high_half(b)) >> 1);
}

static inline uint32_t shsub16(uint32_t a, uint32_t b)
{
    return pair_of((low_half(a) - low_half(b)) >> 1, (high_half(a) - high_half(b)) >> 1);
}

static inline uint32_t pkhtb(uint32_t high, uint32_t low, unsigned shift)
{
    return (high & 0xffff0000) | (low >> shift & 0xffff);
}

static inline uint32_t pkhbt(uint32_t low, uint32_t high)
{
    return (high & 0xffff0000) | (low & 0xffff);
}

static inline uint32_t magnitudes(uint32_t pair)
{
    const int32_t low = low_half(pair), high = high_half(pair);
    return pair_of(low < 0 ? -low : low, high < 0 ? -high : high);
}

#endif
#endif
