/* Bounds-checked FlatBuffer reader; flatbuffer.h has the contract. Sums of offsets stay below 2^32. */
#include "flatbuffer.h"

static bool inside(fb_t *fb, uint32_t at, uint32_t bytes)
{
    if (at <= fb->size && bytes <= fb->size - at) {
        return true;
    }
    fb->bad = true;
    return false;
}

/* The position that the reference at `at` leads to. */
static uint32_t follow(fb_t *fb, uint32_t at)
{
    if (!inside(fb, at, 4)) {
        return 0;
    }
    const uint32_t distance = fb_load32(fb->data + at);
    const bool good = distance != 0 && inside(fb, at, distance) && inside(fb, at + distance, 4);
    return good ? at + distance : 0;
}

static uint32_t load16(const uint8_t *p)
{
    uint16_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* A table begins with the distance back to its vtable, which holds its own size, the table's size and an offset for
 * each field. The last table's is remembered: fields are mostly read one after the other. */
static bool open_table(fb_t *fb, uint32_t table)
{
    if (fb->table == table) {
        return true;
    }
    if (!inside(fb, table, 4)) {
        return false;
    }
    const uint32_t vtable = table - fb_load32(fb->data + table); /* modulo 2^32: one before the buffer is behind it */
    if (!inside(fb, vtable, 4)) {
        return false;
    }
    const uint32_t bytes = load16(fb->data + vtable);
    if (!inside(fb, vtable, bytes)) {
        return false;
    }
    fb->table = table;
    fb->vtable = vtable;
    fb->vtable_bytes = bytes;
    return true;
}

/* The position of a field of `bytes`, 0 where it is absent. */
static uint32_t locate(fb_t *fb, uint32_t table, unsigned field, uint32_t bytes)
{
    const uint32_t slot = 4 + 2 * (uint32_t)field;
    if (table == 0 || !open_table(fb, table) || slot + 2 > fb->vtable_bytes) {
        return 0;
    }
    const uint32_t offset = load16(fb->data + fb->vtable + slot);
    return offset != 0 && inside(fb, table + offset, bytes) ? table + offset : 0;
}

uint32_t fb_root(fb_t *fb, const char identifier[4])
{
    if (!inside(fb, 0, 8) || fb_load32(fb->data + 4) != fb_load32((const uint8_t *)identifier)) {
        fb->bad = true;
        return 0;
    }
    return follow(fb, 0);
}

uint8_t fb_u8(fb_t *fb, uint32_t table, unsigned field, uint8_t absent)
{
    const uint32_t at = locate(fb, table, field, 1);
    return at ? fb->data[at] : absent;
}

int32_t fb_i32(fb_t *fb, uint32_t table, unsigned field, int32_t absent)
{
    const uint32_t at = locate(fb, table, field, 4);
    return at ? (int32_t)fb_load32(fb->data + at) : absent;
}

uint32_t fb_table(fb_t *fb, uint32_t table, unsigned field)
{
    const uint32_t at = locate(fb, table, field, 4);
    return at ? follow(fb, at) : 0;
}

fb_vector_t fb_vector(fb_t *fb, uint32_t table, unsigned field, uint32_t element_bytes)
{
    const uint32_t at = fb_table(fb, table, field);
    if (fb_count(fb, at) > (fb->size - at - 4) / element_bytes) {
        fb->bad = true;
        return 0;
    }
    return at;
}

uint32_t fb_count(const fb_t *fb, fb_vector_t vector)
{
    return vector ? fb_load32(fb->data + vector) : 0;
}

/* Where an element of 4 bytes is, 0: nowhere. */
static uint32_t element(fb_t *fb, fb_vector_t vector, uint32_t index)
{
    if (index >= fb_count(fb, vector)) {
        fb->bad = true;
        return 0;
    }
    return fb_elements(vector) + 4 * index;
}

int32_t fb_i32_at(fb_t *fb, fb_vector_t vector, uint32_t index)
{
    const uint32_t at = element(fb, vector, index);
    return at ? (int32_t)fb_load32(fb->data + at) : 0;
}

uint32_t fb_table_at(fb_t *fb, fb_vector_t vector, uint32_t index)
{
    const uint32_t at = element(fb, vector, index);
    return at ? follow(fb, at) : 0;
}
