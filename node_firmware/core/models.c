/* See models.h. The memory of a cascade is fixed and has place for one model. So the self-test of a new one takes the
 * arena of the one that runs, which is opened again afterwards: the cascade is deaf for that moment, and has forgotten
 * the last seconds. */
#include "models.h"

#include <mbedtls/sha256.h>
#include <string.h>

#include "node_parts.h"
#include "verify.h"

uint32_t models_bytes(const node_config_t *config, const node_flash_t *flash)
{
    return config->images != 0 ? config->images * slots_bytes(flash, config->image_bytes) : 0;
}

static verify_policy_t policy_of(const node_t *n, const node_model_t *m)
{
    return (verify_policy_t){.keys = n->config->keys,
                             .key_count = n->config->key_count,
                             .cascade = m->cascade >= 0 ? n->cascades[m->cascade].name : NULL,
                             .counter = m->slots.counter,
                             .capacity = m->slots.capacity,
                             .ring_bytes = m->memory.ring_bytes,
                             .arena = m->memory.arena,
                             .arena_bytes = m->memory.arena_bytes};
}

static void say_rejected(const node_t *n, image_fault_t fault)
{
    char line[48] = "an image is rejected: ";
    strcat(line, image_fault_name(fault));
    node_say(n, line);
}

/* ---- what runs ---- */

static int reject(node_t *n, node_model_t *m, unsigned slot, image_fault_t fault)
{
    const bool trial = m->slots.slot[slot].state == SLOT_TEST;
    n->info_changed = true;
    n->counts.reverts += trial ? 1 : 0;
    say_rejected(n, fault);
    return slots_reject(&m->slots, slot, fault);
}

/* The cascade of that name, made where there is none. */
static int bind(node_t *n, node_model_t *m, const char *name)
{
    if (m->cascade < 0) {
        static const uint8_t none[NODE_MODEL_BYTES];
        m->cascade = node_add_cascade(n, name, none);
    }
    return m->cascade;
}

static image_fault_t open_slot(node_t *n, node_model_t *m, unsigned slot)
{
    image_t image;
    const slot_t *const s = &m->slots.slot[slot];
    const image_fault_t unread = image_read(&image, slots_data(&m->slots, slot), s->size);
    if (unread != FAULT_NONE) {
        return unread;
    }
    if (bind(n, m, image.cascade) < 0 || strcmp(n->cascades[m->cascade].name, image.cascade) != 0) {
        return FAULT_CASCADE;
    }
    node_cascade_t *const cascade = &n->cascades[m->cascade];
    if (m->sense != NULL) {
        m->sense->image = image;
        const image_fault_t fault = sense_open(m->sense, &m->memory);
        if (fault != FAULT_NONE) {
            return fault;
        }
    }
    cascade->sense = m->sense;
    cascade->detect = image.decision.detect;
    cascade->runs = true;
    memcpy(cascade->model, image.sha256, sizeof cascade->model);
    settings_apply(n, (unsigned)m->cascade);
    return FAULT_NONE;
}

/* Opens what the slots say that runs. What cannot be opened is rejected, and then another may run; without any the
 * cascade is silent. */
static int run(node_t *n, node_model_t *m)
{
    int slot;
    while ((slot = slots_running(&m->slots)) >= 0 && slot != m->open) {
        m->open = -1;
        const image_fault_t fault = open_slot(n, m, (unsigned)slot);
        if (fault == FAULT_NONE) {
            m->open = slot;
            return NODE_OK;
        }
        const int status = reject(n, m, (unsigned)slot, fault);
        if (status != NODE_OK) {
            return status;
        }
    }
    if (slot < 0) {
        m->open = -1;
        if (m->cascade >= 0) {
            n->cascades[m->cascade].runs = false;
        }
    }
    return NODE_OK;
}

int node_load(node_t *n, unsigned image, sense_t *sense, const sense_memory_t *memory)
{
    if (image < 1 || image > n->config->images) {
        return NODE_E_ARGUMENT;
    }
    node_model_t *const m = &n->models[image - 1];
    m->sense = sense;
    m->memory = *memory;
    if (sense != NULL) {
        memset(sense, 0, sizeof *sense);
    }
    return run(n, m);
}

