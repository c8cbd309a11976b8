/* SMP over UDP: one frame a datagram, its answer to where it came from. */
#ifndef UDP_H
#define UDP_H

#include "node/node.h"

/* Listens on [ADDRESS:]PORT, the loopback where no address is given; ends the program where it cannot. */
int udp_open(const char *address);
/* Answers what has come. */
void udp_serve(int fd, node_t *node, uint32_t now_ms);

#endif
