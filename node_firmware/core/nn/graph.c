/* Opening a model: finds its subgraphs, checks tensors and operators in their order, and leaves the graph in the arena.
 */
#include "graph.h"

#include <string.h>

#include "schema.h"

static nn_status_t load_places(build_t *b)
{
    for (uint16_t i = 0; i < b->sub->tensor_count; i++) {
        tensor_t tensor;
        TRY(tensor_load(&b->fb, b->tensors, b->buffers, i, &tensor));
        b->places[i] = tensor.data.count != 0 ? PLACE_IN_MODEL | tensor.data.at : PLACE_UNDEFINED;
        b->lives[i].root = i;
    }
    return NN_OK;
}

/* Graph inputs are outputs of the time before the first operator. */
static nn_status_t open_inputs(build_t *b)
{
    b->outputs = fb_vector(&b->fb, b->sub->table, SUBGRAPH_INPUTS, 4);
    b->time = 0;
    NEED(b->main || b->outputs.count == 0, NN_E_SHAPE);
    for (uint32_t i = 0; i < b->outputs.count; i++) {
        tensor_t tensor;
        TRY(build_output(b, i, &tensor));
        NEED(tensor.type != NN_RESOURCE, NN_E_TYPE);
    }
    return NN_OK;
}

static nn_status_t open_outputs(build_t *b)
{
    b->inputs = fb_vector(&b->fb, b->sub->table, SUBGRAPH_OUTPUTS, 4);
    b->time = (uint16_t)(b->sub->op_count + 1);
    for (uint32_t i = 0; i < b->inputs.count; i++) {
        tensor_t tensor;
        TRY(build_input(b, i, &tensor));
        NEED(tensor.type != NN_RESOURCE && tensor.data.count == 0, NN_E_TYPE);
    }
    return NN_OK;
}

/* Old files have an operator's code in a byte, newer ones in an int32; the larger one counts. */
static int32_t code_at(build_t *b, uint32_t index)
{
    const uint32_t table = fb_table_at(&b->fb, b->codes, index);
    const int32_t old = (int8_t)fb_u8(&b->fb, table, CODE_DEPRECATED_BUILTIN, 0);
    const int32_t new = fb_i32(&b->fb, table, CODE_BUILTIN, 0);
    return new > old ? new : old;
}

static const operator_kind_t *find_kind(build_t *b, uint32_t op_table)
{
    const int32_t code = code_at(b, (uint32_t)fb_i32(&b->fb, op_table, OPERATOR_CODE, 0));
    for (uint8_t i = 0; i < nn_operator_count && !b->fb.bad; i++) {
        if (nn_operator_table[i].code == code) {
            return &nn_operator_table[i];
        }
    }
    return NULL;
}

static nn_status_t append_record(build_t *b, op_t *op)
{
    if (b->last == NULL) {
        b->sub->ops = (uint32_t)((uint8_t *)op - b->nn->arena);
    } else {
        const ptrdiff_t words = ((uint8_t *)op - (uint8_t *)b->last) / 4;
        NEED(words <= UINT16_MAX, NN_E_LIMIT);
        b->last->words = (uint16_t)words;
    }
    b->last = op;
    b->sub->record_count++;
    return NN_OK;
}

static nn_status_t open_operator(build_t *b, uint32_t op_table)
{
    const operator_kind_t *kind = find_kind(b, op_table);
    NEED(!b->fb.bad, NN_E_MODEL);
    NEED(kind != NULL, NN_E_OPERATOR);
    b->inputs = fb_vector(&b->fb, op_table, OPERATOR_INPUTS, 4);
    b->outputs = fb_vector(&b->fb, op_table, OPERATOR_OUTPUTS, 4);
    b->options = fb_table(&b->fb, op_table, OPERATOR_OPTIONS);
    NEED(b->inputs.count >= kind->inputs_min && b->inputs.count <= kind->inputs_max, NN_E_SHAPE);
    NEED(b->outputs.count >= kind->outputs_min && b->outputs.count <= kind->outputs_max, NN_E_SHAPE);
    if (kind->run == NULL) {
        return kind->prepare(b);
    }
    op_t *op = build_alloc(b, sizeof *op);
    NEED(op != NULL, NN_E_ARENA);
    TRY(append_record(b, op));
    op->index = (uint16_t)(b->time - 1);
    op->kind = (uint8_t)(kind - nn_operator_table);
    op->input_count = (uint8_t)b->inputs.count;
    op->output_count = (uint8_t)b->outputs.count;
    op->inputs = b->inputs.at;
    op->outputs = b->outputs.at;
    return kind->prepare(b);
}

static nn_status_t open_operators(build_t *b)
{
    const fb_vector_t operators = fb_vector(&b->fb, b->sub->table, SUBGRAPH_OPERATORS, 4);
    NEED(operators.count <= NN_MAX_OPERATORS, NN_E_LIMIT);
    b->sub->op_count = (uint16_t)operators.count;
    b->last = NULL;
    for (uint16_t i = 0; i < b->sub->op_count; i++) {
        b->time = (uint16_t)(i + 1);
        TRY(open_operator(b, fb_table_at(&b->fb, operators, i)));
        NEED(!b->fb.bad, NN_E_MODEL);
    }
    return NN_OK;
}

