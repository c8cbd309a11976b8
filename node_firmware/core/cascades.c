/* A node's cascades, from what they hear to events. */
#include <string.h>

#include "models.h"
#include "node_parts.h"

int node_add_cascade(node_t *n, const char *name, const uint8_t model[NODE_MODEL_BYTES])
{
    if (n->cascade_count == NODE_MAX_CASCADES) {
        return NODE_E_FULL;
    }
    node_cascade_t *const cascade = &n->cascades[n->cascade_count];
    *cascade = (node_cascade_t){.runs = true};
    strncat(cascade->name, name, NODE_MAX_ID);
    memcpy(cascade->model, model, sizeof cascade->model);
    settings_apply(n, n->cascade_count);
    return (int)n->cascade_count++;
}

static void send_outcome(node_t *n, unsigned index, sense_outcome_t outcome, uint32_t now_ms)
{
    const sense_t *const sense = n->cascades[index].sense;
    const decision_t *const decision = &sense->image.decision;
    const bool follow = outcome == SENSE_FOLLOW;
    node_window_t window;
    node_event_t event = {.cascade = index,
                          .score = sense->detect.score,
                          .reason = follow                     ? NODE_FOLLOW
                                    : outcome == SENSE_TRIGGER ? NODE_TRIGGER
                                                               : NODE_AUDIT,
                          .ref = sense->follow_ref};
    if (sense_window(sense, follow ? decision->listen_ms : decision->clip_ms, &window)) {
        event.window = &window;
    }
    if (node_event(n, &event, now_ms) != NODE_OK) {
        node_say(n, "an event did not get into flash"); /* counted as dropped */
    }
}

static int feed_cascade(node_t *n, unsigned index, const int16_t *samples, size_t count, uint32_t now_ms)
{
    for (size_t at = 0; at < count;) {
        sense_outcome_t outcome;
        const int taken = sense_feed(n->cascades[index].sense, samples + at, count - at, n->port, &outcome);
        if (taken < 0) {
            return taken;
        }
        at += (size_t)taken;
        if (outcome != SENSE_NOTHING) {
            send_outcome(n, index, outcome, now_ms);
        }
    }
    return NODE_OK;
}

void node_feed(node_t *n, front_end_kind_t sensor, const int16_t *samples, size_t count, uint32_t now_ms)
{
    for (unsigned i = 0; i < n->cascade_count; i++) {
        const node_cascade_t *const cascade = &n->cascades[i];
        if (cascade->sense != NULL && cascade->runs && cascade->on && cascade->sense->image.front_end.kind == sensor &&
            feed_cascade(n, i, samples, count, now_ms) != NODE_OK) {
            models_failed(n, i);
        }
    }
}
