/* See provision.h. One form only: what is missing, twice, unknown, too long or of no use with this security is refused.
 */
#include "provision.h"

#include <string.h>

#include "crc32.h"
#include "node_parts.h"

#define HEADER_BYTES PROVISION_HEADER_BYTES
#define UNIT         16 /* the most that program() takes at least */
#define PIECE        64
#define PSK_LEAST    16
#define PSK_MOST     32 /* mbedTLS's MBEDTLS_PSK_MAX_LEN */

enum {
    ID,
    HOST,
    PORT,
    SECURITY,
    KEYS,
    PSK,
    USER,
    PASSWORD,
    CA,
    CERTIFICATE,
    PRIVATE_KEY,
    IMAGE_SIZE,
    SSID,
    WIFI_PASSWORD
};

#define BIT(key) (UINT32_C(1) << (key))
#define REQUIRED (BIT(ID) | BIT(HOST) | BIT(PORT) | BIT(SECURITY) | BIT(KEYS))
#define X509     (BIT(CA) | BIT(CERTIFICATE) | BIT(PRIVATE_KEY))

static uint32_t u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void put_u32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> 8 * i);
    }
}

static void read_text(cbor_reader_t *r, char *out, size_t capacity)
{
    const span_t text = cbor_text(r);
    if (text.size == 0 || text.size >= capacity || memchr(text.data, '\0', text.size) != NULL) {
        r->failed = true;
        return;
    }
    memcpy(out, text.data, text.size);
    out[text.size] = '\0';
}

static span_t read_bytes(cbor_reader_t *r, uint32_t least, uint32_t most)
{
    const span_t bytes = cbor_bytes(r);
    if (bytes.size < least || bytes.size > most) {
        r->failed = true;
    }
    return bytes;
}

static void read_keys(cbor_reader_t *r, provision_t *p)
{
    p->key_count = cbor_array(r);
    if (p->key_count > PROVISION_KEYS) {
        r->failed = true;
    }
    for (unsigned i = 0; i < p->key_count && !r->failed; i++) {
        const span_t key = read_bytes(r, IMAGE_KEY_BYTES, IMAGE_KEY_BYTES);
        if (!r->failed) {
            memcpy(p->keys[i], key.data, IMAGE_KEY_BYTES);
        }
    }
}

static void read_value(cbor_reader_t *r, provision_t *p, unsigned key)
{
    static const char *const securities[] = {"plain", "psk", "x509"};
    switch (key) {
    case ID:
        read_text(r, p->id, sizeof p->id);
        break;
    case HOST:
        read_text(r, p->host, sizeof p->host);
        break;
    case PORT:
        p->port = (uint16_t)cbor_uint(r, UINT16_MAX);
        break;
    case SECURITY:
        p->security = (provision_security_t)cbor_word(r, securities, 3);
        break;
    case KEYS:
        read_keys(r, p);
        break;
    case PSK:
        p->psk = read_bytes(r, PSK_LEAST, PSK_MOST);
        break;
    case USER:
        read_text(r, p->user, sizeof p->user);
        break;
    case PASSWORD:
        read_text(r, p->password, sizeof p->password);
        break;
    case CA:
        p->ca = read_bytes(r, 1, PROVISION_BYTES);
        break;
    case CERTIFICATE:
        p->certificate = read_bytes(r, 1, PROVISION_BYTES);
        break;
    case PRIVATE_KEY:
        p->key = read_bytes(r, 1, PROVISION_BYTES);
        break;
    case IMAGE_SIZE:
        p->image_size = (uint32_t)cbor_uint(r, UINT32_MAX);
        break;
    case SSID:
        read_text(r, p->ssid, sizeof p->ssid);
        break;
    case WIFI_PASSWORD:
        read_text(r, p->wifi_password, sizeof p->wifi_password);
        break;
    default:
        r->failed = true;
    }
}

/* The node needs, for its security, exactly the secrets that it has. */
static bool complete(const provision_t *p, uint32_t seen)
{
    static const uint32_t secrets[] = {[PROVISION_PSK] = BIT(PSK), [PROVISION_X509] = X509};
    return (seen & REQUIRED) == REQUIRED && (seen & (BIT(PSK) | X509)) == secrets[p->security] && p->port != 0 &&
           node_valid_id(p->id) && ((seen & BIT(PASSWORD)) == 0 || (seen & BIT(USER)) != 0) &&
           ((seen & BIT(WIFI_PASSWORD)) == 0 || (seen & BIT(SSID)) != 0);
}

int provision_read(provision_t *p, const uint8_t *data)
{
    const uint32_t size = u32(data + 4);
    memset(p, 0, sizeof *p);
    if (memcmp(data, "NLPV", 4) != 0 || size > PROVISION_BYTES - HEADER_BYTES || u32(data + 12) != UINT32_MAX ||
        node_crc32(0, data + HEADER_BYTES, size) != u32(data + 8)) {
        return NODE_E_FORMAT;
    }
    cbor_reader_t r = cbor_reader(data + HEADER_BYTES, size);
    uint32_t seen = 0;
    for (uint32_t pairs = cbor_map(&r); pairs != 0 && !r.failed; pairs--) {
        read_value(&r, p, cbor_key(&r, &seen));
    }
    return cbor_ended(&r) && complete(p, seen) ? NODE_OK : NODE_E_FORMAT;
}

int provision_load(provision_t *p, const node_flash_t *flash)
{
    uint8_t piece[PIECE];
    for (uint32_t at = 0; at < PROVISION_BYTES; at += sizeof piece) {
        if (flash->read(flash->context, at, piece, sizeof piece) < 0) {
            return NODE_E_FORMAT; /* the power failed while it was written */
        }
    }
    return provision_read(p, flash->map(flash->context, 0));
}

int provision_write(const node_flash_t *flash, uint8_t *sector, size_t capacity, size_t size)
{
    const uint32_t whole = (uint32_t)(HEADER_BYTES + (size + UNIT - 1) / UNIT * UNIT);
    provision_t p;
    if (whole > capacity || whole > PROVISION_BYTES) {
        return NODE_E_FULL;
    }
    memcpy(sector, "NLPV", 4);
    put_u32(sector + 4, (uint32_t)size);
    put_u32(sector + 8, node_crc32(0, sector + HEADER_BYTES, size));
    put_u32(sector + 12, UINT32_MAX);
    memset(sector + HEADER_BYTES + size, 0xff, whole - HEADER_BYTES - size);
    if (provision_read(&p, sector) != NODE_OK) {
        return NODE_E_FORMAT;
    }
    const bool written =
        flash->erase(flash->context, 0, PROVISION_BYTES) == 0 &&
        flash->program(flash->context, HEADER_BYTES, sector + HEADER_BYTES, whole - HEADER_BYTES) == 0 &&
        flash->program(flash->context, 0, sector, HEADER_BYTES) == 0;
    return written ? NODE_OK : NODE_E_FLASH;
}
