/* Fuzz target: any bytes as a model. What opens must also open in the arena that nn_open() called sufficient, and run
 * there; and with a plan it must give what it gives without: a plan that is accepted cannot lie.
 *
 * Random bytes hardly ever get past the first comparison of a plan, so the mutator lets the engine itself write the
 * file's plan, with tensors and scratch memory at wrong places and nobody checking: such a plan holds together.
 * Linked with --wrap of the functions that it gets between. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "schema.h"

#define ARENA_BYTES 65536
#define STEPS       3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static bool without_plan; /* the file's plan is not seen */
static bool lying;        /* plans are made at random and not checked */
static const uint8_t *old_places;
static uint32_t old_count;
static uint64_t random_state;

static void require(int condition)
{
    if (!condition) {
        abort();
    }
}

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * 6364136223846793005 + 1442695040888963407;
    return (uint32_t)(random_state >> 32) % limit;
}

/* ---- between the parts of the engine ---- */

fb_vector_t __real_fb_vector(fb_t *fb, uint32_t table, unsigned field, uint32_t element_bytes);
fb_vector_t __wrap_fb_vector(fb_t *fb, uint32_t table, unsigned field, uint32_t element_bytes);
uint32_t __real_plan_places(build_t *b);
uint32_t __wrap_plan_places(build_t *b);
nn_status_t __real_build_scratch(build_t *b, uint32_t bytes);
nn_status_t __wrap_build_scratch(build_t *b, uint32_t bytes);
nn_status_t __real_plan_check_write(const build_t *b, place_t place, uint32_t bytes, uint32_t writer,
                                    const variable_t *owner);
nn_status_t __wrap_plan_check_write(const build_t *b, place_t place, uint32_t bytes, uint32_t writer,
                                    const variable_t *owner);

fb_vector_t __wrap_fb_vector(fb_t *fb, uint32_t table, unsigned field, uint32_t element_bytes)
{
    const bool metadata = field == MODEL_METADATA && table == fb_load32(fb->data);
    return without_plan && metadata ? 0 : __real_fb_vector(fb, table, field, element_bytes);
}

nn_status_t __wrap_plan_check_write(const build_t *b, place_t place, uint32_t bytes, uint32_t writer,
                                    const variable_t *owner)
{
    return lying ? NN_OK : __real_plan_check_write(b, place, bytes, writer, owner);
}

/* Near some tensor or variable, or anywhere. */
static place_t some_place(const build_t *b, place_t usual, uint32_t end)
{
    const uint32_t tensor = random_below(b->tensor_count);
    const place_t near = b->variable_count != 0 && random_below(4) == 0
                             ? b->variables[random_below(b->variable_count)].place
                             : b->places[tensor];
    switch (random_below(8)) {
    case 0:
        return near - 4 * random_below(8);
    case 1:
        return near + 4 * random_below(8);
    case 2:
        return near - random_below(64);
    case 3:
        return random_below(end + 1);
    case 4:
        return usual - 4 * random_below(16);
    case 5:
        return near + b->lives[tensor].bytes;
    default:
        return near;
    }
}

/* Behind all others: a tensor, and little further the one that dies where it is made. Returns the end of them. */
static uint32_t overlap(const build_t *b, uint32_t end)
{
    const uint32_t out = random_below(b->tensor_count), start = random_below(b->tensor_count);
    for (uint32_t i = 0; i < b->tensor_count; i++) {
        const uint32_t in = (start + i) % b->tensor_count, bytes = b->lives[in].bytes;
        if (in != out && bytes != 0 && b->lives[out].bytes != 0 && b->lives[in].last == b->lives[out].first) {
            const uint32_t distance = random_below(2) ? random_below(bytes + 1) : random_below(8);
            b->own_places[out] = end;
            b->own_places[in] = end + distance;
            return plan_aligned(end + distance + (bytes > b->lives[out].bytes ? bytes : b->lives[out].bytes));
        }
    }
    return end;
}

