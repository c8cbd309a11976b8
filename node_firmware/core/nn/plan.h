/* The plan of a model: all that nn_invoke() needs to know, as data that can stay in flash.
 *
 * A `.tflite` may bring its plan along, as metadata of the name PLAN_NAME (docs/plan.md), made by whoever made the
 * file; otherwise nn_open() writes one into the arena. Little-endian, 4-aligned, without padding. A `plan_t` is
 * followed by the places of all tensors (first of the main subgraph, then of the initialising one), the records of the
 * main subgraph, OP_END, the records that nn_reset() runs, OP_END. A record is an `op_t`, places of operands, and the
 * parameters of its kernel (kernels.h). */
#ifndef NN_PLAN_H
#define NN_PLAN_H

#include <stdint.h>

#include "node/nn.h"

#define PLAN_NAME  "nn_plan"
#define PLAN_MAGIC (UINT32_C(0x30706e6e) + (NN_PLAN_VERSION << 24)) /* "nnp1"; a plan with another one is ignored */

typedef struct plan {
    uint32_t magic;
    uint32_t bytes;      /* of the whole plan */
    uint32_t data_bytes; /* of states, activations and scratch memory */
    uint32_t work;       /* multiply-accumulates of an invocation, and other elements */
    uint32_t reset;      /* offset of the first record that nn_reset() runs */
    uint16_t main_tensors, init_tensors;
} plan_t;

/* Where something is: an offset into the model (constants) or into the data. A RESOURCE is where its variable's state
 * is. */
typedef uint32_t place_t;
#define PLACE_IN_MODEL UINT32_C(0x80000000)
#define PLACE_NONE     UINT32_MAX /* an absent operand, a tensor that no operator makes */

typedef struct op {
    uint16_t words; /* of 4 bytes, to the next record */
    uint16_t index; /* of the operator in its subgraph */
    uint32_t kind;  /* its line in operators.def, or OP_END */
} op_t;
#define OP_END UINT32_C(0xff) /* the last one */

typedef struct fill { /* OP_FILL: a variable before its first assignment, or what surrounds the input of PAD */
    place_t to;
    uint32_t bytes;
    int32_t value; /* of each byte; TFLM: the zero point */
} fill_t;

/* OP_COPY, all that the moving operators do, has as many of these as there is room for: rows of bytes from one place to
 * another. What is where it belongs already is not a piece, and without a piece there
 * is no record. */
typedef struct piece {
    place_t from, to;
    uint32_t rows, bytes;
    uint32_t from_step, to_step; /* bytes, from row to row */
} piece_t;

#endif
