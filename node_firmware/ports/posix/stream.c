/* See stream.h. */
#define _GNU_SOURCE
#include "stream.h"

#include <errno.h>
#include <mbedtls/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_KEYS_BYTES (4 * 1024 * 1024)
#define HANDSHAKE_MS   30000
#define PIECE_BYTES    16384

/* ---- keys ---- */

typedef struct secure {
    tls_t tls;
    tls_credentials_t credentials;
    uint8_t psk[MBEDTLS_PSK_MAX_LEN];
} secure_t;

static uint32_t secure_random(void *context)
{
    (void)context;
    return random_u32();
}

const char *read_keys(const char *path)
{
    char *const text = calloc(1, MAX_KEYS_BYTES + 1);
    if (text == NULL) {
        die("out of memory");
    }
    read_file(path, (uint8_t *)text, MAX_KEYS_BYTES);
    return text;
}

/* The hex digits behind `identity`; NULL where it has no line. */
static const char *find_key(const char *keys, const char *identity)
{
    const size_t size = strlen(identity);
    for (const char *line = keys; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, identity, size) == 0 && line[size] == ':') {
            return line + size + 1;
        }
    }
    return NULL;
}

tls_t *tls_with_psk(const uint8_t *psk, size_t size, const char *identity)
{
    secure_t *const s = calloc(1, sizeof *s);
    if (s == NULL || size == 0 || size > sizeof s->psk) {
        die("%s: no key of up to %zu bytes", identity, sizeof s->psk);
    }
    memcpy(s->psk, psk, size);
    s->credentials =
        (tls_credentials_t){.identity = identity, .psk = s->psk, .psk_size = size, .random = secure_random};
    const int status = tls_open(&s->tls, &s->credentials);
    if (status != 0) {
        die("%s: TLS: -0x%04x", identity, (unsigned)-status);
    }
    return &s->tls;
}

tls_t *tls_with_key(const char *keys, const char *identity)
{
    uint8_t psk[MBEDTLS_PSK_MAX_LEN];
    const char *const hex = find_key(keys, identity);
    const size_t digits = hex != NULL ? strspn(hex, "0123456789abcdefABCDEF") : 0;
    if (digits % 2 != 0 || digits > 2 * sizeof psk) {
        die("%s: no key of up to %zu bytes", identity, sizeof psk);
    }
    for (size_t i = 0; i < digits / 2; i++) {
        sscanf(hex + 2 * i, "%2hhx", &psk[i]);
    }
    return tls_with_psk(psk, digits / 2, identity);
}

/* ---- the stream ---- */

const char *link_fault(int status)
{
    return status == NODE_E_TIMEOUT ? "the broker is silent" : status == NODE_E_REFUSED ? "refused" : "protocol error";
}

static const char *tls_fault(const stream_t *s, int status)
{
    static char words[64];
    if (status == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY) {
        return "closed by the broker";
    }
    if (status == MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE) {
        snprintf(words, sizeof words, "TLS: refused by the broker, alert %u", s->tls->ssl.in_msg[1]);
    } else {
        snprintf(words, sizeof words, "TLS: -0x%04x", (unsigned)-status);
    }
    return words;
}

bool stream_dial(stream_t *s, const struct sockaddr_in *address, in_addr_t source)
{
    s->fd = dial(address, source);
    s->dialling = s->fd >= 0;
    return s->dialling;
}

void stream_close(stream_t *s, uint32_t now_ms)
{
    node_link_down(s->node, now_ms);
    if (s->fd >= 0) {
        close(s->fd);
    }
    s->fd = -1;
    s->dialling = s->started = false;
}

static const char *connected(stream_t *s, uint32_t now_ms)
{
    s->dialling = false;
    if (!dialled(s->fd)) {
        return "cannot connect";
    }
    if (s->tls == NULL) {
        const int status = node_link_up(s->node, now_ms);
        return status < 0 ? link_fault(status) : NULL;
    }
    s->started = true;
    s->started_ms = now_ms;
    const int status = tls_start(s->tls);
    return status < 0 ? tls_fault(s, status) : NULL;
}

/* What a record says goes to the node; its status comes back through tls_receive() beside those of mbedTLS. */
typedef struct reader {
    stream_t *stream;
    int status;
    uint32_t now_ms;
} reader_t;

static int read_plain(void *context, const uint8_t *data, size_t size)
{
    reader_t *const r = context;
    return r->status = node_receive(r->stream->node, data, size, r->now_ms);
}

static const char *secure_receive(stream_t *s, const uint8_t *data, size_t size, uint32_t now_ms)
{
    reader_t reader = {.stream = s, .now_ms = now_ms};
    const int status = tls_receive(s->tls, data, size, read_plain, &reader);
    if (status < 0) {
        return reader.status < 0 ? link_fault(reader.status) : tls_fault(s, status);
    }
    if (s->started && tls_ready(s->tls)) {
        s->started = false;
        const int up = node_link_up(s->node, now_ms);
        return up < 0 ? link_fault(up) : NULL;
    }
    return NULL;
}

const char *stream_event(stream_t *s, bool readable, uint32_t now_ms)
{
    static uint8_t bytes[PIECE_BYTES];
    if (s->dialling) {
        return connected(s, now_ms);
    }
    if (!readable) {
        return NULL;
    }
    const ssize_t got = recv(s->fd, bytes, sizeof bytes, 0);
    if (got <= 0) {
        return got == 0 ? "closed by the broker" : errno == EAGAIN ? NULL : strerror(errno);
    }
    if (s->tls != NULL) {
        return secure_receive(s, bytes, (size_t)got, now_ms);
    }
    const int status = node_receive(s->node, bytes, (size_t)got, now_ms);
    return status < 0 ? link_fault(status) : NULL;
}

/* How many bytes there are for the socket, or a negative error; records are made as they are wanted. */
static int pull(stream_t *s, const uint8_t **data, uint32_t now_ms)
{
    if (s->tls == NULL) {
        return (int)node_transmit(s->node, data);
    }
    size_t size = tls_transmit(s->tls, data);
    if (size == 0 && tls_ready(s->tls) && (size = node_transmit(s->node, data)) != 0) {
        const int taken = tls_write(s->tls, *data, size);
        if (taken < 0) {
            return taken;
        }
        node_transmitted(s->node, (size_t)taken, now_ms);
        size = tls_transmit(s->tls, data);
    }
    return (int)size;
}

const char *stream_transmit(stream_t *s, uint32_t now_ms)
{
    if (s->fd < 0 || s->dialling) {
        return NULL;
    }
    if (s->started && now_ms - s->started_ms > HANDSHAKE_MS) {
        return link_fault(NODE_E_TIMEOUT);
    }
    const uint8_t *data;
    int status;
    while ((status = pull(s, &data, now_ms)) > 0) {
        const ssize_t sent = send(s->fd, data, (size_t)status, MSG_NOSIGNAL);
        if (sent < 0) {
            return errno == EAGAIN ? NULL : strerror(errno);
        }
        if (s->tls == NULL) {
            node_transmitted(s->node, (size_t)sent, now_ms);
        } else if ((status = tls_transmitted(s->tls, (size_t)sent)) < 0) {
            break;
        }
    }
    return status < 0 ? tls_fault(s, status) : NULL;
}

bool stream_waits(const stream_t *s)
{
    const uint8_t *data;
    if (s->fd < 0 || s->dialling) {
        return s->dialling;
    }
    return (s->tls != NULL && tls_transmit(s->tls, &data) != 0) || node_transmit(s->node, &data) != 0;
}
