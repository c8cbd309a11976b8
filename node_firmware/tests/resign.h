/* Other images than tests/vectors/model.img, signed as that one is. */
#ifndef RESIGN_H
#define RESIGN_H

#include <stdint.h>

/* Digest and signature of an image that was changed, made right again. */
void resign(uint8_t *image, uint32_t size);
/* A copy of the vector with this revision in its version, and this security counter; the same memory every time. */
uint8_t *make_image(uint16_t revision, uint32_t counter, uint32_t *size);

#endif
