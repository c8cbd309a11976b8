/* SMP group 1: images on their way. The rules are in docs/nodelink.md, "Management"; models.c does it. */
#include <string.h>

#include "models.h"
#include "smp_parts.h"

enum { /* MCUmgr's errors of this group */
       IMAGE_UNKNOWN = SMP_REFUSAL(1, SMP_EUNKNOWN),
       IMAGE_TLV = SMP_REFUSAL(5, SMP_EINVAL),
       IMAGE_NO_SUCH_HASH = SMP_REFUSAL(8, SMP_ENOENT),
       IMAGE_NO_FREE_SLOT = SMP_REFUSAL(9, SMP_EBADSTATE),
       IMAGE_FLASH_READ = SMP_REFUSAL(11, SMP_EUNKNOWN),
       IMAGE_FLASH_WRITE = SMP_REFUSAL(12, SMP_EUNKNOWN),
       IMAGE_NO_SUCH_SLOT = SMP_REFUSAL(14, SMP_EINVAL),
       IMAGE_OFFSET = SMP_REFUSAL(20, SMP_EINVAL),
       IMAGE_LENGTH = SMP_REFUSAL(21, SMP_EINVAL),
       IMAGE_MAGIC = SMP_REFUSAL(23, SMP_EINVAL),
       IMAGE_HASH = SMP_REFUSAL(24, SMP_EINVAL),
       IMAGE_OLDER = SMP_REFUSAL(27, SMP_EBADSTATE),
       IMAGE_PENDING = SMP_REFUSAL(28, SMP_EBADSTATE),
       IMAGE_TOO_LARGE = SMP_REFUSAL(30, SMP_EINVAL),
       IMAGE_OVERRUN = SMP_REFUSAL(31, SMP_EINVAL),
       IMAGE_CONFIRM_DENIED = SMP_REFUSAL(32, SMP_EBADSTATE),
       IMAGE_TEST_DENIED = SMP_REFUSAL(33, SMP_EBADSTATE)
};

static int of_status(int status)
{
    return status == NODE_OK        ? 0
           : status == NODE_E_FULL  ? IMAGE_TOO_LARGE
           : status == NODE_E_BUSY  ? IMAGE_NO_FREE_SLOT
           : status == NODE_E_FLASH ? IMAGE_FLASH_WRITE
                                    : IMAGE_UNKNOWN;
}

/* What MCUmgr has no number for is IMAGE_UNKNOWN; `info` has the word. */
static int of_fault(image_fault_t fault)
{
    static const int refusals[FAULT_COUNT] = {
        [FAULT_SIZE] = IMAGE_OVERRUN,    [FAULT_HEADER] = IMAGE_MAGIC,       [FAULT_TLV] = IMAGE_TLV,
        [FAULT_DIGEST] = IMAGE_HASH,     [FAULT_CAPACITY] = IMAGE_TOO_LARGE, [FAULT_COUNTER] = IMAGE_OLDER,
        [FAULT_FLASH] = IMAGE_FLASH_READ};
    return fault == FAULT_NONE ? 0 : refusals[fault] != 0 ? refusals[fault] : IMAGE_UNKNOWN;
}

/* ---- state ---- */

static bool is_listed(const slot_t *slot)
{
    return slot->state >= SLOT_VERIFIED && slot->state <= SLOT_CONFIRMED;
}

static void put_bool(cbor_writer_t *w, const char *key, bool value)
{
    cbor_put_text(w, key);
    cbor_put_bool(w, value);
}

static void put_slot(cbor_writer_t *w, const node_model_t *m, unsigned image, unsigned slot)
{
    const slot_t *const s = &m->slots.slot[slot];
    image_t parsed = {.version = ""};
    (void)models_read(m, slot, &parsed);
    cbor_put_map(w, 7);
    cbor_put_text(w, "image");
    cbor_put_uint(w, image);
    cbor_put_text(w, "slot");
    cbor_put_uint(w, slot);
    cbor_put_text(w, "version");
    cbor_put_text(w, parsed.version);
    cbor_put_text(w, "hash");
    cbor_put_bytes(w, s->sha256, sizeof s->sha256);
    put_bool(w, "pending", false); /* what is tested runs at once */
    put_bool(w, "confirmed", s->state == SLOT_CONFIRMED);
    put_bool(w, "active", slots_running(&m->slots) == (int)slot);
}

static int put_states(smp_call_t *call)
{
    const node_t *const n = call->node;
    uint32_t count = 0;
    for (unsigned i = 0; i < n->config->images * SLOTS; i++) {
        count += is_listed(&n->models[i / SLOTS].slots.slot[i % SLOTS]) ? 1 : 0;
    }
    cbor_put_map(&call->answer, 1);
    cbor_put_text(&call->answer, "images");
    cbor_put_array(&call->answer, count);
    for (unsigned i = 0; i < n->config->images * SLOTS; i++) {
        const node_model_t *const m = &n->models[i / SLOTS];
        if (is_listed(&m->slots.slot[i % SLOTS])) {
            put_slot(&call->answer, m, i / SLOTS + 1, i % SLOTS);
        }
    }
    return 0;
}

