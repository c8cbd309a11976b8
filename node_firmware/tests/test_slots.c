/* The slots call by call: what each does in every state, and what they say of flash that fails. test_update_powercut.c
 * has the cuts. */
#include "slots.h"

#include <string.h>

#include "flash.h"
#include "test.h"

#define SECTOR   256
#define CAPACITY (4 * SECTOR)
#define SIZE     700

static flash_t flash;
static node_flash_t driver;
static slots_t slots;
static uint8_t image[CAPACITY];

static void reopen(void)
{
    assert_int_equal(slots_open(&slots, &driver, SECTOR, CAPACITY), NODE_OK);
}

static int setup(void **state)
{
    (void)state;
    flash_init(&flash, SECTOR + JOURNAL_SECTORS * SECTOR + SLOTS * CAPACITY);
    driver = flash_driver(&flash, SECTOR);
    for (unsigned i = 0; i < sizeof image; i++) {
        image[i] = (uint8_t)(i * 7 + i / 256);
    }
    reopen();
    return 0;
}

static const uint8_t *name(uint8_t tag)
{
    static uint8_t bytes[32];
    memset(bytes, tag, sizeof bytes);
    return bytes;
}

/* Receives an image called `tag`, and brings it as far as `state`. Returns its slot. */
static unsigned bring(uint8_t tag, slot_state_t state)
{
    const unsigned slot = (unsigned)slots_free(&slots);
    assert_int_equal(slots_begin(&slots, SIZE, name(tag)), NODE_OK);
    if (state == SLOT_RECEIVING) {
        return slot;
    }
    assert_int_equal(slots_write(&slots, image, SIZE), NODE_OK);
    assert_int_equal(slots_judge(&slots, state == SLOT_REJECTED ? FAULT_MODEL : FAULT_NONE, name(tag)), NODE_OK);
    if (state == SLOT_TEST || state == SLOT_CONFIRMED) {
        assert_int_equal(slots_test(&slots, slot), NODE_OK);
    }
    if (state == SLOT_CONFIRMED) {
        assert_int_equal(slots_confirm(&slots, slot, tag), NODE_OK);
    }
    assert_int_equal(slots.slot[slot].state, state);
    return slot;
}

static void test_empty(void **state)
{
    (void)state;
    assert_int_equal(slots_running(&slots), -1);
    assert_int_equal(slots_confirmed(&slots), -1);
    assert_int_equal(slots_free(&slots), 0);
    assert_int_equal(slots_find(&slots, name(0)), -1);
    assert_int_equal(slots_bytes(&driver, CAPACITY), 10 * SECTOR);
}

static void test_an_update(void **state)
{
    (void)state;
    const unsigned first = bring(1, SLOT_CONFIRMED), second = bring(2, SLOT_VERIFIED);
    assert_int_not_equal(first, second);
    assert_int_equal(slots_running(&slots), first);
    assert_int_equal(slots_test(&slots, second), NODE_OK);
    assert_int_equal(slots_running(&slots), second);
    assert_int_equal(slots_confirmed(&slots), first);
    assert_int_equal(slots.counter, 1);
    assert_int_equal(slots_confirm(&slots, second, 2), NODE_OK);
    reopen();
    assert_int_equal(slots_running(&slots), second);
    assert_int_equal(slots_confirmed(&slots), second);
    assert_int_equal(slots_free(&slots), first);
    assert_int_equal(slots.slot[first].state, SLOT_VERIFIED);
    assert_int_equal(slots.counter, 2);
    assert_int_equal(slots_find(&slots, name(1)), first);
    assert_int_equal(slots_find(&slots, name(2)), second);
    assert_true(slots_readable(&slots, second));
    assert_memory_equal(slots_data(&slots, second), image, SIZE);
}

