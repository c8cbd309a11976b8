/* What the parts of the engine share: preparing a graph (nn_open) and running it (nn_invoke).
 *
 * nn_open() goes through each subgraph twice. The first time it learns when each tensor is made and last used; then
 * tensors get their places, from the file's plan or from plan_places(). The second time it writes the plan's records
 * into the arena, or compares them with those of the file's plan; either way it checks that nothing is overwritten that
 * is still needed. What only opening needs (variables, lifetimes) stands at the arena's end. */
#ifndef NN_GRAPH_H
#define NN_GRAPH_H

#include <stdbool.h>
#include <stddef.h>

#include "flatbuffer.h"
#include "node/nn.h"
#include "plan.h"

/* With those of nn.h they bound the time that opening and running a model take. */
#define NN_MAX_DEPTH    32768 /* products of int8 in one sum: it cannot overflow an int32 */
#define NN_MAX_SIDE     65535 /* of an image, a filter, a stride */
#define NN_MAX_NAME     255   /* bytes, of a variable */
#define NN_MAX_METADATA 16    /* entries that are looked at for a plan */

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

enum { SUBGRAPH_MAIN, SUBGRAPH_INIT };

/* ---- preparing ---- */

/* Times are operator positions + FIRST_TIME; the one before is that of graph inputs, which meet each other. */
#define FIRST_TIME  2
#define LIFE_UNMADE 0 /* by no operator yet */
typedef struct life {
    uint32_t bytes;  /* 0: no operator makes it, or a RESOURCE */
    uint32_t offset; /* into its root; of a RESOURCE: which variable */
    uint16_t first, last;
    uint16_t root; /* the tensor in whose memory it lies, usually itself */
    uint16_t next; /* for the planner: the tensor with the next higher place */
} life_t;

typedef struct variable {
    uint32_t options; /* model offset of the VarHandleOptions that name it */
    uint32_t bytes;   /* 0: nobody has read or assigned it */
    place_t place;
    int32_t fill;
} variable_t;

typedef struct tensor {
    uint16_t index;
    nn_type_t type;
    uint8_t rank, element_bytes;
    int32_t dims[NN_MAX_RANK];
    uint32_t elements, bytes;
    uint32_t data; /* offset into the model, 0: not a constant */
    float scale;   /* above 0, or 0: not quantised; of channel 0 */
    int32_t zero_point;
    fb_vector_t scales;
    uint32_t scale_count;
    int32_t scale_dimension;
} tensor_t;

typedef enum pass { PASS_MEASURE, PASS_RECORD } pass_t;

typedef struct overlap {
    uint32_t tensor;
    uint32_t distance, unit;
} overlap_t;

typedef struct build {
    pass_t pass; /* what is read most often comes first: the instructions are shorter */
    bool main;
    bool moves;    /* what the operator writes is checked move by move */
    bool stateful; /* a variable has been read or assigned */
    uint16_t time;
    uint16_t tensor_count;
    fb_t fb;
    uint32_t model; /* its table, and vectors */
    fb_vector_t codes, subgraphs, buffers;
    /* the subgraph */
    uint32_t subgraph; /* its table */
    fb_vector_t tensors;
    life_t *lives;
    const place_t *places;
    place_t *own_places; /* the same, to be written; NULL: they are given */
    /* the operator */
    fb_vector_t inputs, outputs;
    uint32_t options;
    uint32_t kind;
    uint32_t record; /* where its record begins, 0: it has none yet */
    /* the plan */
    const plan_t *given; /* the file's, NULL: none */
    uint32_t head;       /* where its next byte is; `limit`: where there is no more of the given one */
    uint32_t limit;
    uint32_t work, data_bytes;
    /* the arena */
    uint8_t *arena;
    uint32_t arena_bytes;
    uint32_t tail;          /* above it are variables and lifetimes */
    uint32_t needed;        /* most that was not free */
    uint32_t state_bytes;   /* of variables; activations are behind them */
    uint32_t scratch_bytes; /* that an operator needs at most, and where all have it, if no plan says otherwise */
    place_t scratch;
    overlap_t overlaps[2]; /* of the operator */
    uint32_t overlap_count;
    /* Where there are variables: what gives them places, and what nn_reset() does about them. */
    nn_status_t (*place_variables)(struct build *b);
    nn_status_t (*reset)(struct build *b);
    variable_t *variables; /* of which the first is before this place, and so on */
    uint32_t variable_count;
    uint32_t init_index;       /* the subgraph that sets the variables, 0: none */
    uint16_t tensor_counts[2]; /* of both subgraphs, by SUBGRAPH_... */
} build_t;

