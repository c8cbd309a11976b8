/* link: a node's way to its broker over Zephyr's sockets, TLS included, and again after a while when it broke. */
#ifndef LINK_H
#define LINK_H

#include "node/node.h"
#include "provision.h"

/* Both are lent for ever. Negative where the credentials cannot be kept. */
NODE_MUST_USE int link_start(node_t *node, const provision_t *provision);
/* Connects where it is time to, moves bytes, runs node_step(). Returns the milliseconds until it wants to be called
 * again, not counting what the socket has to say: nothing wakes the caller for that. */
int32_t link_step(void);

#endif
