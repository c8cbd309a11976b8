/* Opening a model: finds its subgraphs and its plan, and prepares the operators in their order. graph.h has the course
 * of it. */
#include "graph.h"

#include <string.h>

#include "schema.h"

/* Old files have an operator's code in a byte, newer ones in an int32; the larger one counts. */
static int32_t code_at(build_t *b, uint32_t index)
{
    const uint32_t table = fb_table_at(&b->fb, b->codes, index);
    const int32_t old = (int8_t)fb_u8(&b->fb, table, CODE_DEPRECATED_BUILTIN, 0);
    const int32_t new = fb_i32(&b->fb, table, CODE_BUILTIN, 0);
    return new > old ? new : old;
}

static nn_status_t open_file(build_t *b, uint32_t *model)
{
    *model = fb_root(&b->fb, TFLITE_IDENTIFIER);
    NEED(!b->fb.bad, NN_E_MODEL);
    NEED(fb_i32(&b->fb, *model, MODEL_VERSION, 0) == TFLITE_VERSION, NN_E_VERSION);
    b->codes = fb_vector(&b->fb, *model, MODEL_OPERATOR_CODES, 4);
    b->subgraphs = fb_vector(&b->fb, *model, MODEL_SUBGRAPHS, 4);
    b->buffers = fb_vector(&b->fb, *model, MODEL_BUFFERS, 4);
    NEED(!b->fb.bad, NN_E_MODEL);
    return NN_OK;
}

/* The plan that the file brings, if there is one of this version. */
static nn_status_t find_plan(build_t *b, uint32_t model)
{
    const fb_vector_t metadata = fb_vector(&b->fb, model, MODEL_METADATA, 4);
    for (uint32_t i = 0; i < fb_count(&b->fb, metadata) && i < NN_MAX_METADATA && !b->fb.bad; i++) {
        const uint32_t table = fb_table_at(&b->fb, metadata, i);
        const fb_vector_t name = fb_vector(&b->fb, table, METADATA_NAME, 1);
        const uint32_t length = sizeof PLAN_NAME - 1;
        if (fb_count(&b->fb, name) != length || memcmp(b->fb.data + fb_elements(name), PLAN_NAME, length) != 0) {
            continue;
        }
        const uint32_t buffer = fb_table_at(&b->fb, b->buffers, (uint32_t)fb_i32(&b->fb, table, METADATA_BUFFER, 0));
        const fb_vector_t data = fb_vector(&b->fb, buffer, BUFFER_DATA, 1);
        NEED(!b->fb.bad, NN_E_MODEL);
        NEED(fb_count(&b->fb, data) >= sizeof(plan_t) && fb_elements(data) % 4 == 0, NN_E_PLAN);
        const plan_t *plan = (const plan_t *)(const void *)(b->fb.data + fb_elements(data));
        if (plan->magic == PLAN_MAGIC) {
            NEED(plan->bytes <= fb_count(&b->fb, data), NN_E_PLAN);
            b->given = plan;
            b->limit = plan->bytes;
            b->data_bytes = plan->data_bytes;
        }
    }
    NEED(!b->fb.bad, NN_E_MODEL);
    return NN_OK;
}

/* Zeroed memory for the time of opening, at the arena's end. */
static nn_status_t alloc_tail(build_t *b, uint32_t bytes, void *memory)
{
    NEED(bytes <= b->tail - (b->given ? 0 : b->head), NN_E_ARENA);
    b->tail -= bytes;
    void *const at = b->nn->arena + b->tail;
    memset(at, 0, bytes);
    memcpy(memory, &at, sizeof at);
    const uint32_t used = (b->given ? 0 : b->head) + (uint32_t)b->nn->arena_size - b->tail;
    b->needed = used > b->needed ? used : b->needed;
    return NN_OK;
}

