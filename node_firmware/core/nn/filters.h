/* A pass of filters over patches: the inner loops of convolution.
 *
 * A patch is the input of an output pixel, as int16 with the zero point taken off; padding is 0. With DSP, four of its
 * values k..k+3 are two pairs, (k, k+2) and (k+1, k+3): what SXTB16 makes of the four weights beside them. A depth that
 * is no multiple of 4 is filled up at the front, with values that weights of 0 meet. The patches of a block are
 * interleaved by these fours; without DSP, by single values. */
#ifndef NN_FILTERS_H
#define NN_FILTERS_H

#include "dsp.h"
#include "kernels.h"

#if NN_DSP
typedef struct quad {
    uint32_t even, odd;
} patch_t;
#else
typedef int16_t patch_t;
#endif

/* Units are output channels. They count from -n up to 0; what there is for each is given by its end, and by a mask: -1,
 * or 0 where one is for all. The order is the assembler's. */
typedef struct pass {
    const int8_t *filter;
    const patch_t *end; /* where the patches end */
    int32_t unit;
    uint32_t rest; /* weights in the first four */
    uint32_t skip; /* bytes of unrolled code that are jumped over at first */
    patch_t *patches;
    const patch_t *quads; /* where the part ends that is done in fours */
    int32_t bias_mask;
    const int32_t *bias;
    int32_t factor_mask;
    const int32_t *multiplier;
    const int8_t *shift;
    int32_t zero; /* of the output */
    int8_t *out;
    uint32_t pitch; /* from a pixel's outputs to the next one's */
    uint32_t depth;
} pass_t;

#if NN_DSP

/* The first 1..4 bytes of a row, after which a multiple of 4 is left, as the last ones of four. Nothing outside of the
 * row is read. */
static inline uint32_t first_bytes(const int8_t *row, uint32_t depth)
{
    if (depth >= 4) {
        return load32(row) << (-depth % 4 * 8);
    }
    uint32_t word = 0;
    for (uint32_t i = 0; i < depth; i++) {
        word = word >> 8 | (uint32_t)(uint8_t)row[i] << 24;
    }
    return word;
}

static inline patch_t expand_quad(uint32_t bytes, uint32_t minus_zero)
{
    return (patch_t){sxtab16(minus_zero, bytes), sxtab16_ror8(minus_zero, bytes)};
}

/* Writes one of `count` interleaved patches. */
static inline void expand(patch_t *patch, uint32_t count, const int8_t *row, uint32_t depth, int32_t zero)
{
    const uint32_t minus_zero = pkhbt((uint32_t)-zero, (uint32_t)-zero);
    const int8_t *end = row + depth;
    *patch = expand_quad(first_bytes(row, depth), minus_zero);
    row += (depth - 1) % 4 + 1;
    if (row == end) {
        return;
    }
    do {
        patch += count;
        *patch = expand_quad(load32(row), minus_zero);
        row += 4;
    } while (row < end);
}

static inline int32_t dot_quad(int32_t sum, const patch_t *patch, uint32_t bytes)
{
    return smlad(sxtb16_ror8(bytes), patch->odd, smlad(sxtb16(bytes), patch->even, sum));
}

/* The sum, and a row's products with one of `count` interleaved patches. */
static inline int32_t dot(int32_t sum, const patch_t *patch, uint32_t count, const int8_t *row, uint32_t depth)
{
    const int8_t *end = row + depth;
    sum = dot_quad(sum, patch, first_bytes(row, depth));
    row += (depth - 1) % 4 + 1;
    if (row == end) {
        return sum;
    }
    do {
        patch += count;
        sum = dot_quad(sum, patch, load32(row));
        row += 4;
    } while (row < end);
    return sum;
}

#ifndef __ARM_FEATURE_DSP
static inline void dot_block(int32_t sum[BLOCK], const patch_t *patches, const int8_t *row, uint32_t depth)
{
    for (int i = 0; i < BLOCK; i++) {
        sum[i] = dot(sum[i], patches + i, BLOCK, row, depth);
    }
}
#endif

#else

static inline void expand(patch_t *patch, uint32_t count, const int8_t *row, uint32_t depth, int32_t zero)
{
    for (const int8_t *end = row + depth; row < end; row++, patch += count) {
        *patch = (int16_t)(*row - zero);
    }
}

static inline int32_t dot(int32_t sum, const patch_t *patch, uint32_t count, const int8_t *row, uint32_t depth)
{
    for (const int8_t *end = row + depth; row < end; row++, patch += count) {
        sum = add_wrap(sum, *patch * *row);
    }
    return sum;
}