/* Every call in every state does what the table says, and nothing where it says nothing. */
static void test_the_table(void **state)
{
    for (unsigned from = 0; from < SLOT_STATES; from++) {
        for (unsigned event = 0; event < SLOT_EVENTS; event++) {
            const int to = slots_step((slot_state_t)from, (slot_event_t)event);
            int status;
            setup(state);
            if (from != SLOT_CONFIRMED) { /* the other one */
                bring(2, SLOT_CONFIRMED);
            }
            const unsigned slot = from == SLOT_EMPTY ? (unsigned)slots_free(&slots) : bring(1, (slot_state_t)from);
            switch (event) {
            case SLOT_ON_BEGIN:
                status = slots_begin(&slots, SIZE, name(3));
                break;
            case SLOT_ON_VERIFY:
                status = from == SLOT_RECEIVING ? slots_write(&slots, image, SIZE) : NODE_OK;
                status = status == NODE_OK ? slots_judge(&slots, FAULT_NONE, name(1)) : status;
                break;
            case SLOT_ON_TEST:
                status = slots_test(&slots, slot);
                break;
            case SLOT_ON_CONFIRM:
                status = slots_confirm(&slots, slot, 1);
                break;
            case SLOT_ON_REJECT:
                status = slots_reject(&slots, slot, FAULT_FLASH);
                break;
            case SLOT_ON_ERASE:
                status = slots_erase(&slots);
                break;
            default: /* steps that another slot's step brings with it */
                continue;
            }
            if (event == SLOT_ON_BEGIN && (from == SLOT_TEST || from == SLOT_CONFIRMED)) {
                assert_int_equal(status, from == SLOT_TEST ? NODE_E_BUSY : NODE_OK); /* into the other one */
            } else {
                assert_int_equal(status, to < 0 ? NODE_E_STATE : NODE_OK);
            }
            assert_int_equal(slots.slot[slot].state, to < 0 ? (int)from : to);
        }
    }
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(slot_state_name(SLOT_EMPTY), "empty");
    assert_string_equal(slot_state_name(SLOT_REJECTED), "rejected");
    assert_string_equal(slot_event_name(SLOT_ON_BEGIN), "begin");
    assert_string_equal(slot_event_name(SLOT_ON_ERASE), "erase");
}

static void test_chunks_of_any_size(void **state)
{
    for (uint32_t chunk = 1; chunk < 70; chunk++) {
        setup(state);
        assert_int_equal(slots_begin(&slots, SIZE, name(1)), NODE_OK);
        for (uint32_t at = 0; at < SIZE; at += chunk) {
            assert_int_equal(slots.written, at);
            assert_int_equal(slots_write(&slots, image + at, chunk < SIZE - at ? chunk : SIZE - at), NODE_OK);
            assert_int_equal(slots.slot[0].received, slots.written == SIZE ? SIZE : slots.written / SECTOR * SECTOR);
        }
        assert_memory_equal(slots_data(&slots, 0), image, SIZE);
        for (uint32_t at = SIZE; at % NOR_UNIT != 0; at++) {
            assert_int_equal(slots_data(&slots, 0)[at], 0xff);
        }
        assert_int_equal(flash.broken_rules, 0);
    }
}

static void test_an_upload_goes_on_where_it_was(void **state)
{
    (void)state;
    bring(1, SLOT_RECEIVING);
    assert_int_equal(slots_write(&slots, image, 300), NODE_OK);
    const uint32_t generation = slots.journal.generation;
    assert_int_equal(slots_begin(&slots, SIZE, name(1)), NODE_OK); /* nothing is lost without a boot */
    assert_int_equal(slots.written, 300);
    reopen();
    assert_int_equal(slots_begin(&slots, SIZE, name(1)), NODE_OK);
    assert_int_equal(slots.written, 256);
    assert_int_equal(slots.journal.generation, generation);
    assert_int_equal(slots_write(&slots, image + 256, SIZE - 256), NODE_OK);
    reopen();
    assert_int_equal(slots_begin(&slots, SIZE, name(1)), NODE_OK);
    assert_int_equal(slots.written, SIZE);
    assert_int_equal(slots_judge(&slots, FAULT_NONE, name(1)), NODE_OK);
    assert_memory_equal(slots_data(&slots, 0), image, SIZE);
    assert_int_equal(flash.broken_rules, 0);
}

static void test_another_upload_begins_anew(void **state)
{
    for (unsigned way = 0; way < 2; way++) {
        setup(state);
        bring(1, SLOT_RECEIVING);
        assert_int_equal(slots_write(&slots, image, 300), NODE_OK);
        assert_int_equal(slots_begin(&slots, SIZE - way, name(way == 0 ? 2 : 1)), NODE_OK);
        assert_int_equal(slots.written, 0);
        assert_int_equal(slots.slot[0].received, 0);
        assert_int_equal(slots.slot[1].state, SLOT_EMPTY);
    }
}

static void test_uploads_that_cannot_be(void **state)
{
    (void)state;
    assert_int_equal(slots_begin(&slots, 0, name(1)), NODE_E_ARGUMENT);
    assert_int_equal(slots_begin(&slots, CAPACITY + 1, name(1)), NODE_E_FULL);
    assert_int_equal(slots_write(&slots, image, 1), NODE_E_STATE);
    assert_int_equal(slots_begin(&slots, CAPACITY, name(1)), NODE_OK);
    assert_int_equal(slots_write(&slots, image, CAPACITY - 1), NODE_OK);
    assert_int_equal(slots_judge(&slots, FAULT_NONE, name(1)), NODE_E_STATE); /* a byte is missing */
    assert_int_equal(slots_write(&slots, image, 2), NODE_E_ARGUMENT);
    assert_int_equal(slots_write(&slots, image, 1), NODE_OK);
    assert_int_equal(slots_judge(&slots, FAULT_NONE, name(1)), NODE_OK);
}

