/* What the operators' prepare functions build on: checked tensors and their lifetimes, and the plan's records. */
#include <string.h>

#include "graph.h"
#include "quantize.h"
#include "schema.h"

static uint32_t type_bytes(nn_type_t type)
{
    static const uint8_t bytes[] = {
        [NN_FLOAT32] = 4, [NN_INT32] = 4, [NN_UINT8] = 1, [NN_BOOL] = 1, [NN_INT16] = 2, [NN_INT8] = 1};
    return (uint32_t)type < sizeof bytes ? bytes[type] : 0;
}

static nn_status_t load_shape(fb_t *fb, uint32_t table, tensor_t *t)
{
    const fb_vector_t shape = fb_vector(fb, table, TENSOR_SHAPE, 4);
    const uint32_t rank = fb_count(fb, shape);
    NEED(rank <= NN_MAX_RANK, NN_E_LIMIT);
    t->rank = (uint8_t)rank;
    t->elements = 1;
    for (uint32_t i = 0; i < rank; i++) {
        t->dims[i] = fb_i32_at(fb, shape, i);
        NEED(t->dims[i] > 0, NN_E_SHAPE);
        NEED((uint32_t)t->dims[i] <= INT32_MAX / 4 / t->elements, NN_E_LIMIT);
        t->elements *= (uint32_t)t->dims[i];
    }
    return NN_OK;
}

static nn_status_t load_quantization(fb_t *fb, uint32_t table, tensor_t *t)
{
    const uint32_t quantization = fb_table(fb, table, TENSOR_QUANTIZATION);
    t->scales = fb_vector(fb, quantization, QUANTIZATION_SCALE, 4);
    t->scale_dimension = fb_i32(fb, quantization, QUANTIZATION_DIMENSION, 0);
    t->scale_count = fb_count(fb, t->scales);
    if (t->scale_count == 0) {
        return NN_OK;
    }
    t->scale = fb_load_float(fb->data + fb_elements(t->scales));
    NEED(is_normal(t->scale), NN_E_TYPE);
    const fb_vector_t zero_points = fb_vector(fb, quantization, QUANTIZATION_ZERO_POINT, 8);
    if (fb_count(fb, zero_points) == 0) {
        return NN_OK;
    }
    const uint8_t *const zero_point = fb->data + fb_elements(zero_points); /* int64 */
    t->zero_point = (int32_t)fb_load32(zero_point);
    const int32_t lowest = t->type == NN_INT8 ? INT8_MIN : t->type == NN_UINT8 ? 0 : t->zero_point;
    const uint32_t offset = (uint32_t)t->zero_point - (uint32_t)lowest;
    NEED((int32_t)fb_load32(zero_point + 4) == (t->zero_point < 0 ? -1 : 0) && offset <= UINT8_MAX, NN_E_TYPE);
    return NN_OK;
}

nn_status_t tensor_load(build_t *b, uint32_t index, tensor_t *t)
{
    fb_t *const fb = &b->fb;
    const uint32_t table = fb_table_at(fb, b->tensors, index);
    memset(t, 0, sizeof *t);
    t->index = (uint16_t)index;
    t->type = (nn_type_t)fb_u8(fb, table, TENSOR_TYPE, NN_FLOAT32);
    NEED(!fb->bad, NN_E_MODEL);
    t->element_bytes = (uint8_t)type_bytes(t->type);
    NEED(t->element_bytes != 0 || t->type == NN_RESOURCE, NN_E_TYPE);
    NEED(!fb_u8(fb, table, TENSOR_IS_VARIABLE, 0) && !fb_table(fb, table, TENSOR_SPARSITY), NN_E_TYPE);
    TRY(load_shape(fb, table, t));
    t->bytes = t->elements * t->element_bytes;
    TRY(load_quantization(fb, table, t));
    const uint32_t buffer = fb_table_at(fb, b->buffers, (uint32_t)fb_i32(fb, table, TENSOR_BUFFER, 0));
    const fb_vector_t data = fb_vector(fb, buffer, BUFFER_DATA, 1);
    NEED(!fb->bad, NN_E_MODEL);
    if (fb_count(fb, data) != 0) {
        t->data = fb_elements(data);
        NEED(fb_count(fb, data) == t->bytes, NN_E_SHAPE);
        NEED(t->data % t->element_bytes == 0, NN_E_MODEL); /* read in place */
    }
    return NN_OK;
}

