/* Bounds-checked FlatBuffer reader; flatbuffer.h has the contract. */
#include "flatbuffer.h"

static bool inside(fb_t *fb, uint64_t at, uint64_t bytes)
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
    const uint64_t target = (uint64_t)at + fb_load32(fb->data + at);
    return target != at && inside(fb, target, 4) ? (uint32_t)target : 0;
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
    const int64_t vtable = (int64_t)table - (int32_t)fb_load32(fb->data + table);
    if (vtable < 0 || !inside(fb, (uint64_t)vtable, 4)) {
        fb->bad = true;
        return false;
    }
    const uint32_t bytes = fb_load16(fb->data + vtable);
    if (!inside(fb, (uint64_t)vtable, bytes)) {
        return false;
    }
    fb->table = table;
    fb->vtable = (uint32_t)vtable;
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
    const uint32_t offset = fb_load16(fb->data + fb->vtable + slot);
    return offset != 0 && inside(fb, (uint64_t)table + offset, bytes) ? table + offset : 0;
}

uint32_t fb_root(fb_t *fb, const char identifier[4])
{
    if (!inside(fb, 0, 8) || memcmp(fb->data + 4, identifier, 4) != 0) {
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

float fb_f32(fb_t *fb, uint32_t table, unsigned field, float absent)
{
    const uint32_t at = locate(fb, table, field, 4);
    return at ? fb_load_float(fb->data + at) : absent;
}

uint32_t fb_table(fb_t *fb, uint32_t table, unsigned field)
{
    const uint32_t at = locate(fb, table, field, 4);
    return at ? follow(fb, at) : 0;
}

fb_vector_t fb_vector(fb_t *fb, uint32_t table, unsigned field, uint32_t element_bytes)
{
    fb_vector_t vector = {0, 0};
    const uint32_t at = fb_table(fb, table, field);
    if (at != 0) {
        const uint32_t count = fb_load32(fb->data + at);
        if (inside(fb, (uint64_t)at + 4, (uint64_t)count * element_bytes)) {
            vector.at = at + 4;
            vector.count = count;
        }
    }
    return vector;
}

static const uint8_t *element(fb_t *fb, fb_vector_t vector, uint32_t index, uint32_t bytes)
{
    static const uint8_t zero[8];
    if (index >= vector.count || !inside(fb, vector.at + (uint64_t)index * bytes, bytes)) {
        fb->bad = true;
        return zero;
    }
    return fb->data + vector.at + (size_t)index * bytes;
}

int32_t fb_i32_at(fb_t *fb, fb_vector_t vector, uint32_t index)
{
    return (int32_t)fb_load32(element(fb, vector, index, 4));
}

int64_t fb_i64_at(fb_t *fb, fb_vector_t vector, uint32_t index)
{
    const uint8_t *p = element(fb, vector, index, 8);
    return (int64_t)((uint64_t)fb_load32(p) | (uint64_t)fb_load32(p + 4) << 32);
}

float fb_f32_at(fb_t *fb, fb_vector_t vector, uint32_t index)
{
    return fb_load_float(element(fb, vector, index, 4));
}

uint32_t fb_table_at(fb_t *fb, fb_vector_t vector, uint32_t index)
{
    if (index >= vector.count) {
        fb->bad = true;
        return 0;
    }
    return follow(fb, vector.at + 4 * index);
}
