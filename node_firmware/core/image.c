/* From bytes to an image that holds together: the same rules, and the same words, as gatewayd/core/image.py. */
#include "image.h"

#include <mbedtls/sha256.h>
#include <string.h>

#define MAGIC           UINT32_C(0x96f3b83d)
#define PROTECTED_MAGIC 0x6908
#define PLAIN_MAGIC     0x6907
#define NON_BOOTABLE    0x10
#define PAIR_BYTES      4U /* an info header (magic, total size) or a TLV's (type, length) */
#define MAX_TLVS        32 /* of an area */

enum {
    TLV_KEY_HASH = 0x01,
    TLV_SHA256 = 0x10,
    TLV_SIGNATURE = 0x24,
    TLV_COUNTER = 0x50,
    TLV_CASCADE = 0xa0,
    TLV_ARENA = 0xa1,
    TLV_OPERATORS = 0xa2,
    TLV_FRONT_END = 0xa3,
    TLV_DECISION = 0xa4,
    TLV_SELF_TEST = 0xa5
};

typedef struct tlv {
    uint32_t type;
    span_t value;
} tlv_t;

typedef struct area {
    uint32_t size, count; /* size: bytes, with the info header */
    tlv_t tlv[MAX_TLVS];
} area_t;

const char *image_fault_name(image_fault_t fault)
{
    static const char *const names[FAULT_COUNT] = {
        NULL,       "size",    "header",   "tlv",       "digest",    "key",      "signature", "cascade",
        "capacity", "counter", "arena",    "operators", "front-end", "decision", "model",     "self-test",
        "flash",    "reset",   "deadline", "reverted",  "limits",    "plan"};
    return (unsigned)fault < FAULT_COUNT ? names[fault] : NULL;
}

static uint32_t get_u16(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8;
}

static uint32_t get_u32(const uint8_t *at)
{
    return get_u16(at) | get_u16(at + 2) << 16;
}

/* The value of the TLV of that type; its data is NULL where there is none. */
static span_t find(const area_t *area, uint32_t type)
{
    for (uint32_t i = 0; i < area->count; i++) {
        if (area->tlv[i].type == type) {
            return area->tlv[i].value;
        }
    }
    return (span_t){NULL, 0};
}

/* Its data where it has exactly that size, else NULL. */
static const uint8_t *find_exact(const area_t *area, uint32_t type, uint32_t size)
{
    const span_t value = find(area, type);
    return value.size == size ? value.data : NULL;
}

/* The TLVs of the area that begins at `at`. A type that comes twice is refused: readers would differ on which counts.
 */
static image_fault_t read_area(area_t *area, const uint8_t *data, uint32_t size, uint32_t at, uint32_t magic)
{
    area->count = 0;
    if (size - at < PAIR_BYTES) {
        return FAULT_SIZE;
    }
    area->size = get_u16(data + at + 2);
    if (get_u16(data + at) != magic || area->size < PAIR_BYTES) {
        return FAULT_TLV;
    }
    if (size - at < area->size) {
        return FAULT_SIZE;
    }
    const uint32_t end = at + area->size;
    for (at += PAIR_BYTES; at < end;) {
        if (end - at < PAIR_BYTES || area->count == MAX_TLVS) {
            return FAULT_TLV;
        }
        const tlv_t tlv = {get_u16(data + at), {data + at + PAIR_BYTES, get_u16(data + at + 2)}};
        at += PAIR_BYTES;
        if (end - at < tlv.value.size || find(area, tlv.type).data != NULL) {
            return FAULT_TLV;
        }
        area->tlv[area->count++] = tlv;
        at += tlv.value.size;
    }
    return FAULT_NONE;
}

static bool read_u32(const area_t *area, uint32_t type, uint32_t *value)
{
    const uint8_t *const raw = find_exact(area, type, 4);
    if (raw != NULL) {
        *value = get_u32(raw);
    }
    return raw != NULL;
}

/* A name as docs/nodelink.md has it, to a C string. */
static bool read_name(char out[NODE_MAX_ID + 1], span_t name)
{
    if (name.size == 0 || name.size > NODE_MAX_ID) {
        return false;
    }
    for (uint32_t i = 0; i < name.size; i++) {
        const uint8_t c = name.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c == '-' && i != 0))) {
            return false;
        }
        out[i] = (char)c;
    }
    out[name.size] = '\0';
    return true;
}

/* One form only: every other way to write the same is longer than the one that is expected. */
static bool read_self_test(image_t *image, span_t cbor)
{
    cbor_reader_t r = cbor_reader(cbor.data, cbor.size);
    const bool is_map = cbor_map(&r) == 2;
    const bool inputs_first = cbor_uint(&r, 0) == 0;
    image->inputs = cbor_bytes(&r);
    const bool outputs_second = cbor_uint(&r, 1) == 1;
    image->outputs = cbor_bytes(&r);
    cbor_writer_t w = cbor_writer(NULL, 0);
    cbor_put_map(&w, 2);
    cbor_put_uint(&w, 0);
    cbor_put_bytes(&w, image->inputs.data, image->inputs.size);
    cbor_put_uint(&w, 1);
    cbor_put_bytes(&w, image->outputs.data, image->outputs.size);
    return cbor_ended(&r) && is_map && inputs_first && outputs_second && w.size == cbor.size &&
           image->inputs.size != 0 && image->outputs.size != 0;
}

