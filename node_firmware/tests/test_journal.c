/* The journal and the session number: the newest whole record counts, whatever else is in flash. */
#include "journal.h"

#include <string.h>

#include "crc32.h"
#include "flash.h"
#include "session.h"
#include "test.h"

#define SECTOR 512
#define BASE   SECTOR /* not the first sector of the flash */
#define MAGIC  7

static flash_t flash;
static node_flash_t driver;
static journal_t journal;

static int setup(void **state)
{
    (void)state;
    flash_init(&flash, BASE + JOURNAL_SECTORS * SECTOR);
    driver = flash_driver(&flash, SECTOR);
    return 0;
}

static void make(uint8_t *record, uint32_t size, uint32_t value)
{
    for (uint32_t i = 0; i < size; i++) {
        record[i] = (uint8_t)(value * 29 + i);
    }
}

static int append(uint32_t value)
{
    uint8_t record[JOURNAL_RECORD_BYTES];
    make(record, journal.size, value);
    return journal_append(&journal, record);
}

static void open_journal(uint32_t size, uint8_t *record)
{
    assert_int_equal(journal_open(&journal, &driver, BASE, MAGIC, record, size), NODE_OK);
}

/* Opens it; whether the newest record is this one. */
static bool newest_is(uint32_t size, uint32_t value)
{
    uint8_t found[JOURNAL_RECORD_BYTES] = {0}, expected[JOURNAL_RECORD_BYTES];
    make(expected, size, value);
    open_journal(size, found);
    return journal.generation != 0 && memcmp(found, expected, size) == 0;
}

static void test_the_newest_counts(void **state)
{
    const uint32_t sizes[] = {1, 16, 17, 100, JOURNAL_RECORD_BYTES};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint8_t record[JOURNAL_RECORD_BYTES] = {42};
        setup(state);
        open_journal(sizes[i], record);
        assert_int_equal(journal.generation, 0);
        assert_int_equal(record[0], 42);
        for (uint32_t value = 1; value < 200; value++) {
            assert_int_equal(append(value), NODE_OK);
            if (value % 3 == 0) {
                assert_true(newest_is(sizes[i], value));
                assert_int_equal(journal.generation, value);
            }
        }
        assert_int_equal(flash.broken_rules, 0);
    }
}

static void test_a_sector_is_erased_only_when_the_other_is_full(void **state)
{
    (void)state;
    uint8_t record[JOURNAL_RECORD_BYTES];
    open_journal(100, record); /* 128 bytes with its seal: four in a sector */
    for (uint32_t value = 0; value < 80; value++) {
        assert_int_equal(append(value), NODE_OK);
    }
    assert_int_equal(flash.erases[BASE / SECTOR], 10);
    assert_int_equal(flash.erases[BASE / SECTOR + 1], 10);
    assert_int_equal(flash.erases[0], 0);
}

static void test_any_content_is_a_journal(void **state)
{
    uint8_t record[JOURNAL_RECORD_BYTES];
    for (uint32_t seed = 1; seed < 2000; seed++) {
        setup(state);
        flash.random = seed;
        for (uint32_t i = BASE; i < flash.size; i++) {
            flash.bytes[i] = (uint8_t)flash_random(&flash);
            flash.unreadable[i / FLASH_UNIT] = seed % 3 == 0;
        }
        open_journal(100, record);
        assert_int_equal(journal.generation, 0);
        assert_int_equal(append(seed), NODE_OK);
        assert_true(newest_is(100, seed));
    }
}

static void test_a_changed_record_does_not_count(void **state)
{
    for (uint32_t seed = 0; seed < 5000; seed++) {
        uint8_t found[JOURNAL_RECORD_BYTES], expected[JOURNAL_RECORD_BYTES];
        setup(state);
        open_journal(100, found);
        for (uint32_t value = 1; value <= 6; value++) {
            assert_int_equal(append(value), NODE_OK);
        }
        flash.random = seed;
        for (unsigned i = 0; i < 1 + seed % 30; i++) {
            const uint32_t at = BASE + flash_random(&flash) % (JOURNAL_SECTORS * SECTOR);
            flash.bytes[at] ^= (uint8_t)(1U << flash_random(&flash) % 8);
            flash.unreadable[at / FLASH_UNIT] = i % 4 == 3;
        }
        open_journal(100, found);
        assert_true(journal.generation <= 6);
        if (journal.generation != 0) {
            make(expected, 100, journal.generation);
            assert_memory_equal(found, expected, 100);
        }
        assert_int_equal(append(100), NODE_OK);
        assert_true(newest_is(100, 100));
    }
}

static void test_every_cut_leaves_this_one_or_the_one_before(void **state)
{
    (void)state;
    for (volatile long step = 0; step < 200; step++) {
        for (volatile unsigned tear = 0; tear < FLASH_TEARS; tear++) {
            uint8_t record[JOURNAL_RECORD_BYTES];
            volatile uint32_t value = 1;
            setup(state);
            open_journal(100, record);
            assert_int_equal(append(1), NODE_OK);
            flash.steps = step;
            flash.tear = (flash_tear_t)tear;
            flash.random = (uint32_t)step;
            if (setjmp(flash.cut) == 0) {
                for (value = 2; value < 100; value++) {
                    assert_int_equal(append(value), NODE_OK);
                }
            }
            flash.steps = -1;
            assert_true(newest_is(100, value) || newest_is(100, value - 1));
            assert_int_equal(append(1000), NODE_OK);
            assert_true(newest_is(100, 1000));
            assert_int_equal(flash.broken_rules, 0);
        }
    }
}