static uint32_t subgraph_table(build_t *b, uint32_t index, uint16_t *tensors)
{
    const uint32_t table = fb_table_at(&b->fb, b->subgraphs, index);
    const uint32_t count = fb_count(&b->fb, fb_vector(&b->fb, table, SUBGRAPH_TENSORS, 4));
    *tensors = (uint16_t)(count <= NN_MAX_TENSORS ? count : UINT16_MAX);
    return table;
}

static uint16_t count_resources(build_t *b)
{
    uint16_t count = 0;
    for (uint32_t i = 0; i < b->tensor_count; i++) {
        count = (uint16_t)(count + (tensor_type(&b->fb, fb_table_at(&b->fb, b->tensors, i)) == NN_RESOURCE));
    }
    return count;
}

static nn_status_t begin_subgraph(build_t *b, uint32_t index)
{
    b->main = index == 0;
    b->subgraph = subgraph_table(b, index, &b->tensor_count);
    b->tensors = fb_vector(&b->fb, b->subgraph, SUBGRAPH_TENSORS, 4);
    NEED(!b->fb.bad && b->subgraph != 0, NN_E_MODEL);
    NEED(b->tensor_count <= NN_MAX_TENSORS, NN_E_LIMIT);
    b->tensor_counts[b->main ? SUBGRAPH_MAIN : SUBGRAPH_INIT] = b->tensor_count;
    if (b->main) {
        TRY(alloc_tail(b, count_resources(b) * (uint32_t)sizeof *b->variables, &b->variables));
    } else {
        b->tail += b->tensor_counts[SUBGRAPH_MAIN] * (uint32_t)sizeof *b->lives;
    }
    TRY(alloc_tail(b, b->tensor_count * (uint32_t)sizeof *b->lives, &b->lives));
    for (uint16_t i = 0; i < b->tensor_count; i++) {
        b->lives[i].root = LIFE_UNMADE;
    }
    b->scratch_bytes = 0;
    return NN_OK;
}

/* What an operator (or, before the first, the caller) writes must not be needed otherwise. */
static nn_status_t check_outputs(build_t *b)
{
    for (uint32_t i = 0; i < fb_count(&b->fb, b->outputs) && b->pass == PASS_RECORD && !b->moves; i++) {
        const tensor_t out = {.index = (uint16_t)fb_i32_at(&b->fb, b->outputs, i)};
        const uint32_t bytes = b->lives[out.index].bytes;
        if (bytes != 0) {
            TRY(plan_check_write(b, b->places[out.index], bytes, &out, NULL));
        }
    }
    return NN_OK;
}

static void begin_operator(build_t *b, uint16_t time)
{
    b->time = time;
    b->moves = false;
    b->overlaps[0].tensor = b->overlaps[1].tensor = LIFE_UNMADE;
}

/* Graph inputs are outputs of the time before the first operator. */
static nn_status_t walk_inputs(build_t *b)
{
    b->outputs = fb_vector(&b->fb, b->subgraph, SUBGRAPH_INPUTS, 4);
    begin_operator(b, 0);
    NEED(b->main || fb_count(&b->fb, b->outputs) == 0, NN_E_SHAPE);
    for (uint32_t i = 0; i < fb_count(&b->fb, b->outputs); i++) {
        tensor_t tensor;
        TRY(build_output(b, i, &tensor));
        NEED(tensor.type != NN_RESOURCE, NN_E_TYPE);
    }
    return check_outputs(b);
}

static nn_status_t walk_outputs(build_t *b)
{
    b->inputs = fb_vector(&b->fb, b->subgraph, SUBGRAPH_OUTPUTS, 4);
    for (uint32_t i = 0; i < fb_count(&b->fb, b->inputs); i++) {
        tensor_t tensor;
        TRY(build_input(b, i, &tensor));
        NEED(tensor.type != NN_RESOURCE && tensor.data == 0, NN_E_TYPE);
    }
    return NN_OK;
}

