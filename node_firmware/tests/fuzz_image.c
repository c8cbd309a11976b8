/* Fuzz target: any bytes as an image. Digest and signature do not stand before what comes after them: whatever holds
 * together goes through admission and the self-test. Bits of the header's load address, which no reader looks at, say
 * whether the header's sizes are made right, and whether the signature is checked, which is slow. */
#include <stdlib.h>
#include <string.h>

#include "vector.h"
#include "verify.h"

#define ARENA_BYTES     8192
#define SELF_TEST_BYTES 256 /* enough steps for a fuzzer's patience */
#define LOAD_ADDRESS    4   /* in the header */

enum { FIT = 1, SIGNED = 2 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition) {
        abort();
    }
}

static void inside(span_t span, const uint8_t *data, size_t size)
{
    require(span.size == 0 || (span.data >= data && span.size <= size && span.data <= data + size - span.size));
}

/* Lets the header say what lies before the last areas, so that a fuzzer may lengthen and shorten the model. */
static void fit_payload(uint8_t *image, size_t size)
{
    const size_t others = IMAGE_HEADER_BYTES + 4 + 36 + VECTOR_SIGNED_BYTES;
    if (size >= others && size - others >= image[10] + 256U * image[11]) {
        const uint32_t payload = (uint32_t)(size - others - image[10] - 256U * image[11]);
        memcpy(image + 12, &payload, sizeof payload);
    }
}

static void check_content(const image_t *image, const uint8_t *data, size_t size)
{
    inside(image->payload, data, size);
    inside(image->operators, data, size);
    inside(image->front_end.parameters, data, size);
    inside(image->inputs, data, size);
    inside(image->outputs, data, size);
    inside((span_t){image->sha256, 32}, data, size);
    require((image->key_hash != NULL) == (image->signature != NULL));
    require(image->size == size && strlen(image->cascade) <= NODE_MAX_ID);
    require(strlen(image->version) <= IMAGE_VERSION_BYTES);
    require(sense_ring_bytes(image) <= NODE_MAX_WINDOW + ADPCM_BLOCK);
}

static void judge(image_t *image, bool is_signed)
{
    uint8_t *const arena = malloc(ARENA_BYTES);
    const verify_policy_t policy = {.keys = (const uint8_t(*)[IMAGE_KEY_BYTES])vector_key,
                                    .key_count = is_signed,
                                    .cascade = "vibration",
                                    .counter = 7,
                                    .capacity = 65536,
                                    .ring_bytes = 40000,
                                    .arena = arena,
                                    .arena_bytes = ARENA_BYTES};
    sense_t sense = {.image = *image};
    uint8_t *const ring = malloc(policy.ring_bytes);
    const sense_memory_t memory = {arena, ARENA_BYTES, ring, policy.ring_bytes};
    (void)!verify_image(image, &policy);
    image->inputs.size = image->inputs.size < SELF_TEST_BYTES ? image->inputs.size : SELF_TEST_BYTES;
    const image_fault_t fault = verify_model(image, &policy);
    require(fault == FAULT_NONE || (fault >= FAULT_ARENA && fault <= FAULT_SELF_TEST) || fault == FAULT_LIMITS ||
            fault == FAULT_PLAN);
    if (fault == FAULT_NONE && sense_check(image, policy.ring_bytes) == FAULT_NONE) {
        require(sense_open(&sense, &memory) == FAULT_NONE); /* what was admitted opens */
    }
    free(ring);
    free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    image_t image;
    uint8_t *const copy = malloc(size + 1); /* aligned; one byte more, or a size of 0 would be NULL */
    memcpy(copy, data, size);
    if (size >= IMAGE_HEADER_BYTES && copy[LOAD_ADDRESS] & FIT) {
        fit_payload(copy, size);
    }
    const image_fault_t parsed = image_parse(&image, copy, (uint32_t)size),
                        read = image_read(&image, copy, (uint32_t)size);
    require(parsed == read || parsed == FAULT_DIGEST);
    if (read == FAULT_NONE) {
        check_content(&image, copy, size);
        judge(&image, (copy[LOAD_ADDRESS] & SIGNED) != 0);
    }
    free(copy);
    return 0;
}
