/* The command line of gateway-node. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "node/node.h"

#define IMAGE_BYTES (256 * 1024)
#define MAX_INPUTS  4
#define MAX_KEYS    4

typedef struct options {
    node_config_t config;                    /* without an id: what the sector in its flash says */
    const char *broker;                      /* HOST:PORT, or NULL: by radio only */
    const char *radio;                       /* the socket of its chip, or NULL */
    uint8_t radio_level, radio_input_output; /* of docs/radio.md */
    uint32_t passkey;
    const char *flash;
    const char *smp; /* [ADDRESS:]PORT, or NULL */
    const char *psk; /* a file, or NULL: no TLS */
    uint8_t keys[MAX_KEYS][IMAGE_KEY_BYTES];
    const char *images[NODE_MAX_CASCADES], *inputs[MAX_INPUTS];
    unsigned image_count, input_count;
    double speed; /* of paced inputs; 0: as fast as it goes */
    bool exit_at_end, loop;
} options_t;

/* Ends the program where they make no sense. */
void parse_options(options_t *o, int argc, char **argv);

#endif
