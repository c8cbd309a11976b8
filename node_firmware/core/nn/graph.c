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

nn_status_t graph_file(build_t *b, const uint8_t *model, size_t model_size)
{
    memset(b, 0, sizeof *b);
    NEED(model_size <= INT32_MAX, NN_E_LIMIT);
    b->fb.data = model;
    b->fb.size = (uint32_t)model_size;
    b->model = fb_root(&b->fb, TFLITE_IDENTIFIER);
    NEED(!b->fb.bad, NN_E_MODEL);
    NEED(fb_i32(&b->fb, b->model, MODEL_VERSION, 0) == TFLITE_VERSION, NN_E_VERSION);
    b->codes = fb_vector(&b->fb, b->model, MODEL_OPERATOR_CODES, 4);
    b->subgraphs = fb_vector(&b->fb, b->model, MODEL_SUBGRAPHS, 4);
    b->buffers = fb_vector(&b->fb, b->model, MODEL_BUFFERS, 4);
    NEED(!b->fb.bad, NN_E_MODEL);
    return NN_OK;
}

nn_status_t graph_subgraph(build_t *b, uint32_t index)
{
    b->main = index == 0;
    b->subgraph = fb_table_at(&b->fb, b->subgraphs, index);
    b->tensors = fb_vector(&b->fb, b->subgraph, SUBGRAPH_TENSORS, 4);
    const uint32_t count = fb_count(&b->fb, b->tensors);
    NEED(!b->fb.bad && b->subgraph != 0, NN_E_MODEL);
    NEED(count <= NN_MAX_TENSORS, NN_E_LIMIT);
    b->tensor_count = b->tensor_counts[b->main ? SUBGRAPH_MAIN : SUBGRAPH_INIT] = (uint16_t)count;
    return NN_OK;
}

static bool is_plan(const fb_t *fb, fb_vector_t name)
{
    const uint8_t *const text = fb->data + fb_elements(name), *const plan = (const uint8_t *)PLAN_NAME; /* 7 bytes */
    return fb_count(fb, name) == sizeof PLAN_NAME - 1 && fb_load32(text) == fb_load32(plan) &&
           fb_load32(text + 3) == fb_load32(plan + 3);
}

/* The plan that the file brings, if there is one of this version. */
static nn_status_t find_plan(build_t *b)
{
    fb_t *const fb = &b->fb;
    const fb_vector_t metadata = fb_vector(fb, b->model, MODEL_METADATA, 4);
    for (uint32_t i = 0; i < fb_count(fb, metadata) && i < NN_MAX_METADATA; i++) {
        const uint32_t table = fb_table_at(fb, metadata, i);
        if (!is_plan(fb, fb_vector(fb, table, METADATA_NAME, 1))) {
            continue;
        }
        const uint32_t buffer = fb_table_at(fb, b->buffers, (uint32_t)fb_i32(fb, table, METADATA_BUFFER, 0));
        const fb_vector_t data = fb_vector(fb, buffer, BUFFER_DATA, 1);
        const plan_t *const plan = (const plan_t *)(const void *)(fb->data + fb_elements(data));
        NEED(!fb->bad, NN_E_MODEL);
        NEED(fb_count(fb, data) >= sizeof *plan && data % 4 == 0, NN_E_PLAN);
        if (plan->magic == PLAN_MAGIC) {
            NEED(plan->bytes <= fb_count(fb, data), NN_E_PLAN);
            b->given = plan;
            b->limit = plan->bytes;
            b->data_bytes = plan->data_bytes;
        }
    }
    NEED(!fb->bad, NN_E_MODEL);
    return NN_OK;
}

size_t nn_planned_bytes(const uint8_t *model, size_t model_size)
{
    build_t b;
    const bool found = (uintptr_t)model % NN_ALIGNMENT == 0 && graph_file(&b, model, model_size) == NN_OK &&
                       find_plan(&b) == NN_OK && b.given != NULL;
    return found ? plan_aligned(b.given->data_bytes) : 0;
}

