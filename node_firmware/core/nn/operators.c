/* The operators of this build. */
#include "graph.h"
#include "schema.h"

#ifndef NN_OPERATORS_DEF
#define NN_OPERATORS_DEF "operators.def"
#endif

/* No longer than the last one needs. */
const operator_t nn_operator_table[] = {
#define RECORD(name, run) [OP_##name] = {0, 0, 0, 0, 0, 0, NULL, run},
#define OPERATOR(name, inputs_min, inputs_max, outputs_min, outputs_max, operands, prepare, run)                       \
    [OP_##name] = {OPERATOR_##name, inputs_min, inputs_max, outputs_min, outputs_max, operands, prepare, run},
#include NN_OPERATORS_DEF
#undef RECORD
#undef OPERATOR
};
const uint32_t nn_operator_count = sizeof nn_operator_table / sizeof *nn_operator_table;

size_t nn_operators(uint8_t *bitmap, size_t capacity)
{
    size_t used = 0;
    for (size_t i = 0; i < capacity; i++) {
        bitmap[i] = 0;
    }
    for (unsigned i = 0; i < nn_operator_count; i++) {
        const size_t byte = nn_operator_table[i].code / 8;
        if (nn_operator_table[i].prepare != NULL && byte < capacity) {
            bitmap[byte] = (uint8_t)(bitmap[byte] | 1U << nn_operator_table[i].code % 8);
            used = byte + 1 > used ? byte + 1 : used;
        }
    }
    return used;
}
