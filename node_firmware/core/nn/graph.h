/* What the parts of the engine share: the graph in the arena, its building (nn_open) and its running (nn_invoke).
 *
 * The arena holds, in this order: struct nn_graph; for each subgraph a place for every tensor and a record for every
 * operator, with the states of variables in between; the activations. While a subgraph is built, the lifetimes of its
 * tensors stand at the arena's end. References inside the arena are offsets, so that they are 32 bits wide everywhere.
 */
#ifndef NN_GRAPH_H
#define NN_GRAPH_H

#include <stdbool.h>

#include "flatbuffer.h"
#include "node/nn.h"

/* Limits on what a model may ask for, so that opening and running it ends in bounded time. */
#ifndef NN_MAX_TENSORS
#define NN_MAX_TENSORS 1024 /* of a subgraph */
#endif
#ifndef NN_MAX_OPERATORS
#define NN_MAX_OPERATORS 1024 /* of a subgraph */
#endif
#ifndef NN_MAX_WORK
#define NN_MAX_WORK                                                                                                    \
    (UINT32_C(1) << 28) /* multiply-accumulates of an invocation; other elements count as one or more                  \
                         */
#endif
#define NN_MAX_DEPTH 32768 /* products of int8 in one sum: it cannot overflow an int32 */
#define NN_MAX_SIDE  65535 /* of an image, a filter, a stride */
#define NN_MAX_NAME  255   /* bytes, of a variable */

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        nn_status_t status_ = call;                                                                                    \
        if (status_ != NN_OK) {                                                                                        \
            return status_;                                                                                            \
        }                                                                                                              \
    } while (0)
#define NEED(condition, status)                                                                                        \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            return status;                                                                                             \
        }                                                                                                              \
    } while (0)

/* ---- in the arena ---- */

/* Where a tensor is: an offset into the model (a constant) or into the activations; a RESOURCE's is the arena offset of
 * its variable. The two marks are gone once the subgraph is planned. */
typedef uint32_t place_t;
#define PLACE_IN_MODEL  0x80000000U
#define PLACE_UNDEFINED 0x7fffffffU /* no operator has made it yet */
#define PLACE_UNPLANNED 0x7ffffffeU

typedef struct op {
    uint16_t words; /* of 4 bytes, to the next record; the parameters are behind this one */
    uint16_t index; /* in the subgraph */
    uint8_t input_count, output_count;
    uint8_t kind;             /* index into nn_operator_table */
    uint32_t inputs, outputs; /* model offsets of the int32 tensor indices */
} op_t;

typedef struct subgraph {
    uint32_t table;  /* model offset of its SubGraph table */
    uint32_t places; /* arena offset of place_t[tensor_count] */
    uint32_t ops;    /* arena offset of the first record */
    uint16_t tensor_count, op_count, record_count;
} subgraph_t;

typedef struct variable {
    uint32_t next;    /* arena offset, 0: the last one */
    uint32_t options; /* model offset of the VarHandleOptions that name it */
    uint32_t state;   /* arena offset */
    uint32_t bytes;   /* 0: nobody has read or assigned it */
    int8_t fill;      /* every byte before the first assignment; TFLM: the zero point */
} variable_t;

enum { SUBGRAPH_MAIN, SUBGRAPH_INIT, SUBGRAPH_LIMIT };

struct nn_graph {
    subgraph_t subgraph[SUBGRAPH_LIMIT];
    fb_vector_t buffers;
    uint32_t activations; /* arena offset */
    uint32_t variables;   /* arena offset of the first one, 0: none */
    uint16_t init_index;  /* the subgraph that sets the variables, 0: none */
};

/* ---- building ---- */

/* Times are operator positions + 1; 0 is before the first, so that graph inputs meet each other. */
typedef struct life {
    uint32_t bytes; /* 0: not an activation, or an alias */
    uint16_t first, last;
    uint16_t root; /* the tensor whose memory it shares, usually itself */
    uint16_t next; /* for the planner: the tensor with the next higher offset */
} life_t;

typedef struct tensor {
    uint16_t index;
    nn_type_t type;
    uint8_t rank;
    int32_t dims[NN_MAX_RANK];
    uint32_t elements, bytes;
    fb_vector_t data; /* count 0: not a constant */
    float scale;      /* finite and > 0, or 0: not quantised; of channel 0 */
    int32_t zero_point;
    fb_vector_t scales;
    int32_t scale_dimension;
} tensor_t;

typedef struct build {
    nn_t *nn;
    fb_t fb;
    fb_vector_t codes, subgraphs, buffers;
    fb_vector_t tensors; /* of the subgraph */
    uint32_t head, tail; /* of what is free in the arena */
    uint32_t needed;     /* most that was not free */
    uint32_t work;
    subgraph_t *sub;
    place_t *places;
    life_t *lives;
    bool main;                   /* building the main subgraph, not the initialising one */
    bool stateful;               /* a variable has been read or assigned */
    fb_vector_t inputs, outputs; /* of the operator */
    uint32_t options;
    uint16_t time;
    op_t *last; /* record of the subgraph, NULL: none yet */
} build_t;

