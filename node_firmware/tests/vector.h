/* tests/vectors/model.img, an image that is right (tests/test_image.py makes it), aligned as a slot in flash is. */
#ifndef VECTOR_H
#define VECTOR_H

#include <stdint.h>

#define VECTOR_SIGNED_BYTES 104 /* its last two TLVs: key hash and signature */

extern const uint8_t vector_key[32]; /* that signed it */

/* A copy of it, the same memory every time; its size. */
uint8_t *vector_load(uint32_t *size);

#endif
