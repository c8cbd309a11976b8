/* Fuzz target: any bytes from a broker into TLS, in any pieces, with links that break. Random numbers are 1, 2, 3...,
 * so that recordings of real brokers (tests/tls_vectors.py, which has the format) get through the handshake. The first
 * byte's upper bits say which allocation fails, if any. */
#include <stdio.h>
#include <stdlib.h>

#include "tls.h"

#define DER_BYTES 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);

static uint32_t drawn;
static unsigned failing; /* 1: the next allocation does */

void *__wrap_calloc(size_t count, size_t size)
{
    return failing != 0 && --failing == 0 ? NULL : __real_calloc(count, size);
}

static uint32_t next_random(void *context)
{
    (void)context;
    return ++drawn;
}

static size_t read_der(const char *name, uint8_t der[DER_BYTES])
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", VECTORS, name);
    FILE *const file = fopen(path, "rb");
    const size_t size = file != NULL ? fread(der, 1, DER_BYTES, file) : 0;
    if (size == 0 || fclose(file) != 0) {
        abort();
    }
    return size;
}

static const tls_credentials_t *with_key(void)
{
    static const uint8_t psk[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    static const tls_credentials_t credentials = {
        .identity = "node", .psk = psk, .psk_size = sizeof psk, .random = next_random};
    return &credentials;
}

static const tls_credentials_t *with_certificates(void)
{
    static uint8_t ca[DER_BYTES], certificate[DER_BYTES], key[DER_BYTES];
    static tls_credentials_t credentials = {
        .host = "broker.example", .ca = ca, .certificate = certificate, .key = key, .random = next_random};
    if (credentials.ca_size == 0) {
        credentials.ca_size = read_der("tls-ca.der", ca);
        credentials.certificate_size = read_der("tls-node.der", certificate);
        credentials.key_size = read_der("tls-node-key.der", key);
    }
    return &credentials;
}

static int received(void *context, const uint8_t *data, size_t size)
{
    tls_t *const t = context;
    volatile uint8_t last = size != 0 ? data[size - 1] : 0;
    (void)last;
    if (size == 0 || !tls_ready(t)) {
        abort();
    }
    return 0;
}

/* Takes what waits for the socket, seven bytes at a time, and says something as soon as that is possible. */
static int transmit(tls_t *t)
{
    const uint8_t *bytes;
    size_t size;
    int status = tls_write(t, (const uint8_t *)"hello\n", 6);
    while (status >= 0 && (size = tls_transmit(t, &bytes)) != 0) {
        volatile uint8_t last = bytes[size - 1];
        (void)last;
        status = tls_transmitted(t, size > 7 ? 7 : size);
    }
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tls_t tls;
    drawn = 0;
    failing = size != 0 ? data[0] >> 1 : 0;
    if (size == 0 || tls_open(&tls, data[0] & 1 ? with_certificates() : with_key()) != 0) {
        return 0;
    }
    int status = tls_start(&tls);
    for (size_t at = 1; at < size && status >= 0;) {
        const uint8_t length = data[at++];
        const size_t taken = length < size - at ? length : size - at;
        status = transmit(&tls);
        if (status >= 0) {
            status = length == 255 ? tls_start(&tls) : tls_receive(&tls, data + at, taken, received, &tls);
        }
        at += length == 255 ? 0 : taken;
    }
    const uint8_t *bytes;
    (void)tls_transmit(&tls, &bytes); /* an alert */
    tls_close(&tls);
    failing = 0;
    return 0;
}
