/* Fuzz target: any bytes as a model. What opens must also open in the arena that nn_open() called sufficient, and run
 * there. */
#include <stdlib.h>
#include <string.h>

#include "node/nn.h"

#define ARENA_BYTES 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

/* Reads every byte, so that a sanitizer sees them all. */
static void touch(void *context, unsigned op, unsigned output, const nn_tensor_t *tensor, unsigned tensor_index)
{
    (void)context, (void)op, (void)output, (void)tensor_index;
    for (size_t i = 0; i < tensor->size; i++) {
        sink = (uint8_t)(sink ^ ((const uint8_t *)tensor->data)[i]);
    }
}

static void fill_inputs(const nn_t *nn)
{
    nn_tensor_t tensor;
    for (unsigned i = 0; nn_input(nn, i, &tensor) == NN_OK; i++) {
        for (size_t k = 0; k < tensor.size; k++) {
            ((uint8_t *)tensor.data)[k] = (uint8_t)(k * 37 + i);
        }
    }
}

static void run(nn_t *nn)
{
    nn_tensor_t tensor;
    for (int i = 0; i < 2; i++) {
        fill_inputs(nn);
        require(nn_invoke_traced(nn, touch, NULL) == NN_OK);
    }
    require(nn_reset(nn) == NN_OK);
    for (unsigned i = 0; nn_output(nn, i, &tensor) == NN_OK; i++) {
        touch(NULL, 0, i, &tensor, 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *model = malloc(size != 0 ? size : 1); /* aligned, and guarded by the sanitizer at its end */
    uint8_t *arena = malloc(ARENA_BYTES);
    nn_t nn;
    require(model != NULL && arena != NULL);
    memcpy(model, data, size);
    if (nn_open(&nn, model, size, arena, ARENA_BYTES) == NN_OK) {
        uint8_t *exact = malloc(nn.arena_used);
        require(exact != NULL);
        memset(exact, 0xa5, nn.arena_used);
        require(nn_open(&nn, model, size, exact, nn.arena_used) == NN_OK);
        run(&nn);
        free(exact);
    } else {
        require(nn_invoke(&nn) == NN_E_STATE);
    }
    free(arena);
    free(model);
    return 0;
}
