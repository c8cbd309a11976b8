/* link: a node's way to its broker over lwIP's raw API: the name's address, TCP, TLS, and again after a while when it
 * broke. */
#ifndef LWIP_LINK_H
#define LWIP_LINK_H

#include "lwip/tcp.h"
#include "node/node.h"
#include "tls.h"

typedef struct link {
    node_t *node;
    const char *host; /* a name or an IPv4 address */
    uint16_t port;
    tls_t *tls; /* NULL: plain TCP */
    struct tcp_pcb *pcb;
} link_t; /* more fields are link.c's business */

void link_init(link_t *link, node_t *node, const char *host, uint16_t port, tls_t *tls);
/* Once the network has an address: connects where it is time to, and sends what the node has to say. Returns the
 * milliseconds until it wants to be called again, node_step() and lwIP's timers included. */
int link_step(link_t *link, uint32_t now_ms);

#endif
