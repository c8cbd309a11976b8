/* Fuzz target: any bytes as an image; its SHA-256 is made right first, or nothing would get past it. */
#include <mbedtls/sha256.h>
#include <stdlib.h>
#include <string.h>

#include "sense.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the image with a TLV area that holds the right hash, where its header says that it ends. */
static void make_right(uint8_t *image, size_t size)
{
    static const uint8_t area[] = {0x07, 0x69, 40, 0, 0x10, 0, 32, 0};
    if (size < IMAGE_HEADER_BYTES) {
        return;
    }
    uint32_t payload;
    memcpy(&payload, image + 12, sizeof payload);
    const uint64_t end = IMAGE_HEADER_BYTES + (uint64_t)payload + image[10] + 256U * image[11];
    if (end + 40 <= size) {
        memcpy(image + end, area, sizeof area);
        (void)!mbedtls_sha256_ret(image, (size_t)end, image + end + sizeof area, 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    image_t image;
    uint8_t *const copy = malloc(size + 1); /* so that a read beyond it is seen */
    memcpy(copy, data, size);
    make_right(copy, size);
    if (image_parse(&image, copy, (uint32_t)size) == NODE_OK) {
        if (image.size > size || strlen(image.cascade) > NODE_MAX_ID || strlen(image.version) > IMAGE_VERSION_BYTES ||
            sense_ring_bytes(&image) > NODE_MAX_WINDOW + ADPCM_BLOCK) {
            abort();
        }
    }
    free(copy);
    return 0;
}
