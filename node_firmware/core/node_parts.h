/* What the files of the node share: node.c leads, the others do. */
#ifndef NODE_PARTS_H
#define NODE_PARTS_H

#include "node/node.h"

#define TOPIC_UP      "nodelink/1/up/"
#define TOPIC_DOWN    "nodelink/1/down/"
#define TOPIC_GATEWAY "nodelink/1/gateway/"
#define OWN_MESSAGE   UINT32_MAX       /* token of `message`; an event's token is its record in the queue */
#define OWN_ANSWER    (UINT32_MAX - 1) /* of `answer` */

bool node_valid_id(const char *id);

void node_say(const node_t *n, const char *line); /* to the port's log */

/* Each begins a message of the node's own: `busy` until it is over. */
void node_publish_state(node_t *n, const char *state);
void node_publish_info(node_t *n);
void node_publish_vitals(node_t *n);
/* The SMP answer of that size in `answer`: `answering` until it is out. */
void node_publish_answer(node_t *n, size_t size);

/* A message has come; of one that is larger than `received` only its beginning. */
void node_take(node_t *n, const char *topic, const uint8_t *data, size_t size, bool whole);

#endif
