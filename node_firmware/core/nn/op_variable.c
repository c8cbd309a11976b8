/* CALL_ONCE, VAR_HANDLE, READ_VARIABLE and ASSIGN_VARIABLE: the state of streaming models. */
#include <string.h>

#include "graph.h"
#include "schema.h"

/* The subgraph is built after the main one and runs in nn_reset(), so it must come before any use of a variable. */
nn_status_t call_once_prepare(build_t *b)
{
    const int32_t index = fb_i32(&b->fb, b->options, CALL_ONCE_SUBGRAPH, 0);
    NEED(b->main && !b->stateful, NN_E_SHAPE);
    NEED(index > 0 && (uint32_t)index < b->subgraphs.count && index <= UINT16_MAX, NN_E_SHAPE);
    NEED(b->nn->graph->init_index == 0, NN_E_LIMIT);
    b->nn->graph->init_index = (uint16_t)index;
    return NN_OK;
}

static bool same_text(build_t *b, uint32_t options, uint32_t other, unsigned field)
{
    const fb_vector_t text = fb_vector(&b->fb, options, field, 1), other_text = fb_vector(&b->fb, other, field, 1);
    return text.count == other_text.count && memcmp(b->fb.data + text.at, b->fb.data + other_text.at, text.count) == 0;
}

/* The variable of that name, made when it is not there; NULL: the arena is full. */
static variable_t *find_variable(build_t *b)
{
    variable_t *variable;
    for (uint32_t at = b->nn->graph->variables; at != 0; at = variable->next) {
        variable = arena_at(b->nn, at);
        if (same_text(b, b->options, variable->options, VAR_HANDLE_NAME) &&
            same_text(b, b->options, variable->options, VAR_HANDLE_CONTAINER)) {
            return variable;
        }
    }
    variable = build_alloc(b, sizeof *variable);
    if (variable != NULL) {
        variable->options = b->options;
        variable->next = b->nn->graph->variables;
        b->nn->graph->variables = (uint32_t)((uint8_t *)variable - b->nn->arena);
    }
    return variable;
}

nn_status_t var_handle_prepare(build_t *b)
{
    tensor_t out;
    TRY(build_output(b, 0, &out));
    NEED(out.type == NN_RESOURCE, NN_E_TYPE);
    NEED(fb_vector(&b->fb, b->options, VAR_HANDLE_NAME, 1).count <= NN_MAX_NAME, NN_E_LIMIT);
    NEED(fb_vector(&b->fb, b->options, VAR_HANDLE_CONTAINER, 1).count <= NN_MAX_NAME, NN_E_LIMIT);
    const variable_t *variable = find_variable(b);
    NEED(variable != NULL, NN_E_ARENA);
    b->places[out.index] = (place_t)((const uint8_t *)variable - b->nn->arena);
    return NN_OK;
}

/* The variable of input 0 takes on the size of `value`, the first tensor that meets it. */
static nn_status_t bind(build_t *b, const tensor_t *value)
{
    tensor_t handle;
    TRY(build_input(b, 0, &handle));
    NEED(handle.type == NN_RESOURCE && value->bytes != 0, NN_E_TYPE);
    uint32_t *place = build_alloc(b, sizeof *place);
    NEED(place != NULL, NN_E_ARENA);
    *place = b->places[handle.index];
    variable_t *variable = arena_at(b->nn, *place);
    if (variable->bytes == 0) {
        variable->bytes = value->bytes;
        variable->fill = (int8_t)value->zero_point;
    }
    NEED(variable->bytes == value->bytes, NN_E_SHAPE);
    b->stateful = true;
    return NN_OK;
}

nn_status_t read_variable_prepare(build_t *b)
{
    tensor_t out;
    TRY(build_output(b, 0, &out));
    return bind(b, &out);
}

nn_status_t assign_variable_prepare(build_t *b)
{
    tensor_t in;
    TRY(build_input(b, 1, &in));
    return bind(b, &in);
}

static const variable_t *variable_of(const run_t *run)
{
    return arena_at(run->nn, *(const uint32_t *)run_parameters(run));
}

void read_variable_run(const run_t *run)
{
    const variable_t *variable = variable_of(run);
    memcpy(run_output(run, 0), arena_at(run->nn, variable->state), variable->bytes);
}

void assign_variable_run(const run_t *run)
{
    const variable_t *variable = variable_of(run);
    memcpy(arena_at(run->nn, variable->state), run_input(run, 1), variable->bytes);
}