static inline void dot_block(int32_t sum[BLOCK], const patch_t *patches, const int8_t *row, uint32_t depth)
{
    for (const int8_t *end = row + depth; row < end; row++, patches += BLOCK) {
        const int32_t weight = *row;
        sum[0] = add_wrap(sum[0], patches[0] * weight);
        sum[1] = add_wrap(sum[1], patches[1] * weight);
        sum[2] = add_wrap(sum[2], patches[2] * weight);
        sum[3] = add_wrap(sum[3], patches[3] * weight);
    }
}

#endif

#ifdef __ARM_FEATURE_DSP

typedef char pass_has_16_words[sizeof(pass_t) == 64 ? 1 : -1];

/* Assembler because the innermost loops need 14 registers, of which compilers spill some. The pass is copied to the
 * stack. Weights are read unaligned where LDR does it, aligned where LDRD does. */
/* clang-format off */
#define PASS_REST    "[sp, #12]"
#define PASS_SKIP    "[sp, #16]" /* and patches */
#define PASS_PATCHES "[sp, #20]" /* and quads */
#define PASS_BIAS    "[sp, #28]" /* mask and end, as the next one */
#define PASS_FACTOR  "[sp, #36]"
#define PASS_SHIFT   "[sp, #44]" /* and zero */
#define PASS_ZERO    "[sp, #48]" /* and out */
#define PASS_OUT     "[sp, #52]" /* and pitch */
#define PASS_DEPTH   "[sp, #60]"
#define PASS_ENTER                                                                     \
    "push {r7}\n" /* the frame pointer, if any, cannot be among the clobbered */       \
    "add r0, r0, #64\n"                                                                \
    "ldmdb r0!, {r1-r8}\n"                                                             \
    "push {r1-r8}\n"                                                                   \
    "ldmdb r0!, {r1-r8}\n"                                                             \
    "push {r1-r8}\n"                                                                   \
    "mov r12, r1\n"                                                                    \
    "mov lr, r2\n"                                                                     \
    "mov r7, r3\n"
#define PASS_LEAVE                                                                     \
    "add sp, sp, #64\n"                                                                \
    "pop {r7}\n"
#define PASS_CLOBBERS "r1", "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory"

/* requantize_fast() of dsp.h. */
#define REQUANTIZE(sum, multiplier, right, zero)                                       \
    "qadd " sum ", " sum ", " sum "\n"                                                 \
    "smmulr " sum ", " sum ", " multiplier "\n"                                        \
    "add " sum ", " sum ", " sum ", asr #31\n"                                         \
    "asrs " sum ", " sum ", " right "\n"                                               \
    "adc " sum ", " sum ", " zero "\n"                                                 \
    "ssat " sum ", #8, " sum "\n"

/* 13 instructions for 16 products. */
#define BLOCK_STEP                                                                     \
    "ldr.w r9, [r12], #4\n"                                                            \
    "ldm.w r11!, {r4, r5, r6, r8}\n"                                                   \
    "sxtb16 r10, r9, ror #8\n"                                                         \
    "sxtb16 r9, r9\n"                                                                  \
    "smlad r0, r9, r4, r0\n"                                                           \
    "smlad r0, r10, r5, r0\n"                                                          \
    "smlad r1, r9, r6, r1\n"                                                           \
    "smlad r1, r10, r8, r1\n"                                                          \
    "ldm.w r11!, {r4, r5, r6, r8}\n"                                                   \
    "smlad r2, r9, r4, r2\n"                                                           \
    "smlad r2, r10, r5, r2\n"                                                          \
    "smlad r3, r9, r6, r3\n"                                                           \
    "smlad r3, r10, r8, r3\n"
#define BLOCK_STEP_BYTES 52

#define BLOCK_STORE                                                                    \
    "ldrd r4, r5, " PASS_OUT "\n"                                                      \
    "add r4, r4, r7\n"                                                                 \
    "strb r0, [r4]\n"                                                                  \
    "strb r1, [r4, r5]\n"                                                              \
    "strb r2, [r4, r5, lsl #1]\n"                                                      \
    "add r4, r4, r5\n"                                                                 \
    "strb r3, [r4, r5, lsl #1]\n"

/* Four pixels, a filter at a time. In the loop r0-r3 are sums, r4-r6 and r8 inputs, r7 the unit, r9 and r10 weights,
 * r11 the patches, r12 the filter, lr the end. */
