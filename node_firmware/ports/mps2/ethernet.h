/* ethernet: the board's LAN9118 as a netif of lwIP. Frames are taken by polling; its interrupt only wakes the core. */
#ifndef ETHERNET_H
#define ETHERNET_H

#include <stdbool.h>
#include <stdint.h>

#include "lwip/netif.h"

typedef struct ethernet_counts {
    uint32_t received, sent;
    uint32_t damaged; /* on the wire */
    uint32_t refused; /* lwIP had no memory, or no use for them */
    uint32_t overrun; /* the chip had no room: nobody polled */
    uint32_t unsent;  /* the chip had no room: too much at once */
} ethernet_counts_t;
extern ethernet_counts_t ethernet_counts; /* of frames, since boot */

err_t ethernet_init(struct netif *netif); /* for netif_add() */
/* Hands lwIP what came, and whether there is a cable. */
void ethernet_poll(struct netif *netif);
bool ethernet_pending(void); /* there is work for ethernet_poll() */
void ethernet_interrupt(void);

#endif
