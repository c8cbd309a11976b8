/* provision: what makes a firmware this one node: its name, its broker, its secrets, whom it trusts. It is in a sector
 * of its own in flash: `gatewayctl node flash-image` makes it, or the node writes it once (improv.c). */
#ifndef NODE_PROVISION_H
#define NODE_PROVISION_H

#include "cbor.h"
#include "image.h"

#define PROVISION_BYTES        4096 /* of flash; behind them lies the factory's image, where there is one */
#define PROVISION_KEYS         4
#define PROVISION_TEXT         64
#define PROVISION_HEADER_BYTES 16 /* in front of the map: its magic, size and CRC-32, all ones */
#define PROVISION_SSID         32

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
    uint32_t image_size;                                              /* of the factory's image; 0: none */
    char ssid[PROVISION_SSID + 1], wifi_password[PROVISION_TEXT + 1]; /* empty: none */
} provision_t;

/* NODE_E_FORMAT where `data`, PROVISION_BYTES of flash, holds no provisioning, or a damaged one. */
NODE_MUST_USE int provision_read(provision_t *provision, const uint8_t *data);
/* As provision_read(), from flash of which a word may be unreadable. */
NODE_MUST_USE int provision_load(provision_t *provision, const node_flash_t *flash);
/* Writes a map of `size` bytes that lies behind room for its header in `sector`, which has `capacity` bytes. The header
 * is written last: before that there is no provisioning. NODE_E_FORMAT where no node would take it; nothing is written
 * then. */
NODE_MUST_USE int provision_write(const node_flash_t *flash, uint8_t *sector, size_t capacity, size_t size);

#endif