__attribute__((noinline)) static void filter_block_m4(const pass_t *pass)
{
    register const pass_t *p __asm__("r0") = pass;
    __asm__ volatile(
        PASS_ENTER
        "1:\n"
        "ldrd r4, r5, " PASS_BIAS "\n"
        "and r4, r4, r7\n"
        "ldr r0, [r5, r4, lsl #2]\n"
        "ldr r4, " PASS_REST "\n"
        "mov r1, r0\n"
        "mov r2, r0\n"
        "mov r3, r0\n"
        "cbz r4, 2f\n"
        "ldr r9, [r12]\n" /* first_bytes() */
        "rsb r5, r4, #4\n"
        "lsl r5, r5, #3\n"
        "lsl r9, r9, r5\n"
        "add r12, r12, r4\n"
        "2:\n"
        "ldrd r10, r11, " PASS_SKIP "\n"
        "add pc, r10\n"
        "nop\n" /* pc is behind it */
        "3:\n"
        BLOCK_STEP
        BLOCK_STEP
        BLOCK_STEP
        BLOCK_STEP
        "cmp r11, lr\n"
        "bne 3b\n"
        "ldrd r4, r5, " PASS_FACTOR "\n"
        "and r4, r4, r7\n"
        "ldr r5, [r5, r4, lsl #2]\n"
        "ldrd r6, r8, " PASS_SHIFT "\n"
        "ldrsb r6, [r6, r4]\n"
        "rsb r6, r6, #0\n"
        REQUANTIZE("r0", "r5", "r6", "r8")
        REQUANTIZE("r1", "r5", "r6", "r8")
        REQUANTIZE("r2", "r5", "r6", "r8")
        REQUANTIZE("r3", "r5", "r6", "r8")
        BLOCK_STORE
        "adds r7, r7, #1\n"
        "bne 1b\n"
        PASS_LEAVE
        : "+r"(p)
        :
        : PASS_CLOBBERS);
}

/* Four weights of a filter. */
#define QUAD(weights, sum)                                                             \
    "sxtb16 r10, " weights ", ror #8\n"                                                \
    "sxtb16 " weights ", " weights "\n"                                                \
    "smlad " sum ", r10, r3, " sum "\n"                                                \
    "smlad " sum ", " weights ", r2, " sum "\n"
/* 19 instructions for 16 products. */
#define PAIR_HALF(filter, sum)                                                         \
    "ldrd r8, r9, [" filter "], #8\n"                                                  \
    "sxtb16 r10, r8, ror #8\n"                                                         \
    "sxtb16 r8, r8\n"                                                                  \
    "smlad " sum ", r10, r3, " sum "\n"                                                \
    "smlad " sum ", r8, r2, " sum "\n"                                                 \
    "sxtb16 r10, r9, ror #8\n"                                                         \
    "sxtb16 r9, r9\n"                                                                  \
    "smlad " sum ", r10, r5, " sum "\n"                                                \
    "smlad " sum ", r9, r4, " sum "\n"
#define PAIR_STEP                                                                      \
    "ldm.w r6!, {r2-r5}\n"                                                             \
    PAIR_HALF("r11", "r0")                                                             \
    PAIR_HALF("r12", "r1")
#define PAIR_STEP_BYTES 76

/* Four weights of each of the two at a time, to make the rest a multiple of 8; or all, if rows are not aligned. */
#define PAIR_QUADS                                                                     \
    "cmp r6, r5\n"                                                                     \
    "beq 4f\n"                                                                         \
    "ldr r4, " PASS_REST "\n"                                                          \
    "cbz r4, 2f\n"                                                                     \
    "ldr r8, [r11]\n" /* first_bytes() */                                              \
    "ldr r9, [r12]\n"                                                                  \
    "rsb r2, r4, #4\n"                                                                 \
    "lsl r2, r2, #3\n"                                                                 \
    "lsl r8, r8, r2\n"                                                                 \
    "lsl r9, r9, r2\n"                                                                 \
    "add r11, r11, r4\n"                                                               \
    "add r12, r12, r4\n"                                                               \
    "b 3f\n"                                                                           \
    "2:\n"                                                                             \
    "ldr r8, [r11], #4\n"                                                              \
    "ldr r9, [r12], #4\n"                                                              \
    "3:\n"                                                                             \
    "ldm r6!, {r2, r3}\n"                                                              \
    QUAD("r8", "r0")                                                                   \
    QUAD("r9", "r1")                                                                   \
    "cmp r6, r5\n"                                                                     \
    "bne 2b\n"                                                                         \
    "4:\n"