void models_failed(node_t *n, unsigned cascade)
{
    for (unsigned i = 0; i < n->config->images; i++) {
        node_model_t *const m = &n->models[i];
        if (m->cascade == (int)cascade && m->open >= 0 &&
            (reject(n, m, (unsigned)m->open, FAULT_MODEL) != NODE_OK || run(n, m) != NODE_OK)) {
            node_say(n, "flash: a model that failed could not be rejected");
            n->cascades[cascade].runs = false;
        }
    }
}

/* ---- at boot ---- */

/* As images are verified when they come, the model itself was checked before; here is only asked whether it is still
 * the same. */
static image_fault_t still_good(const node_t *n, const node_model_t *m, unsigned slot)
{
    image_t image;
    if (!slots_readable(&m->slots, slot)) {
        return FAULT_FLASH;
    }
    const verify_policy_t policy = policy_of(n, m);
    const image_fault_t fault = image_parse(&image, slots_data(&m->slots, slot), m->slots.slot[slot].size);
    return fault != FAULT_NONE ? fault : verify_origin(&image, &policy);
}

/* What cannot be written down is true all the same until the next boot, and a node that does not start helps nobody. */
static int unless_flash(const node_t *n, int status)
{
    if (status == NODE_E_FLASH) {
        node_say(n, "flash: the state of a slot could not be written down");
        return NODE_OK;
    }
    return status;
}

int models_open(node_t *n, uint32_t base)
{
    const node_flash_t *const flash = &n->port->flash;
    for (unsigned i = 0; i < n->config->images; i++) {
        node_model_t *const m = &n->models[i];
        m->cascade = m->open = -1;
        const uint32_t at = base + i * slots_bytes(flash, n->config->image_bytes);
        int status = unless_flash(n, slots_open(&m->slots, flash, at, n->config->image_bytes));
        for (unsigned slot = 0; slot < SLOTS && status == NODE_OK; slot++) {
            const uint8_t state = m->slots.slot[slot].state;
            const bool claims = state == SLOT_VERIFIED || state == SLOT_CONFIRMED;
            const image_fault_t fault = claims ? still_good(n, m, slot) : FAULT_NONE;
            status = fault != FAULT_NONE ? unless_flash(n, reject(n, m, slot, fault)) : NODE_OK;
        }
        if (status != NODE_OK) {
            return status;
        }
    }
    return NODE_OK;
}

/* ---- steps ---- */

