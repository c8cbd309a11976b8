#include "vector.h"

#include <stdio.h>
#include <stdlib.h>

const uint8_t vector_key[32] = {0x8a, 0x88, 0xe3, 0xdd, 0x74, 0x09, 0xf1, 0x95, 0xfd, 0x52, 0xdb,
                                0x2d, 0x3c, 0xba, 0x5d, 0x72, 0xca, 0x67, 0x09, 0xbf, 0x1d, 0x94,
                                0x12, 0x1b, 0xf3, 0x74, 0x88, 0x01, 0xb4, 0x0f, 0x6f, 0x5c};

uint8_t *vector_load(uint32_t *size)
{
    static uint8_t data[4096] __attribute__((aligned(16)));
    FILE *const file = fopen(VECTORS "/model.img", "rb");
    *size = file != NULL ? (uint32_t)fread(data, 1, sizeof data, file) : 0;
    if (*size == 0 || fclose(file) != 0) {
        abort();
    }
    return data;
}
