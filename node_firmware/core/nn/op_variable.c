/* CALL_ONCE, VAR_HANDLE, READ_VARIABLE and ASSIGN_VARIABLE: the state of streaming models. */
#include <string.h>

#include "graph.h"
#include "schema.h"

static variable_t *variable_at(const build_t *b, uint32_t index)
{
    return b->variables - 1 - index;
}

/* Where the plan says that the handle is, or, without one, behind the other variables. */
static nn_status_t place_variable(build_t *b, variable_t *variable, uint32_t handle)
{
    variable->place = b->own_places ? b->state_bytes : b->places[handle];
    if (b->own_places) {
        NEED(variable->bytes <= PLAN_FAILED - b->state_bytes, NN_E_ARENA);
        b->state_bytes += plan_aligned(variable->bytes);
        return NN_OK;
    }
    return plan_check_place(b, variable->place, variable->bytes, 4);
}

static nn_status_t place_variables(build_t *b)
{
    for (uint32_t i = 0; i < b->tensor_count; i++) {
        const life_t *life = &b->lives[i];
        const bool handle = life->first != LIFE_UNMADE && life->bytes == 0;
        if (handle && variable_at(b, life->offset)->place == PLACE_NONE) {
            TRY(place_variable(b, variable_at(b, life->offset), i));
        }
    }
    b->time = UINT16_MAX; /* no tensor is needed then: whether variables meet each other */
    for (uint32_t i = 0; i < b->variable_count; i++) {
        const variable_t *v = variable_at(b, i);
        TRY(plan_check_write(b, v->place, v->bytes, NO_TENSOR, v));
    }
    return NN_OK;
}

/* nn_reset() fills all variables, then runs the initialising subgraph. */
static nn_status_t reset(build_t *b)
{
    for (uint32_t i = 0; i < b->variable_count; i++) {
        const variable_t *variable = variable_at(b, i);
        const fill_t fill = {.to = variable->place, .bytes = variable->bytes, .value = variable->fill};
        b->time = FIRST_TIME;
        b->kind = OP_FILL;
        TRY(build_put(b, &fill, sizeof fill));
        TRY(build_end_record(b));
    }
    return b->init_index != 0 ? graph_prepare(b, b->init_index) : NN_OK;
}

/* The subgraph is prepared after the main one and runs in nn_reset(), so it must come before any use of a variable. */
nn_status_t call_once_prepare(build_t *b)
{
    const int32_t index = fb_i32(&b->fb, b->options, CALL_ONCE_SUBGRAPH, 0);
    if (b->pass == PASS_MEASURE) {
        NEED(b->main && !b->stateful, NN_E_SHAPE);
        NEED(index > 0 && (uint32_t)index < fb_count(&b->fb, b->subgraphs), NN_E_SHAPE);
        NEED(b->init_index == 0, NN_E_LIMIT);
        const uint32_t table = fb_table_at(&b->fb, b->subgraphs, (uint32_t)index);
        const uint32_t tensors = fb_count(&b->fb, fb_vector(&b->fb, table, SUBGRAPH_TENSORS, 4));
        NEED(tensors <= NN_MAX_TENSORS, NN_E_LIMIT);
        b->tensor_counts[SUBGRAPH_INIT] = (uint16_t)tensors;
        b->init_index = (uint32_t)index;
        b->reset = reset;
    }
    return NN_OK;
}

static bool same_text(build_t *b, uint32_t options, uint32_t other, unsigned field)
{
    const fb_vector_t text = fb_vector(&b->fb, options, field, 1), other_text = fb_vector(&b->fb, other, field, 1);
    if (fb_count(&b->fb, text) != fb_count(&b->fb, other_text)) {
        return false;
    }
    const uint8_t *const data = b->fb.data + fb_elements(0);
    const uint32_t count = fb_count(&b->fb, text);
    for (uint32_t i = 0; i < count; i++) {
        if (data[text + i] != data[other_text + i]) {
            return false;
        }
    }
    return true;
}

/* The number of the variable of that name, which the main subgraph makes where there is none. */
static nn_status_t find_variable(build_t *b, uint32_t *index)
{
    for (*index = 0; *index < b->variable_count; ++*index) {
        const uint32_t options = variable_at(b, *index)->options;
        if (same_text(b, b->options, options, VAR_HANDLE_NAME) &&
            same_text(b, b->options, options, VAR_HANDLE_CONTAINER)) {
            return NN_OK;
        }
    }
    NEED(b->main, NN_E_SHAPE);
    TRY(build_alloc(b, sizeof(variable_t)));
    *variable_at(b, b->variable_count++) = (variable_t){.options = b->options, .place = PLACE_NONE};
    return NN_OK;
}

nn_status_t var_handle_prepare(build_t *b)
{
    tensor_t out;
    TRY(build_output(b, 0, &out));
    NEED(out.type == NN_RESOURCE, NN_E_TYPE);
    NEED(fb_count(&b->fb, fb_vector(&b->fb, b->options, VAR_HANDLE_NAME, 1)) <= NN_MAX_NAME, NN_E_LIMIT);
    NEED(fb_count(&b->fb, fb_vector(&b->fb, b->options, VAR_HANDLE_CONTAINER, 1)) <= NN_MAX_NAME, NN_E_LIMIT);
    uint32_t index;
    TRY(find_variable(b, &index));
    variable_t *variable = variable_at(b, index);
    b->lives[out.index].offset = index;
    b->place_variables = place_variables;
    b->reset = reset;
    if (b->pass == PASS_MEASURE) {
        return NN_OK;
    }
    if (b->own_places) {
        b->own_places[out.index] = variable->place;
    }
    NEED(b->places[out.index] == variable->place, NN_E_PLAN);
    return NN_OK;
}

/* The variable of input 0, which takes on the size of `value`, the first tensor that meets it. */
static nn_status_t bind(build_t *b, const tensor_t *value, tensor_t *handle, variable_t **variable)
{
    TRY(build_input(b, 0, handle));
    NEED(handle->type == NN_RESOURCE && handle->data == 0 && value->bytes != 0, NN_E_TYPE);
    *variable = variable_at(b, b->lives[handle->index].offset);
    if ((*variable)->bytes == 0) {
        NEED(b->main, NN_E_SHAPE); /* its place has been given */
        (*variable)->bytes = value->bytes;
        (*variable)->fill = (int8_t)value->zero_point;
    }
    NEED((*variable)->bytes == value->bytes, NN_E_SHAPE);
    b->stateful = true;
    return NN_OK;
}

nn_status_t read_variable_prepare(build_t *b)
{
    tensor_t handle, out;
    variable_t *variable;
    TRY(build_output(b, 0, &out));
    TRY(bind(b, &out, &handle, &variable));
    return build_move(b, &(move_t){.from = &handle, .to = &out, .rows = 1, .bytes = out.bytes});
}

nn_status_t assign_variable_prepare(build_t *b)
{
    tensor_t handle, in;
    variable_t *variable;
    TRY(build_input(b, 1, &in));
    TRY(bind(b, &in, &handle, &variable));
    if (in.data == 0) {
        build_overlap(b, &in, 0, 0);
    }
    return build_move(b, &(move_t){.from = &in, .to = &handle, .rows = 1, .bytes = in.bytes, .owner = variable});
}