static nn_status_t walk_operator(build_t *b, uint32_t table)
{
    const int32_t code = code_at(b, (uint32_t)fb_i32(&b->fb, table, OPERATOR_CODE, 0));
    NEED(!b->fb.bad, NN_E_MODEL);
    const operator_t *found = nn_operator_table;
    while (found->prepare == NULL || found->code != code) {
        found++;
        NEED(found != nn_operator_table + nn_operator_count, NN_E_OPERATOR);
    }
    b->kind = (uint32_t)(found - nn_operator_table);
    b->inputs = fb_vector(&b->fb, table, OPERATOR_INPUTS, 4);
    b->outputs = fb_vector(&b->fb, table, OPERATOR_OUTPUTS, 4);
    b->options = fb_table(&b->fb, table, OPERATOR_OPTIONS);
    const uint32_t inputs = fb_count(&b->fb, b->inputs), outputs = fb_count(&b->fb, b->outputs);
    NEED(inputs >= found->inputs_min && inputs <= found->inputs_max, NN_E_SHAPE);
    NEED(outputs >= found->outputs_min && outputs <= found->outputs_max, NN_E_SHAPE);
    TRY(found->prepare(b));
    TRY(build_end_record(b));
    return check_outputs(b);
}

static nn_status_t walk(build_t *b, pass_t pass)
{
    b->pass = pass;
    TRY(walk_inputs(b));
    const fb_vector_t operators = fb_vector(&b->fb, b->subgraph, SUBGRAPH_OPERATORS, 4);
    const uint32_t count = fb_count(&b->fb, operators);
    NEED(count <= NN_MAX_OPERATORS, NN_E_LIMIT);
    for (uint16_t i = 0; i < count; i++) {
        begin_operator(b, (uint16_t)(i + 1));
        TRY(walk_operator(b, fb_table_at(&b->fb, operators, i)));
        NEED(!b->fb.bad, NN_E_MODEL);
    }
    begin_operator(b, (uint16_t)(count + 1));
    TRY(walk_outputs(b));
    NEED(!b->fb.bad, NN_E_MODEL);
    return NN_OK;
}

/* A RESOURCE is where the state of its variable is, says the given plan. */
static nn_status_t place_variables(build_t *b)
{
    for (uint16_t i = 0; i < b->tensor_count; i++) {
        if (b->lives[i].root != LIFE_UNMADE && b->lives[i].bytes == 0) {
            variable_t *variable = &b->variables[b->lives[i].offset];
            variable->place = b->places[i];
            NEED(variable->place % 4 == 0, NN_E_PLAN);
            NEED((uint64_t)variable->place + variable->bytes <= b->data_bytes, NN_E_PLAN);
        }
    }
    return NN_OK;
}

/* After the first walk: every tensor gets its place. */
static nn_status_t place_subgraph(build_t *b)
{
    const uint32_t first = b->main ? 0 : b->tensor_counts[SUBGRAPH_MAIN];
    const void *const plan = b->given ? (const void *)b->given : b->nn->arena;
    b->places = (const place_t *)((const plan_t *)plan + 1) + first;
    if (b->given) {
        return b->main ? place_variables(b) : NN_OK;
    }
    b->own_places = (place_t *)(void *)(b->nn->arena + sizeof(plan_t)) + first;
    memset(b->own_places, 0xff, b->tensor_count * sizeof *b->own_places);
    b->scratch = plan_places(b, b->own_places);
    NEED(b->scratch != PLAN_FAILED, NN_E_ARENA);
    const uint32_t end = b->scratch + b->scratch_bytes;
    b->data_bytes = end > b->data_bytes ? end : b->data_bytes;
    return NN_OK;
}

static nn_status_t put_end(build_t *b)
{
    TRY(build_record(b, OP_END));
    return build_end_record(b);
}

/* What nn_reset() does before it runs the initialising subgraph. */
static nn_status_t put_fills(build_t *b)
{
    for (uint32_t i = 0; i < b->variable_count; i++) {
        const variable_t *variable = &b->variables[i];
        const fill_t fill = {.to = variable->place, .bytes = variable->bytes, .value = variable->fill};
        b->time = 1;
        b->kind = OP_FILL;
        TRY(build_put(b, &fill, sizeof fill));
        TRY(build_end_record(b));
    }
    return NN_OK;
}

