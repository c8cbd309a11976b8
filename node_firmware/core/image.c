/* From bytes in flash to a model that may be run. */
#include "image.h"

#include <mbedtls/sha256.h>
#include <string.h>

#define MAGIC           UINT32_C(0x96f3b83d)
#define PROTECTED_MAGIC 0x6908
#define PLAIN_MAGIC     0x6907
#define INFO_BYTES      4U

enum { NON_BOOTABLE = 0x10 };

enum {
    TLV_SHA256 = 0x10,
    TLV_COUNTER = 0x50,
    TLV_CASCADE = 0xa0,
    TLV_ARENA = 0xa1,
    TLV_OPERATORS = 0xa2,
    TLV_FRONT_END = 0xa3,
    TLV_DECISION = 0xa4
};

static uint32_t get_u16(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8;
}

static uint32_t get_u32(const uint8_t *at)
{
    return get_u16(at) | get_u16(at + 2) << 16;
}

/* The TLV area at the start of `there`: with its info header, cut to its size. Empty where there is none. */
static span_t tlv_area(span_t there, uint32_t magic)
{
    const span_t none = {NULL, 0};
    if (there.size < INFO_BYTES || get_u16(there.data) != magic) {
        return none;
    }
    const uint32_t size = get_u16(there.data + 2);
    return size < INFO_BYTES || size > there.size ? none : (span_t){there.data, size};
}

/* The value of the only TLV of that type, at most `most` bytes. False where it is absent, comes twice, or is too long;
 * also where any TLV of the area leads outside it. */
static bool find_tlv(span_t area, uint32_t type, uint32_t most, span_t *value)
{
    bool found = false;
    for (uint32_t at = INFO_BYTES; at < area.size;) {
        if (area.size - at < 4) {
            return false;
        }
        const uint32_t size = get_u16(area.data + at + 2);
        if (area.size - at - 4 < size) {
            return false;
        }
        if (get_u16(area.data + at) == type) {
            if (found || size > most) {
                return false;
            }
            found = true;
            *value = (span_t){area.data + at + 4, size};
        }
        at += 4 + size;
    }
    return found;
}

static bool find_u32(span_t area, uint32_t type, uint32_t *value)
{
    span_t raw;
    if (!find_tlv(area, type, 4, &raw) || raw.size != 4) {
        return false;
    }
    *value = get_u32(raw.data);
    return true;
}

/* A name as docs/nodelink.md has it, to a C string. */
static bool copy_name(char out[NODE_MAX_ID + 1], span_t name)
{
    for (uint32_t i = 0; i < name.size; i++) {
        const uint8_t c = name.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c == '-' && i != 0))) {
            return false;
        }
        out[i] = (char)c;
    }
    out[name.size] = '\0';
    return name.size != 0;
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

static bool read_protected(image_t *image, span_t area)
{
    span_t cascade, front_end, decision;
    return find_tlv(area, TLV_CASCADE, NODE_MAX_ID, &cascade) && copy_name(image->cascade, cascade) &&
           find_u32(area, TLV_COUNTER, &image->counter) && find_u32(area, TLV_ARENA, &image->arena_bytes) &&
           find_tlv(area, TLV_OPERATORS, UINT16_MAX, &image->operators) &&
           find_tlv(area, TLV_FRONT_END, UINT16_MAX, &front_end) &&
           front_end_decode(&image->front_end, front_end) == NODE_OK &&
           find_tlv(area, TLV_DECISION, UINT16_MAX, &decision) &&
           decision_decode(&image->decision, decision) == NODE_OK;
}

static bool digest_matches(const uint8_t *data, uint32_t size, const uint8_t expected[32])
{
    uint8_t digest[32];
    return mbedtls_sha256_ret(data, size, digest, 0) == 0 && memcmp(digest, expected, sizeof digest) == 0;
}

int image_parse(image_t *image, const uint8_t *data, uint32_t capacity)
{
    memset(image, 0, sizeof *image);
    if (capacity < IMAGE_HEADER_BYTES || get_u32(data) != MAGIC || get_u16(data + 8) != IMAGE_HEADER_BYTES ||
        (get_u32(data + 16) & NON_BOOTABLE) == 0) {
        return NODE_E_IMAGE;
    }
    const uint32_t protected_bytes = get_u16(data + 10), payload_bytes = get_u32(data + 12);
    if (payload_bytes > capacity - IMAGE_HEADER_BYTES) {
        return NODE_E_IMAGE;
    }
    const uint32_t payload_end = IMAGE_HEADER_BYTES + payload_bytes;
    const span_t protected = tlv_area((span_t){data + payload_end, capacity - payload_end}, PROTECTED_MAGIC);
    if (protected.size == 0 || protected.size != protected_bytes) {
        return NODE_E_IMAGE;
    }
    const uint32_t hashed_bytes = payload_end + protected_bytes;
    const span_t plain = tlv_area((span_t){data + hashed_bytes, capacity - hashed_bytes}, PLAIN_MAGIC);
    span_t digest;
    if (!find_tlv(plain, TLV_SHA256, 32, &digest) || digest.size != 32 ||
        !digest_matches(data, hashed_bytes, digest.data)) {
        return NODE_E_IMAGE;
    }
    /* A signature over the digest is checked here, once there are keys (docs/nodelink.md does not have them yet). */
    image->payload = (span_t){data + IMAGE_HEADER_BYTES, payload_bytes};
    image->size = hashed_bytes + plain.size;
    image->sha256 = digest.data;
    write_version(image->version, data + 20);
    return read_protected(image, protected) ? NODE_OK : NODE_E_IMAGE;
}