static bool read_protected(image_t *image, const area_t *area)
{
    const span_t self_test = find(area, TLV_SELF_TEST);
    image->operators = find(area, TLV_OPERATORS);
    return read_name(image->cascade, find(area, TLV_CASCADE)) && read_u32(area, TLV_COUNTER, &image->counter) &&
           read_u32(area, TLV_ARENA, &image->arena_bytes) && image->operators.data != NULL &&
           find(area, TLV_FRONT_END).data != NULL && find(area, TLV_DECISION).data != NULL &&
           (self_test.data == NULL || read_self_test(image, self_test));
}

/* What no signature covers is exactly what it has to be, so that an image has one form only. */
static bool read_plain(image_t *image, const area_t *area)
{
    image->sha256 = find_exact(area, TLV_SHA256, 32);
    image->key_hash = find_exact(area, TLV_KEY_HASH, 32);
    image->signature = find_exact(area, TLV_SIGNATURE, 64);
    const bool is_signed = image->key_hash != NULL && image->signature != NULL;
    return image->sha256 != NULL && area->count == (is_signed ? 3 : 1);
}

static char *put_number(char *out, uint32_t value)
{
    char digits[10];
    unsigned count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    while (count != 0) {
        *out++ = digits[--count];
    }
    return out;
}

/* major u8, minor u8, revision u16, build u32 */
static void write_version(char out[IMAGE_VERSION_BYTES + 1], const uint8_t *at)
{
    out = put_number(out, at[0]);
    *out++ = '.';
    out = put_number(out, at[1]);
    *out++ = '.';
    out = put_number(out, get_u16(at + 2));
    if (get_u32(at + 4) != 0) {
        *out++ = '+';
        out = put_number(out, get_u32(at + 4));
    }
    *out = '\0';
}

image_fault_t image_read(image_t *image, const uint8_t *data, uint32_t size)
{
    area_t protected, plain;
    memset(image, 0, sizeof *image);
    if (size < IMAGE_HEADER_BYTES) {
        return FAULT_SIZE;
    }
    if (get_u32(data) != MAGIC || get_u16(data + 8) != IMAGE_HEADER_BYTES || get_u32(data + 16) != NON_BOOTABLE) {
        return FAULT_HEADER;
    }
    const uint32_t protected_bytes = get_u16(data + 10), payload_bytes = get_u32(data + 12);
    if ((uint64_t)IMAGE_HEADER_BYTES + payload_bytes + protected_bytes > size) {
        return FAULT_SIZE;
    }
    const uint32_t payload_end = IMAGE_HEADER_BYTES + payload_bytes, hashed_bytes = payload_end + protected_bytes;
    image_fault_t fault = read_area(&protected, data, size, payload_end, PROTECTED_MAGIC);
    if (fault == FAULT_NONE) {
        fault = read_area(&plain, data, size, hashed_bytes, PLAIN_MAGIC);
    }
    if (fault != FAULT_NONE) {
        return fault;
    }
    if (protected.size != protected_bytes) {
        return FAULT_TLV;
    }
    if (hashed_bytes + plain.size != size) {
        return FAULT_SIZE;
    }
    image->payload = (span_t){data + IMAGE_HEADER_BYTES, payload_bytes};
    image->size = size;
    write_version(image->version, data + 20);
    if (!read_plain(image, &plain) || !read_protected(image, &protected)) {
        return FAULT_TLV;
    }
    if (front_end_decode(&image->front_end, find(&protected, TLV_FRONT_END)) != NODE_OK) {
        return FAULT_FRONT_END;
    }
    return decision_decode(&image->decision, find(&protected, TLV_DECISION)) != NODE_OK ? FAULT_DECISION : FAULT_NONE;
}

/* TLV 0x10 against what it covers. */
static bool digest_matches(const image_t *image, const uint8_t *data)
{
    uint8_t digest[32];
    const uint32_t hashed_bytes = IMAGE_HEADER_BYTES + image->payload.size + get_u16(data + 10);
    return mbedtls_sha256_ret(data, hashed_bytes, digest, 0) == 0 && memcmp(digest, image->sha256, sizeof digest) == 0;
}

image_fault_t image_parse(image_t *image, const uint8_t *data, uint32_t size)
{
    const image_fault_t fault = image_read(image, data, size);
    const bool complete = fault == FAULT_NONE || fault > FAULT_DIGEST; /* whose word comes after that of the digest */
    return complete && !digest_matches(image, data) ? FAULT_DIGEST : fault;
}
