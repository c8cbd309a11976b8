/* slots: the two places of one image in flash, what is in them, and which one runs. Nothing here looks into an image.
 *
 *   empty -> receiving -> verified -> test -> confirmed          all steps: the table in slots.c, drawn in DESIGN.md
 *       any -> rejected(fault)
 *
 * All that is known of both slots is one journal record, so that every step happens whole or not at all. At most one
 * slot is `confirmed`, at most one on `test`; the one on test runs, else the confirmed one. */
#ifndef NODE_SLOTS_H
#define NODE_SLOTS_H

#include "image.h"
#include "journal.h"
#include "nor.h"

#define SLOTS 2

/* The numbers are in flash: none is ever changed. */
typedef enum slot_state {
    SLOT_EMPTY,
    SLOT_RECEIVING,
    SLOT_VERIFIED,
    SLOT_TEST,
    SLOT_CONFIRMED,
    SLOT_REJECTED,
    SLOT_STATES
} slot_state_t;

typedef enum slot_event {
    SLOT_ON_BEGIN,
    SLOT_ON_VERIFY,
    SLOT_ON_TEST,
    SLOT_ON_CONFIRM,
    SLOT_ON_RETURN,  /* confirmed again, without a trial: only where it is proven */
    SLOT_ON_REPLACE, /* the other one was confirmed */
    SLOT_ON_REJECT,
    SLOT_ON_ERASE,
    SLOT_EVENTS
} slot_event_t;

typedef struct slot {
    uint8_t state;  /* slot_state_t */
    uint8_t fault;  /* image_fault_t, why it was rejected */
    uint8_t proven; /* it was confirmed once: it may be confirmed again without a trial */
    uint8_t unused;
    uint32_t size, received; /* of the image, bytes; of it, in flash for certain */
    uint8_t upload[32];      /* what its upload called it: SMP's `sha` */
    uint8_t sha256[32];      /* its TLV 0x10; from `verified` on */
} slot_t;

typedef struct slots {
    const node_flash_t *flash;
    uint32_t base, capacity; /* capacity: of one slot, bytes, whole sectors */
    journal_t journal;
    slot_t slot[SLOTS];
    uint32_t counter;       /* the highest security counter that was confirmed; never decreases */
    uint32_t written;       /* of the upload, by now: its end may still be in `unit` */
    uint8_t unit[NOR_UNIT]; /* bytes of the upload that do not fill a program unit yet */
} slots_t;

/* Bytes of flash for the journal and both slots. */
uint32_t slots_bytes(const node_flash_t *flash, uint32_t capacity);
/* Any content of the flash will do. A trial that was on when the power went is over: rejected(reset). NODE_E_FLASH
 * where that cannot be written down: the slots can be used all the same. */
NODE_MUST_USE int slots_open(slots_t *s, const node_flash_t *flash, uint32_t base, uint32_t capacity);

/* The table: the next state, or NODE_E_STATE. */
int slots_step(slot_state_t state, slot_event_t event);
const char *slot_state_name(slot_state_t state);
const char *slot_event_name(slot_event_t event);
/* The slot that runs, the one that is confirmed, the one that receives or could; -1 where there is none. */
int slots_running(const slots_t *s);
int slots_confirmed(const slots_t *s);
int slots_free(const slots_t *s);
/* Verified, on test or confirmed; the one that runs before the other. */
int slots_find(const slots_t *s, const uint8_t sha256[32]);
/* Reads every byte of the slot's image: false where flash has a word that cannot be read. Only then slots_data() may be
 * used. */
bool slots_readable(const slots_t *s, unsigned slot);
const uint8_t *slots_data(const slots_t *s, unsigned slot);

/* An upload of `size` bytes named `upload` begins, or goes on: `written` says where, which may be its end. The slot
 * that does not run is given up for it. NODE_E_FULL where it is larger than a slot, NODE_E_BUSY while a trial is on. */
NODE_MUST_USE int slots_begin(slots_t *s, uint32_t size, const uint8_t upload[32]);
/* The next bytes, at `written`. They are claimed in the journal sector by sector, after they are in flash.
 * NODE_E_FLASH: the slot is rejected(flash). */
NODE_MUST_USE int slots_write(slots_t *s, const uint8_t *data, uint32_t size);
/* All bytes are there and the image holds: FAULT_NONE makes it verified. Or it does not hold, which may be said
 * earlier. */
NODE_MUST_USE int slots_judge(slots_t *s, image_fault_t fault, const uint8_t sha256[32]);
/* NODE_E_STATE where the table has no such step. test: verified to test; NODE_E_BUSY while the other one is. confirm:
 * on test, or proven, to confirmed; the one that was confirmed stays as verified, and `counter` rises to `counter`. To
 * confirm what is confirmed ends a trial of the other one: rejected(reverted). revert: test to rejected(fault). reject:
 * whatever is there turned out to be unusable; a proven slot takes the place of a confirmed one. erase: what neither
 * runs nor is confirmed is forgotten.
 *
 * NODE_E_FLASH: nothing has happened, except that a rejection holds until the next boot even where it cannot be written
 * down. */
NODE_MUST_USE int slots_test(slots_t *s, unsigned slot);
NODE_MUST_USE int slots_confirm(slots_t *s, unsigned slot, uint32_t counter);
NODE_MUST_USE int slots_revert(slots_t *s, image_fault_t fault);
NODE_MUST_USE int slots_reject(slots_t *s, unsigned slot, image_fault_t fault);
NODE_MUST_USE int slots_erase(slots_t *s);

#endif
