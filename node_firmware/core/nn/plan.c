/* Memory: gives tensors their places where no plan does, and checks that a plan's choice destroys nothing. */
#include "graph.h"

/* ---- making one: tensors whose lifetimes do not meet share memory. Greedy by size: the largest first, each at the
 * lowest offset where it meets no tensor that has its place already. ---- */

static bool meet(const life_t *a, const life_t *b)
{
    return a->first <= b->last && b->first <= a->last;
}

static bool is_root(const build_t *b, uint32_t i)
{
    return b->lives[i].bytes != 0 && b->lives[i].root == i;
}

/* The largest that has no place yet, -1: none. */
static int32_t next_tensor(const build_t *b)
{
    int32_t best = -1;
    for (int32_t i = 0; i < b->tensor_count; i++) {
        if (b->places[i] == PLACE_NONE && is_root(b, (uint32_t)i) &&
            (best < 0 || b->lives[i].bytes > b->lives[best].bytes)) {
            best = i;
        }
    }
    return best;
}

/* The lowest gap among the tensor's contemporaries. `first` begins the list of the tensors that are placed, in the
 * order of their places; each that it meets and that begins before the gap is wide enough moves the gap behind its own
 * end. */
static uint32_t lowest_gap(const build_t *b, const life_t *tensor, uint16_t first)
{
    uint32_t offset = b->state_bytes;
    for (uint16_t i = first; i != UINT16_MAX; i = b->lives[i].next) {
        if (!meet(&b->lives[i], tensor)) {
            continue;
        }
        if (b->places[i] >= offset + tensor->bytes) {
            break;
        }
        const uint32_t end = b->places[i] + plan_aligned(b->lives[i].bytes);
        offset = end > offset ? end : offset;
    }
    return offset;
}

static void insert(const build_t *b, uint16_t tensor, uint16_t *first)
{
    uint16_t *link = first;
    while (*link != UINT16_MAX && b->places[*link] < b->places[tensor]) {
        link = &b->lives[*link].next;
    }
    b->lives[tensor].next = *link;
    *link = tensor;
}

/* No sum overflows: states and tensors end below PLAN_FAILED. */
uint32_t plan_places(build_t *b)
{
    uint32_t top = b->state_bytes;
    uint16_t first = UINT16_MAX;
    for (int32_t i = next_tensor(b); i >= 0; i = next_tensor(b)) {
        const uint32_t offset = lowest_gap(b, &b->lives[i], first), end = offset + plan_aligned(b->lives[i].bytes);
        if (end > PLAN_FAILED) {
            return PLAN_FAILED;
        }
        b->own_places[i] = offset;
        insert(b, (uint16_t)i, &first);
        top = end > top ? end : top;
    }
    for (uint32_t i = 0; i < b->tensor_count; i++) {
        if (b->lives[i].bytes != 0 && b->places[i] == PLACE_NONE) {
            b->own_places[i] = b->places[b->lives[i].root] + b->lives[i].offset;
        }
    }
    return top;
}

/* ---- checking one ---- */

nn_status_t plan_check_place(const build_t *b, place_t place, uint32_t bytes, uint32_t alignment)
{
    const bool inside = place <= b->data_bytes && bytes <= b->data_bytes - place;
    return inside && place % alignment == 0 ? NN_OK : NN_E_PLAN;
}

static bool disjoint(place_t a, uint32_t a_bytes, place_t b, uint32_t b_bytes)
{
    return a + a_bytes <= b || b + b_bytes <= a; /* both are inside the data */
}

static bool may_overlap(const build_t *b, uint32_t input, place_t output)
{
    const place_t distance = b->places[input] - output;
    for (uint32_t k = 0; k < b->overlap_count; k++) {
        const overlap_t *o = &b->overlaps[k];
        if (o->tensor == input && b->lives[input].last == b->time) {
            return o->unit == 0 || (b->places[input] >= output && distance >= o->distance && distance % o->unit == 0);
        }
    }
    return false;
}

nn_status_t plan_check_write(const build_t *b, place_t place, uint32_t bytes, uint32_t writer, const variable_t *owner)
{
    const bool scratch = writer == NO_TENSOR && owner == NULL; /* it may overlap nothing */
    for (uint32_t i = 0; i < b->tensor_count; i++) {
        const life_t *life = &b->lives[i];
        const bool needed = i != writer && life->bytes != 0 && life->first <= b->time && b->time <= life->last;
        NEED(!needed || disjoint(place, bytes, b->places[i], life->bytes) || (!scratch && may_overlap(b, i, place)),
             NN_E_PLAN);
    }
    for (uint32_t i = 0; i < b->variable_count; i++) {
        const variable_t *variable = b->variables - 1 - i;
        NEED(variable == owner || disjoint(place, bytes, variable->place, variable->bytes), NN_E_PLAN);
    }
    return NN_OK;
}
