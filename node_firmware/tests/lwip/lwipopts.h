/* The firmware's lwIP, with the broker's side of the connection and the DNS servers in the same stack. */
#ifndef TEST_LWIPOPTS_H
#define TEST_LWIPOPTS_H

#include "../../ports/lwip/lwipopts.h"

#undef MEM_ALIGNMENT
#define MEM_ALIGNMENT 8 /* of a host's pointers */
#undef MEM_SIZE
#define MEM_SIZE 16384
#undef PBUF_POOL_SIZE
#define PBUF_POOL_SIZE 64 /* of frames that are on the wire as well */
#undef MEMP_NUM_TCP_PCB
#define MEMP_NUM_TCP_PCB 3
#undef MEMP_NUM_UDP_PCB
#define MEMP_NUM_UDP_PCB 4

#endif
