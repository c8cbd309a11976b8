/* What the files of the node share: node.c leads, the others do. */
#ifndef NODE_PARTS_H
#define NODE_PARTS_H

#include "node/node.h"

#define TOPIC_UP      "nodelink/1/up/"
#define TOPIC_DOWN    "nodelink/1/down/"
#define TOPIC_GATEWAY "nodelink/1/gateway/"
#define OWN_MESSAGE   UINT32_MAX       /* token of `message`; an event's token is its record in the queue */
#define OWN_ANSWER    (UINT32_MAX - 1) /* of `answer` */

/* What a node says. */
typedef enum node_word { WORD_STATE, WORD_INFO, WORD_VITALS, WORD_EVENT } node_word_t;

bool node_valid_id(const char *id);

void node_tick(node_t *n, uint32_t now_ms);
void node_say(const node_t *n, const char *line); /* to the port's log */

/* ---- carriers.c ---- */

/* Does what can be done now. */
void node_advance(node_t *n);
/* Milliseconds until there is something to do that nobody calls for. */
uint64_t node_vitals_due(const node_t *n);
/* What was sent with this token is there. */
void node_delivered(node_t *n, node_carrier_t carrier, uint32_t token);
/* The carrier is gone, and forgets what it had. */
void node_carrier_lost(node_t *n, node_carrier_t carrier);
/* Takes the events in flight back, so that the queue may overwrite them; false where they may be on their way. */
bool node_recall(node_t *n);

/* ---- report.c: the size of what was written to `message`, 0 where it does not fit ---- */

size_t node_write_state(node_t *n, const char *state);
size_t node_write_info(node_t *n);
size_t node_write_vitals(node_t *n);

/* ---- gateway.c ---- */

/* A message has come; of one that is larger than `received` only its beginning. */
void node_take(node_t *n, const char *topic, const uint8_t *data, size_t size, bool whole);
void node_take_verdict(node_t *n, const uint8_t *data, size_t size);

#endif
