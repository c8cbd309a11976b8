/* MCUboot images of models (docs/nodelink.md, "Images"), trusting nothing in them. */
#ifndef NODE_IMAGE_H
#define NODE_IMAGE_H

#include "message.h"

#define IMAGE_HEADER_BYTES  32
#define IMAGE_VERSION_BYTES 24 /* 255.255.65535+4294967295 */
#define IMAGE_KEY_BYTES     32 /* Ed25519 */

/* Why an image is refused: the words of docs/nodelink.md; from FAULT_FLASH to FAULT_REVERTED they are said of slots
 * only. The numbers are in flash: none is ever changed, and new ones go to the end. */
typedef enum image_fault {
    FAULT_NONE,
    FAULT_SIZE,
    FAULT_HEADER,
    FAULT_TLV,
    FAULT_DIGEST,
    FAULT_KEY,
    FAULT_SIGNATURE,
    FAULT_CASCADE,
    FAULT_CAPACITY,
    FAULT_COUNTER,
    FAULT_ARENA,
    FAULT_OPERATORS,
    FAULT_FRONT_END,
    FAULT_DECISION,
    FAULT_MODEL,
    FAULT_SELF_TEST,
    FAULT_FLASH,    /* a word cannot be read */
    FAULT_RESET,    /* a trial ended: with a reset, */
    FAULT_DEADLINE, /* because nobody watched it any more, */
    FAULT_REVERTED, /* or because it was asked to */
    FAULT_LIMITS,
    FAULT_PLAN,
    FAULT_COUNT
} image_fault_t;

typedef struct image {
    span_t payload; /* the .tflite */
    uint32_t size;  /* of the whole image, bytes */
    char cascade[NODE_MAX_ID + 1];
    char version[IMAGE_VERSION_BYTES + 1];
    uint32_t counter, arena_bytes;
    span_t operators;
    front_end_t front_end;
    decision_t decision;
    span_t inputs, outputs;   /* the self-test; empty where there is none */
    const uint8_t *sha256;    /* 32 bytes, in the image, as the next two */
    const uint8_t *key_hash;  /* 32 bytes; NULL where it is not signed */
    const uint8_t *signature; /* 64 bytes */
} image_t;

const char *image_fault_name(image_fault_t fault); /* the word; NULL for FAULT_NONE */
/* Reads the image that is all of `data`. Spans point into it. image_parse() also checks its SHA-256: for bytes that
 * were not checked before. Which faults they find: up to FAULT_DIGEST, and FAULT_FRONT_END and FAULT_DECISION where
 * these do not decode. */
NODE_MUST_USE image_fault_t image_read(image_t *image, const uint8_t *data, uint32_t size);
NODE_MUST_USE image_fault_t image_parse(image_t *image, const uint8_t *data, uint32_t size);

#endif
