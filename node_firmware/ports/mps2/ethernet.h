/* ethernet: the board's LAN9118 as a netif of lwIP. Frames are taken by polling; its interrupt only wakes the core. */
#ifndef ETHERNET_H
#define ETHERNET_H

#include <stdbool.h>
#include <stdint.h>

#include "lwip/netif.h"

err_t ethernet_init(struct netif *netif); /* for netif_add() */
/* Hands lwIP what came, and whether there is a cable. */
void ethernet_poll(struct netif *netif);
bool ethernet_pending(void); /* there is work for ethernet_poll() */
void ethernet_interrupt(void);

#endif
