/* The memory plan: tensors whose lifetimes do not meet share memory. Greedy by size: the largest first, each at the
 * lowest offset where it meets no tensor that has its place already. */
#include "graph.h"

#define ALIGNMENT 4U /* of a tensor, bytes */

static bool meet(const life_t *a, const life_t *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* The largest that has no place yet, -1: none. */
static int32_t next_tensor(const place_t *places, const life_t *lives, uint16_t count)
{
    int32_t best = -1;
    for (int32_t i = 0; i < count; i++) {
        if (places[i] == PLACE_UNPLANNED && lives[i].bytes != 0 && (best < 0 || lives[i].bytes > lives[best].bytes)) {
            best = i;
        }
    }
    return best;
}

/* The lowest gap among `lives[tensor]`'s contemporaries. `placed` lists the tensors in the order of their offsets; each
 * that it meets and that begins before the gap is wide enough moves the gap behind its own end. */
static uint64_t lowest_gap(const place_t *places, const life_t *lives, const life_t *tensor, uint16_t first)
{
    uint64_t offset = 0;
    for (uint16_t i = first; i != UINT16_MAX; i = lives[i].next) {
        if (!meet(&lives[i], tensor)) {
            continue;
        }
        if (places[i] >= offset + tensor->bytes) {
            break;
        }
        const uint64_t end = ((uint64_t)places[i] + lives[i].bytes + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
        offset = end > offset ? end : offset;
    }
    return offset;
}

/* Into the list by offset; `first` is its head. */
static void insert(const place_t *places, life_t *lives, uint16_t tensor, uint16_t *first)
{
    uint16_t *link = first;
    while (*link != UINT16_MAX && places[*link] < places[tensor]) {
        link = &lives[*link].next;
    }
    lives[tensor].next = *link;
    *link = tensor;
}

uint32_t plan_activations(place_t *places, life_t *lives, uint16_t count)
{
    uint16_t first = UINT16_MAX;
    uint64_t top = 0;
    for (int32_t i = next_tensor(places, lives, count); i >= 0; i = next_tensor(places, lives, count)) {
        const uint64_t offset = lowest_gap(places, lives, &lives[i], first);
        if (offset + lives[i].bytes > PLAN_FAILED - ALIGNMENT) {
            return PLAN_FAILED;
        }
        places[i] = (place_t)offset;
        insert(places, lives, (uint16_t)i, &first);
        top = offset + lives[i].bytes > top ? offset + lives[i].bytes : top;
    }
    for (uint16_t i = 0; i < count; i++) {
        if (places[i] == PLACE_UNPLANNED) {
            places[i] = places[lives[i].root];
        }
    }
    return (uint32_t)(top + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
}
