/* See slots.h; why a power cut is harmless at any instant: DESIGN.md, "Slots". tests/test_update_powercut.c is the
 * proof. */
#include "slots.h"

#include <string.h>

#define MAGIC UINT32_C(0x31544c53)

// clang-format off
static const struct {
    uint8_t state, event, next;
} steps[] = {
    {SLOT_EMPTY,     SLOT_ON_BEGIN,   SLOT_RECEIVING},
    {SLOT_RECEIVING, SLOT_ON_BEGIN,   SLOT_RECEIVING}, /* another upload */
    {SLOT_RECEIVING, SLOT_ON_VERIFY,  SLOT_VERIFIED},
    {SLOT_RECEIVING, SLOT_ON_REJECT,  SLOT_REJECTED},
    {SLOT_RECEIVING, SLOT_ON_ERASE,   SLOT_EMPTY},
    {SLOT_VERIFIED,  SLOT_ON_BEGIN,   SLOT_RECEIVING},
    {SLOT_VERIFIED,  SLOT_ON_TEST,    SLOT_TEST},
    {SLOT_VERIFIED,  SLOT_ON_RETURN,  SLOT_CONFIRMED},
    {SLOT_VERIFIED,  SLOT_ON_REJECT,  SLOT_REJECTED},
    {SLOT_VERIFIED,  SLOT_ON_ERASE,   SLOT_EMPTY},
    {SLOT_TEST,      SLOT_ON_CONFIRM, SLOT_CONFIRMED},
    {SLOT_TEST,      SLOT_ON_REJECT,  SLOT_REJECTED},
    {SLOT_CONFIRMED, SLOT_ON_REPLACE, SLOT_VERIFIED},
    {SLOT_CONFIRMED, SLOT_ON_REJECT,  SLOT_REJECTED},
    {SLOT_REJECTED,  SLOT_ON_BEGIN,   SLOT_RECEIVING},
    {SLOT_REJECTED,  SLOT_ON_ERASE,   SLOT_EMPTY},
};
// clang-format on

/* What the journal keeps. */
typedef struct record {
    slot_t slot[SLOTS];
    uint32_t counter;
} record_t;

int slots_step(slot_state_t state, slot_event_t event)
{
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (steps[i].state == state && steps[i].event == event) {
            return steps[i].next;
        }
    }
    return NODE_E_STATE;
}

const char *slot_state_name(slot_state_t state)
{
    static const char *const names[SLOT_STATES] = {"empty", "receiving", "verified", "test", "confirmed", "rejected"};
    return names[state];
}

const char *slot_event_name(slot_event_t event)
{
    static const char *const names[SLOT_EVENTS] = {"begin",  "verify",  "test",   "confirm",
                                                   "return", "replace", "reject", "erase"};
    return names[event];
}

/* ---- the record ---- */

static record_t record_of(const slots_t *s)
{
    record_t record = {.counter = s->counter};
    memcpy(record.slot, s->slot, sizeof record.slot);
    return record;
}

static void adopt(slots_t *s, const record_t *record)
{
    memcpy(s->slot, record->slot, sizeof s->slot);
    s->counter = record->counter;
}

/* Makes `next` true: in flash first. Where that fails, flash may say either until the next record. */
static int commit(slots_t *s, const record_t *next)
{
    const int status = journal_append(&s->journal, next);
    if (status == NODE_OK) {
        adopt(s, next);
    }
    return status;
}

static bool step(slot_t *slot, slot_event_t event)
{
    const int next = slots_step((slot_state_t)slot->state, event);
    if (next < 0) {
        return false;
    }
    slot->state = (uint8_t)next;
    return true;
}

/* Whether the slot can have been written by this firmware, for slots of this size. */
static bool plausible(const slots_t *s, const slot_t *slot)
{
    return slot->state < SLOT_STATES && slot->fault < FAULT_COUNT && slot->size <= s->capacity &&
           (slot->received == slot->size ||
            (slot->received < slot->size && slot->received % s->flash->sector_size == 0));
}

/* ---- which is which ---- */

static int find_state(const slots_t *s, slot_state_t state)
{
    for (int i = 0; i < SLOTS; i++) {
        if (s->slot[i].state == state) {
            return i;
        }
    }
    return -1;
}

int slots_confirmed(const slots_t *s)
{
    return find_state(s, SLOT_CONFIRMED);
}

int slots_running(const slots_t *s)
{
    const int test = find_state(s, SLOT_TEST);
    return test >= 0 ? test : slots_confirmed(s);
}

