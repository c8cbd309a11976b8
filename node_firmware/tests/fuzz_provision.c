/* Fuzz target: any bytes as the map in a provisioning sector, and as the sector itself. What is accepted lies in it. */
#include <stdlib.h>
#include <string.h>

#include "crc32.h"
#include "provision.h"

#define HEADER_BYTES 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition) {
        abort();
    }
}

static void inside(span_t span, const uint8_t *sector)
{
    require(span.size == 0 || (span.data >= sector + HEADER_BYTES && span.size <= PROVISION_BYTES &&
                               span.data <= sector + PROVISION_BYTES - span.size));
}

static void text(const char *string, size_t capacity)
{
    require(memchr(string, '\0', capacity) != NULL);
}

static void check(const uint8_t *sector)
{
    provision_t p;
    if (provision_read(&p, sector) != NODE_OK) {
        return;
    }
    inside(p.psk, sector);
    inside(p.ca, sector);
    inside(p.certificate, sector);
    inside(p.key, sector);
    text(p.id, sizeof p.id);
    text(p.host, sizeof p.host);
    text(p.user, sizeof p.user);
    text(p.password, sizeof p.password);
    require(p.key_count <= PROVISION_KEYS && p.port != 0 && p.host[0] != '\0');
    require((p.psk.size != 0) == (p.security == PROVISION_PSK));
    require((p.ca.size != 0) == (p.security == PROVISION_X509));
}

static void put_u32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> 8 * i);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *const sector = malloc(PROVISION_BYTES);
    memset(sector, 0xff, PROVISION_BYTES);
    memcpy(sector, data, size < PROVISION_BYTES ? size : PROVISION_BYTES);
    check(sector);
    if (size <= PROVISION_BYTES - HEADER_BYTES) {
        memcpy(sector, "NLPV", 4);
        put_u32(sector + 4, (uint32_t)size);
        put_u32(sector + 8, node_crc32(0, data, size));
        put_u32(sector + 12, UINT32_MAX);
        memcpy(sector + HEADER_BYTES, data, size);
        check(sector);
    }
    free(sector);
    return 0;
}
