/* The mean over some axes. */
#include "kernels.h"

static int32_t sum_of(const mean_t *p, const int8_t *in)
{
    const uint32_t inner = p->size[4], outer = p->size[2] * p->size[3] * inner;
    int32_t sum = 0;
    for (uint32_t i = 0; i < p->size[1]; i++, in += outer) {
        const int8_t *element = in;
        for (uint32_t k = 0; k < p->size[3]; k++, element += inner) {
            sum += *element - p->in_zero;
        }
    }
    return sum;
}

void kernel_mean(const mean_t *p, const int8_t *in, int8_t *out)
{
    const uint32_t rows = p->size[3] * p->size[4], images = p->size[1] * p->size[2] * rows;
    for (uint32_t i = 0; i < p->size[0]; i++, in += images) {
        for (uint32_t k = 0; k < p->size[2]; k++) {
            for (uint32_t c = 0; c < p->size[4]; c++) {
                const int32_t sum = sum_of(p, in + k * rows + c);
                *out++ = requantize_int8(sum, p->scale.multiplier, p->scale.shift, p->out_zero);
            }
        }
    }
}
