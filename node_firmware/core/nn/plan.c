/* Memory: gives tensors their places where no plan does, and checks that a plan's choice destroys nothing. */
#include "graph.h"

#define ALIGNMENT 4U /* of a tensor, bytes */

static uint32_t aligned(uint32_t bytes)
{
    return (bytes + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
}

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
static int32_t next_tensor(const build_t *b, const place_t *places)
{
    int32_t best = -1;
    for (int32_t i = 0; i < b->tensor_count; i++) {
        if (places[i] == PLACE_NONE && is_root(b, (uint32_t)i) &&
            (best < 0 || b->lives[i].bytes > b->lives[best].bytes)) {
            best = i;
        }
    }
    return best;
}

/* The lowest gap among the tensor's contemporaries. `first` begins the list of the tensors that are placed, in the
 * order of their places; each that it meets and that begins before the gap is wide enough moves the gap behind its own
 * end. */
static uint64_t lowest_gap(const build_t *b, const place_t *places, const life_t *tensor, uint16_t first, uint32_t base)
{
    uint64_t offset = base;
    for (uint16_t i = first; i != UINT16_MAX; i = b->lives[i].next) {
        if (!meet(&b->lives[i], tensor)) {
            continue;
        }
        if (places[i] >= offset + tensor->bytes) {
            break;
        }
        const uint64_t end = (uint64_t)places[i] + aligned(b->lives[i].bytes);
        offset = end > offset ? end : offset;
    }
    return offset;
}

static void insert(const build_t *b, const place_t *places, uint16_t tensor, uint16_t *first)
{
    uint16_t *link = first;
    while (*link != UINT16_MAX && places[*link] < places[tensor]) {
        link = &b->lives[*link].next;
    }
    b->lives[tensor].next = *link;
    *link = tensor;
}

uint32_t plan_places(build_t *b, place_t *places)
{
    uint64_t top = 0;
    for (uint32_t i = 0; i < b->variable_count; i++) {
        b->variables[i].place = (place_t)top;
        top += aligned(b->variables[i].bytes);
    }
    const uint32_t base = (uint32_t)top;
    if (top > PLAN_FAILED - ALIGNMENT) {
        return PLAN_FAILED;
    }
    uint16_t first = UINT16_MAX;
    for (int32_t i = next_tensor(b, places); i >= 0; i = next_tensor(b, places)) {
        const uint64_t offset = lowest_gap(b, places, &b->lives[i], first, base);
        if (offset + b->lives[i].bytes > PLAN_FAILED - ALIGNMENT) {
            return PLAN_FAILED;
        }
        places[i] = (place_t)offset;
        insert(b, places, (uint16_t)i, &first);
        top = offset + b->lives[i].bytes > top ? offset + b->lives[i].bytes : top;
    }
    for (uint32_t i = 0; i < b->tensor_count; i++) {
        if (b->lives[i].bytes != 0 && places[i] == PLACE_NONE) {
            places[i] = places[b->lives[i].root] + b->lives[i].offset;
        }
    }
    return aligned((uint32_t)top);
}

/* ---- checking one ---- */

static bool disjoint(place_t a, uint32_t a_bytes, place_t b, uint32_t b_bytes)
{
    return (uint64_t)a + a_bytes <= b || (uint64_t)b + b_bytes <= a;
}

static bool may_overlap(const build_t *b, uint32_t input, place_t output)
{
    for (unsigned k = 0; k < 2; k++) {
        const overlap_t *o = &b->overlaps[k];
        if (o->tensor == input && b->lives[input].last == b->time) {
            const place_t place = b->places[input];
            return o->unit == 0 ||
                   (place >= output && place - output >= o->distance && (place - output) % o->unit == 0);
        }
    }
    return false;
}

nn_status_t plan_check_write(const build_t *b, place_t place, uint32_t bytes, const tensor_t *writer,
                             const variable_t *owner)
{
    for (uint32_t i = 0; i < b->tensor_count; i++) {
        const life_t *life = &b->lives[i];
        const bool needed = life->bytes != 0 && life->first <= b->time && b->time <= life->last;
        if (needed && (writer == NULL || writer->index != i) && !disjoint(place, bytes, b->places[i], life->bytes)) {
            NEED(may_overlap(b, i, place), NN_E_PLAN);
        }
    }
    for (uint32_t i = 0; i < b->variable_count; i++) {
        const variable_t *variable = &b->variables[i];
        NEED(variable == owner || disjoint(place, bytes, variable->place, variable->bytes), NN_E_PLAN);
    }
    return NN_OK;
}