/* Whether another image's cascade has that name: then it is not this one's. */
static bool is_taken(const node_t *n, const node_model_t *m, const char *name)
{
    for (unsigned i = 0; i < n->cascade_count; i++) {
        if ((int)i != m->cascade && strcmp(n->cascades[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static image_fault_t verify(const node_t *n, node_model_t *m, unsigned slot, image_t *image)
{
    if (!slots_readable(&m->slots, slot)) {
        return FAULT_FLASH;
    }
    image_fault_t fault = image_parse(image, slots_data(&m->slots, slot), m->slots.slot[slot].size);
    if (fault == FAULT_NONE) {
        verify_policy_t policy = policy_of(n, m);
        policy.cascade = is_taken(n, m, image->cascade) ? "" : policy.cascade;
        fault = verify_image(image, &policy);
        if (fault == FAULT_NONE) {
            m->open = m->sense != NULL ? -1 : m->open; /* what was open is destroyed */
            fault = verify_model(image, &policy);
        }
    }
    return fault;
}

int models_judge(node_t *n, unsigned image, image_fault_t *fault)
{
    node_model_t *const m = &n->models[image - 1];
    image_t parsed;
    const int slot = slots_free(&m->slots);
    if (slot < 0 || m->slots.slot[slot].state != SLOT_RECEIVING) {
        return NODE_E_STATE;
    }
    *fault = verify(n, m, (unsigned)slot, &parsed);
    const int judged = slots_judge(&m->slots, *fault, *fault == FAULT_NONE ? parsed.sha256 : NULL);
    const int status = run(n, m);
    n->info_changed = true;
    if (*fault != FAULT_NONE) {
        say_rejected(n, *fault);
    }
    return judged != NODE_OK ? judged : status;
}

int models_test(node_t *n, unsigned image, unsigned slot)
{
    node_model_t *const m = &n->models[image - 1];
    int status = slots_test(&m->slots, slot);
    if (status == NODE_OK) {
        n->info_changed = true;
        m->watched_ms = n->clock_ms;
        status = run(n, m);
    }
    return status == NODE_OK && m->slots.slot[slot].state != SLOT_TEST ? NODE_E_IMAGE : status;
}

int models_confirm(node_t *n, unsigned image, unsigned slot)
{
    node_model_t *const m = &n->models[image - 1];
    image_t parsed;
    if (!models_read(m, slot, &parsed)) {
        return NODE_E_STATE;
    }
    if (parsed.counter < m->slots.counter) {
        return NODE_E_IMAGE; /* a newer one was confirmed, and this one must never run again */
    }
    int status = slots_confirm(&m->slots, slot, parsed.counter);
    if (status == NODE_OK) {
        n->info_changed = true;
        status = run(n, m);
    }
    return status;
}

int models_revert(node_t *n, unsigned image, image_fault_t fault)
{
    node_model_t *const m = &n->models[image - 1];
    const int status = slots_revert(&m->slots, fault);
    if (status != NODE_OK) {
        return status;
    }
    n->counts.reverts++;
    n->info_changed = true;
    say_rejected(n, fault);
    return run(n, m);
}

int node_provision(node_t *n, unsigned image, const uint8_t *data, uint32_t size)
{
    uint8_t name[32];
    if (image < 1 || image > n->config->images || mbedtls_sha256_ret(data, size, name, 0) != 0) {
        return NODE_E_ARGUMENT;
    }
    slots_t *const slots = &n->models[image - 1].slots;
    if (slots_running(slots) >= 0) {
        return NODE_OK;
    }
    image_fault_t fault = FAULT_NONE;
    int status = slots_begin(slots, size, name);
    const int slot = slots_free(slots);
    if (status == NODE_OK) {
        status = slots_write(slots, data + slots->written, size - slots->written);
    }
    if (status == NODE_OK) {
        status = models_judge(n, image, &fault);
    }
    if (status == NODE_OK) {
        status = fault == FAULT_NONE ? models_test(n, image, (unsigned)slot) : NODE_E_IMAGE;
    }
    return status == NODE_OK ? models_confirm(n, image, (unsigned)slot) : status;
}

/* ---- trials ---- */

static bool on_trial(const node_model_t *m)
{
    const int slot = slots_running(&m->slots);
    return slot >= 0 && m->slots.slot[slot].state == SLOT_TEST;
}

void models_watched(node_t *n)
{
    for (unsigned i = 0; i < n->config->images; i++) {
        n->models[i].watched_ms = n->clock_ms;
    }
}

uint64_t models_step(node_t *n)
{
    const uint64_t trial_ms = settings_get(n, SETTING_TRIAL_S, 0) * UINT64_C(1000);
    uint64_t next_ms = UINT64_MAX;
    for (unsigned i = 0; i < n->config->images; i++) {
        const node_model_t *const m = &n->models[i];
        const uint64_t passed_ms = n->clock_ms - m->watched_ms;
        if (!on_trial(m)) {
            continue;
        }
        if (passed_ms >= trial_ms) {
            if (models_revert(n, i + 1, FAULT_DEADLINE) != NODE_OK) {
                node_say(n, "flash: a trial could not be ended");
            }
        } else if (trial_ms - passed_ms < next_ms) {
            next_ms = trial_ms - passed_ms;
        }
    }
    return next_ms;
}

bool models_read(const node_model_t *m, unsigned slot, image_t *image)
{
    const slot_t *const s = &m->slots.slot[slot];
    const bool whole = s->state >= SLOT_VERIFIED && (s->state != SLOT_REJECTED || s->fault != FAULT_FLASH);
    return whole && image_read(image, slots_data(&m->slots, slot), s->size) == FAULT_NONE;
}