int slots_free(const slots_t *s)
{
    static const slot_state_t given_up[] = {SLOT_RECEIVING, SLOT_EMPTY, SLOT_REJECTED,
                                            SLOT_VERIFIED}; /* in this order */
    int slot = -1;
    for (unsigned i = 0; slot < 0 && i < sizeof given_up / sizeof *given_up; i++) {
        slot = find_state(s, given_up[i]);
    }
    return slot;
}

int slots_find(const slots_t *s, const uint8_t sha256[32])
{
    static const slot_state_t usable[] = {SLOT_TEST, SLOT_CONFIRMED, SLOT_VERIFIED};
    for (unsigned i = 0; i < sizeof usable / sizeof *usable; i++) {
        for (int slot = 0; slot < SLOTS; slot++) {
            if (s->slot[slot].state == usable[i] && memcmp(s->slot[slot].sha256, sha256, 32) == 0) {
                return slot;
            }
        }
    }
    return -1;
}

static uint32_t offset_of(const slots_t *s, unsigned slot)
{
    return s->base + JOURNAL_SECTORS * s->flash->sector_size + slot * s->capacity;
}

bool slots_readable(const slots_t *s, unsigned slot)
{
    uint32_t crc;
    return nor_crc(s->flash, offset_of(s, slot), s->slot[slot].size, &crc) == NODE_OK;
}

const uint8_t *slots_data(const slots_t *s, unsigned slot)
{
    return s->flash->map(s->flash->context, offset_of(s, slot));
}

uint32_t slots_bytes(const node_flash_t *flash, uint32_t capacity)
{
    return JOURNAL_SECTORS * flash->sector_size + SLOTS * capacity;
}

int slots_open(slots_t *s, const node_flash_t *flash, uint32_t base, uint32_t capacity)
{
    *s = (slots_t){.flash = flash, .base = base, .capacity = capacity};
    if (capacity == 0 || capacity % flash->sector_size != 0 || capacity > flash->size / SLOTS || base > flash->size ||
        flash->size - base < slots_bytes(flash, capacity)) {
        return NODE_E_ARGUMENT;
    }
    record_t record = {.counter = 0};
    int status = journal_open(&s->journal, flash, base, MAGIC, &record, sizeof record);
    if (status != NODE_OK) {
        return status;
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        if (!plausible(s, &record.slot[i])) {
            record.slot[i] = (slot_t){.state = SLOT_EMPTY};
        }
    }
    adopt(s, &record);
    const int receiving = find_state(s, SLOT_RECEIVING);
    s->written = receiving < 0 ? 0 : s->slot[receiving].received;
    status = slots_revert(s, FAULT_RESET);
    return status == NODE_E_STATE ? NODE_OK : status;
}

/* ---- the upload ---- */

int slots_begin(slots_t *s, uint32_t size, const uint8_t upload[32])
{
    if (size == 0) {
        return NODE_E_ARGUMENT;
    }
    if (size > s->capacity) {
        return NODE_E_FULL;
    }
    const int slot = slots_free(s);
    if (slot < 0 || find_state(s, SLOT_TEST) >= 0) {
        return NODE_E_BUSY;
    }
    record_t next = record_of(s);
    slot_t *const given_up = &next.slot[slot];
    if (given_up->state == SLOT_RECEIVING && given_up->size == size && memcmp(given_up->upload, upload, 32) == 0) {
        return NODE_OK;
    }
    if (!step(given_up, SLOT_ON_BEGIN)) {
        return NODE_E_STATE;
    }
    *given_up = (slot_t){.state = given_up->state, .size = size};
    memcpy(given_up->upload, upload, 32);
    const int status = commit(s, &next);
    if (status == NODE_OK) {
        s->written = 0;
    }
    return status;
}

/* Programs whole units behind each other, `at` bytes into the slot; a sector that begins there is erased first. */
static int program(const slots_t *s, unsigned slot, uint32_t at, const uint8_t *data, uint32_t size)
{
    const uint32_t sector = s->flash->sector_size;
    const int status = at % sector == 0 ? nor_erase(s->flash, offset_of(s, slot) + at, sector) : NODE_OK;
    return status == NODE_OK ? nor_program(s->flash, offset_of(s, slot) + at, data, size) : status;
}

/* Takes the next bytes of the upload, and says how many: up to the end of a sector whole units from where they are,
 * otherwise one by way of `unit`. */
static int take(slots_t *s, unsigned slot, const uint8_t *data, uint32_t size, uint32_t *taken)
{
    const uint32_t filled = s->written % NOR_UNIT, sector = s->flash->sector_size;
    if (filled == 0 && size >= NOR_UNIT) {
        const uint32_t room = sector - s->written % sector;
        *taken = (size < room ? size : room) / NOR_UNIT * NOR_UNIT;
        return program(s, slot, s->written, data, *taken);
    }
    *taken = size < NOR_UNIT - filled ? size : NOR_UNIT - filled;
    memcpy(s->unit + filled, data, *taken);
    if (filled + *taken != NOR_UNIT && s->written + *taken != s->slot[slot].size) {
        return NODE_OK;
    }
    memset(s->unit + filled + *taken, 0xff, NOR_UNIT - filled - *taken);
    return program(s, slot, s->written - filled, s->unit, NOR_UNIT);
}

