/* Copies that repeat or leave out pixels. */
#include <string.h>

#include "kernels.h"

void kernel_resize(const resize_t *p, const uint16_t *from, const uint8_t *in, uint8_t *out)
{
    for (uint32_t n = 0; n < p->images; n++, in += p->image_bytes) {
        for (uint32_t y = 0; y < p->rows; y++) {
            const uint8_t *row = in + from[y] * p->row_bytes;
            for (uint32_t x = 0; x < p->columns; x++, out += p->pixel_bytes) {
                memmove(out, row + from[p->rows + x] * p->pixel_bytes, p->pixel_bytes);
            }
        }
    }
}