int smp_image_read(smp_call_t *call)
{
    models_watched(call->node);
    return put_states(call);
}

static int test(node_t *n, unsigned image, unsigned slot)
{
    const slots_t *const slots = &n->models[image - 1].slots;
    if (slots->slot[slot].state == SLOT_TEST) {
        n->counts.repeated++;
        return 0;
    }
    if (slots->slot[slot].state == SLOT_CONFIRMED) {
        return IMAGE_TEST_DENIED;
    }
    if (slots->slot[!slot].state == SLOT_TEST) {
        return IMAGE_PENDING;
    }
    n->counts.tests++;
    const int status = models_test(n, image, slot);
    return status == NODE_E_IMAGE || status == NODE_E_STATE ? IMAGE_TEST_DENIED : of_status(status);
}

/* The image on test, or one that was confirmed before: then that is the way back, and ends the other's trial. */
static int confirm(node_t *n, unsigned image, unsigned slot)
{
    const slots_t *const slots = &n->models[image - 1].slots;
    const slot_t *const wanted = &slots->slot[slot];
    const bool back = slots->slot[!slot].state == SLOT_TEST;
    if (wanted->state == SLOT_VERIFIED && !wanted->proven) {
        return IMAGE_CONFIRM_DENIED;
    }
    if (wanted->state == SLOT_CONFIRMED && !back) {
        n->counts.repeated++;
        return 0;
    }
    int status = back ? models_revert(n, image, FAULT_REVERTED) : NODE_OK;
    if (status == NODE_OK && wanted->state != SLOT_CONFIRMED) {
        status = models_confirm(n, image, slot);
        n->counts.confirms += status == NODE_OK ? 1 : 0;
    }
    return status == NODE_E_IMAGE ? IMAGE_OLDER : status == NODE_E_STATE ? IMAGE_CONFIRM_DENIED : of_status(status);
}

/* Counts the slots that are on test, or hold the hash; the last of them is `*found`, counted through all images. */
static unsigned find(const node_t *n, span_t hash, unsigned *found)
{
    unsigned count = 0;
    for (unsigned i = 0; i < n->config->images * SLOTS; i++) {
        const slot_t *const slot = &n->models[i / SLOTS].slots.slot[i % SLOTS];
        if (is_listed(slot) && (hash.data != NULL ? memcmp(slot->sha256, hash.data, sizeof slot->sha256) == 0
                                                  : slot->state == SLOT_TEST)) {
            *found = i;
            count++;
        }
    }
    return count;
}

int smp_image_write(smp_call_t *call)
{
    node_t *const n = call->node;
    const span_t hash = smp_bytes(call, "hash");
    const bool confirms = smp_bool(call, "confirm");
    unsigned found = 0;
    if (call->malformed) {
        return SMP_EINVAL;
    }
    if (hash.data != NULL ? hash.size != sizeof n->models->slots.slot->sha256 : !confirms) {
        return IMAGE_HASH;
    }
    const unsigned count = find(n, hash, &found);
    if (count == 0 && hash.data == NULL) { /* no trial: what runs is confirmed */
        n->counts.repeated++;
        return put_states(call);
    }
    if (count == 0) {
        return IMAGE_NO_SUCH_HASH;
    }
    if (count > 1) { /* trials of several images: it must be said which */
        return IMAGE_CONFIRM_DENIED;
    }
    const unsigned image = found / SLOTS + 1, slot = found % SLOTS;
    const int refusal = confirms ? confirm(n, image, slot) : test(n, image, slot);
    return refusal != 0 ? refusal : put_states(call);
}

/* ---- upload ---- */

static int put_offset(smp_call_t *call, uint32_t offset, bool whole)
{
    cbor_put_map(&call->answer, whole ? 2 : 1);
    cbor_put_text(&call->answer, "off");
    cbor_put_uint(&call->answer, offset);
    if (whole) {
        put_bool(&call->answer, "match", true);
    }
    return 0;
}

/* The slot that takes the upload; NULL where none does. */
static const slot_t *receiving(const node_t *n, unsigned image)
{
    const slots_t *const slots = &n->models[image - 1].slots;
    const int slot = slots_free(slots);
    return slot >= 0 && slots->slot[slot].state == SLOT_RECEIVING ? &slots->slot[slot] : NULL;
}