static void test_a_fault_may_be_found_early(void **state)
{
    (void)state;
    bring(1, SLOT_RECEIVING);
    assert_int_equal(slots_judge(&slots, FAULT_HEADER, NULL), NODE_OK);
    assert_int_equal(slots.slot[0].state, SLOT_REJECTED);
    assert_int_equal(slots.slot[0].fault, FAULT_HEADER);
    assert_int_equal(slots_write(&slots, image, 1), NODE_E_STATE);
}

static void test_a_trial_ends_with_the_boot(void **state)
{
    (void)state;
    const unsigned first = bring(1, SLOT_CONFIRMED), second = bring(2, SLOT_TEST);
    for (unsigned boot = 0; boot < 2; boot++) {
        reopen();
        assert_int_equal(slots_running(&slots), first);
        assert_int_equal(slots.slot[second].state, SLOT_REJECTED);
        assert_int_equal(slots.slot[second].fault, FAULT_RESET);
    }
    assert_int_equal(slots.counter, 1);
}

static void test_a_trial_is_reverted(void **state)
{
    const unsigned first = bring(1, SLOT_CONFIRMED), second = bring(2, SLOT_TEST);
    assert_int_equal(slots_revert(&slots, FAULT_DEADLINE), NODE_OK);
    assert_int_equal(slots.slot[second].fault, FAULT_DEADLINE);
    assert_int_equal(slots_running(&slots), first);
    assert_int_equal(slots_revert(&slots, FAULT_DEADLINE), NODE_E_STATE);
    setup(state);
    bring(1, SLOT_CONFIRMED);
    bring(2, SLOT_TEST);
    assert_int_equal(slots_confirm(&slots, first, 1), NODE_OK); /* what is confirmed shall stay */
    assert_int_equal(slots.slot[second].fault, FAULT_REVERTED);
    assert_int_equal(slots_running(&slots), first);
}

static void test_back_to_what_was_confirmed_before(void **state)
{
    (void)state;
    const unsigned first = bring(1, SLOT_CONFIRMED), second = bring(2, SLOT_CONFIRMED);
    assert_int_equal(slots_confirm(&slots, first, 1), NODE_OK);
    assert_int_equal(slots_running(&slots), first);
    assert_int_equal(slots.counter, 2);
    assert_int_equal(slots_test(&slots, second), NODE_OK); /* what was confirmed can be on trial, too */
    assert_int_equal(slots_confirm(&slots, second, 2), NODE_OK);
    reopen();
    assert_int_equal(slots_running(&slots), second);
}

static void test_an_unusable_image_gives_way(void **state)
{
    (void)state;
    const unsigned first = bring(1, SLOT_CONFIRMED), second = bring(2, SLOT_CONFIRMED);
    assert_int_equal(slots_reject(&slots, second, FAULT_FLASH), NODE_OK);
    assert_int_equal(slots_running(&slots), first); /* it was confirmed once */
    assert_int_equal(slots.counter, 2);
    bring(3, SLOT_VERIFIED);
    assert_int_equal(slots_reject(&slots, first, FAULT_FLASH), NODE_OK);
    assert_int_equal(slots_running(&slots), -1); /* this one never was */
    assert_int_equal(slots_reject(&slots, SLOTS, FAULT_FLASH), NODE_E_STATE);
}

static void test_one_trial_at_a_time(void **state)
{
    (void)state;
    bring(1, SLOT_VERIFIED);
    const unsigned second = bring(2, SLOT_VERIFIED); /* into the empty one */
    assert_int_equal(second, 1);
    assert_int_equal(slots_test(&slots, 0), NODE_OK);
    assert_int_equal(slots_test(&slots, 1), NODE_E_BUSY);
    assert_int_equal(slots_begin(&slots, SIZE, name(3)), NODE_E_BUSY);
    assert_int_equal(slots_confirm(&slots, 1, 2), NODE_E_STATE); /* never tried */
    assert_int_equal(slots_confirm(&slots, 0, 1), NODE_OK);
}

