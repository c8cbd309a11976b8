/* The engine's API (node/nn.h): opens a model, runs it operator by operator, hands out its tensors. */
#include "node/nn.h"

#include <string.h>

#include "graph.h"
#include "schema.h"

void *tensor_data(const nn_t *nn, const subgraph_t *sub, uint32_t index)
{
    const place_t place = ((const place_t *)arena_at(nn, sub->places))[index];
    if (place & PLACE_IN_MODEL) {
        return (uint8_t *)(uintptr_t)(nn->model + (place & ~PLACE_IN_MODEL)); /* constant: nobody writes there */
    }
    return arena_at(nn, nn->graph->activations + place);
}

int32_t run_index(const run_t *run, uint32_t vector, uint32_t position)
{
    return (int32_t)fb_load32(run->nn->model + vector + 4 * position);
}

const void *run_input(const run_t *run, uint32_t position)
{
    const int32_t index = position < run->op->input_count ? run_index(run, run->op->inputs, position) : -1;
    return index < 0 ? NULL : tensor_data(run->nn, run->sub, (uint32_t)index);
}

void *run_output(const run_t *run, uint32_t position)
{
    return tensor_data(run->nn, run->sub, (uint32_t)run_index(run, run->op->outputs, position));
}

static nn_status_t describe(const nn_t *nn, const subgraph_t *sub, uint32_t index, nn_tensor_t *tensor)
{
    fb_t fb = {.data = nn->model, .size = (uint32_t)nn->model_size};
    const fb_vector_t tensors = fb_vector(&fb, sub->table, SUBGRAPH_TENSORS, 4);
    tensor_t t;
    TRY(tensor_load(&fb, tensors, nn->graph->buffers, index, &t));
    tensor->data = tensor_data(nn, sub, index);
    tensor->size = t.bytes;
    memcpy(tensor->dims, t.dims, sizeof t.dims);
    tensor->rank = t.rank;
    tensor->type = t.type;
    tensor->scale = t.scale;
    tensor->zero_point = t.zero_point;
    return NN_OK;
}

static nn_status_t trace_outputs(const run_t *run, unsigned which, nn_trace_t trace, void *context)
{
    for (uint32_t i = 0; i < run->op->output_count; i++) {
        const uint32_t index = (uint32_t)run_index(run, run->op->outputs, i);
        nn_tensor_t tensor;
        TRY(describe(run->nn, run->sub, index, &tensor));
        trace(context, which, run->op->index, i, &tensor, index);
    }
    return NN_OK;
}

static nn_status_t run_subgraph(nn_t *nn, unsigned which, nn_trace_t trace, void *context)
{
    run_t run = {.nn = nn, .sub = &nn->graph->subgraph[which]};
    uint32_t at = run.sub->ops;
    for (uint16_t i = 0; i < run.sub->record_count; i++) {
        run.op = arena_at(nn, at);
        nn_operator_table[run.op->kind].run(&run);
        if (trace != NULL) {
            TRY(trace_outputs(&run, which, trace, context));
        }
        at += 4U * run.op->words;
    }
    return NN_OK;
}

nn_status_t nn_open(nn_t *nn, const uint8_t *model, size_t model_size, uint8_t *arena, size_t arena_size)
{
    memset(nn, 0, sizeof *nn);
    NEED(model != NULL && (uintptr_t)model % NN_ALIGNMENT == 0, NN_E_MODEL);
    NEED(arena != NULL && (uintptr_t)arena % NN_ALIGNMENT == 0, NN_E_ARENA);
    NEED(model_size <= INT32_MAX, NN_E_LIMIT);
    nn->model = model;
    nn->model_size = model_size;
    nn->arena = arena;
    nn->arena_size = (arena_size < PLAN_FAILED ? arena_size : PLAN_FAILED) & ~(size_t)3;
    nn_status_t status = graph_open(nn);
    if (status == NN_OK) {
        status = nn_reset(nn);
    }
    if (status != NN_OK) {
        nn->graph = NULL;
    }
    return status;
}

nn_status_t nn_reset(nn_t *nn)
{
    NEED(nn->graph != NULL, NN_E_STATE);
    const variable_t *variable;
    for (uint32_t at = nn->graph->variables; at != 0; at = variable->next) {
        variable = arena_at(nn, at);
        memset(arena_at(nn, variable->state), variable->fill, variable->bytes);
    }
    return run_subgraph(nn, SUBGRAPH_INIT, NULL, NULL);
}

nn_status_t nn_invoke_traced(nn_t *nn, nn_trace_t trace, void *context)
{
    NEED(nn->graph != NULL, NN_E_STATE);
    return run_subgraph(nn, SUBGRAPH_MAIN, trace, context);
}

nn_status_t nn_invoke(nn_t *nn)
{
    return nn_invoke_traced(nn, NULL, NULL);
}

static nn_status_t graph_tensor(const nn_t *nn, unsigned field, unsigned index, nn_tensor_t *tensor)
{
    NEED(nn->graph != NULL, NN_E_STATE);
    const subgraph_t *sub = &nn->graph->subgraph[SUBGRAPH_MAIN];
    fb_t fb = {.data = nn->model, .size = (uint32_t)nn->model_size};
    const fb_vector_t indices = fb_vector(&fb, sub->table, field, 4);
    NEED(index < indices.count, NN_E_SHAPE);
    return describe(nn, sub, (uint32_t)fb_i32_at(&fb, indices, index), tensor);
}

nn_status_t nn_input(const nn_t *nn, unsigned index, nn_tensor_t *tensor)
{
    return graph_tensor(nn, SUBGRAPH_INPUTS, index, tensor);
}

nn_status_t nn_output(const nn_t *nn, unsigned index, nn_tensor_t *tensor)
{
    return graph_tensor(nn, SUBGRAPH_OUTPUTS, index, tensor);
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
    };
    return status <= NN_OK && status >= NN_E_STATE ? names[-(int)status] : "unknown";
}