bool same_shape(const tensor_t *a, const tensor_t *b)
{
    for (uint32_t i = 0; i < a->rank; i++) {
        if (a->dims[i] != b->dims[i]) {
            return false;
        }
    }
    return a->rank == b->rank;
}

/* ---- lifetimes ---- */

bool build_has_input(build_t *b, uint32_t position)
{
    return position < fb_count(&b->fb, b->inputs) && fb_i32_at(&b->fb, b->inputs, position) != -1;
}

static nn_status_t load_operand(build_t *b, fb_vector_t indices, uint32_t position, tensor_t *t)
{
    NEED(position < fb_count(&b->fb, indices), NN_E_SHAPE);
    const int32_t index = fb_i32_at(&b->fb, indices, position);
    NEED(index >= 0 && index < b->tensor_count, NN_E_MODEL);
    return tensor_load(b, (uint32_t)index, t);
}

nn_status_t build_input(build_t *b, uint32_t position, tensor_t *t)
{
    TRY(load_operand(b, b->inputs, position, t));
    life_t *life = &b->lives[t->index];
    if (t->data != 0 || b->pass != PASS_MEASURE) {
        return NN_OK;
    }
    NEED(life->first != LIFE_UNMADE && life->first < b->time, NN_E_MODEL);
    life->last = b->time;
    b->lives[life->root].last = b->time;
    return NN_OK;
}

nn_status_t build_output(build_t *b, uint32_t position, tensor_t *t)
{
    TRY(load_operand(b, b->outputs, position, t));
    life_t *const life = &b->lives[t->index];
    if (b->pass == PASS_MEASURE) {
        NEED(t->data == 0 && life->first == LIFE_UNMADE, NN_E_MODEL);
        life->bytes = t->bytes;
        life->first = life->last = b->time;
        life->root = t->index;
    } else if (t->bytes != 0) {
        TRY(plan_check_place(b, b->places[t->index], t->bytes, t->element_bytes));
    }
    return build_work(b, t->elements);
}

nn_status_t build_in_out(build_t *b, tensor_t *in, tensor_t *out)
{
    TRY(build_input(b, 0, in));
    return build_output(b, 0, out);
}

nn_status_t build_work(build_t *b, uint64_t multiply_accumulates)
{
    if (b->pass == PASS_MEASURE) {
        NEED(multiply_accumulates <= NN_MAX_WORK - b->work, NN_E_LIMIT);
        b->work += (uint32_t)multiply_accumulates;
    }
    return NN_OK;
}

/* ---- records ---- */

nn_status_t build_fit(build_t *b)
{
    const uint32_t head = b->given ? 0 : b->head, used = head + b->arena_bytes - b->tail;
    NEED(b->given == NULL || b->head <= b->limit, NN_E_PLAN);
    NEED(head <= b->tail, NN_E_ARENA);
    b->needed = used > b->needed ? used : b->needed;
    return NN_OK;
}

nn_status_t build_alloc(build_t *b, uint32_t bytes)
{
    NEED(bytes <= b->tail, NN_E_ARENA);
    b->tail -= bytes;
    TRY(build_fit(b));
    memset(b->arena + b->tail, 0, bytes);
    return NN_OK;
}

nn_status_t build_take(build_t *b, uint32_t bytes)
{
    b->head += bytes;
    return build_fit(b);
}

nn_status_t build_set(build_t *b, uint32_t at, const void *data, uint32_t bytes)
{
    const uint8_t *const there = (b->given ? (const uint8_t *)b->given : b->arena) + at, *const from = data;
    for (uint32_t i = 0; i < bytes; i++) {
        if (!b->given) {
            b->arena[at + i] = from[i];
        }
        NEED(there[i] == from[i], NN_E_PLAN);
    }
    return NN_OK;
}

nn_status_t build_record(build_t *b, uint32_t kind)
{
    b->kind = kind;
    b->record = b->head;
    return build_take(b, sizeof(op_t));
}

