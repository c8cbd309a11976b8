/* See tls.h. mbedTLS believes in a non-blocking socket: reading it takes from the bytes at hand, and writing to it
 * never succeeds at once, so that a record waits in mbedTLS's own buffer until the port has sent it. */
#include "tls.h"

#include <mbedtls/aes.h>
#include <mbedtls/ssl_internal.h>
#include <string.h>

/* GCM runs AES forwards only; mbedTLS's table of ciphers names the other direction all the same. */
int mbedtls_aes_setkey_dec(mbedtls_aes_context *ctx, const unsigned char *key, unsigned int keybits)
{
    (void)ctx, (void)key, (void)keybits;
    return MBEDTLS_ERR_AES_FEATURE_UNAVAILABLE;
}

int mbedtls_internal_aes_decrypt(mbedtls_aes_context *ctx, const unsigned char input[16], unsigned char output[16])
{
    (void)ctx, (void)input, (void)output;
    return MBEDTLS_ERR_AES_FEATURE_UNAVAILABLE;
}

/* ---- what mbedTLS calls ---- */

static int fill_random(void *context, unsigned char *bytes, size_t size)
{
    const tls_credentials_t *const credentials = context;
    for (size_t at = 0; at < size; at += sizeof(uint32_t)) {
        const uint32_t word = credentials->random(credentials->context);
        const size_t rest = size - at;
        memcpy(bytes + at, &word, rest < sizeof word ? rest : sizeof word);
    }
    return 0;
}

static int take_input(void *context, unsigned char *bytes, size_t size)
{
    tls_t *const t = context;
    const size_t taken = size < t->in_size ? size : t->in_size;
    if (taken == 0) {
        return MBEDTLS_ERR_SSL_WANT_READ;
    }
    memcpy(bytes, t->in, taken);
    t->in += taken;
    t->in_size -= taken;
    return (int)taken;
}

static int show_output(void *context, const unsigned char *bytes, size_t size)
{
    tls_t *const t = context;
    const int sent = (int)t->sent;
    (void)bytes, (void)size; /* tls_transmit() finds them */
    t->sent = 0;
    return sent != 0 ? sent : MBEDTLS_ERR_SSL_WANT_WRITE;
}

/* ---- a tls_t ---- */

#ifdef NODE_TLS_X509
static int use_certificates(tls_t *t)
{
    static const int suites[] = {MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, 0};
    const tls_credentials_t *const c = t->credentials;
    if (c->host == NULL) {
        return MBEDTLS_ERR_SSL_BAD_INPUT_DATA; /* mbedTLS would take any name */
    }
    mbedtls_ssl_conf_ciphersuites(&t->config, suites);
    mbedtls_ssl_conf_ca_chain(&t->config, &t->ca, NULL);
    int status = mbedtls_x509_crt_parse_der_nocopy(&t->ca, c->ca, c->ca_size);
    if (status == 0) {
        status = mbedtls_x509_crt_parse_der_nocopy(&t->certificate, c->certificate, c->certificate_size);
    }
    if (status == 0) {
        status = mbedtls_pk_parse_key(&t->key, c->key, c->key_size, NULL, 0);
    }
    if (status == 0) {
        status = mbedtls_ssl_conf_own_cert(&t->config, &t->certificate, &t->key);
    }
    return status != 0 ? status : mbedtls_ssl_set_hostname(&t->ssl, c->host);
}
#endif

static int use_psk(tls_t *t)
{
    static const int suites[] = {MBEDTLS_TLS_PSK_WITH_AES_128_GCM_SHA256, 0};
    const tls_credentials_t *const c = t->credentials;
    mbedtls_ssl_conf_ciphersuites(&t->config, suites);
    return mbedtls_ssl_conf_psk(&t->config, c->psk, c->psk_size, (const uint8_t *)c->identity, strlen(c->identity));
}

static int use_credentials(tls_t *t)
{
#ifdef NODE_TLS_X509
    if (t->credentials->psk == NULL) {
        return use_certificates(t);
    }
#endif
    return t->credentials->identity != NULL ? use_psk(t) : MBEDTLS_ERR_SSL_BAD_INPUT_DATA;
}