/* Starts from the places of the plan that the file has, or from those that the node would choose. */
uint32_t __wrap_plan_places(build_t *b)
{
    const uint32_t end = __real_plan_places(b);
    const uint32_t first = b->main ? 0 : b->tensor_counts[SUBGRAPH_MAIN];
    if (!lying || end == PLAN_FAILED || b->tensor_count == 0) {
        return end;
    }
    if (first + b->tensor_count <= old_count) {
        memcpy(b->own_places, old_places + first * sizeof(place_t), b->tensor_count * sizeof(place_t));
    }
    if (random_below(2)) {
        return overlap(b, end);
    }
    for (uint32_t changes = random_below(4); changes > 0; changes--) {
        place_t *place = &b->own_places[random_below(b->tensor_count)];
        if (b->main && b->variable_count != 0 && random_below(4) == 0) {
            place = &b->variables[random_below(b->variable_count)].place;
        }
        *place = some_place(b, *place, end);
    }
    return random_below(4) == 0 ? end - 4 * random_below(end / 4 + 1) : end;
}

nn_status_t __wrap_build_scratch(build_t *b, uint32_t bytes)
{
    const place_t usual = b->scratch;
    if (lying && b->pass == PASS_RECORD && random_below(4) == 0) {
        b->scratch = some_place(b, usual, usual);
    }
    const nn_status_t status = __real_build_scratch(b, bytes);
    b->scratch = usual;
    return status;
}

/* ---- the mutator ---- */

typedef struct span {
    uint32_t at, bytes;
} span_t;

/* Where the file's first metadata is, 0 bytes: it has none that could be a plan. */
static span_t find_plan(const uint8_t *model, size_t size)
{
    fb_t fb = {.data = model, .size = (uint32_t)(size <= INT32_MAX ? size : 0)};
    const uint32_t root = fb_root(&fb, TFLITE_IDENTIFIER);
    const uint32_t metadata = fb_table_at(&fb, fb_vector(&fb, root, MODEL_METADATA, 4), 0);
    const uint32_t index = (uint32_t)fb_i32(&fb, metadata, METADATA_BUFFER, 0);
    const uint32_t buffer = fb_table_at(&fb, fb_vector(&fb, root, MODEL_BUFFERS, 4), index);
    const fb_vector_t plan = fb_vector(&fb, buffer, BUFFER_DATA, 1);
    const span_t span = {.at = fb_elements(plan), .bytes = fb_count(&fb, plan)};
    return fb.bad || span.bytes < sizeof(plan_t) ? (span_t){0, 0} : span;
}

/* The engine's plan for the model, but for a few places, over the one that is there. */
static void lie(uint8_t *model, size_t size, span_t plan)
{
    uint8_t *copy = malloc(size), *arena = malloc(ARENA_BYTES);
    require(copy != NULL && arena != NULL);
    memcpy(copy, model, size);
    nn_t nn = {.model = copy, .model_size = size, .arena = arena, .arena_size = ARENA_BYTES};
    plan_t old;
    memcpy(&old, copy + plan.at, sizeof old);
    old_places = copy + plan.at + sizeof old;
    old_count = old.magic == PLAN_MAGIC && random_below(4) != 0 ? (uint32_t)old.main_tensors + old.init_tensors : 0;
    old_count = old_count <= (plan.bytes - sizeof old) / sizeof(place_t) ? old_count : 0;
    lying = without_plan = true;
    if (graph_open(&nn) == NN_OK && nn.plan->bytes <= plan.bytes) {
        memcpy(model + plan.at, nn.plan, nn.plan->bytes);
    }
    lying = without_plan = false;
    free(arena);
    free(copy);
}

/* One word becomes another, or one of its neighbours, and so do all that are equal if luck will have it. */
static void change_words(uint8_t *words, uint32_t count)
{
    uint32_t from, to, word;
    memcpy(&from, words + 4 * random_below(count), sizeof from);
    memcpy(&to, words + 4 * random_below(count), sizeof to);
    to = random_below(2) ? to : from + random_below(33) - 16;
    const bool all = random_below(2);
    const uint32_t start = random_below(count);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *const at = words + 4 * ((start + i) % count);
        memcpy(&word, at, sizeof word);
        if (word == from) {
            memcpy(at, &to, sizeof to);
            if (!all) {
                return;
            }
        }
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    random_state = seed;
    const uint32_t choice = random_below(8);
    const span_t plan = find_plan(data, size);
    if (plan.bytes == 0 || choice < 2) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    if (choice == 2) {
        change_words(data + plan.at, plan.bytes / 4);
    } else {
        lie(data, size, plan);
    }
    return size;
}

