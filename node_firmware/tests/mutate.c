/* Runs a fuzz target without a fuzzer: every truncation and many random changes, its own where it has a mutator, of the
 * files given.
 * mutate STEP CHANGES FILE...: truncates at every STEP-th length, and makes CHANGES changed copies of each file. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static uint32_t random32(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15;
    state = state * 6364136223846793005 + 1442695040888963407;
    return (uint32_t)(state >> 32);
}

/* One to eight bytes become others: a flipped bit, a value that lies on an edge, or anything. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    (void)max_size;
    static const uint8_t edges[] = {0, 1, 2, 4, 0x7f, 0x80, 0xff, 0xfe};
    for (uint32_t count = 1 + random32() % 8; count > 0; count--) {
        uint8_t *byte = &data[random32() % size];
        const uint32_t value = random32();
        const uint8_t choice[] = {(uint8_t)(*byte ^ 1U << value % 8), edges[value % sizeof edges], (uint8_t)value};
        *byte = choice[random32() % 3];
    }
    return size;
}

static size_t change(uint8_t *data, size_t size)
{
    return LLVMFuzzerCustomMutator != NULL ? LLVMFuzzerCustomMutator(data, size, size, random32())
                                           : LLVMFuzzerMutate(data, size, size);
}

static size_t load(const char *path, uint8_t **data)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(2);
    }
    const size_t size = (size_t)ftell(file);
    rewind(file);
    *data = malloc(2 * size);
    if (*data == NULL || fread(*data, 1, size, file) != size) {
        perror(path);
        exit(2);
    }
    fclose(file);
    return size;
}

int main(int argc, char **argv)
{
    const size_t step = argc > 2 ? (size_t)atol(argv[1]) : 1;
    const long changes = argc > 2 ? atol(argv[2]) : 0;
    for (int i = 3; i < argc; i++) {
        uint8_t *original;
        const size_t size = load(argv[i], &original);
        uint8_t *copy = original + size;
        for (size_t length = 0; length < size; length += step) {
            LLVMFuzzerTestOneInput(original, length);
        }
        for (long k = 0; k < changes; k++) {
            memcpy(copy, original, size);
            LLVMFuzzerTestOneInput(copy, change(copy, size));
        }
        free(original);
    }
    return 0;
}
