/* Bounds-checked reading of a FlatBuffer, so that nothing in a model has to be trusted.
 *
 * Every access checks for itself that what it reads lies inside the buffer. A failed check sets `bad`, which stays set,
 * and yields 0 or "absent": a caller reads what it needs and asks for `bad` once, before it acts. Tables and vectors
 * are offsets from the start of the buffer, 0 stands for an absent one. Nothing here follows more than one reference,
 * so nothing recurses or loops. */
#ifndef NN_FLATBUFFER_H
#define NN_FLATBUFFER_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct fb {
    const uint8_t *data;
    uint32_t size;                        /* bytes, below 2^31 */
    uint32_t table, vtable, vtable_bytes; /* the last table that was read, 0: none */
    bool bad;
} fb_t;

typedef uint32_t fb_vector_t; /* where its count is; all its elements are inside, behind it */

/* Little-endian like the machine, unaligned; the caller knows that they are inside. */
static inline uint32_t fb_load32(const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}
static inline float fb_load_float(const uint8_t *p)
{
    float value;
    memcpy(&value, p, sizeof value);
    return value;
}

uint32_t fb_root(fb_t *fb, const char identifier[4]);

/* Scalar fields of a table; `absent` where the field (or the table) is not there. */
uint8_t fb_u8(fb_t *fb, uint32_t table, unsigned field, uint8_t absent);
int32_t fb_i32(fb_t *fb, uint32_t table, unsigned field, int32_t absent);
static inline float fb_f32(fb_t *fb, uint32_t table, unsigned field) /* 0 where it is absent */
{
    const int32_t bits = fb_i32(fb, table, field, 0);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint32_t fb_table(fb_t *fb, uint32_t table, unsigned field);
/* A vector (or a string) of scalars of `element_bytes`. */
fb_vector_t fb_vector(fb_t *fb, uint32_t table, unsigned field, uint32_t element_bytes);
uint32_t fb_count(const fb_t *fb, fb_vector_t vector);
static inline uint32_t fb_elements(fb_vector_t vector) /* the offset of element 0 */
{
    return vector + 4;
}

/* Elements; an index beyond the end is bad. */
int32_t fb_i32_at(fb_t *fb, fb_vector_t vector, uint32_t index);
uint32_t fb_table_at(fb_t *fb, fb_vector_t vector, uint32_t index);

#endif