static void test_the_same_image_twice(void **state)
{
    (void)state;
    const unsigned first = bring(1, SLOT_CONFIRMED), second = bring(1, SLOT_VERIFIED);
    assert_int_equal(slots_find(&slots, name(1)), first);
    assert_int_equal(slots_test(&slots, second), NODE_OK);
    assert_int_equal(slots_find(&slots, name(1)), second);
}

static void test_erase(void **state)
{
    (void)state;
    const unsigned first = bring(1, SLOT_CONFIRMED), second = bring(2, SLOT_TEST);
    assert_int_equal(slots_erase(&slots), NODE_E_STATE);
    assert_int_equal(slots_revert(&slots, FAULT_REVERTED), NODE_OK);
    assert_int_equal(slots_erase(&slots), NODE_OK);
    assert_int_equal(slots.slot[second].state, SLOT_EMPTY);
    assert_int_equal(slots_erase(&slots), NODE_E_STATE);
    assert_int_equal(slots_running(&slots), first);
}

/* ---- flash that fails ---- */

static int refuse_program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    (void)context;
    (void)offset;
    (void)data;
    (void)size;
    return -1;
}

/* A worn cell that nobody complains of, at the end of every operation. */
static int program_badly(void *context, uint32_t offset, const void *data, uint32_t size)
{
    memcpy(((flash_t *)context)->bytes + offset, data, size);
    ((flash_t *)context)->bytes[offset + size - 1] ^= 1;
    return 0;
}

static void test_an_upload_into_worn_flash(void **state)
{
    for (unsigned way = 0; way < 2; way++) {
        setup(state);
        const unsigned first = bring(1, SLOT_CONFIRMED), second = bring(2, SLOT_RECEIVING);
        driver.program = way == 0 ? refuse_program : program_badly;
        assert_int_equal(slots_write(&slots, image, SIZE), NODE_E_FLASH);
        assert_int_equal(slots.slot[second].state, SLOT_REJECTED);
        assert_int_equal(slots.slot[second].fault, FAULT_FLASH);
        assert_int_equal(slots_write(&slots, image, SIZE), NODE_E_STATE);
        assert_int_equal(slots_begin(&slots, SIZE, name(2)), NODE_E_FLASH);
        assert_int_equal(slots_running(&slots), first);
        driver = flash_driver(&flash, SECTOR);
        assert_int_equal(bring(3, SLOT_CONFIRMED), second);
    }
}

static void test_a_trial_ends_even_where_it_cannot_be_written_down(void **state)
{
    (void)state;
    const unsigned first = bring(1, SLOT_CONFIRMED), second = bring(2, SLOT_VERIFIED);
    driver.program = refuse_program;
    assert_int_equal(slots_test(&slots, second), NODE_E_FLASH);
    assert_int_equal(slots_running(&slots), first);
    driver = flash_driver(&flash, SECTOR);
    assert_int_equal(slots_test(&slots, second), NODE_OK);
    driver.program = refuse_program;
    assert_int_equal(slots_confirm(&slots, second, 2), NODE_E_FLASH);
    assert_int_equal(slots.counter, 1);
    assert_int_equal(slots_revert(&slots, FAULT_DEADLINE), NODE_E_FLASH);
    assert_int_equal(slots_running(&slots), first);
    assert_int_equal(slots_open(&slots, &driver, SECTOR, CAPACITY), NODE_E_FLASH);
    assert_int_equal(slots_running(&slots), first);
    assert_int_equal(slots.slot[second].fault, FAULT_RESET);
}

static void test_a_word_that_cannot_be_read(void **state)
{
    (void)state;
    const unsigned slot = bring(1, SLOT_CONFIRMED);
    const uint32_t at = (uint32_t)(slots_data(&slots, slot) - flash.bytes);
    flash.unreadable[(at + SIZE) / FLASH_UNIT + 1] = true; /* not the image's any more */
    assert_true(slots_readable(&slots, slot));
    flash.unreadable[(at + SIZE - 1) / FLASH_UNIT] = true;
    assert_false(slots_readable(&slots, slot));
}

static void test_any_content_is_slots(void **state)
{
    for (uint32_t seed = 0; seed < 1000; seed++) {
        setup(state);
        flash.random = seed;
        for (uint32_t i = 0; i < flash.size; i++) {
            flash.bytes[i] = (uint8_t)flash_random(&flash);
            flash.unreadable[i / FLASH_UNIT] = seed % 3 == 0;
        }
        reopen();
        bring(1, SLOT_CONFIRMED);
        bring(2, SLOT_CONFIRMED);
        reopen();
        assert_int_equal(slots.counter, 2);
    }
}

