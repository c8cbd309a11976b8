/* For tests of the node on Bluetooth LE: a gateway's side of the connection, and an air that loses. What it hears it
 * adds to the site's `heard`. */
#ifndef CENTRAL_H
#define CENTRAL_H

#include "ble.h"
#include "site.h"

#define MOST_EVENTS 64

enum { DOWN_GATEWAY = 1, DOWN_VERDICT, DOWN_STORED };

typedef struct central {
    /* for a test to set */
    unsigned loss, twice, late; /* percent of packets */
    uint32_t seed;
    long cut_at; /* the connection is lost at this packet; negative: never */
    bool stores; /* the gateway says `stored` */

    unsigned deliveries[MOST_EVENTS]; /* of events, by seq */

    /* of a connection */
    bool connected, refused; /* refused: the node did not take a write */
    uint16_t mtu;
    segment_sender_t down;
    segment_receiver_t up;
    struct {
        uint8_t code, payload[MESSAGE_BYTES];
        size_t size;
    } queue[64];
    unsigned queued, begun;
    size_t answered;
    uint8_t answers[16384]; /* SMP's */
    uint8_t message[NODE_MAX_PAYLOAD];
} central_t;

extern central_t central;

void central_reset(void);
unsigned dice(void); /* below 100 */

void central_connect(uint16_t mtu); /* and subscribe, and say that the gateway is online */
void central_disconnect(void);
void converse(void); /* until both are silent and nothing is owed, or the connection is gone */
/* One packet; false where there is none to send. */
bool node_sends(void);
bool central_sends(void);

/* What the central will say. */
void say(uint8_t code, const uint8_t *payload, size_t size);
void say_gateway(bool online);
void say_verdict(uint32_t seq, const char *action);
void say_stored(uint32_t session, uint32_t seq);

#endif
