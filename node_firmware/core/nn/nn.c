/* The engine's API (node/nn.h): opens a model, runs its plan record by record, hands out its tensors. */
#include "node/nn.h"

#include <string.h>

#include "graph.h"
#include "schema.h"

void copy_run(const run_t *run)
{
    const piece_t *const end = (const piece_t *)((const uint32_t *)run->op + run->op->words);
    for (const piece_t *piece = run->parameters; piece != end; piece++) {
        const uint8_t *from = run_place(run->nn, piece->from);
        uint8_t *to = run_place(run->nn, piece->to);
        for (uint32_t row = 0; row < piece->rows; row++, from += piece->from_step, to += piece->to_step) {
            memmove(to, from, piece->bytes);
        }
    }
}

void fill_run(const run_t *run)
{
    const fill_t *fill = run->parameters;
    memset(run_place(run->nn, fill->to), fill->value, fill->bytes);
}

static void run_record(const nn_t *nn, const op_t *op)
{
    const operator_t *const line = &nn_operator_table[op->kind];
    const place_t *place = (const place_t *)(op + 1);
    run_t run; /* not zeroed: that would be a call for each record */
    run.nn = nn;
    run.op = op;
    for (uint32_t i = 0; i < line->operands; i++, place++) {
        run.operands[i] = *place == PLACE_NONE ? NULL : run_place(nn, *place);
    }
    run.parameters = place;
    line->run(&run);
}

static const op_t *next_record(const op_t *op)
{
    return (const op_t *)((const uint32_t *)op + op->words);
}

static void run_records(const nn_t *nn, const op_t *first)
{
    for (const op_t *op = first; op->kind != OP_END; op = next_record(op)) {
        run_record(nn, op);
    }
}

static const op_t *main_records(const plan_t *plan)
{
    const place_t *places = (const place_t *)(plan + 1);
    return (const op_t *)(places + plan->main_tensors + plan->init_tensors);
}

nn_status_t nn_open(nn_t *nn, const uint8_t *model, size_t model_size, uint8_t *arena, size_t arena_size)
{
    nn->plan = NULL; /* not open */
    NEED(model != NULL && (uintptr_t)model % NN_ALIGNMENT == 0, NN_E_MODEL);
    NEED(arena != NULL && (uintptr_t)arena % NN_ALIGNMENT == 0, NN_E_ARENA);
    nn->model = model;
    nn->model_size = model_size;
    nn->arena = arena;
    nn->arena_size = (arena_size < PLAN_FAILED ? arena_size : PLAN_FAILED) & ~(size_t)3;
    TRY(graph_open(nn));
    return nn_reset(nn);
}

nn_status_t nn_reset(nn_t *nn)
{
    NEED(nn->plan != NULL, NN_E_STATE);
    run_records(nn, (const op_t *)(const void *)((const uint8_t *)nn->plan + nn->plan->reset));
    return NN_OK;
}

nn_status_t nn_invoke(nn_t *nn)
{
    NEED(nn->plan != NULL, NN_E_STATE);
    run_records(nn, main_records(nn->plan));
    return NN_OK;
}

/* ---- tensors: what the file says of them, and where the plan has put them ---- */

static nn_status_t open_main(const nn_t *nn, build_t *b)
{
    NEED(nn->plan != NULL, NN_E_STATE);
    TRY(graph_file(b, nn->model, nn->model_size));
    return graph_subgraph(b, 0);
}

static nn_status_t describe(const nn_t *nn, build_t *b, uint32_t index, nn_tensor_t *tensor)
{
    tensor_t t;
    TRY(tensor_load(b, index, &t));
    tensor->data = nn->data + ((const place_t *)(nn->plan + 1))[index];
    tensor->size = t.bytes;
    memcpy(tensor->dims, t.dims, sizeof t.dims);
    tensor->rank = t.rank;
    tensor->type = t.type;
    tensor->scale = t.scale;
    tensor->zero_point = t.zero_point;
    return NN_OK;
}

static nn_status_t graph_tensor(const nn_t *nn, unsigned field, unsigned index, nn_tensor_t *tensor)
{
    build_t b;
    TRY(open_main(nn, &b));
    const fb_vector_t indices = fb_vector(&b.fb, b.subgraph, field, 4);
    NEED(index < fb_count(&b.fb, indices), NN_E_SHAPE);
    return describe(nn, &b, (uint32_t)fb_i32_at(&b.fb, indices, index), tensor);
}

nn_status_t nn_input(const nn_t *nn, unsigned index, nn_tensor_t *tensor)
{
    return graph_tensor(nn, SUBGRAPH_INPUTS, index, tensor);
}

nn_status_t nn_output(const nn_t *nn, unsigned index, nn_tensor_t *tensor)
{
    return graph_tensor(nn, SUBGRAPH_OUTPUTS, index, tensor);
}

static nn_status_t trace_operator(const nn_t *nn, uint32_t index, nn_trace_t trace, void *context)
{
    build_t b;
    TRY(open_main(nn, &b));
    const fb_vector_t operators = fb_vector(&b.fb, b.subgraph, SUBGRAPH_OPERATORS, 4);
    const fb_vector_t outputs = fb_vector(&b.fb, fb_table_at(&b.fb, operators, index), OPERATOR_OUTPUTS, 4);
    for (uint32_t i = 0; i < fb_count(&b.fb, outputs); i++) {
        const uint32_t tensor_index = (uint32_t)fb_i32_at(&b.fb, outputs, i);
        nn_tensor_t tensor;
        TRY(describe(nn, &b, tensor_index, &tensor));
        if (tensor.type != NN_RESOURCE) {
            trace(context, index, i, &tensor, tensor_index);
        }
    }
    return NN_OK;
}

/* An operator without a record has its outputs in place when the next one that has a record begins. */
nn_status_t nn_invoke_traced(nn_t *nn, nn_trace_t trace, void *context)
{
    NEED(nn->plan != NULL, NN_E_STATE);
    const op_t *op = main_records(nn->plan);
    for (uint32_t next = 0;; op = next_record(op)) {
        for (; next < op->index; next++) {
            TRY(trace_operator(nn, next, trace, context));
        }
        if (op->kind == OP_END) {
            return NN_OK;
        }
        run_record(nn, op);
    }
}

const char *nn_status_name(nn_status_t status)
{
    static const char *const names[] = {
        "ok",
        "not a model, or an offset leads outside it",
        "schema version is not 3",
        "operator not supported",
        "tensor type or quantisation not supported",
        "shapes or parameters do not fit together",
        "arena too small",
        "beyond a limit of this build",
        "no model is open",
        "the model's plan is wrong",
    };
    return status <= NN_OK && status >= NN_E_PLAN ? names[-(int)status] : "unknown";
}
