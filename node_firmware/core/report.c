/* What a node says of itself: state, info, vitals. One message at a time, in node_t's `message`. */
#include <string.h>

#include "message.h"
#include "node_parts.h"

static void publish_own(node_t *n, const char *tail, size_t size, uint8_t qos)
{
    const mqtt_publish_t publish = {.prefix = n->up,
                                    .tail = tail,
                                    .payload = n->message,
                                    .size = (uint32_t)size,
                                    .token = OWN_MESSAGE,
                                    .qos = qos,
                                    .retain = qos != 0};
    n->busy = size != 0 && mqtt_publish(&n->mqtt, &publish) == NODE_OK;
    if (size == 0) {
        node_say(n, "a message does not fit into NODE_MESSAGE_BYTES");
    }
}

void node_publish_state(node_t *n, const char *state)
{
    publish_own(n, "state", state_encode(n->message, sizeof n->message, state, n->session), 1);
}

static void describe_image(const node_t *n, unsigned image, slot_info_t *slot)
{
    const node_image_t *const found = &n->images[image - 1];
    const image_t *const parsed = found->parsed;
    *slot = (slot_info_t){.image = image,
                          .state = found->rejected != NULL ? "rejected"
                                   : parsed != NULL        ? "confirmed"
                                                           : "empty",
                          .capacity_bytes = n->config->image_bytes,
                          .rejected = found->rejected};
    if (parsed != NULL) {
        slot->cascade = parsed->cascade;
        slot->sha256 = parsed->sha256;
        slot->version = parsed->version;
        slot->counter = parsed->counter;
        slot->size_bytes = parsed->size;
    }
}

void node_publish_info(node_t *n)
{
    static const char *const front_ends[] = {"audio", "vibration"};
    const node_config_t *const config = n->config;
    uint8_t operators[32];
    slot_info_t slots[NODE_MAX_CASCADES];
    for (unsigned i = 0; i < config->images; i++) {
        describe_image(n, i + 1, &slots[i]);
    }
    const info_t info = {.session = n->session,
                         .hardware = config->hardware,
                         .board = config->board,
                         .firmware = config->firmware,
                         .reset_reason = config->reset_reason,
                         .operators = operators,
                         .operators_bytes = (uint32_t)nn_operators(operators, sizeof operators),
                         .arena_bytes = config->arena_bytes,
                         .vitals_interval_s = config->vitals_s,
                         .front_ends = front_ends,
                         .front_end_count = 2,
                         .slots = slots,
                         .slot_count = config->images};
    publish_own(n, "info", info_encode(n->message, sizeof n->message, &info), 1);
}

static void describe_cascade(const node_cascade_t *cascade, cascade_vitals_t *vitals)
{
    *vitals = (cascade_vitals_t){.cascade = cascade->name, .model = cascade->model};
    if (cascade->sense != NULL) {
        score_stats_t *const stats = &cascade->sense->detect.stats;
        vitals->invokes = cascade->sense->invokes;
        vitals->invoke_us = cascade->sense->invoke_us;
        vitals->arena_bytes = (uint32_t)cascade->sense->nn.arena_used;
        vitals->scores = *stats;
        memset(stats, 0, sizeof *stats);
    }
}

void node_publish_vitals(node_t *n)
{
    cascade_vitals_t cascades[NODE_MAX_CASCADES];
    for (unsigned i = 0; i < n->cascade_count; i++) {
        describe_cascade(&n->cascades[i], &cascades[i]);
    }
    const vitals_t vitals = {.session = n->session,
                             .uptime_s = n->clock_ms / 1000,
                             .t_ms = n->clock_ms,
                             .queued = n->queue.waiting,
                             .dropped = n->queue.dropped + n->counts.lost,
                             .cascades = cascades,
                             .cascade_count = n->cascade_count};
    publish_own(n, "vitals", vitals_encode(n->message, sizeof n->message, &vitals), 0);
}
