/* What more than one file of operators needs. */
#ifndef NN_OP_COMMON_H
#define NN_OP_COMMON_H

#include "graph.h"

/* The quantised limits of a fused activation. NN_E_OPERATOR: one that does not exist in int8. */
nn_status_t activation_range(uint8_t activation, const tensor_t *out, int16_t *low, int16_t *high);

#endif