/* Takes the next bytes; the last ones decide. */
static int take(smp_call_t *call, unsigned image, uint32_t size, span_t data)
{
    node_t *const n = call->node;
    slots_t *const slots = &n->models[image - 1].slots;
    if (data.size > size - slots->written) {
        return IMAGE_OVERRUN;
    }
    int status = data.size != 0 ? slots_write(slots, data.data, data.size) : NODE_OK;
    if (status != NODE_OK || slots->written < size) {
        return status != NODE_OK ? of_status(status) : put_offset(call, slots->written, false);
    }
    image_fault_t fault;
    status = models_judge(n, image, &fault);
    n->upload = 0;
    if (status != NODE_OK) {
        return of_status(status);
    }
    *(fault == FAULT_NONE ? &n->counts.verified : &n->counts.rejected) += 1;
    return fault != FAULT_NONE ? of_fault(fault) : put_offset(call, size, true);
}

/* Whether the image is there already, verified. */
static bool is_there(const node_t *n, unsigned image, uint32_t size, const uint8_t name[32])
{
    for (unsigned i = 0; i < SLOTS; i++) {
        const slot_t *const slot = &n->models[image - 1].slots.slot[i];
        if (is_listed(slot) && slot->size == size && memcmp(slot->upload, name, sizeof slot->upload) == 0) {
            return true;
        }
    }
    return false;
}

/* Begins or goes on; an upload without a name gets one of its own, and so never goes on. */
static int begin(smp_call_t *call, unsigned image, uint32_t size, span_t sha, span_t data)
{
    static const uint8_t magic[] = {0x3d, 0xb8, 0xf3, 0x96};
    node_t *const n = call->node;
    slots_t *const slots = &n->models[image - 1].slots;
    uint8_t name[32] = {0};
    if (sha.data != NULL) {
        memcpy(name, sha.data, sizeof name);
    } else {
        const uint32_t random = n->port->random(n->port->context);
        memcpy(name, &random, sizeof random);
    }
    if (is_there(n, image, size, name)) {
        n->counts.repeated++;
        return put_offset(call, size, true);
    }
    if (data.size >= sizeof magic && memcmp(data.data, magic, sizeof magic) != 0) {
        return IMAGE_MAGIC; /* seen before anything is given up for it */
    }
    const int status = slots_begin(slots, size, name);
    if (status != NODE_OK) {
        return of_status(status);
    }
    n->upload = image;
    n->info_changed = true;
    if (slots->written == 0) {
        n->counts.uploads++;
        return take(call, image, size, data);
    }
    n->counts.resumed++;
    return take(call, image, size, (span_t){NULL, 0});
}

int smp_image_upload(smp_call_t *call)
{
    node_t *const n = call->node;
    const uint32_t offset = smp_uint(call, "off", UINT32_MAX), size = smp_uint(call, "len", UINT32_MAX);
    const uint32_t image = smp_uint(call, "image", 0);
    const span_t sha = smp_bytes(call, "sha"), data = smp_bytes(call, "data");
    if (call->malformed || data.data == NULL || offset == UINT32_MAX) {
        return SMP_EINVAL;
    }
    if (offset == 0) {
        return image < 1 || image > n->config->images ? IMAGE_NO_SUCH_SLOT
               : size == UINT32_MAX || size == 0      ? IMAGE_LENGTH
               : sha.data != NULL && sha.size != 32   ? IMAGE_HASH
                                                      : begin(call, image, size, sha, data);
    }
    const slot_t *const slot = n->upload != 0 ? receiving(n, n->upload) : NULL;
    if (slot == NULL) {
        return IMAGE_OFFSET;
    }
    const uint32_t written = n->models[n->upload - 1].slots.written;
    return offset == written ? take(call, n->upload, slot->size, data) : put_offset(call, written, false);
}

/* `slot` counts through all images from image 0 on, as MCUmgr does; absent: the first model's. What does not run is
 * forgotten. */
int smp_image_erase(smp_call_t *call)
{
    node_t *const n = call->node;
    const uint32_t number = smp_uint(call, "slot", UINT32_MAX);
    if (call->malformed) {
        return SMP_EINVAL;
    }
    const uint32_t image = number != UINT32_MAX ? number / SLOTS : 1;
    if (image < 1 || image > n->config->images) {
        return IMAGE_NO_SUCH_SLOT;
    }
    slots_t *const slots = &n->models[image - 1].slots;
    const int slot = number != UINT32_MAX ? (int)(number % SLOTS) : slots_free(slots);
    if (slot < 0 || slots->slot[slot].state == SLOT_TEST || slots->slot[slot].state == SLOT_CONFIRMED) {
        return IMAGE_NO_FREE_SLOT;
    }
    if (slots->slot[slot].state == SLOT_EMPTY) {
        n->counts.repeated++;
    } else if (slots_erase(slots) != NODE_OK) {
        return IMAGE_FLASH_WRITE;
    }
    n->info_changed = true;
    cbor_put_map(&call->answer, 0);
    return 0;
}