static nn_status_t begin_subgraph(build_t *b, uint32_t index)
{
    TRY(graph_subgraph(b, index));
    TRY(build_alloc(b, b->tensor_count * (uint32_t)sizeof *b->lives));
    b->lives = (life_t *)(void *)(b->arena + b->tail);
    if (b->main) {
        b->variables = (variable_t *)(void *)b->lives;
    }
    b->scratch_bytes = 0;
    return NN_OK;
}

static void begin_operator(build_t *b, uint32_t time, fb_vector_t inputs, fb_vector_t outputs)
{
    b->time = (uint16_t)time;
    b->moves = false;
    b->overlap_count = 0;
    b->inputs = inputs;
    b->outputs = outputs;
}

/* What an operator (or, before the first, the caller) writes must not be needed otherwise. */
static nn_status_t end_operator(build_t *b)
{
    for (uint32_t i = 0; i < fb_count(&b->fb, b->outputs) && b->pass == PASS_RECORD && !b->moves; i++) {
        const uint32_t out = (uint32_t)fb_i32_at(&b->fb, b->outputs, i);
        if (b->lives[out].bytes != 0) {
            TRY(plan_check_write(b, b->places[out], b->lives[out].bytes, out, NULL));
        }
    }
    return NN_OK;
}

/* The graph's inputs are outputs of the time before the first operator, its outputs are inputs of that after the last.
 */
static nn_status_t walk_edge(build_t *b)
{
    tensor_t t;
    for (uint32_t i = 0; i < fb_count(&b->fb, b->outputs); i++) {
        TRY(build_output(b, i, &t));
        NEED(b->main && t.type != NN_RESOURCE, NN_E_TYPE);
    }
    for (uint32_t i = 0; i < fb_count(&b->fb, b->inputs); i++) {
        TRY(build_input(b, i, &t));
        NEED(t.type != NN_RESOURCE && t.data == 0, NN_E_TYPE);
    }
    return end_operator(b);
}

static nn_status_t walk_operator(build_t *b, uint32_t table)
{
    const int32_t code = code_at(b, (uint32_t)fb_i32(&b->fb, table, OPERATOR_CODE, 0));
    NEED(!b->fb.bad, NN_E_MODEL);
    b->kind = 0;
    while (nn_operator_table[b->kind].prepare == NULL || nn_operator_table[b->kind].code != code) {
        b->kind++;
        NEED(b->kind < nn_operator_count, NN_E_OPERATOR);
    }
    const operator_t *const found = &nn_operator_table[b->kind];
    b->options = fb_table(&b->fb, table, OPERATOR_OPTIONS);
    const uint32_t inputs = fb_count(&b->fb, b->inputs), outputs = fb_count(&b->fb, b->outputs);
    NEED(inputs >= found->inputs_min && inputs <= found->inputs_max, NN_E_SHAPE);
    NEED(outputs >= found->outputs_min && outputs <= found->outputs_max, NN_E_SHAPE);
    TRY(found->prepare(b));
    TRY(build_end_record(b));
    return end_operator(b);
}

static nn_status_t walk(build_t *b, pass_t pass)
{
    const fb_vector_t operators = fb_vector(&b->fb, b->subgraph, SUBGRAPH_OPERATORS, 4);
    const uint32_t count = fb_count(&b->fb, operators);
    NEED(count <= NN_MAX_OPERATORS, NN_E_LIMIT);
    b->pass = pass;
    begin_operator(b, FIRST_TIME - 1, 0, fb_vector(&b->fb, b->subgraph, SUBGRAPH_INPUTS, 4));
    TRY(walk_edge(b));
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t table = fb_table_at(&b->fb, operators, i);
        begin_operator(b, FIRST_TIME + i, fb_vector(&b->fb, table, OPERATOR_INPUTS, 4),
                       fb_vector(&b->fb, table, OPERATOR_OUTPUTS, 4));
        TRY(walk_operator(b, table));
        NEED(!b->fb.bad, NN_E_MODEL);
    }
    begin_operator(b, FIRST_TIME + count, fb_vector(&b->fb, b->subgraph, SUBGRAPH_OUTPUTS, 4), 0);
    TRY(walk_edge(b));
    NEED(!b->fb.bad, NN_E_MODEL);
    return NN_OK;
}