/* Appends until the driver fails at `step`; returns what was to be appended. */
static uint32_t append_until(long step, unsigned tear)
{
    uint8_t record[JOURNAL_RECORD_BYTES];
    uint32_t value = 1;
    setup(NULL);
    open_journal(100, record);
    assert_int_equal(append(value), NODE_OK);
    flash.steps = step;
    flash.tear = (flash_tear_t)tear;
    flash.fails = true;
    while (append(++value) == NODE_OK) {
    }
    return value;
}

/* Also where all of it got into flash in spite of the error. */
static void test_what_failed_does_not_come_back(void **state)
{
    (void)state;
    for (long step = 0; step < 80; step++) {
        for (unsigned tear = 0; tear <= TEAR_WHOLE; tear++) {
            const uint32_t value = append_until(step, tear);
            assert_true(newest_is(100, value) || newest_is(100, value - 1));
            append_until(step, tear); /* the same once more, without a boot in between */
            assert_int_equal(append(1000), NODE_OK);
            assert_true(newest_is(100, 1000));
            assert_int_equal(flash.broken_rules, 0);
        }
    }
}

static int refuse_program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    (void)context;
    (void)offset;
    (void)data;
    (void)size;
    return -1;
}

/* A worn cell that nobody complains of. */
static int program_badly(void *context, uint32_t offset, const void *data, uint32_t size)
{
    flash_t *const worn = context;
    memcpy(worn->bytes + offset, data, size);
    worn->bytes[offset] ^= 1;
    return 0;
}

static int refuse_erase(void *context, uint32_t offset, uint32_t size)
{
    (void)context;
    (void)offset;
    (void)size;
    return -1;
}

static void test_worn_flash(void **state)
{
    uint8_t record[JOURNAL_RECORD_BYTES];
    for (unsigned way = 0; way < 3; way++) {
        setup(state);
        open_journal(100, record);
        assert_int_equal(append(1), NODE_OK);
        assert_true(newest_is(100, 1));
        driver.program = way == 0 ? refuse_program : way == 1 ? program_badly : driver.program;
        driver.erase = way == 2 ? refuse_erase : driver.erase;
        for (unsigned i = 0; i < 5; i++) {
            assert_int_equal(append(2), NODE_E_FLASH);
        }
        assert_true(newest_is(100, 1));
    }
}

static void test_what_it_cannot_work_with(void **state)
{
    (void)state;
    uint8_t record[JOURNAL_RECORD_BYTES];
    assert_int_equal(journal_open(&journal, &driver, BASE + 16, MAGIC, record, 16), NODE_E_ARGUMENT);
    assert_int_equal(journal_open(&journal, &driver, 2 * SECTOR, MAGIC, record, 16), NODE_E_ARGUMENT);
    assert_int_equal(journal_open(&journal, &driver, 8 * SECTOR, MAGIC, record, 16), NODE_E_ARGUMENT);
    assert_int_equal(journal_open(&journal, &driver, BASE, MAGIC, record, JOURNAL_RECORD_BYTES + 1), NODE_E_ARGUMENT);
    driver.program_size = 32;
    assert_int_equal(journal_open(&journal, &driver, BASE, MAGIC, record, 16), NODE_E_ARGUMENT);
}

static void test_another_one_is_not_read(void **state)
{
    (void)state;
    uint8_t record[JOURNAL_RECORD_BYTES];
    open_journal(100, record);
    assert_int_equal(append(1), NODE_OK);
    assert_int_equal(journal_open(&journal, &driver, BASE, MAGIC + 1, record, 100), NODE_OK);
    assert_int_equal(journal.generation, 0);
}

static void test_sessions(void **state)
{
    (void)state;
    const uint32_t before[] = {0x31534e4c, 41}; /* as every firmware has written it */
    const uint32_t crc = node_crc32(0, before, sizeof before);
    uint32_t session;
    memcpy(flash.bytes, before, sizeof before);
    memcpy(flash.bytes + sizeof before, &crc, sizeof crc);
    for (uint32_t boot = 42; boot < 42 + 320; boot++) {
        assert_int_equal(session_next(&driver, &session), NODE_OK);
        assert_int_equal(session, boot);
    }
    assert_int_equal(flash.erases[0] + flash.erases[1], 10); /* one in 32 boots */
    driver.program = refuse_program;
    assert_int_equal(session_next(&driver, &session), NODE_E_FLASH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_the_newest_counts, setup),
        cmocka_unit_test_setup(test_a_sector_is_erased_only_when_the_other_is_full, setup),
        cmocka_unit_test_setup(test_any_content_is_a_journal, setup),
        cmocka_unit_test_setup(test_a_changed_record_does_not_count, setup),
        cmocka_unit_test_setup(test_every_cut_leaves_this_one_or_the_one_before, setup),
        cmocka_unit_test_setup(test_what_failed_does_not_come_back, setup),
        cmocka_unit_test_setup(test_worn_flash, setup),
        cmocka_unit_test_setup(test_what_it_cannot_work_with, setup),
        cmocka_unit_test_setup(test_another_one_is_not_read, setup),
        cmocka_unit_test_setup(test_sessions, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
