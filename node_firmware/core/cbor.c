/* The codec of every message, and the first thing that a stranger's bytes meet. */
#include "cbor.h"

#include <float.h>
#include <string.h>

enum { UINT, NINT, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE }; /* major types */

enum { FALSE = 20, TRUE = 21, HALF = 25, SINGLE = 26, DOUBLE = 27 }; /* of major type SIMPLE */

typedef struct head {
    uint8_t major, info;
    uint64_t value; /* the argument: a number, a length, or the bits of a float */
} head_t;

cbor_reader_t cbor_reader(const uint8_t *data, size_t size)
{
    return (cbor_reader_t){.at = data, .end = data + size};
}

static size_t left(const cbor_reader_t *r)
{
    return (size_t)(r->end - r->at);
}

/* Whether a length or a count can be true of the bytes that are left. */
static bool plausible(const cbor_reader_t *r, const head_t *head)
{
    switch (head->major) {
    case BYTES:
    case TEXT:
    case ARRAY:
        return head->value <= left(r);
    case MAP:
        return head->value <= left(r) / 2;
    case TAG:
        return false;
    case SIMPLE:
        return head->info == FALSE || head->info == TRUE || (head->info >= HALF && head->info <= DOUBLE);
    default:
        return true;
    }
}

static head_t read_head(cbor_reader_t *r)
{
    const head_t none = {.major = TAG};
    if (r->failed || r->at == r->end) {
        r->failed = true;
        return none;
    }
    const uint8_t *const start = r->at;
    head_t head = {.major = *r->at >> 5, .info = *r->at & 0x1f};
    r->at++;
    head.value = head.info;
    if (head.info >= 24) {
        const size_t size = (size_t)1 << (head.info - 24);
        if (head.info > 27 || left(r) < size) {
            r->failed = true;
        } else {
            head.value = 0;
            for (size_t i = 0; i < size; i++) {
                head.value = head.value << 8 | *r->at++;
            }
        }
    }
    if (r->failed || !plausible(r, &head)) {
        r->failed = true;
        r->at = start;
        return none;
    }
    return head;
}

static uint64_t expect(cbor_reader_t *r, uint8_t major, uint64_t max)
{
    const head_t head = read_head(r);
    if (head.major != major || head.value > max) {
        r->failed = true;
    }
    return r->failed ? 0 : head.value;
}

uint64_t cbor_uint(cbor_reader_t *r, uint64_t max)
{
    return expect(r, UINT, max);
}

int64_t cbor_int(cbor_reader_t *r)
{
    const head_t head = read_head(r);
    if (head.major > NINT || head.value > INT64_MAX) {
        r->failed = true;
    }
    if (r->failed) {
        return 0;
    }
    return head.major == NINT ? -1 - (int64_t)head.value : (int64_t)head.value;
}

bool cbor_bool(cbor_reader_t *r)
{
    const head_t head = read_head(r);
    if (head.major != SIMPLE || (head.info != FALSE && head.info != TRUE)) {
        r->failed = true;
    }
    return !r->failed && head.info == TRUE;
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A half is sign 1, exponent 5, fraction 10. Infinity and NaN come out as infinity. */
static float from_half(uint32_t half)
{
    const uint32_t exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;
    float magnitude;
    if (exponent == 0) {
        magnitude = (float)fraction * 0x1p-24F;
    } else if (exponent == 31) {
        magnitude = from_bits(0x7f800000);
    } else {
        magnitude = from_bits((exponent + 112) << 23 | fraction << 13);
    }
    return half & 0x8000 ? -magnitude : magnitude;
}

static float from_double(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    const bool fits = value >= -(double)FLT_MAX && value <= (double)FLT_MAX;
    return fits ? (float)value : from_bits(0x7f800000);
}

float cbor_float(cbor_reader_t *r)
{
    const head_t head = read_head(r);
    float value = from_bits(0x7f800000);
    if (head.major == SIMPLE) {
        value = head.info == HALF     ? from_half((uint32_t)head.value)
                : head.info == SINGLE ? from_bits((uint32_t)head.value)
                : head.info == DOUBLE ? from_double(head.value)
                                      : value;
    }
    if (!(value >= -FLT_MAX && value <= FLT_MAX)) { /* infinity, NaN, or no float at all */
        r->failed = true;
    }
    return r->failed ? 0 : value;
}

static span_t string(cbor_reader_t *r, uint8_t major)
{
    const uint32_t size = (uint32_t)expect(r, major, UINT32_MAX);
    if (r->failed) {
        return (span_t){NULL, 0};
    }
    const span_t span = {r->at, size};
    r->at += size;
    return span;
}

span_t cbor_bytes(cbor_reader_t *r)
{
    return string(r, BYTES);
}

/* Shortest forms only, no surrogates, nothing above U+10FFFF (RFC 3629). */
static bool valid_utf8(span_t text)
{
    for (uint32_t i = 0; i < text.size;) {
        const uint8_t first = text.data[i++];
        if (first < 0x80) {
            continue;
        }
        const uint32_t more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
        if (first < 0xc2 || first > 0xf4 || text.size - i < more) {
            return false;
        }
        const uint8_t second = text.data[i];
        if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
            (first == 0xf4 && second > 0x8f)) {
            return false;
        }
        for (const uint32_t stop = i + more; i < stop; i++) {
            if ((text.data[i] & 0xc0) != 0x80) {
                return false;
            }
        }
    }
    return true;
}

