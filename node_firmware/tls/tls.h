/* tls: a TLS 1.2 client without I/O (RFC 5246), on mbedTLS: bytes in, bytes out, like the node that speaks through it.
 *
 *   tls_open()                      once, with what this node proves itself by
 *   the socket is connected      -> tls_start()
 *   bytes came                   -> tls_receive(), which calls back with what they say
 *   tls_transmit() has bytes     -> send them, tls_transmitted()
 *   tls_ready()                  -> tls_write() takes what is to be said
 *   the socket closed            -> nothing: the next tls_start() begins anew
 *
 * Calls return 0 (or a count) or a negative error of mbedTLS. After one drop the link; what tls_transmit() has then is
 * an alert for the broker's log. A microcontroller first gives TLS_HEAP_BYTES to mbedtls_memory_buffer_alloc_init(). */
#ifndef NODE_TLS_H
#define NODE_TLS_H

#include <mbedtls/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef NODE_TLS_X509
#define TLS_HEAP_BYTES 16384 /* 13 KB, and the certificates of a broker that shows more than its own */
#else
#define TLS_HEAP_BYTES 7680 /* a handshake takes 7.0 KB, of which 6.2 KB stay */
#endif

/* Lent for as long as the tls_t is used. Either a pre-shared key of up to 32 bytes (RFC 4279) or, where the build has
 * it (NODE_TLS=x509), a CA, a certificate and its key: P-256, in DER. No date is looked at: a node has no clock. */
typedef struct tls_credentials {
    const char *identity; /* of the pre-shared key */
    const uint8_t *psk;   /* NULL: certificates */
    size_t psk_size;
    const char *host; /* a DNS name that the broker's certificate must have, or an address written as one */
    const uint8_t *ca, *certificate, *key;
    size_t ca_size, certificate_size, key_size;
    uint32_t (*random)(void *context); /* of cryptographic quality: it is used as it is */
    void *context;
} tls_credentials_t;

typedef struct tls {
    const tls_credentials_t *credentials;
    mbedtls_ssl_config config;
    mbedtls_ssl_context ssl;
#ifdef NODE_TLS_X509
    mbedtls_x509_crt ca, certificate;
    mbedtls_pk_context key;
#endif
    const uint8_t *in; /* what tls_receive() has and mbedTLS did not take yet */
    size_t in_size;
    size_t sent; /* of what tls_transmit() shows, and mbedTLS does not know yet */
} tls_t;

#define TLS_MUST_USE __attribute__((warn_unused_result))

TLS_MUST_USE int tls_open(tls_t *t, const tls_credentials_t *credentials);
void tls_close(tls_t *t); /* wipes and gives back what tls_open() allocated */
TLS_MUST_USE int tls_start(tls_t *t);
/* Takes all of `data`. `received` is called with plain bytes, any number of times; a negative status of it is returned.
 */
TLS_MUST_USE int tls_receive(tls_t *t, const uint8_t *data, size_t size,
                             int (*received)(void *context, const uint8_t *data, size_t size), void *context);
/* The next bytes for the socket; 0 where there are none. Valid until the next call. */
size_t tls_transmit(const tls_t *t, const uint8_t **data);
TLS_MUST_USE int tls_transmitted(tls_t *t, size_t size);
bool tls_ready(const tls_t *t); /* the handshake is over */
/* How many plain bytes it took: 0 where the record before is not out yet. */
TLS_MUST_USE int tls_write(tls_t *t, const uint8_t *data, size_t size);

#endif
