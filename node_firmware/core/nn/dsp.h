/* The DSP instructions of Cortex-M4, M7 and M33, by their names. Elsewhere each is a C function of the same value, so
 * that kernels made of them (NN_DSP) run on a host too; plain C is the better kernel for a machine without.
 *
 * A pair is two int16 in a word, bytes are four int8; the first one lowest. */
#ifndef NN_DSP_H
#define NN_DSP_H

#include <stdint.h>
#include <string.h>

#ifndef NN_DSP
#ifdef __ARM_FEATURE_DSP
#define NN_DSP 1
#else
#define NN_DSP 0
#endif
#endif

/* Of any alignment. */
static inline uint32_t load32(const void *from)
{
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

static inline void store32(void *to, uint32_t word)
{
    memcpy(to, &word, sizeof word);
}

typedef struct words {
    uint32_t low, high;
} words_t;

/* Three int8 in memory, some pitch apart: the first two as a pair, and the third. */
typedef struct column {
    uint32_t upper, lower;
} column_t;

#ifdef __ARM_FEATURE_DSP

#define DSP_1(name, assembler)                                                                                         \
    static inline uint32_t name(uint32_t a)                                                                            \
    {                                                                                                                  \
        uint32_t r;                                                                                                    \
        __asm__(assembler : "=r"(r) : "r"(a));                                                                         \
        return r;                                                                                                      \
    }
#define DSP_2(name, assembler)                                                                                         \
    static inline uint32_t name(uint32_t a, uint32_t b)                                                                \
    {                                                                                                                  \
        uint32_t r;                                                                                                    \
        __asm__(assembler : "=r"(r) : "r"(a), "r"(b));                                                                 \
        return r;                                                                                                      \
    }
#define DSP_SUM(name, assembler)                                                                                       \
    static inline int32_t name(uint32_t a, uint32_t b, int32_t sum)                                                    \
    {                                                                                                                  \
        int32_t r;                                                                                                     \
        __asm__(assembler : "=r"(r) : "r"(a), "r"(b), "r"(sum));                                                       \
        return r;                                                                                                      \
    }

DSP_1(sxtb16, "sxtb16 %0, %1")
DSP_1(sxtb16_ror8, "sxtb16 %0, %1, ror #8")
DSP_2(sxtab16, "sxtab16 %0, %1, %2")
DSP_2(sxtab16_ror8, "sxtab16 %0, %1, %2, ror #8")
DSP_2(pkhbt, "pkhbt %0, %1, %2, lsl #16")
DSP_2(qadd, "qadd %0, %1, %2")
DSP_2(pkhtb, "pkhtb %0, %1, %2, asr #16")
DSP_SUM(smlad, "smlad %0, %1, %2, %3")
DSP_SUM(smlabb, "smlabb %0, %1, %2, %3")
DSP_SUM(smlabt, "smlabt %0, %1, %2, %3")
DSP_SUM(smlatb, "smlatb %0, %1, %2, %3")
DSP_SUM(smlatt, "smlatt %0, %1, %2, %3")

static inline int32_t smmulr(int32_t a, int32_t b)
{
    int32_t r;
    __asm__("smmulr %0, %1, %2" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

static inline int32_t ssat8(int32_t x)
{
    int32_t r;
    __asm__("ssat %0, #8, %1" : "=r"(r) : "r"(x));
    return r;
}

/* (x / 2^right, to nearest, halves up) + y; right 1..31, in its lowest byte. The last bit shifted out is the carry. */
static inline int32_t shift_add(int32_t x, int32_t right, int32_t y)
{
    int32_t r;
    __asm__("asrs %0, %1, %2\n\tadc %0, %0, %3" : "=&r"(r) : "r"(x), "r"(right), "r"(y) : "cc");
    return r;
}

/* Of each byte the larger one, the smaller one. */
static inline uint32_t max_bytes(uint32_t a, uint32_t b)
{
    uint32_t r;
    __asm__("ssub8 %0, %1, %2\n\tsel %0, %1, %2" : "=&r"(r) : "r"(a), "r"(b));
    return r;
}

static inline uint32_t min_bytes(uint32_t a, uint32_t b)
{
    uint32_t r;
    __asm__("ssub8 %0, %1, %2\n\tsel %0, %2, %1" : "=&r"(r) : "r"(a), "r"(b));
    return r;
}

/* Two words, of an address that is a multiple of 4. */
static inline words_t ldrd(const uint64_t *from)
{
    words_t r;
    __asm__("ldrd %0, %1, %2" : "=r"(r.low), "=r"(r.high) : "m"(*from));
    return r;
}

static inline column_t load_column(const int8_t *from, uint32_t pitch)
{
    column_t r;
    __asm__ volatile("ldrsb %0, [%2]\n\tldrsb %1, [%2, %3]\n\tpkhbt %0, %0, %1, lsl #16\n\tldrsb %1, [%2, %3, lsl #1]"
                     : "=&r"(r.upper), "=&r"(r.lower)
                     : "r"(from), "r"(pitch)
                     : "memory");
    return r;
}

#else

static inline int32_t dsp_low(uint32_t pair)
{
    return (int16_t)(pair & 0xffff);
}

static inline int32_t dsp_high(uint32_t pair)
{
    return (int16_t)(pair >> 16);
}

static inline uint32_t dsp_pair(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xffff) | (uint32_t)high << 16;
}

/* a + the bytes 0 and 2 as a pair. */
static inline uint32_t sxtab16(uint32_t a, uint32_t bytes)
{
    return dsp_pair(dsp_low(a) + (int8_t)(bytes & 0xff), dsp_high(a) + (int8_t)(bytes >> 16 & 0xff));
}

/* a + the bytes 1 and 3. */
static inline uint32_t sxtab16_ror8(uint32_t a, uint32_t bytes)
{
    return sxtab16(a, bytes >> 8);
}

static inline uint32_t sxtb16(uint32_t bytes)
{
    return sxtab16(0, bytes);
}

static inline uint32_t sxtb16_ror8(uint32_t bytes)
{
    return sxtab16(0, bytes >> 8);
}

static inline uint32_t qadd(uint32_t a, uint32_t b)
{
    const int64_t sum = (int64_t)(int32_t)a + (int32_t)b;
    return (uint32_t)(sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : (int32_t)sum);
}

static inline uint32_t pkhbt(uint32_t low, uint32_t high) /* of both the low half */
{
    return dsp_pair((int32_t)low, (int32_t)high);
}

static inline uint32_t pkhtb(uint32_t high, uint32_t low) /* of both the high half */
{
    return dsp_pair((int32_t)(low >> 16), (int32_t)(high >> 16));
}

static inline int32_t smlabb(uint32_t a, uint32_t b, int32_t sum)
{
    return (int32_t)((uint32_t)sum + (uint32_t)(dsp_low(a) * dsp_low(b)));
}

static inline int32_t smlabt(uint32_t a, uint32_t b, int32_t sum)
{
    return smlabb(a, b >> 16, sum);
}

static inline int32_t smlatb(uint32_t a, uint32_t b, int32_t sum)
{
    return smlabb(a >> 16, b, sum);
}

static inline int32_t smlatt(uint32_t a, uint32_t b, int32_t sum)
{
    return smlabb(a >> 16, b >> 16, sum);
}

static inline int32_t smlad(uint32_t a, uint32_t b, int32_t sum)
{
    return smlatt(a, b, smlabb(a, b, sum));
}

/* a * b * 2^-32 to nearest, halves up. */
static inline int32_t smmulr(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (INT64_C(1) << 31)) >> 32);
}