int tls_open(tls_t *t, const tls_credentials_t *credentials)
{
    memset(t, 0, sizeof *t);
    t->credentials = credentials;
    mbedtls_ssl_config_init(&t->config);
    mbedtls_ssl_init(&t->ssl);
#ifdef NODE_TLS_X509
    mbedtls_x509_crt_init(&t->ca);
    mbedtls_x509_crt_init(&t->certificate);
    mbedtls_pk_init(&t->key);
#endif
    int status = mbedtls_ssl_config_defaults(&t->config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                             MBEDTLS_SSL_PRESET_DEFAULT);
    if (status == 0) {
        mbedtls_ssl_conf_rng(&t->config, fill_random, (void *)(uintptr_t)credentials);
        status = mbedtls_ssl_conf_max_frag_len(&t->config, MBEDTLS_SSL_MAX_FRAG_LEN_2048);
    }
    if (status == 0) {
        status = use_credentials(t);
    }
    if (status == 0) {
        status = mbedtls_ssl_setup(&t->ssl, &t->config);
    }
    if (status != 0) {
        tls_close(t);
    }
    return status;
}

void tls_close(tls_t *t)
{
    mbedtls_ssl_free(&t->ssl);
    mbedtls_ssl_config_free(&t->config);
#ifdef NODE_TLS_X509
    mbedtls_x509_crt_free(&t->ca);
    mbedtls_x509_crt_free(&t->certificate);
    mbedtls_pk_free(&t->key);
#endif
}

static int only_errors(int status)
{
    return status == MBEDTLS_ERR_SSL_WANT_READ || status == MBEDTLS_ERR_SSL_WANT_WRITE ? 0 : status;
}

int tls_start(tls_t *t)
{
    t->sent = t->in_size = 0;
    const int status = mbedtls_ssl_session_reset(&t->ssl);
    if (status != 0) {
        return status;
    }
    mbedtls_ssl_set_bio(&t->ssl, t, show_output, take_input, NULL);
    return only_errors(mbedtls_ssl_handshake(&t->ssl));
}

int tls_receive(tls_t *t, const uint8_t *data, size_t size,
                int (*received)(void *context, const uint8_t *data, size_t size), void *context)
{
    t->in = data;
    t->in_size = size;
    int status = 0;
    while (status == 0) {
        status = mbedtls_ssl_read(&t->ssl, NULL, 0); /* decrypts a record where it lies, */
        if (status == 0 && t->ssl.in_offt != NULL) { /* and this is what it says */
            status = received(context, t->ssl.in_offt, t->ssl.in_msglen);
            t->ssl.in_msglen = 0;
        }
        if (status == MBEDTLS_ERR_SSL_WANT_READ ? t->in_size != 0
                                                : status == MBEDTLS_ERR_SSL_WANT_WRITE && tls_ready(t)) {
            status = 0; /* a warning came, or goes out; reading goes on */
        }
    }
    if (status == MBEDTLS_ERR_SSL_WANT_WRITE && t->in_size != 0) {
        return MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE; /* the broker does not wait for its turn */
    }
    return only_errors(status);
}

size_t tls_transmit(const tls_t *t, const uint8_t **data)
{
    *data = t->ssl.out_hdr - t->ssl.out_left + t->sent;
    return t->ssl.out_left - t->sent;
}

int tls_transmitted(tls_t *t, size_t size)
{
    t->sent = size;
    return only_errors(tls_ready(t) ? mbedtls_ssl_flush_output(&t->ssl) : mbedtls_ssl_handshake(&t->ssl));
}

bool tls_ready(const tls_t *t)
{
    return t->ssl.state == MBEDTLS_SSL_HANDSHAKE_OVER;
}

int tls_write(tls_t *t, const uint8_t *data, size_t size)
{
    if (!tls_ready(t) || t->ssl.out_left != 0 || size == 0) {
        return 0;
    }
    const int most = mbedtls_ssl_get_max_out_record_payload(&t->ssl);
    const int status = mbedtls_ssl_write(&t->ssl, data, size);
    if (status != MBEDTLS_ERR_SSL_WANT_WRITE) {
        return status;
    }
    return size < (size_t)most ? (int)size : most;
}
