/* MCUboot images of models (docs/nodelink.md, "Images"), trusting nothing in them. */
#ifndef NODE_IMAGE_H
#define NODE_IMAGE_H

#include "message.h"

#define IMAGE_HEADER_BYTES  32
#define IMAGE_VERSION_BYTES 24 /* 255.255.65535+4294967295 */

typedef struct image {
    span_t payload; /* the .tflite */
    uint32_t size;  /* of the whole image, bytes */
    char cascade[NODE_MAX_ID + 1];
    char version[IMAGE_VERSION_BYTES + 1];
    uint32_t counter, arena_bytes;
    span_t operators;
    front_end_t front_end;
    decision_t decision;
    const uint8_t *sha256; /* 32 bytes, in the image */
} image_t;

/* Reads the image at `data`, of which `capacity` bytes may be looked at, and checks its SHA-256. NODE_E_IMAGE where
 * anything is not as it must be. Spans point into `data`. */
NODE_MUST_USE int image_parse(image_t *image, const uint8_t *data, uint32_t capacity);

#endif
