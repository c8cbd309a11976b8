/* What a node says of itself: state, info, vitals. One message at a time, in node_t's `message`. */
#include <string.h>

#include "message.h"
#include "models.h"
#include "node_parts.h"

size_t node_write_state(node_t *n, const char *state)
{
    return state_encode(n->message, sizeof n->message, state, n->session);
}

/* `image` takes what is read of it, and must stay as long as `info`. */
static void describe_slot(const node_t *n, unsigned number, unsigned slot, image_t *image, slot_info_t *info)
{
    const node_model_t *const m = &n->models[number - 1];
    const slot_t *const s = &m->slots.slot[slot];
    *info = (slot_info_t){.image = number,
                          .slot = slot,
                          .state = slot_state_name((slot_state_t)s->state),
                          .capacity_bytes = m->slots.capacity,
                          .rejected = s->state == SLOT_REJECTED ? image_fault_name((image_fault_t)s->fault) : NULL};
    if (s->state == SLOT_RECEIVING) {
        info->sha256 = s->upload;
        info->size_bytes = s->received;
    } else if (models_read(m, slot, image)) {
        info->cascade = image->cascade;
        info->sha256 = image->sha256;
        info->version = image->version;
        info->counter = image->counter;
        info->size_bytes = image->size;
    }
}

/* The message's size with one slot more; 0 where it does not fit. One at a time: they would take much stack. */
static size_t add_slot(node_t *n, unsigned number, unsigned slot, size_t size)
{
    image_t image;
    slot_info_t info;
    describe_slot(n, number, slot, &image, &info);
    const size_t added = slot_encode(n->message + size, sizeof n->message - size, &info);
    return added != 0 ? size + added : 0;
}

size_t node_write_info(node_t *n)
{
    static const char *const front_ends[] = {"audio", "vibration"};
    const node_config_t *const config = n->config;
    uint8_t operators[32];
    const info_t info = {.session = n->session,
                         .hardware = config->hardware,
                         .board = config->board,
                         .firmware = config->firmware,
                         .reset_reason = config->reset_reason,
                         .operators = operators,
                         .operators_bytes = (uint32_t)nn_operators(operators, sizeof operators),
                         .arena_bytes = config->arena_bytes,
                         .vitals_interval_s = settings_get(n, SETTING_VITALS_S, 0),
                         .front_ends = front_ends,
                         .front_end_count = 2,
                         .slot_count = config->images * SLOTS,
                         .limits = {.tensors = NN_MAX_TENSORS,
                                    .operators = NN_MAX_OPERATORS,
                                    .rank = NN_MAX_RANK,
                                    .work = NN_MAX_WORK,
                                    .plan_version = NN_PLAN_VERSION},
                         .crash = config->crash};
    size_t size = info_encode_head(n->message, sizeof n->message, &info);
    for (unsigned i = 0; i < info.slot_count && size != 0; i++) {
        size = add_slot(n, i / SLOTS + 1, i % SLOTS, size);
    }
    return size;
}

static void describe_cascade(const node_cascade_t *cascade, cascade_vitals_t *vitals)
{
    *vitals = (cascade_vitals_t){.cascade = cascade->name, .model = cascade->model};
    if (cascade->sense != NULL && cascade->runs) {
        score_stats_t *const stats = &cascade->sense->detect.stats;
        vitals->invokes = cascade->sense->invokes;
        vitals->invoke_us = cascade->sense->invoke_us;
        vitals->listened_ms = cascade->sense->samples * 1000 / cascade->sense->image.front_end.rate_hz;
        vitals->arena_bytes = (uint32_t)cascade->sense->nn.arena_used;
        vitals->scores = *stats;
        memset(stats, 0, sizeof *stats);
    }
}

size_t node_write_vitals(node_t *n)
{
    cascade_vitals_t cascades[NODE_MAX_CASCADES];
    for (unsigned i = 0; i < n->cascade_count; i++) {
        describe_cascade(&n->cascades[i], &cascades[i]);
    }
    vitals_t vitals = {.session = n->session,
                       .uptime_s = n->clock_ms / 1000,
                       .t_ms = n->clock_ms,
                       .queued = n->queue.waiting,
                       .dropped = n->queue.dropped + n->counts.lost,
                       .health = {NODE_UNKNOWN, NODE_UNKNOWN, NODE_UNKNOWN, NODE_UNKNOWN},
                       .cascades = cascades,
                       .cascade_count = n->cascade_count};
    if (n->port->health != NULL) {
        n->port->health(n->port->context, &vitals.health);
    }
    return vitals_encode(n->message, sizeof n->message, &vitals);
}