span_t cbor_text(cbor_reader_t *r)
{
    const span_t text = string(r, TEXT);
    if (!valid_utf8(text)) {
        r->failed = true;
        return (span_t){NULL, 0};
    }
    return text;
}

uint32_t cbor_array(cbor_reader_t *r)
{
    return (uint32_t)expect(r, ARRAY, UINT32_MAX);
}

uint32_t cbor_map(cbor_reader_t *r)
{
    return (uint32_t)expect(r, MAP, UINT32_MAX);
}

unsigned cbor_word(cbor_reader_t *r, const char *const *words, unsigned count)
{
    const span_t text = cbor_text(r);
    for (unsigned i = 0; i < count && !r->failed; i++) {
        if (text.size == strlen(words[i]) && memcmp(text.data, words[i], text.size) == 0) {
            return i;
        }
    }
    r->failed = true;
    return 0;
}

unsigned cbor_key(cbor_reader_t *r, uint32_t *seen)
{
    const unsigned k = (unsigned)cbor_uint(r, 31);
    if (*seen & UINT32_C(1) << k) {
        r->failed = true;
    }
    *seen |= UINT32_C(1) << k;
    return k;
}

void cbor_skip(cbor_reader_t *r)
{
    for (uint64_t items = 1; items != 0 && !r->failed; items--) {
        const head_t head = read_head(r);
        if (r->failed) {
            return;
        }
        if (head.major == BYTES || head.major == TEXT) {
            r->at += head.value;
        } else if (head.major == ARRAY || head.major == MAP) {
            items += head.major == MAP ? 2 * head.value : head.value;
        }
    }
}

bool cbor_ended(const cbor_reader_t *r)
{
    return !r->failed && r->at == r->end;
}

cbor_writer_t cbor_writer(uint8_t *data, size_t capacity)
{
    return (cbor_writer_t){.data = data, .capacity = capacity};
}

static void put(cbor_writer_t *w, const uint8_t *data, size_t size)
{
    if (size != 0 && w->size <= w->capacity && w->capacity - w->size >= size) {
        memcpy(w->data + w->size, data, size);
    }
    w->size += size;
}

static void put_wide(cbor_writer_t *w, uint8_t first, uint64_t value, unsigned bytes)
{
    uint8_t out[9] = {first};
    for (unsigned i = 0; i < bytes; i++) {
        out[bytes - i] = (uint8_t)(value >> 8 * i);
    }
    put(w, out, 1 + bytes);
}

static void put_head(cbor_writer_t *w, uint8_t major, uint64_t value)
{
    const uint8_t top = (uint8_t)(major << 5);
    if (value < 24) {
        put_wide(w, (uint8_t)(top | value), 0, 0);
    } else if (value <= UINT8_MAX) {
        put_wide(w, top | 24, value, 1);
    } else if (value <= UINT16_MAX) {
        put_wide(w, top | 25, value, 2);
    } else if (value <= UINT32_MAX) {
        put_wide(w, top | 26, value, 4);
    } else {
        put_wide(w, top | 27, value, 8);
    }
}

void cbor_put_uint(cbor_writer_t *w, uint64_t value)
{
    put_head(w, UINT, value);
}

void cbor_put_int(cbor_writer_t *w, int64_t value)
{
    if (value < 0) {
        put_head(w, NINT, (uint64_t)(-1 - value));
    } else {
        put_head(w, UINT, (uint64_t)value);
    }
}

void cbor_put_bool(cbor_writer_t *w, bool value)
{
    put_head(w, SIMPLE, value ? TRUE : FALSE);
}

void cbor_put_float(cbor_writer_t *w, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_wide(w, SIMPLE << 5 | SINGLE, bits, 4);
}

void cbor_put_text(cbor_writer_t *w, const char *text)
{
    put_head(w, TEXT, strlen(text));
    put(w, (const uint8_t *)text, strlen(text));
}

void cbor_put_span(cbor_writer_t *w, span_t text)
{
    put_head(w, TEXT, text.size);
    put(w, text.data, text.size);
}

void cbor_put_bytes_head(cbor_writer_t *w, uint32_t size)
{
    put_head(w, BYTES, size);
}

void cbor_put_bytes(cbor_writer_t *w, const uint8_t *data, uint32_t size)
{
    put_head(w, BYTES, size);
    put(w, data, size);
}

void cbor_put_array(cbor_writer_t *w, uint32_t count)
{
    put_head(w, ARRAY, count);
}

void cbor_put_map(cbor_writer_t *w, uint32_t pairs)
{
    put_head(w, MAP, pairs);
}

size_t cbor_written(const cbor_writer_t *w)
{
    return w->size <= w->capacity ? w->size : 0;
}
