/* provision: what makes a firmware this one node: its name, its broker, its secrets, whom it trusts. It is in a place
 * of its own in flash that the node only reads; `gatewayctl node flash-image` makes it. */
#ifndef NODE_PROVISION_H
#define NODE_PROVISION_H

#include "cbor.h"
#include "image.h"

#define PROVISION_BYTES 4096 /* of flash; behind them lies the factory's image, where there is one */
#define PROVISION_KEYS  4
#define PROVISION_TEXT  64

typedef enum provision_security { PROVISION_PLAIN, PROVISION_PSK, PROVISION_X509 } provision_security_t;

/* Spans point into the data that was read. */
typedef struct provision {
    char id[NODE_MAX_ID + 1];
    char host[PROVISION_TEXT]; /* of the broker: a name or an IPv4 address */
    uint16_t port;
    provision_security_t security;
    char user[PROVISION_TEXT], password[PROVISION_TEXT]; /* empty: none */
    span_t psk;                                          /* its identity is the id */
    span_t ca, certificate, key;                         /* DER */
    uint8_t keys[PROVISION_KEYS][IMAGE_KEY_BYTES];       /* who may sign images */
    unsigned key_count;
    uint32_t image_size; /* of the factory's image; 0: none */
} provision_t;

/* NODE_E_FORMAT where `data`, PROVISION_BYTES of flash, holds no provisioning, or a damaged one. */
NODE_MUST_USE int provision_read(provision_t *provision, const uint8_t *data);

#endif
