/* A node's connection to its broker: TCP, or TLS with a pre-shared key. */
#ifndef STREAM_H
#define STREAM_H

#include "posix.h"
#include "tls.h"

typedef struct stream {
    node_t *node;
    tls_t *tls;             /* NULL: plain TCP */
    int fd;                 /* -1: none */
    bool dialling, started; /* started: connected, and the node does not know yet, because TLS shakes hands */
    uint32_t started_ms;
} stream_t;

/* A mosquitto psk_file, IDENTITY:HEX a line. Ends the program where it cannot be read. */
const char *read_keys(const char *path);
/* A client with that key, which it copies. Ends the program where it is too long. */
tls_t *tls_with_psk(const uint8_t *psk, size_t size, const char *identity);
/* A client with the key of `identity` in the text of such a file. Ends the program where there is none. */
tls_t *tls_with_key(const char *keys, const char *identity);

/* False with errno where there can be no socket now; else stream_event() goes on once it is writable. */
bool stream_dial(stream_t *s, const struct sockaddr_in *address, in_addr_t source);
/* The socket is readable, or writable. These two return NULL, or why the stream is to be closed. */
const char *stream_event(stream_t *s, bool readable, uint32_t now_ms);
/* Sends what the node has to say, as far as the socket takes it. Call it whenever time has passed. */
const char *stream_transmit(stream_t *s, uint32_t now_ms);
/* Whether it waits for the socket to be writable. */
bool stream_waits(const stream_t *s);
void stream_close(stream_t *s, uint32_t now_ms);
/* In words, what a negative status of the node says of its link. */
const char *link_fault(int status);

#endif
