/* Nothing but the calls that open and run a model. Linked, it shows what the engine takes of a firmware's flash, with
 * all that it needs of libgcc and the C library. */
#include "node/nn.h"

#define MODEL ((const uint8_t *)0x21000000)
#define ARENA ((uint8_t *)0x21800000)
#define BYTES (1U << 20) /* of each */

void reset(void);

void reset(void)
{
    static nn_t nn;
    nn_tensor_t tensor;
    if (nn_open(&nn, MODEL, BYTES, ARENA, BYTES) == NN_OK && nn_input(&nn, 0, &tensor) == NN_OK) {
        while (nn_invoke(&nn) == NN_OK && nn_output(&nn, 0, &tensor) == NN_OK) {
        }
    }
}
