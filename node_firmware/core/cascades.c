/* A node's cascades: from images in flash to those that listen, and from what they hear to events. */
#include "node/node.h"
#include "node_parts.h"
#include "session.h"

uint32_t node_image_offset(const node_config_t *config, const node_flash_t *flash, unsigned image)
{
    return SESSION_SECTORS * flash->sector_size + (image - 1) * config->image_bytes;
}

const uint8_t *node_image_data(const node_t *n, unsigned image)
{
    const node_flash_t *const flash = &n->port->flash;
    return flash->map(flash->context, node_image_offset(n->config, flash, image));
}

/* Nobody has written down how long the image is: its header and its last area of TLVs say so. */
uint32_t node_image_size(const node_t *n, unsigned image)
{
    const uint8_t *const data = node_image_data(n, image);
    const uint32_t most = n->config->image_bytes;
    const uint64_t payload = data[12] | (uint64_t)data[13] << 8 | (uint64_t)data[14] << 16 | (uint64_t)data[15] << 24;
    const uint64_t last = IMAGE_HEADER_BYTES + payload + data[10] + 256U * data[11];
    const uint64_t size = last + 4 <= most ? last + data[last + 2] + 256U * data[last + 3] : most;
    return size < most ? (uint32_t)size : most;
}

static bool is_empty(const uint8_t *image)
{
    for (unsigned i = 0; i < IMAGE_HEADER_BYTES; i++) {
        if (image[i] != 0xff) {
            return false;
        }
    }
    return true;
}

static int add_cascade(node_t *n, const char *name, const uint8_t *model, sense_t *sense)
{
    if (n->cascade_count == NODE_MAX_CASCADES) {
        return NODE_E_FULL;
    }
    n->cascades[n->cascade_count] = (node_cascade_t){name, model, sense};
    return (int)n->cascade_count++;
}

int node_load(node_t *n, unsigned image, sense_t *sense, const sense_memory_t *memory)
{
    if (image < 1 || image > n->config->images) {
        return NODE_E_ARGUMENT;
    }
    node_image_t *const slot = &n->images[image - 1];
    const uint8_t *const data = node_image_data(n, image);
    if (is_empty(data)) {
        return NODE_E_IMAGE;
    }
    image_fault_t fault = image_parse(&sense->image, data, node_image_size(n, image));
    if (fault == FAULT_NONE) {
        slot->parsed = &sense->image;
        fault = sense_open(sense, memory);
    }
    slot->rejected = image_fault_name(fault);
    return fault == FAULT_NONE ? add_cascade(n, sense->image.cascade, sense->image.sha256, sense) : NODE_E_IMAGE;
}

int node_add_cascade(node_t *n, const char *name, const uint8_t *model)
{
    return add_cascade(n, name, model, NULL);
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

int node_feed(node_t *n, front_end_kind_t sensor, const int16_t *samples, size_t count, uint32_t now_ms)
{
    int status = NODE_OK;
    for (unsigned i = 0; i < n->cascade_count; i++) {
        const sense_t *const sense = n->cascades[i].sense;
        if (sense != NULL && sense->image.front_end.kind == sensor) {
            const int fed = feed_cascade(n, i, samples, count, now_ms);
            status = fed < 0 ? fed : status;
        }
    }
    return status;
}
