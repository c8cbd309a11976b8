/* Sizes, fixed when the firmware is built. They decide sizeof(node_t); nothing is allocated later. */
#ifndef NODE_CONFIG_H
#define NODE_CONFIG_H

#define NODE_MAX_CASCADES     4
#define NODE_MAX_GATEWAYS     4    /* online at the same time and told apart */
#define NODE_MAX_RECENT       16   /* events whose verdict can still be acted on */
#define NODE_EVENTS_IN_FLIGHT 4    /* sent and not yet acknowledged */
#define NODE_MESSAGE_BYTES    1536 /* the largest of info and vitals */
#define NODE_RECEIVE_BYTES    4352 /* the largest message that is read: an SMP request with 4 KB of an image */
#define NODE_ANSWER_BYTES     1536 /* the largest SMP answer over MQTT: the state of every slot */
#define NODE_HEAD_BYTES       192  /* an event without its window's data */
#define NODE_MAX_PAYLOAD      98304
#define NODE_MAX_WINDOW       65536
#define NODE_MAX_ID           31 /* characters of a node's, cascade's or label's name */

#ifndef NODE_BLE
#define NODE_BLE 0 /* 1: the node speaks Bluetooth LE as well; the build's option of that name sets it */
#endif
#define BLE_SEGMENT_BYTES 244  /* the largest that is sent: what one packet of the link layer carries */
#define BLE_DOWN_BYTES    576  /* the largest message that is read: a verdict with the longest texts */
#define BLE_ANSWERS_BYTES 1664 /* SMP answers that wait: the largest, and some that are as short as an upload's */

#define MQTT_MAX_PUBLISHES 6   /* waiting to be sent or acknowledged; more than NODE_EVENTS_IN_FLIGHT */
#define MQTT_CONTROL_BYTES 384 /* CONNECT with its will and password is the largest packet */
#define MQTT_TOPIC_BYTES   96

#define SENSE_INPUT_BYTES 512 /* the input of a node model */

#endif