nn_status_t build_end_record(build_t *b)
{
    if (b->record == 0) {
        return NN_OK;
    }
    const uint32_t words = (b->head - b->record) / 4;
    NEED(words <= UINT16_MAX, NN_E_LIMIT);
    const op_t op = {.words = (uint16_t)words, .index = (uint16_t)(b->time - FIRST_TIME), .kind = b->kind};
    TRY(build_set(b, b->record, &op, sizeof op));
    b->record = 0;
    return NN_OK;
}

nn_status_t build_put(build_t *b, const void *data, uint32_t bytes)
{
    if (b->pass == PASS_MEASURE) {
        return NN_OK;
    }
    if (b->record == 0) {
        TRY(build_record(b, b->kind));
    }
    const uint32_t at = b->head;
    TRY(build_take(b, bytes));
    return build_set(b, at, data, bytes);
}

static place_t place_of(const build_t *b, const tensor_t *t)
{
    return t->data != 0 ? PLACE_IN_MODEL | t->data : b->places[t->index];
}

nn_status_t build_operand(build_t *b, const tensor_t *tensor)
{
    const place_t place = b->pass == PASS_MEASURE || tensor == NULL ? PLACE_NONE : place_of(b, tensor);
    return build_put(b, &place, sizeof place);
}

nn_status_t build_put_in_out(build_t *b, const tensor_t *in, const tensor_t *out, const void *parameters,
                             uint32_t bytes)
{
    TRY(build_operand(b, in));
    TRY(build_operand(b, out));
    return build_put(b, parameters, bytes);
}

/* Where it is, is the given plan's choice. */
nn_status_t build_scratch(build_t *b, uint32_t bytes)
{
    if (b->pass == PASS_MEASURE) {
        b->scratch_bytes = bytes > b->scratch_bytes ? bytes : b->scratch_bytes;
        return NN_OK;
    }
    place_t place = b->scratch;
    if (b->given) {
        NEED(sizeof place <= b->limit - b->head, NN_E_PLAN);
        memcpy(&place, (const uint8_t *)b->given + b->head, sizeof place);
        TRY(plan_check_place(b, place, bytes, 4));
        TRY(plan_check_write(b, place, bytes, NO_TENSOR, NULL));
    }
    return build_put(b, &place, sizeof place);
}

void build_overlap(build_t *b, const tensor_t *input, uint32_t distance, uint32_t unit)
{
    b->overlaps[b->overlap_count++] = (overlap_t){.tensor = input->index, .distance = distance, .unit = unit};
}

nn_status_t build_move(build_t *b, const move_t *m)
{
    b->moves = true;
    if (b->pass == PASS_MEASURE) {
        return NN_OK;
    }
    const piece_t piece = {.from = place_of(b, m->from) + m->from_offset,
                           .to = place_of(b, m->to) + m->to_offset,
                           .rows = m->rows,
                           .bytes = m->bytes,
                           .from_step = m->from_step,
                           .to_step = m->to_step};
    if (piece.from == piece.to && (m->rows == 1 || m->from_step == m->to_step)) {
        return NN_OK;
    }
    b->kind = OP_COPY;
    const uint32_t writer = m->owner ? NO_TENSOR : m->to->index;
    TRY(plan_check_write(b, piece.to, (m->rows - 1) * m->to_step + m->bytes, writer, m->owner));
    return build_put(b, &piece, sizeof piece);
}

nn_status_t build_view(build_t *b, const tensor_t *from, uint32_t offset, const tensor_t *to)
{
    const move_t all = {.from = from, .to = to, .from_offset = offset, .rows = 1, .bytes = to->bytes};
    if (b->pass == PASS_MEASURE && b->given == NULL && from->data == 0) {
        b->lives[to->index].root = b->lives[from->index].root;
        b->lives[to->index].offset = b->lives[from->index].offset + offset;
    }
    return build_move(b, &all);
}

nn_status_t build_fill(build_t *b, const tensor_t *to, int32_t value)
{
    if (b->pass == PASS_MEASURE) {
        return NN_OK;
    }
    const fill_t fill = {.to = place_of(b, to), .bytes = to->bytes, .value = value};
    b->kind = OP_FILL;
    TRY(plan_check_write(b, fill.to, fill.bytes, to->index, NULL));
    TRY(build_put(b, &fill, sizeof fill));
    return build_end_record(b);
}
