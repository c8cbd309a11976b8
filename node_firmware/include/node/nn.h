/* nn: runs an int8 .tflite model that arrives as data. No allocation, no I/O, re-entrant: all state is in the
 * caller's arena. Depends on nothing but C99's freestanding headers and <string.h>. */
#ifndef NODE_NN_H
#define NODE_NN_H

#include <stddef.h>
#include <stdint.h>

#define NN_ALIGNMENT 16 /* of the model and of the arena, bytes */

/* Limits on what a model may ask for (nn_open(): NN_E_LIMIT). */
#define NN_MAX_RANK 6
#ifndef NN_MAX_TENSORS
#define NN_MAX_TENSORS 1024 /* of a subgraph */
#endif
#ifndef NN_MAX_OPERATORS
#define NN_MAX_OPERATORS 1024 /* of a subgraph */
#endif
#ifndef NN_MAX_WORK
#define NN_MAX_WORK (UINT32_C(1) << 28) /* multiply-accumulates of an invocation; any other element is one or more */
#endif

#define NN_PLAN_VERSION 1 /* of the plans in models that nn_open() reads (plan.h) */

typedef enum nn_status {
    NN_OK = 0,
    NN_E_MODEL = -1,    /* not a flatbuffer, or an offset leads outside it */
    NN_E_VERSION = -2,  /* schema version is not 3 */
    NN_E_OPERATOR = -3, /* an operator that this build does not have */
    NN_E_TYPE = -4,     /* a tensor type or a quantisation that an operator does not take */
    NN_E_SHAPE = -5,    /* shapes or parameters do not fit together */
    NN_E_ARENA = -6,    /* the arena is too small */
    NN_E_LIMIT = -7,    /* more tensors, operators, dimensions or work than this build allows */
    NN_E_STATE = -8,    /* not open */
    NN_E_PLAN = -9,     /* the plan that the file brings is not what preparing the model gives */
} nn_status_t;

/* TFLite's TensorType numbers. */
typedef enum nn_type {
    NN_FLOAT32 = 0,
    NN_INT32 = 2,
    NN_UINT8 = 3,
    NN_BOOL = 6,
    NN_INT16 = 7,
    NN_INT8 = 9,
    NN_RESOURCE = 13
} nn_type_t;

typedef struct nn_tensor {
    void *data;
    size_t size; /* bytes */
    int32_t dims[NN_MAX_RANK];
    uint8_t rank;
    nn_type_t type;
    float scale; /* real = scale * (q - zero_point); 0 when not quantised */
    int32_t zero_point;
} nn_tensor_t;

typedef struct nn {
    const uint8_t *model;
    size_t model_size;
    uint8_t *arena;
    size_t arena_size;
    size_t arena_used;
    const struct plan *plan; /* in the model or in the arena; NULL: not open */
    uint8_t *data;           /* states, activations and scratch memory, in the arena */
} nn_t;

/* Called for every output of every operator of subgraph 0, in their order, while it is in place; for tests and
 * profiling. `op` and `tensor_index` are positions in the file. */
typedef void (*nn_trace_t)(void *context, unsigned op, unsigned output, const nn_tensor_t *tensor,
                           unsigned tensor_index);

#define NN_MUST_USE __attribute__((warn_unused_result))

/* Checks `model` (trusting nothing in it), plans the arena and runs initialisation subgraphs. `model` is read in place
 * and must stay; both pointers must be NN_ALIGNMENT-aligned. Afterwards `nn->arena_used` is the size that would have
 * been enough. */
NN_MUST_USE nn_status_t nn_open(nn_t *nn, const uint8_t *model, size_t model_size, uint8_t *arena, size_t arena_size);
/* The index-th input or output of subgraph 0; NN_E_SHAPE where there is none. Their places do not change; what is
 * written into an input lasts for one nn_invoke(), because its memory is used again, and what is read from an output
 * until the next one. */
NN_MUST_USE nn_status_t nn_input(const nn_t *nn, unsigned index, nn_tensor_t *tensor);
NN_MUST_USE nn_status_t nn_output(const nn_t *nn, unsigned index, nn_tensor_t *tensor);
NN_MUST_USE nn_status_t nn_invoke(nn_t *nn);
NN_MUST_USE nn_status_t nn_invoke_traced(nn_t *nn, nn_trace_t trace, void *context);
/* Streaming state back to what it was after nn_open(); inputs are lost. */
NN_MUST_USE nn_status_t nn_reset(nn_t *nn);
/* Bit n is set where BuiltinOperator n is supported; least significant bit of byte 0 first. Returns the bytes written
 * (<= capacity). */
size_t nn_operators(uint8_t *bitmap, size_t capacity);
/* The same of a model: the operators that its file lists, to all of `bitmap`. NN_E_MODEL where one is beyond it. */
NN_MUST_USE nn_status_t nn_model_operators(const uint8_t *model, size_t model_size, uint8_t *bitmap, size_t capacity);
/* The memory in which the model runs as its plan says; 0 where it brings none that this build reads. */
size_t nn_planned_bytes(const uint8_t *model, size_t model_size);
const char *nn_status_name(nn_status_t status);

#endif
