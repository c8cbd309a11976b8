/* link: a node's way to its broker over esp-tls, and again after a while when it broke. */
#ifndef LINK_H
#define LINK_H

#include "node/node.h"
#include "provision.h"

void link_start(node_t *node, const provision_t *provision); /* both are lent for ever */
/* Connects where it is time to, moves bytes, runs node_step(). Returns the milliseconds until it wants to be called
 * again, not counting what the socket has to say: nothing wakes the caller for that. */
uint32_t link_step(void);

#endif
