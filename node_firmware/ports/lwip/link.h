/* link: a node's way to its broker over lwIP's raw API: the name's address, TCP, TLS, and again after a while when it
 * broke. What happened is said to the node's port->log.
 *
 *   a netif is the default one, with DHCP or an address
 *   link_init()
 *   when frames came, and when link_step()'s time is over: netif->input(), then link_step()
 *
 * The node's clock is lwIP's: pass sys_now() to its calls as well. */
#ifndef LWIP_LINK_H
#define LWIP_LINK_H

#include "lwip/tcp.h"
#include "node/node.h"
#ifdef NODE_TLS
#include "tls.h"
#else
typedef struct tls tls_t; /* this build has none */
#endif

typedef enum link_state {
    LINK_OFFLINE,
    LINK_RESOLVING,
    LINK_CONNECTING,
    LINK_SECURING, /* TLS's handshake */
    LINK_GREETING, /* the node's, until it is ready */
    LINK_ONLINE,
    LINK_FAILED /* it was said why; the next link_step() ends it */
} link_state_t;

typedef struct link {
    node_t *node;
    const char *host; /* a name or an IPv4 address */
    uint16_t port;
    tls_t *tls; /* NULL: plain TCP */
    struct tcp_pcb *pcb;
    link_state_t state;
    bool asked;          /* DNS, which will answer */
    bool network;        /* there is one, with an address for us */
    uint32_t since_ms;   /* in this state, or heard of the broker */
    uint32_t backoff_ms; /* the last one; 0 after success */
    uint32_t wait_ms;    /* LINK_OFFLINE: until the next attempt */
} link_t;

void link_init(link_t *link, node_t *node, const char *host, uint16_t port, tls_t *tls);
/* Connects where it is time to, and sends what the node has to say; runs node_step() and lwIP's timers. Returns the
 * milliseconds until it wants to be called again. */
int link_step(link_t *link);

#endif
