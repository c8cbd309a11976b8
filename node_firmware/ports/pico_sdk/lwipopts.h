/* lwIP's options: those of ports/lwip, but for what the SDK's driver of the radio asks for. */
#ifndef PICO_LWIPOPTS_H
#define PICO_LWIPOPTS_H

#include "../lwip/lwipopts.h"

#undef LWIP_SINGLE_NETIF
#define LWIP_SINGLE_NETIF          0 /* it has one for the access point, too */
#define LWIP_NETIF_LINK_CALLBACK   1
#define LWIP_NETIF_STATUS_CALLBACK 1

#endif
