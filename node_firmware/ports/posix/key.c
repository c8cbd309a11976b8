/* See key.h. */
#include "key.h"

#include <string.h>

#include "posix.h"

#define BEGIN "-----BEGIN PUBLIC KEY-----"

static int digit(const char *digits, char c)
{
    const char *const at = c != '\0' ? strchr(digits, c) : NULL;
    return at != NULL ? (int)(at - digits) : -1;
}

/* Base64 up to its end, white space left out; returns the bytes written, at most `capacity`. */
static size_t decode_base64(const char *text, uint8_t *out, size_t capacity)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    unsigned held = 0;
    size_t size = 0;
    for (; *text != '\0' && *text != '=' && *text != '-'; text++) {
        const int value = digit(digits, *text);
        if (value < 0) {
            continue;
        }
        bits = bits << 6 | (uint32_t)value;
        held += 6;
        if (held >= 8 && size < capacity) {
            held -= 8;
            out[size++] = (uint8_t)(bits >> held);
        }
    }
    return size;
}

static bool decode_pem(const char *text, uint8_t key[IMAGE_KEY_BYTES])
{
    static const uint8_t prefix[] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03,
                                     0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}; /* RFC 8410 */
    uint8_t info[sizeof prefix + IMAGE_KEY_BYTES + 1];
    const char *const begin = strstr(text, BEGIN);
    if (begin == NULL || decode_base64(begin + sizeof BEGIN - 1, info, sizeof info) != sizeof info - 1 ||
        memcmp(info, prefix, sizeof prefix) != 0) {
        return false;
    }
    memcpy(key, info + sizeof prefix, IMAGE_KEY_BYTES);
    return true;
}

static bool decode_hex(const char *text, uint8_t key[IMAGE_KEY_BYTES])
{
    for (unsigned i = 0; i < 2 * IMAGE_KEY_BYTES; i++) {
        const int value = digit("0123456789abcdef", text[i]);
        if (value < 0) {
            return false;
        }
        key[i / 2] = (uint8_t)(key[i / 2] << 4 | value);
    }
    return text[2 * IMAGE_KEY_BYTES] == '\0' || text[2 * IMAGE_KEY_BYTES] == '\n';
}

void read_key(const char *path, uint8_t key[IMAGE_KEY_BYTES])
{
    char text[1024];
    text[read_file(path, (uint8_t *)text, sizeof text - 1)] = '\0';
    if (!decode_pem(text, key) && !decode_hex(text, key)) {
        die("%s: no Ed25519 public key", path);
    }
}