static inline int32_t ssat8(int32_t x)
{
    return x < INT8_MIN ? INT8_MIN : x > INT8_MAX ? INT8_MAX : x;
}

static inline int32_t shift_add(int32_t x, int32_t right, int32_t y)
{
    right &= 0xff;
    return (x >> right) + (x >> (right - 1) & 1) + y;
}

static inline uint32_t max_bytes(uint32_t a, uint32_t b)
{
    uint32_t r = 0;
    for (int i = 0; i < 32; i += 8) {
        const int8_t x = (int8_t)(a >> i & 0xff), y = (int8_t)(b >> i & 0xff);
        r |= (uint32_t)(uint8_t)(x > y ? x : y) << i;
    }
    return r;
}

static inline uint32_t min_bytes(uint32_t a, uint32_t b)
{
    return ~max_bytes(~a, ~b);
}

static inline words_t ldrd(const uint64_t *from)
{
    return (words_t){(uint32_t)*from, (uint32_t)(*from >> 32)};
}

static inline column_t load_column(const int8_t *from, uint32_t pitch)
{
    return (column_t){pkhbt((uint32_t)from[0], (uint32_t)from[pitch]), (uint32_t)from[2 * pitch]};
}

#endif

/* What scale() of quantize.h gives for half of `sum`, plus `zero`, saturated to int8: for |sum| < 2^31 and a shift of
 * -right, right 1..31. There smmulr() is high_mul(), and x - (x < 0) makes halves that are rounded up halves that are
 * rounded away from zero. */
static inline int32_t requantize_doubled(int32_t sum, int32_t multiplier, int32_t right, int32_t zero)
{
    const int32_t x = smmulr(sum, multiplier);
    return ssat8(shift_add(x + (x >> 31), right, zero));
}

/* Exact for |sum| < 2^30, and beyond where op_conv.c has found that saturation does no harm. */
static inline int32_t doubled(int32_t sum)
{
    return (int32_t)qadd((uint32_t)sum, (uint32_t)sum);
}

static inline int32_t requantize_fast(int32_t sum, int32_t multiplier, int32_t right, int32_t zero)
{
    return requantize_doubled(doubled(sum), multiplier, right, zero);
}

#endif