/* Loads and checks an operand of the current operator and notes its lifetime. An input must have been made, an output
 * must not. */
nn_status_t build_input(build_t *b, uint32_t position, tensor_t *tensor);
nn_status_t build_output(build_t *b, uint32_t position, tensor_t *tensor);
bool build_has_input(build_t *b, uint32_t position);
/* Input 0 and output 0, and a record of these and parameters. */
nn_status_t build_in_out(build_t *b, tensor_t *in, tensor_t *out);
nn_status_t build_put_in_out(build_t *b, const tensor_t *in, const tensor_t *out, const void *parameters,
                             uint32_t bytes);
/* Adds to the work of an invocation; build_output() has counted one for each element. */
nn_status_t build_work(build_t *b, uint64_t multiply_accumulates);

/* The operator's record: first its operands (NULL: an absent one), then scratch memory if it needs any (4-aligned),
 * then parameters, a multiple of 4 bytes. */
nn_status_t build_operand(build_t *b, const tensor_t *tensor);
nn_status_t build_scratch(build_t *b, uint32_t bytes);
nn_status_t build_put(build_t *b, const void *data, uint32_t bytes);
/* What these consist of: the record's beginning, which build_put() makes where there is none, and its end; the plan's
 * next bytes, and its bytes at `at`: written, or compared with those of the given one. */
nn_status_t build_record(build_t *b, uint32_t kind);
nn_status_t build_end_record(build_t *b);
nn_status_t build_take(build_t *b, uint32_t bytes);
nn_status_t build_set(build_t *b, uint32_t at, const void *data, uint32_t bytes);
/* The operator's output may overlap this input, if it dies here and begins at least `distance` bytes, and a multiple of
 * `unit`, behind the output; `unit` 0: anyhow. */
void build_overlap(build_t *b, const tensor_t *input, uint32_t distance, uint32_t unit);

/* What an operator does that only moves bytes: rows of them from one tensor to another. A RESOURCE stands for the state
 * of its variable. */
typedef struct move {
    const tensor_t *from, *to;
    uint32_t from_offset, to_offset;
    uint32_t rows, bytes, from_step, to_step;
    const variable_t *owner; /* whose state is written, or NULL */
} move_t;
nn_status_t build_move(build_t *b, const move_t *move);
/* All of `to`, which begins `offset` bytes into `from`; without a given plan they share memory. */
nn_status_t build_view(build_t *b, const tensor_t *from, uint32_t offset, const tensor_t *to);
/* Every byte of the output, before moves into it. */
nn_status_t build_fill(build_t *b, const tensor_t *to, int32_t value);

/* Whether it is a constant of `count` int32, and one of them. */
static inline bool is_constant_int32(const tensor_t *t, uint32_t count)
{
    return t->type == NN_INT32 && t->data != 0 && t->elements == count;
}
static inline int32_t constant_at(const build_t *b, const tensor_t *tensor, uint32_t element)
{
    return (int32_t)fb_load32(b->fb.data + tensor->data + 4 * element);
}
nn_status_t tensor_load(build_t *b, uint32_t index, tensor_t *tensor);
/* Checks the tensor's table and everything that it leads to. */
bool same_shape(const tensor_t *a, const tensor_t *b);
static inline bool is_quantized(const tensor_t *t)
{
    return t->scale_count != 0;
}
static inline bool is_quantized_int8(const tensor_t *t)
{
    return t->type == NN_INT8 && is_quantized(t);
}

nn_status_t graph_open(nn_t *nn);
/* The file, and its subgraph `index`: for what is read of it when it is open, and for what prepares a subgraph. */
nn_status_t graph_file(build_t *b, const uint8_t *model, size_t model_size);
nn_status_t graph_subgraph(build_t *b, uint32_t index);
nn_status_t graph_prepare(build_t *b, uint32_t index);
/* Finds room in the arena, or in the given plan, after `head` or `tail` has moved. */
nn_status_t build_fit(build_t *b);
/* Zeroed memory for the time of opening, where the arena's `tail` then is. */
nn_status_t build_alloc(build_t *b, uint32_t bytes);