#define PAIR_FACTORS                                                                   \
    "ldrd r2, r3, " PASS_FACTOR "\n"                                                   \
    "and r4, r2, r7\n"                                                                 \
    "sub r2, r4, r2\n" /* the next one, or the same */                                 \
    "ldr r5, [r3, r4, lsl #2]\n"                                                       \
    "ldr r6, [r3, r2, lsl #2]\n"                                                       \
    "ldr r3, " PASS_SHIFT "\n"                                                         \
    "ldrsb r8, [r3, r4]\n"                                                             \
    "ldrsb r9, [r3, r2]\n"                                                             \
    "rsb r8, r8, #0\n"                                                                 \
    "rsb r9, r9, #0\n"

/* One pixel, two filters at a time. In the loop r0 and r1 are sums, r2-r5 inputs, r6 the patch, r7 the unit, r8-r10
 * weights, r11 and r12 the filters, lr the end. */
__attribute__((noinline)) static void filter_pairs_m4(const pass_t *pass)
{
    register const pass_t *p __asm__("r0") = pass;
    __asm__ volatile(
        PASS_ENTER
        "1:\n"
        "ldr r2, " PASS_DEPTH "\n"
        "mov r11, r12\n"
        "add r12, r12, r2\n"
        "ldrd r2, r3, " PASS_BIAS "\n"
        "and r2, r2, r7\n"
        "add r3, r3, r2, lsl #2\n"
        "ldrd r0, r1, [r3]\n"
        "ldrd r6, r5, " PASS_PATCHES "\n"
        PAIR_QUADS
        "ldr r10, " PASS_SKIP "\n"
        "add pc, r10\n"
        "nop\n" /* pc is behind it */
        "5:\n"
        PAIR_STEP
        PAIR_STEP
        PAIR_STEP
        PAIR_STEP
        "cmp r6, lr\n"
        "bne 5b\n"
        PAIR_FACTORS
        "ldrd r2, r3, " PASS_ZERO "\n"
        REQUANTIZE("r0", "r5", "r8", "r2")
        REQUANTIZE("r1", "r6", "r9", "r2")
        "add r3, r3, r7\n"
        "strb r0, [r3]\n"
        "strb r1, [r3, #1]\n"
        "add r7, r7, #2\n"
        "cmp r7, #-1\n"
        "blt 1b\n"
        PASS_LEAVE
        : "+r"(p)
        :
        : PASS_CLOBBERS);
}
/* clang-format on */

/* All filters over four pixels, for a depth of 4 or more. */
static void filter_block(pass_t *p)
{
    const uint32_t steps = (p->depth + 3) / 4;
    p->end = p->patches + BLOCK * steps;
    p->rest = p->depth % 4;
    p->skip = (-steps & 3) * BLOCK_STEP_BYTES + (p->rest ? 4 : 0); /* and its LDR, if the weights are there */
    filter_block_m4(p);
}

/* Filters over one pixel, as long as there are pairs of them, for a depth of 4 or more; returns how many. Unaligned
 * rows are done in fours. */
static int32_t filter_pairs(pass_t *p)
{
    const uint32_t units = (uint32_t)-p->unit, quads = (p->depth + 3) / 4;
    const uint32_t steps = ((uintptr_t)p->filter | p->depth) % 4 == 0 ? quads / 2 : 0;
    if (units < 2 || p->depth < 4) {
        return 0;
    }
    p->end = p->patches + quads;
    p->rest = p->depth % 4;
    p->quads = p->end - 2 * steps;
    p->skip = (steps ? -steps & 3 : 4) * PAIR_STEP_BYTES;
    filter_pairs_m4(p);
    return (int32_t)(units & ~UINT32_C(1));
}

#else

static void filter_block(const pass_t *pass)
{
    for (pass_t p = *pass; p.unit < 0; p.unit++, p.filter += p.depth) {
        const int32_t bias = p.bias[p.unit & p.bias_mask], multiplier = p.multiplier[p.unit & p.factor_mask];
        const int32_t right = -p.shift[p.unit & p.factor_mask];
        int32_t sum[BLOCK] = {bias, bias, bias, bias};
        dot_block(sum, p.patches, p.filter, p.depth);
        for (uint32_t i = 0; i < BLOCK; i++) {
            p.out[p.unit + (int32_t)(i * p.pitch)] = (int8_t)requantize_fast(sum[i], multiplier, right, p.zero);
        }
    }
}

static int32_t filter_pairs(const pass_t *p)
{
    (void)p;
    return 0;
}

#endif
#endif
