/* sense: one cascade's way from samples to decisions: front end -> nn -> detect, with the clip of the last seconds. */
#ifndef NODE_SENSE_H
#define NODE_SENSE_H

#include "image.h"
#include "node/clip.h"
#include "node/frontend.h"
#include "node/nn.h"

#define SENSE_BEFORE_MS 200 /* of a follow's window lie before its trigger */

typedef enum sense_outcome { SENSE_NOTHING, SENSE_TRIGGER, SENSE_AUDIT, SENSE_FOLLOW } sense_outcome_t;

typedef struct sense {
    image_t image;
    nn_t nn;
    nn_tensor_t in, out; /* of nn */
    union {
        audio_frontend_t audio;
        vibration_frontend_t vibration;
    } front_end;
    detect_t detect;
    clip_t clip;
    int8_t input[SENSE_INPUT_BYTES]; /* feature rows until they are a whole input: the arena's tensor is not kept */
    uint16_t filled;
    uint64_t samples; /* since the start: the cascade's own clock, which no scheduling disturbs */
    bool following;
    uint32_t follow_ref; /* the event that is answered */
    uint64_t follow_end; /* when it has been heard, as `samples` counts */
    uint32_t invokes;
    uint64_t invoke_us;
} sense_t;

typedef struct sense_memory {
    uint8_t *arena; /* NN_ALIGNMENT-aligned */
    uint32_t arena_bytes;
    uint8_t *ring; /* of the clip */
    uint32_t ring_bytes;
} sense_memory_t;

/* How large the clip's ring must be for what the image's decision asks for. */
uint32_t sense_ring_bytes(const image_t *image);
/* Whether this build has what front end and decision ask for: FAULT_FRONT_END, FAULT_DECISION; `ring_bytes`: for the
 * clip. */
NODE_MUST_USE image_fault_t sense_check(const image_t *image, uint32_t ring_bytes);
/* Opens the image's model, and sees that it fits to front end and decision: FAULT_ARENA, FAULT_OPERATORS, FAULT_LIMITS,
 * FAULT_PLAN, FAULT_MODEL. */
NODE_MUST_USE image_fault_t sense_open_model(nn_t *nn, const image_t *image, uint8_t *arena, uint32_t arena_bytes);
/* Makes `s`, whose image has been read, ready for samples, or says with the faults of both what is wrong with it. What
 * is counted since the start goes on: `s` was zero before its first model. */
NODE_MUST_USE image_fault_t sense_open(sense_t *s, const sense_memory_t *memory);
/* Takes samples until something comes of them; returns how many. NODE_E_IMAGE where the model failed. */
NODE_MUST_USE int sense_feed(sense_t *s, const int16_t *samples, size_t count, const node_port_t *port,
                             sense_outcome_t *outcome);
/* To answer SENSE_FOLLOW when the last `listen_ms` begin SENSE_BEFORE_MS before the event `ref`, at which `samples` was
 * `since`: what was said while the verdict was on its way belongs to it. At once where that is over already. A follow
 * that is under way is not disturbed. */
void sense_follow(sense_t *s, uint32_t ref, uint64_t since);
/* The last `ms` of the clip; false while there is nothing. Valid until the next sense_feed(). */
bool sense_window(const sense_t *s, uint32_t ms, node_window_t *window);

#endif
