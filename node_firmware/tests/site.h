/* For tests of the whole node: the node `n-1` with its flash, and a broker of thirty lines. */
#ifndef SITE_H
#define SITE_H

#include "flash.h"
#include "node/node.h"

#define SECTOR        256
#define GATEWAY       "nodelink/1/gateway/g1/state"
#define VERDICT       "nodelink/1/down/n-1/verdict"
#define REQUEST       "nodelink/1/down/n-1/smp"
#define MESSAGE_BYTES 128 /* the longest that is written here */

extern flash_t flash;
extern node_t node;
extern node_port_t port;
extern node_config_t config;
extern uint32_t now_ms;
extern char heard[16384]; /* what the broker got, as words */
extern char acted[256];
extern unsigned acks; /* PUBACKs that the broker still gives */

void site_start(uint32_t flash_bytes); /* as on the first day; then boot() */
void boot(void);

void answer(const uint8_t *data, size_t size); /* bytes from the broker */
void talk(void);                               /* node and broker, until both are silent */
void expect(const char *words);                /* after which the broker has heard these, since the last time */
void deliver(const char *topic, const uint8_t *payload, size_t size);
void gateway(bool online);
void verdict(uint32_t seq, uint32_t session, const char *action, uint32_t ttl_ms);
int event(uint32_t window_bytes);

size_t write_gateway(uint8_t payload[MESSAGE_BYTES], bool online);
size_t write_verdict(uint8_t payload[MESSAGE_BYTES], uint32_t seq, uint32_t session, const char *action,
                     uint32_t ttl_ms);

#endif