/* Whole records that this firmware, or one with slots of this size, cannot have written. */
static void test_records_that_make_no_sense(void **state)
{
    const slot_t senseless[] = {
        {.state = SLOT_STATES, .size = SIZE, .received = SIZE},
        {.state = SLOT_REJECTED, .fault = FAULT_COUNT},
        {.state = SLOT_CONFIRMED, .size = CAPACITY + 1, .received = CAPACITY + 1},
        {.state = SLOT_RECEIVING, .size = SIZE, .received = 2 * SIZE},
        {.state = SLOT_RECEIVING, .size = SIZE, .received = 100},
    };
    for (unsigned i = 0; i < sizeof senseless / sizeof *senseless; i++) {
        setup(state);
        const struct {
            slot_t slot[SLOTS];
            uint32_t counter;
        } record = {{senseless[i], senseless[i]}, 5};
        assert_int_equal(journal_append(&slots.journal, &record), NODE_OK);
        reopen();
        assert_int_equal(slots.slot[0].state, SLOT_EMPTY);
        assert_int_equal(slots.slot[1].state, SLOT_EMPTY);
        assert_int_equal(slots.counter, 5);
    }
}

static void test_what_it_cannot_work_with(void **state)
{
    (void)state;
    assert_int_equal(slots_open(&slots, &driver, SECTOR, 0), NODE_E_ARGUMENT);
    assert_int_equal(slots_open(&slots, &driver, SECTOR, CAPACITY + 16), NODE_E_ARGUMENT);
    assert_int_equal(slots_open(&slots, &driver, SECTOR, CAPACITY + SECTOR), NODE_E_ARGUMENT);
    assert_int_equal(slots_open(&slots, &driver, 16, CAPACITY), NODE_E_ARGUMENT);
    assert_int_equal(slots_open(&slots, &driver, 0, UINT32_MAX / SECTOR * SECTOR), NODE_E_ARGUMENT);
}

/* Sectors as flash has them: every one of a slot is erased once an update, one of the journal at most once. */
static void test_wear(void **state)
{
    (void)state;
    const uint32_t sector = 1024;
    flash_init(&flash, 10 * sector);
    driver = flash_driver(&flash, sector);
    assert_int_equal(slots_open(&slots, &driver, 0, 4 * sector), NODE_OK);
    for (uint8_t update = 1; update <= 10; update++) {
        assert_int_equal(slots_begin(&slots, 4 * sector, name(update)), NODE_OK);
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(slots_write(&slots, image, sector), NODE_OK);
        }
        assert_int_equal(slots_judge(&slots, FAULT_NONE, name(update)), NODE_OK);
        const unsigned slot = (unsigned)slots_find(&slots, name(update));
        assert_int_equal(slots_test(&slots, slot), NODE_OK);
        assert_int_equal(slots_confirm(&slots, slot, update), NODE_OK);
    }
    for (unsigned i = 0; i < 10; i++) {
        assert_in_range(flash.erases[i], 5, i < JOURNAL_SECTORS ? 10 : 5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_empty, setup),
        cmocka_unit_test_setup(test_an_update, setup),
        cmocka_unit_test_setup(test_the_table, setup),
        cmocka_unit_test_setup(test_names, setup),
        cmocka_unit_test_setup(test_chunks_of_any_size, setup),
        cmocka_unit_test_setup(test_an_upload_goes_on_where_it_was, setup),
        cmocka_unit_test_setup(test_another_upload_begins_anew, setup),
        cmocka_unit_test_setup(test_uploads_that_cannot_be, setup),
        cmocka_unit_test_setup(test_a_fault_may_be_found_early, setup),
        cmocka_unit_test_setup(test_a_trial_ends_with_the_boot, setup),
        cmocka_unit_test_setup(test_a_trial_is_reverted, setup),
        cmocka_unit_test_setup(test_back_to_what_was_confirmed_before, setup),
        cmocka_unit_test_setup(test_an_unusable_image_gives_way, setup),
        cmocka_unit_test_setup(test_one_trial_at_a_time, setup),
        cmocka_unit_test_setup(test_the_same_image_twice, setup),
        cmocka_unit_test_setup(test_erase, setup),
        cmocka_unit_test_setup(test_an_upload_into_worn_flash, setup),
        cmocka_unit_test_setup(test_a_trial_ends_even_where_it_cannot_be_written_down, setup),
        cmocka_unit_test_setup(test_a_word_that_cannot_be_read, setup),
        cmocka_unit_test_setup(test_any_content_is_slots, setup),
        cmocka_unit_test_setup(test_records_that_make_no_sense, setup),
        cmocka_unit_test_setup(test_what_it_cannot_work_with, setup),
        cmocka_unit_test_setup(test_wear, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
