/* What more than one file of operators needs. */
#ifndef NN_OP_COMMON_H
#define NN_OP_COMMON_H

#include "graph.h"

/* The quantised limits of the operator's fused activation, a field of its options. NN_E_OPERATOR: one that does not
 * exist in int8. */
nn_status_t activation_range(build_t *b, unsigned field, const tensor_t *out, int16_t *low, int16_t *high);
/* An axis of a tensor of that rank; a negative one counts from the end. */
nn_status_t find_axis(int32_t axis, uint8_t rank, uint8_t *found);
/* Whether elements can be taken as they are. */
static inline bool movable(const tensor_t *in, const tensor_t *out)
{
    return in->bytes != 0 && in->type == out->type;
}

#endif