int slots_write(slots_t *s, const uint8_t *data, uint32_t size)
{
    const int slot = find_state(s, SLOT_RECEIVING);
    if (slot < 0) {
        return NODE_E_STATE;
    }
    if (size > s->slot[slot].size - s->written) {
        return NODE_E_ARGUMENT;
    }
    for (uint32_t taken; size != 0; data += taken, size -= taken) {
        int status = take(s, (unsigned)slot, data, size, &taken);
        s->written += taken;
        if (status == NODE_OK && (s->written % s->flash->sector_size == 0 || s->written == s->slot[slot].size)) {
            record_t next = record_of(s);
            next.slot[slot].received = s->written;
            status = commit(s, &next);
        }
        if (status != NODE_OK) {
            /* Never goes on: flash may have a claim that is not known here, and erasing would make it a lie. */
            (void)!slots_reject(s, (unsigned)slot, FAULT_FLASH);
            return status;
        }
    }
    return NODE_OK;
}

int slots_judge(slots_t *s, image_fault_t fault, const uint8_t sha256[32])
{
    const int slot = find_state(s, SLOT_RECEIVING);
    if (slot < 0) {
        return NODE_E_STATE;
    }
    if (fault != FAULT_NONE) {
        return slots_reject(s, (unsigned)slot, fault);
    }
    record_t next = record_of(s);
    if (next.slot[slot].received != next.slot[slot].size || !step(&next.slot[slot], SLOT_ON_VERIFY)) {
        return NODE_E_STATE;
    }
    memcpy(next.slot[slot].sha256, sha256, 32);
    return commit(s, &next);
}

/* ---- the trial ---- */

int slots_test(slots_t *s, unsigned slot)
{
    record_t next = record_of(s);
    if (slot >= SLOTS || !step(&next.slot[slot], SLOT_ON_TEST)) {
        return NODE_E_STATE;
    }
    return find_state(s, SLOT_TEST) < 0 ? commit(s, &next) : NODE_E_BUSY;
}

int slots_confirm(slots_t *s, unsigned slot, uint32_t counter)
{
    if (slot >= SLOTS) {
        return NODE_E_STATE;
    }
    record_t next = record_of(s);
    slot_t *const confirmed = &next.slot[slot], *const other = &next.slot[1 - slot];
    if (confirmed->state == SLOT_CONFIRMED) {
        return slots_revert(s, FAULT_REVERTED);
    }
    const bool returns = confirmed->state == SLOT_VERIFIED && confirmed->proven;
    if (!step(confirmed, returns ? SLOT_ON_RETURN : SLOT_ON_CONFIRM)) {
        return NODE_E_STATE;
    }
    confirmed->proven = 1;
    (void)step(other, SLOT_ON_REPLACE);
    next.counter = counter > next.counter ? counter : next.counter;
    return commit(s, &next);
}

int slots_revert(slots_t *s, image_fault_t fault)
{
    const int slot = find_state(s, SLOT_TEST);
    return slot < 0 ? NODE_E_STATE : slots_reject(s, (unsigned)slot, fault);
}

int slots_reject(slots_t *s, unsigned slot, image_fault_t fault)
{
    if (slot >= SLOTS) {
        return NODE_E_STATE;
    }
    record_t next = record_of(s);
    slot_t *const rejected = &next.slot[slot], *const other = &next.slot[1 - slot];
    const bool was_confirmed = rejected->state == SLOT_CONFIRMED;
    if (!step(rejected, SLOT_ON_REJECT)) {
        return NODE_E_STATE;
    }
    rejected->fault = (uint8_t)fault;
    rejected->proven = 0;
    if (was_confirmed && other->proven) {
        (void)step(other, SLOT_ON_RETURN);
    }
    adopt(s, &next); /* at once, even where it cannot be written down: what is unusable must not run */
    return commit(s, &next);
}

int slots_erase(slots_t *s)
{
    bool erased = false;
    record_t next = record_of(s);
    for (unsigned i = 0; i < SLOTS; i++) {
        if (step(&next.slot[i], SLOT_ON_ERASE)) {
            next.slot[i] = (slot_t){.state = next.slot[i].state};
            erased = true;
        }
    }
    return erased ? commit(s, &next) : NODE_E_STATE;
}
