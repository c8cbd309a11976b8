/* lwIP cut down to a node: one interface, one TCP connection, DHCP, DNS, ping; no OS. All its memory is in the two
 * sizes of "memory" below and about 1 KB of small pools. */
#ifndef LWIPOPTS_H
#define LWIPOPTS_H

#define NO_SYS               1
#define SYS_LIGHTWEIGHT_PROT 0 /* no interrupt calls lwIP */
#define LWIP_NETCONN         0
#define LWIP_SOCKET          0
#define LWIP_STATS           0
#define LWIP_SINGLE_NETIF    1
#define LWIP_NETIF_HOSTNAME  1

/* ---- memory ---- */
#define MEM_ALIGNMENT                  4
#define MEM_SIZE                       5632 /* what TCP sends until it is acknowledged, with headers, and a DHCP message */
#define PBUF_POOL_SIZE                 6 /* what is received is used at once, so two frames of full size are enough */
#define PBUF_POOL_BUFSIZE              512
#define LWIP_DISABLE_TCP_SANITY_CHECKS 1 /* they want the whole window in the pool; here the chip or driver has it */

#define MEMP_NUM_PBUF           2
#define MEMP_NUM_TCP_PCB        1
#define MEMP_NUM_TCP_PCB_LISTEN 1 /* none; 0 is not allowed */
#define MEMP_NUM_UDP_PCB        2 /* DHCP, DNS */
#define ARP_TABLE_SIZE          5

/* ---- IPv4 ---- */
#define IP_REASSEMBLY      0
#define IP_FRAG            0
#define IP_OPTIONS_ALLOWED 0

/* ---- DHCP and DNS ---- */
#define LWIP_DHCP                     1
#define DHCP_DOES_ARP_CHECK           0 /* it takes seconds, and the server has looked */
#define LWIP_DNS                      1
#define DNS_TABLE_SIZE                1
#define DNS_MAX_NAME_LENGTH           64
#define DNS_MAX_RETRIES               3
#define DNS_MAX_TTL                   30 /* seconds: a broker that moves is found again */
#define LWIP_DNS_SUPPORT_MDNS_QUERIES 1  /* gateway.local */

/* ---- TCP ---- */
#define TCP_MSS           1460
#define TCP_WND           (4 * TCP_MSS) /* a request with 4 KB of an image, in one go */
#define TCP_SND_BUF       (3 * TCP_MSS) /* two segments on their way make a peer acknowledge at once; one more to fill */
#define TCP_QUEUE_OOSEQ   0             /* there is no memory that could wait for what was lost */
#define TCP_OVERSIZE      0
#define LWIP_TCP_RTO_TIME 1000 /* before anything was measured (RFC 6298) */
/* A number that can be guessed lets others into the connection, and one that comes again after a reset is taken for the
 * connection before it. */
#define LWIP_HOOK_TCP_ISN(local_ip, local_port, remote_ip, remote_port) LWIP_RAND()

#endif
