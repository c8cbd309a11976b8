/* verify: whether a parsed image may run here: who signed it, whether it fits, and whether it computes what it should.
 */
#ifndef NODE_VERIFY_H
#define NODE_VERIFY_H

#include "sense.h"

typedef struct verify_policy {
    const uint8_t (*keys)[IMAGE_KEY_BYTES]; /* public keys that are trusted */
    unsigned key_count;
    const char *cascade;        /* whose image it must be; NULL: any */
    uint32_t counter, capacity; /* the least security counter; the most bytes */
    uint32_t ring_bytes;        /* for the clip */
    uint8_t *arena;             /* NN_ALIGNMENT-aligned; used by verify_model() only, which destroys what is in it */
    uint32_t arena_bytes;
} verify_policy_t;

/* Ed25519 (RFC 8032) of `signature` over `message`; false where it is wrong. */
bool verify_signature(const uint8_t signature[64], const uint8_t key[IMAGE_KEY_BYTES], const uint8_t *message,
                      size_t size);
/* FAULT_KEY and FAULT_SIGNATURE: enough for an image that was admitted before, at every boot. */
NODE_MUST_USE image_fault_t verify_origin(const image_t *image, const verify_policy_t *policy);
/* Everything from FAULT_KEY to FAULT_DECISION, in the order of image_fault_t. */
NODE_MUST_USE image_fault_t verify_image(const image_t *image, const verify_policy_t *policy);
/* Opens the model in the arena and runs the self-test: the faults of sense_open_model(), FAULT_SELF_TEST. */
NODE_MUST_USE image_fault_t verify_model(const image_t *image, const verify_policy_t *policy);

#endif