/* Builds one subgraph; `activations` grows to what its plan takes. */
static nn_status_t open_subgraph(build_t *b, uint32_t index, uint32_t which, uint32_t *activations)
{
    b->main = which == SUBGRAPH_MAIN;
    b->sub = &b->nn->graph->subgraph[which];
    b->sub->table = fb_table_at(&b->fb, b->subgraphs, index);
    b->tensors = fb_vector(&b->fb, b->sub->table, SUBGRAPH_TENSORS, 4);
    NEED(!b->fb.bad && b->sub->table != 0, NN_E_MODEL);
    NEED(b->tensors.count <= NN_MAX_TENSORS, NN_E_LIMIT);
    b->sub->tensor_count = (uint16_t)b->tensors.count;

    const uint32_t lives_bytes = b->sub->tensor_count * (uint32_t)sizeof *b->lives;
    NEED(lives_bytes <= b->tail - b->head, NN_E_ARENA);
    b->tail -= lives_bytes;
    b->lives = arena_at(b->nn, b->tail);
    memset(b->lives, 0, lives_bytes);
    b->sub->places = b->head;
    b->places = build_alloc(b, b->sub->tensor_count * (uint32_t)sizeof *b->places);
    NEED(b->places != NULL, NN_E_ARENA);

    TRY(load_places(b));
    TRY(open_inputs(b));
    TRY(open_operators(b));
    TRY(open_outputs(b));
    NEED(!b->fb.bad, NN_E_MODEL);
    const uint32_t planned = plan_activations(b->places, b->lives, b->sub->tensor_count);
    NEED(planned != PLAN_FAILED, NN_E_ARENA);
    *activations = planned > *activations ? planned : *activations;
    b->tail += lives_bytes;
    return NN_OK;
}

static nn_status_t open_variables(build_t *b)
{
    variable_t *variable;
    for (uint32_t at = b->nn->graph->variables; at != 0; at = variable->next) {
        variable = arena_at(b->nn, at);
        const void *state = build_alloc(b, variable->bytes);
        NEED(state != NULL, NN_E_ARENA);
        variable->state = (uint32_t)((const uint8_t *)state - b->nn->arena);
    }
    return NN_OK;
}

static nn_status_t open_file(build_t *b)
{
    const uint32_t model = fb_root(&b->fb, TFLITE_IDENTIFIER);
    NEED(!b->fb.bad, NN_E_MODEL);
    NEED(fb_i32(&b->fb, model, MODEL_VERSION, 0) == TFLITE_VERSION, NN_E_VERSION);
    b->codes = fb_vector(&b->fb, model, MODEL_OPERATOR_CODES, 4);
    b->subgraphs = fb_vector(&b->fb, model, MODEL_SUBGRAPHS, 4);
    b->buffers = fb_vector(&b->fb, model, MODEL_BUFFERS, 4);
    NEED(!b->fb.bad, NN_E_MODEL);
    return NN_OK;
}

nn_status_t nn_model_operators(const uint8_t *model, size_t model_size, uint8_t *bitmap, size_t capacity)
{
    NEED(model_size <= INT32_MAX, NN_E_LIMIT);
    build_t b = {.fb = {.data = model, .size = (uint32_t)model_size}};
    TRY(open_file(&b));
    NEED(b.codes.count != 0, NN_E_MODEL);
    memset(bitmap, 0, capacity);
    for (uint32_t i = 0; i < b.codes.count; i++) {
        const int32_t code = code_at(&b, i);
        NEED(!b.fb.bad && code >= 0 && (size_t)code / 8 < capacity, NN_E_MODEL);
        bitmap[code / 8] = (uint8_t)(bitmap[code / 8] | 1U << code % 8);
    }
    return NN_OK;
}

nn_status_t graph_open(nn_t *nn)
{
    build_t b = {.nn = nn, .fb = {.data = nn->model, .size = (uint32_t)nn->model_size}};
    b.tail = (uint32_t)nn->arena_size;
    TRY(open_file(&b));
    nn->graph = build_alloc(&b, sizeof *nn->graph);
    NEED(nn->graph != NULL, NN_E_ARENA);
    nn->graph->buffers = b.buffers;
    uint32_t activations = 0;
    TRY(open_subgraph(&b, 0, SUBGRAPH_MAIN, &activations));
    if (nn->graph->init_index != 0) {
        TRY(open_subgraph(&b, nn->graph->init_index, SUBGRAPH_INIT, &activations));
    }
    TRY(open_variables(&b));
    nn->graph->activations = (b.head + NN_ALIGNMENT - 1) & ~(uint32_t)(NN_ALIGNMENT - 1);
    const uint64_t end = (uint64_t)nn->graph->activations + activations;
    NEED(end <= nn->arena_size, NN_E_ARENA);
    nn->arena_used = end > b.needed ? (size_t)end : b.needed;
    return NN_OK;
}
