/* What the operators' prepare functions build on: arena memory, checked tensors, lifetimes. */
#include <string.h>

#include "graph.h"
#include "schema.h"

static uint32_t type_bytes(nn_type_t type)
{
    switch (type) {
    case NN_FLOAT32:
    case NN_INT32:
        return 4;
    case NN_INT16:
        return 2;
    case NN_UINT8:
    case NN_BOOL:
    case NN_INT8:
        return 1;
    default:
        return 0;
    }
}

static nn_status_t load_shape(fb_t *fb, uint32_t table, tensor_t *t)
{
    const fb_vector_t shape = fb_vector(fb, table, TENSOR_SHAPE, 4);
    NEED(shape.count <= NN_MAX_RANK, NN_E_LIMIT);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < shape.count; i++) {
        t->dims[i] = fb_i32_at(fb, shape, i);
        NEED(t->dims[i] > 0, NN_E_SHAPE);
        elements *= (uint32_t)t->dims[i];
        NEED(elements <= INT32_MAX / 4, NN_E_LIMIT);
    }
    t->rank = (uint8_t)shape.count;
    t->elements = (uint32_t)elements;
    t->bytes = t->elements * type_bytes(t->type);
    return NN_OK;
}

static nn_status_t load_quantization(fb_t *fb, uint32_t table, tensor_t *t)
{
    const uint32_t quantization = fb_table(fb, table, TENSOR_QUANTIZATION);
    t->scales = fb_vector(fb, quantization, QUANTIZATION_SCALE, 4);
    t->scale_dimension = fb_i32(fb, quantization, QUANTIZATION_DIMENSION, 0);
    if (t->scales.count == 0) {
        return NN_OK;
    }
    t->scale = fb_f32_at(fb, t->scales, 0);
    NEED(t->scale > 0 && t->scale <= 3.4e38F, NN_E_TYPE); /* false for NaN */
    const fb_vector_t zero_points = fb_vector(fb, quantization, QUANTIZATION_ZERO_POINT, 8);
    if (zero_points.count == 0) {
        return NN_OK;
    }
    const int64_t zero_point = fb_i64_at(fb, zero_points, 0);
    const int64_t low = t->type == NN_INT8 ? INT8_MIN : t->type == NN_UINT8 ? 0 : INT32_MIN;
    const int64_t high = t->type == NN_INT8 ? INT8_MAX : t->type == NN_UINT8 ? UINT8_MAX : INT32_MAX;
    NEED(zero_point >= low && zero_point <= high, NN_E_TYPE);
    t->zero_point = (int32_t)zero_point;
    return NN_OK;
}

nn_status_t tensor_load(fb_t *fb, fb_vector_t tensors, fb_vector_t buffers, uint32_t index, tensor_t *t)
{
    const uint32_t table = fb_table_at(fb, tensors, index);
    memset(t, 0, sizeof *t);
    t->index = (uint16_t)index;
    t->type = (nn_type_t)fb_u8(fb, table, TENSOR_TYPE, NN_FLOAT32);
    NEED(!fb->bad, NN_E_MODEL);
    NEED(type_bytes(t->type) != 0 || t->type == NN_RESOURCE, NN_E_TYPE);
    NEED(!fb_u8(fb, table, TENSOR_IS_VARIABLE, 0) && !fb_table(fb, table, TENSOR_SPARSITY), NN_E_TYPE);
    TRY(load_shape(fb, table, t));
    TRY(load_quantization(fb, table, t));
    const uint32_t buffer = fb_table_at(fb, buffers, (uint32_t)fb_i32(fb, table, TENSOR_BUFFER, 0));
    t->data = fb_vector(fb, buffer, BUFFER_DATA, 1);
    NEED(!fb->bad, NN_E_MODEL);
    NEED(t->data.count == 0 || t->data.count == t->bytes, NN_E_SHAPE);
    NEED(t->data.count == 0 || t->data.at % type_bytes(t->type) == 0, NN_E_MODEL); /* read in place */
    return NN_OK;
}

bool same_shape(const tensor_t *a, const tensor_t *b)
{
    return a->rank == b->rank && memcmp(a->dims, b->dims, sizeof a->dims) == 0;
}

void *build_alloc(build_t *b, uint32_t bytes)
{
    const uint32_t padded = (bytes + 3) & ~UINT32_C(3);
    if (bytes > INT32_MAX || padded > b->tail - b->head) {
        return NULL;
    }
    uint8_t *memory = b->nn->arena + b->head;
    memset(memory, 0, padded);
    b->head += padded;
    const uint32_t used = b->head + ((uint32_t)b->nn->arena_size - b->tail);
    b->needed = used > b->needed ? used : b->needed;
    return memory;
}

bool build_has_input(build_t *b, uint32_t position)
{
    return position < b->inputs.count && fb_i32_at(&b->fb, b->inputs, position) != -1;
}

static nn_status_t load_operand(build_t *b, fb_vector_t indices, uint32_t position, tensor_t *t)
{
    NEED(position < indices.count, NN_E_SHAPE);
    const int32_t index = fb_i32_at(&b->fb, indices, position);
    NEED(index >= 0 && index < b->sub->tensor_count, NN_E_MODEL);
    return tensor_load(&b->fb, b->tensors, b->buffers, (uint32_t)index, t);
}

nn_status_t build_input(build_t *b, uint32_t position, tensor_t *t)
{
    TRY(load_operand(b, b->inputs, position, t));
    NEED(b->places[t->index] != PLACE_UNDEFINED && b->lives[t->index].first < b->time, NN_E_MODEL);
    b->lives[b->lives[t->index].root].last = b->time;
    return NN_OK;
}

nn_status_t build_output(build_t *b, uint32_t position, tensor_t *t)
{
    TRY(load_operand(b, b->outputs, position, t));
    NEED(b->places[t->index] == PLACE_UNDEFINED, NN_E_MODEL);
    b->places[t->index] = PLACE_UNPLANNED;
    b->lives[t->index] = (life_t){.bytes = t->bytes, .first = b->time, .last = b->time, .root = t->index};
    return build_work(b, t->elements);
}

void build_alias(build_t *b, const tensor_t *input, const tensor_t *output)
{
    if (b->places[input->index] == PLACE_UNPLANNED) {
        b->lives[output->index].bytes = 0;
        b->lives[output->index].root = b->lives[input->index].root;
    }
}

nn_status_t build_work(build_t *b, uint64_t multiply_accumulates)
{
    NEED(multiply_accumulates <= NN_MAX_WORK - b->work, NN_E_LIMIT);
    b->work += (uint32_t)multiply_accumulates;
    return NN_OK;
}

int32_t constant_at(build_t *b, const tensor_t *tensor, uint32_t element)
{
    return fb_i32_at(&b->fb, (fb_vector_t){tensor->data.at, tensor->data.count / 4}, element);
}