static nn_status_t prepare_main(build_t *b)
{
    TRY(begin_subgraph(b, 0));
    TRY(walk(b, PASS_MEASURE));
    if (b->init_index != 0) {
        subgraph_table(b, b->init_index, &b->tensor_counts[SUBGRAPH_INIT]);
    }
    const uint32_t tensors = (uint32_t)b->tensor_counts[SUBGRAPH_MAIN] + b->tensor_counts[SUBGRAPH_INIT];
    TRY(build_take(b, (uint32_t)sizeof(plan_t) + tensors * (uint32_t)sizeof(place_t)));
    TRY(place_subgraph(b));
    TRY(walk(b, PASS_RECORD));
    return put_end(b);
}

static nn_status_t prepare_reset(build_t *b)
{
    TRY(put_fills(b));
    if (b->init_index != 0) {
        TRY(begin_subgraph(b, b->init_index));
        TRY(walk(b, PASS_MEASURE));
        TRY(place_subgraph(b));
        TRY(walk(b, PASS_RECORD));
    }
    return put_end(b);
}

nn_status_t graph_open(nn_t *nn)
{
    uint32_t model;
    build_t b = {.nn = nn, .fb = {.data = nn->model, .size = (uint32_t)nn->model_size}};
    b.tail = (uint32_t)nn->arena_size;
    TRY(open_file(&b, &model));
    TRY(find_plan(&b, model));
    NEED(b.data_bytes <= nn->arena_size, NN_E_ARENA);
    TRY(prepare_main(&b));
    plan_t plan = {.magic = PLAN_MAGIC, .reset = b.head, .work = b.work};
    TRY(prepare_reset(&b));
    plan.bytes = b.head;
    plan.data_bytes = b.data_bytes;
    plan.main_tensors = b.tensor_counts[SUBGRAPH_MAIN];
    plan.init_tensors = b.tensor_counts[SUBGRAPH_INIT];
    TRY(build_set(&b, 0, &plan, sizeof plan));
    const uint32_t data = b.given ? 0 : (b.head + NN_ALIGNMENT - 1) & ~(uint32_t)(NN_ALIGNMENT - 1);
    const uint64_t end = (uint64_t)data + b.data_bytes;
    NEED(end <= nn->arena_size, NN_E_ARENA);
    nn->arena_used = end > b.needed ? (size_t)end : b.needed;
    nn->plan = b.given ? b.given : (const plan_t *)(const void *)nn->arena;
    nn->data = nn->arena + data;
    return NN_OK;
}

nn_status_t nn_model_operators(const uint8_t *model, size_t model_size, uint8_t *bitmap, size_t capacity)
{
    uint32_t root;
    NEED(model_size <= INT32_MAX, NN_E_LIMIT);
    build_t b = {.fb = {.data = model, .size = (uint32_t)model_size}};
    TRY(open_file(&b, &root));
    NEED(fb_count(&b.fb, b.codes) != 0, NN_E_MODEL);
    memset(bitmap, 0, capacity);
    for (uint32_t i = 0; i < fb_count(&b.fb, b.codes); i++) {
        const int32_t code = code_at(&b, i);
        NEED(!b.fb.bad && code >= 0 && (size_t)code / 8 < capacity, NN_E_MODEL);
        bitmap[code / 8] = (uint8_t)(bitmap[code / 8] | 1U << code % 8);
    }
    return NN_OK;
}

size_t nn_planned_bytes(const uint8_t *model, size_t model_size)
{
    uint32_t root;
    build_t b = {.fb = {.data = model, .size = (uint32_t)model_size}};
    if ((uintptr_t)model % NN_ALIGNMENT != 0 || model_size > INT32_MAX) {
        return 0;
    }
    return open_file(&b, &root) == NN_OK && find_plan(&b, root) == NN_OK ? b.data_bytes : 0;
}