/* ---- the target ---- */

/* Reads every byte, so that a sanitizer sees them all. */
static void touch(void *digest, unsigned op, unsigned output, const nn_tensor_t *tensor, unsigned tensor_index)
{
    uint64_t *const sum = digest;
    (void)op, (void)output;
    for (size_t i = 0; i < tensor->size; i++) {
        *sum = (*sum ^ ((const uint8_t *)tensor->data)[i]) * 0x100000001b3;
    }
    *sum += tensor_index;
}

static void fill_inputs(const nn_t *nn, unsigned step)
{
    nn_tensor_t tensor;
    for (unsigned i = 0; nn_input(nn, i, &tensor) == NN_OK; i++) {
        for (size_t k = 0; k < tensor.size; k++) {
            ((uint8_t *)tensor.data)[k] = (uint8_t)((k + step) * (k * 37 + i) >> step);
        }
    }
}

/* Returns a digest of all tensors. */
static uint64_t run(nn_t *nn)
{
    nn_tensor_t tensor;
    uint64_t digest = 0xcbf29ce484222325;
    for (unsigned step = 0; step < 2 * STEPS; step++) {
        if (step == STEPS) {
            require(nn_reset(nn) == NN_OK);
        }
        fill_inputs(nn, step);
        require(nn_invoke_traced(nn, touch, &digest) == NN_OK);
        for (unsigned i = 0; nn_output(nn, i, &tensor) == NN_OK; i++) {
            touch(&digest, 0, i, &tensor, 0);
        }
    }
    return digest;
}

/* Opens and runs it in an arena that has the exact size. */
static uint64_t run_exactly(const uint8_t *model, size_t size, size_t arena_bytes, uint8_t fresh)
{
    nn_t nn;
    uint8_t *exact = malloc(arena_bytes);
    require(exact != NULL);
    memset(exact, fresh, arena_bytes);
    require(nn_open(&nn, model, size, exact, arena_bytes) == NN_OK);
    require(nn.arena_used == arena_bytes);
    const uint64_t digest = run(&nn);
    free(exact);
    return digest;
}

static unsigned accepted, refused;

__attribute__((destructor)) static void report(void)
{
    fprintf(stderr, "plans accepted: %u, refused: %u\n", accepted, refused);
}

static void open_and_run(const uint8_t *model, size_t size, uint8_t *arena)
{
    nn_t nn;
    const nn_status_t status = nn_open(&nn, model, size, arena, ARENA_BYTES);
    refused += status == NN_E_PLAN;
    if (status != NN_OK) {
        require(nn_invoke(&nn) == NN_E_STATE);
        return;
    }
    const bool planned = (const uint8_t *)nn.plan != arena;
    const uint64_t digest = run_exactly(model, size, nn.arena_used, 0xa5);
    without_plan = true;
    const nn_status_t plain = planned ? nn_open(&nn, model, size, arena, ARENA_BYTES) : NN_E_STATE;
    if (plain == NN_OK) {
        accepted++;
        require(run_exactly(model, size, nn.arena_used, 0x5a) == digest);
    } else if (planned) {
        require(plain == NN_E_ARENA || plain == NN_E_LIMIT); /* it takes more there */
    }
    without_plan = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *model = malloc(size != 0 ? size : 1); /* aligned, and guarded by the sanitizer at its end */
    uint8_t *arena = malloc(ARENA_BYTES);
    require(model != NULL && arena != NULL);
    memcpy(model, data, size);
    const size_t planned = nn_planned_bytes(model, size);
    require(planned <= UINT32_MAX);
    open_and_run(model, size, arena);
    free(arena);
    free(model);
    return 0;
}
