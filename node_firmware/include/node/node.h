/* node: the whole firmware above the port. Bytes and samples in, bytes out; see port.h for the loop around it.
 * Calls return 0 (or a count) or a negative node_status; a negative one from node_receive() or node_step() means: drop the link. */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "node/config.h"
#include "node/port.h"

typedef enum node_status {
    NODE_OK = 0,
    NODE_E_ARGUMENT = -1,
    NODE_E_FULL = -2,
    NODE_E_PROTOCOL = -3, /* the broker sent what MQTT does not allow */
    NODE_E_TIMEOUT = -4,  /* the broker is silent */
    NODE_E_REFUSED = -5,  /* CONNACK or SUBACK said no */
    NODE_E_FLASH = -6,
    NODE_E_IMAGE = -7,    /* an image does not verify, or asks for what this build does not have */
    NODE_E_FORMAT = -8,   /* CBOR that is malformed or not what was expected */
} node_status_t;

#define NODE_MUST_USE __attribute__((warn_unused_result))

#endif