/* Gives every activation of the subgraph its place, behind the variables' states. Returns the end of them, or
 * PLAN_FAILED: more than any arena. */
#define PLAN_FAILED UINT32_C(0x7ffffff0)
static inline uint32_t plan_aligned(uint32_t bytes)
{
    return (bytes + 3) & ~UINT32_C(3);
}
uint32_t plan_places(build_t *b);
/* NN_E_PLAN where a place is not inside the data, or not aligned; and where writing there now would destroy what the
 * operator still reads or what is needed later. `writer`: the tensor that is written, `owner`: the variable. */
#define NO_TENSOR UINT32_MAX
nn_status_t plan_check_place(const build_t *b, place_t place, uint32_t bytes, uint32_t alignment);
nn_status_t plan_check_write(const build_t *b, place_t place, uint32_t bytes, uint32_t writer, const variable_t *owner);

/* ---- running ---- */

#define RUN_OPERANDS 5

typedef struct run {
    const nn_t *nn;
    const op_t *op;
    const void *parameters;
    void *operands[RUN_OPERANDS]; /* NULL: absent */
} run_t;

static inline void *run_place(const nn_t *nn, place_t place)
{
    return place & PLACE_IN_MODEL ? (uint8_t *)(uintptr_t)(nn->model + (place & ~PLACE_IN_MODEL)) /* constant */
                                  : nn->data + place;
}

/* A line of operators.def. */
typedef struct operator_line {
    uint32_t code : 8; /* BuiltinOperator */
    uint32_t inputs_min : 4, inputs_max : 8, outputs_min : 1, outputs_max : 8;
    uint32_t operands : 3;              /* of its record */
    nn_status_t (*prepare)(build_t *b); /* NULL: not in this build */
    void (*run)(const run_t *run);      /* NULL: its records are OP_COPY or OP_FILL, or it has none */
} operator_t;

enum {
#define RECORD(name, run)   OP_##name,
#define OPERATOR(name, ...) OP_##name,
#include "operators.def"
#undef RECORD
#undef OPERATOR
};
extern const operator_t nn_operator_table[]; /* by these */
extern const uint32_t nn_operator_count;

nn_status_t conv_prepare(build_t *b);
nn_status_t depthwise_prepare(build_t *b);
nn_status_t fully_connected_prepare(build_t *b);
nn_status_t pool_prepare(build_t *b);
nn_status_t add_prepare(build_t *b);
nn_status_t mul_prepare(build_t *b);
nn_status_t sub_prepare(build_t *b);
nn_status_t extremum_prepare(build_t *b);
nn_status_t relu_prepare(build_t *b);
nn_status_t relu6_prepare(build_t *b);
nn_status_t softmax_prepare(build_t *b);
nn_status_t logistic_prepare(build_t *b);
nn_status_t tanh_prepare(build_t *b);
nn_status_t quantize_prepare(build_t *b);
nn_status_t dequantize_prepare(build_t *b);
nn_status_t reshape_prepare(build_t *b);
nn_status_t concatenation_prepare(build_t *b);
nn_status_t pack_prepare(build_t *b);
nn_status_t strided_slice_prepare(build_t *b);
nn_status_t transpose_prepare(build_t *b);
nn_status_t split_v_prepare(build_t *b);
nn_status_t pad_prepare(build_t *b);
nn_status_t resize_prepare(build_t *b);
nn_status_t mean_prepare(build_t *b);
nn_status_t call_once_prepare(build_t *b);
nn_status_t var_handle_prepare(build_t *b);
nn_status_t read_variable_prepare(build_t *b);
nn_status_t assign_variable_prepare(build_t *b);

void copy_run(const run_t *run);
void fill_run(const run_t *run);
void conv_run(const run_t *run);
void depthwise_run(const run_t *run);
void fully_connected_run(const run_t *run);
void average_pool_run(const run_t *run);
void max_pool_run(const run_t *run);
void add_run(const run_t *run);
void mul_run(const run_t *run);
void sub_run(const run_t *run);
void minimum_run(const run_t *run);
void maximum_run(const run_t *run);
void relu_run(const run_t *run);
void softmax_run(const run_t *run);
void logistic_run(const run_t *run);
void tanh_run(const run_t *run);
void quantize_run(const run_t *run);
void dequantize_run(const run_t *run);
void slice_run(const run_t *run);
void resize_run(const run_t *run);
void mean_run(const run_t *run);

#endif
