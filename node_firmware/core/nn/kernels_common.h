/* What the kernels of convolutions share. */
#ifndef NN_KERNELS_COMMON_H
#define NN_KERNELS_COMMON_H

#include "kernels.h"

static inline int8_t requantize(int32_t sum, const factors_t *f, uint32_t channel, int32_t zero, int32_t low,
                                int32_t high)
{
    const uint32_t i = channel * f->step;
    return (int8_t)clamp(requantize_int8(sum, f->multiplier[i], f->shift[i], zero), low, high);
}

/* The position in the input that filter row or column `k` looks at from output `o`; outside it is padding, which is
 * zero. */
static inline int32_t look(uint16_t o, uint16_t stride, uint16_t pad, uint16_t k, uint16_t dilation)
{
    return o * stride - pad + k * dilation;
}

#endif