/* Zeroed arena memory that stays; NULL: the arena is full. A multiple of 4 bytes is taken. */
void *build_alloc(build_t *b, uint32_t bytes);
/* Loads and checks an operand of the current operator and notes its lifetime. An input must have been made, an output
 * must not. */
nn_status_t build_input(build_t *b, uint32_t position, tensor_t *tensor);
nn_status_t build_output(build_t *b, uint32_t position, tensor_t *tensor);
bool build_has_input(build_t *b, uint32_t position);
/* The output may share the input's memory: the operator changes nothing. */
void build_alias(build_t *b, const tensor_t *input, const tensor_t *output);
/* Adds to the work of an invocation; build_output() has counted one for each element. */
nn_status_t build_work(build_t *b, uint64_t multiply_accumulates);
/* An element of a constant int32 tensor. */
int32_t constant_at(build_t *b, const tensor_t *tensor, uint32_t element);
/* Checks the tensor's table and everything that it leads to. */
nn_status_t tensor_load(fb_t *fb, fb_vector_t tensors, fb_vector_t buffers, uint32_t index, tensor_t *tensor);
bool same_shape(const tensor_t *a, const tensor_t *b);
static inline bool is_quantized_int8(const tensor_t *t)
{
    return t->type == NN_INT8 && t->scale > 0;
}

/* nn_open() without running anything: fills nn->graph and nn->arena_used. */
nn_status_t graph_open(nn_t *nn);
/* Gives every activation of the subgraph its offset. Returns the bytes that they take together, or PLAN_FAILED: more
 * than any arena. */
#define PLAN_FAILED 0x7ffffff0U
uint32_t plan_activations(place_t *places, life_t *lives, uint16_t count);

/* ---- running ---- */

typedef struct run {
    const nn_t *nn;
    const subgraph_t *sub;
    const op_t *op;
} run_t;

static inline void *arena_at(const nn_t *nn, uint32_t offset)
{
    return nn->arena + offset;
}
void *tensor_data(const nn_t *nn, const subgraph_t *sub, uint32_t index);
/* The tensor index of an operand, -1 where an optional one is absent. */
int32_t run_index(const run_t *run, uint32_t vector, uint32_t position);
const void *run_input(const run_t *run, uint32_t position); /* NULL: absent */
void *run_output(const run_t *run, uint32_t position);
static inline const void *run_parameters(const run_t *run)
{
    return run->op + 1;
}

typedef struct operator_kind {
    uint8_t code; /* BuiltinOperator */
    uint8_t inputs_min, inputs_max, outputs_min, outputs_max;
    nn_status_t (*prepare)(build_t *b);
    void (*run)(const run_t *run); /* NULL: nothing to do, no record is kept */
} operator_kind_t;

extern const operator_kind_t nn_operator_table[];
extern const uint8_t nn_operator_count;

nn_status_t conv_prepare(build_t *b);
nn_status_t depthwise_prepare(build_t *b);
nn_status_t fully_connected_prepare(build_t *b);
nn_status_t pool_prepare(build_t *b);
nn_status_t add_prepare(build_t *b);
nn_status_t mul_prepare(build_t *b);
nn_status_t softmax_prepare(build_t *b);
nn_status_t logistic_prepare(build_t *b);
nn_status_t tanh_prepare(build_t *b);
nn_status_t quantize_prepare(build_t *b);
nn_status_t dequantize_prepare(build_t *b);
nn_status_t reshape_prepare(build_t *b);
nn_status_t concatenation_prepare(build_t *b);
nn_status_t strided_slice_prepare(build_t *b);
nn_status_t split_v_prepare(build_t *b);
nn_status_t call_once_prepare(build_t *b);
nn_status_t var_handle_prepare(build_t *b);
nn_status_t read_variable_prepare(build_t *b);
nn_status_t assign_variable_prepare(build_t *b);

void conv_run(const run_t *run);
void depthwise_run(const run_t *run);
void fully_connected_run(const run_t *run);
void average_pool_run(const run_t *run);
void max_pool_run(const run_t *run);
void add_run(const run_t *run);
void mul_run(const run_t *run);
void softmax_run(const run_t *run);
void logistic_run(const run_t *run);
void tanh_run(const run_t *run);
void quantize_run(const run_t *run);
void dequantize_run(const run_t *run);
void reshape_run(const run_t *run);
void concatenation_run(const run_t *run);
void strided_slice_run(const run_t *run);
void split_v_run(const run_t *run);
void read_variable_run(const run_t *run);
void assign_variable_run(const run_t *run);

#endif