/* After the first walk: every tensor gets its place. */
static nn_status_t place_subgraph(build_t *b)
{
    const uint32_t first = b->main ? 0 : b->tensor_counts[SUBGRAPH_MAIN];
    const void *const plan = b->given ? (const void *)b->given : b->arena;
    b->places = (const place_t *)((const plan_t *)plan + 1) + first;
    b->own_places = b->given ? NULL : (place_t *)(void *)(b->arena + sizeof(plan_t)) + first;
    if (b->main && b->place_variables) {
        TRY(b->place_variables(b));
    }
    if (b->given) {
        return NN_OK;
    }
    memset(b->own_places, 0xff, b->tensor_count * sizeof *b->own_places);
    b->scratch = plan_places(b);
    NEED(b->scratch != PLAN_FAILED, NN_E_ARENA);
    const uint32_t end = b->scratch + b->scratch_bytes;
    b->data_bytes = end > b->data_bytes ? end : b->data_bytes;
    return NN_OK;
}

nn_status_t graph_prepare(build_t *b, uint32_t index)
{
    TRY(begin_subgraph(b, index));
    TRY(walk(b, PASS_MEASURE));
    if (b->main) {
        const uint32_t tensors = (uint32_t)b->tensor_counts[SUBGRAPH_MAIN] + b->tensor_counts[SUBGRAPH_INIT];
        TRY(build_take(b, (uint32_t)sizeof(plan_t) + tensors * (uint32_t)sizeof(place_t)));
    }
    TRY(place_subgraph(b));
    return walk(b, PASS_RECORD);
}

static nn_status_t put_end(build_t *b)
{
    TRY(build_record(b, OP_END));
    return build_end_record(b);
}

nn_status_t graph_open(nn_t *nn)
{
    build_t b;
    TRY(graph_file(&b, nn->model, nn->model_size));
    b.arena = nn->arena;
    b.arena_bytes = b.tail = (uint32_t)nn->arena_size;
    TRY(find_plan(&b));
    TRY(graph_prepare(&b, 0));
    TRY(put_end(&b));
    const uint32_t reset = b.head, work = b.work;
    if (b.reset) {
        TRY(b.reset(&b));
    }
    TRY(put_end(&b));
    const plan_t plan = {.magic = PLAN_MAGIC,
                         .bytes = b.head,
                         .data_bytes = b.data_bytes,
                         .work = work,
                         .reset = reset,
                         .main_tensors = b.tensor_counts[SUBGRAPH_MAIN],
                         .init_tensors = b.tensor_counts[SUBGRAPH_INIT]};
    TRY(build_set(&b, 0, &plan, sizeof plan));
    const uint32_t data = b.given ? 0 : (b.head + NN_ALIGNMENT - 1) & ~(uint32_t)(NN_ALIGNMENT - 1);
    NEED(data <= b.arena_bytes && b.data_bytes <= b.arena_bytes - data, NN_E_ARENA);
    const uint32_t end = data + b.data_bytes;
    nn->arena_used = plan_aligned(end > b.needed ? end : b.needed); /* as nn_open() cuts what is odd */
    nn->plan = b.given ? b.given : (const plan_t *)(const void *)nn->arena;
    nn->data = nn->arena + data;
    return NN_OK;
}

nn_status_t nn_model_operators(const uint8_t *model, size_t model_size, uint8_t *bitmap, size_t capacity)
{
    build_t b;
    TRY(graph_file(&b, model, model_size));
    const uint32_t count = fb_count(&b.fb, b.codes);
    NEED(count != 0, NN_E_MODEL);
    memset(bitmap, 0, capacity);
    for (uint32_t i = 0; i < count; i++) {
        const int32_t code = code_at(&b, i);
        NEED(!b.fb.bad && code >= 0 && (size_t)code / 8 < capacity, NN_E_MODEL);
        bitmap[code / 8] = (uint8_t)(bitmap[code / 8] | 1U << code % 8);
    }
    return NN_OK;
}
