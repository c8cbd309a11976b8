/* The queue's order, its limits and its counts; test_powercut.c has the rest. */
#include "queue.h"

#include <string.h>

#include "flash.h"
#include "test.h"

#define SECTOR 256
#define RING   (4 * SECTOR)

static flash_t flash;
static node_flash_t driver;
static queue_t queue;

static int setup(void **state)
{
    (void)state;
    flash_init(&flash, SECTOR + RING);
    driver = flash_driver(&flash, SECTOR);
    return queue_open(&queue, &driver, SECTOR, RING);
}

static int append(uint8_t tag, uint32_t size)
{
    uint8_t bytes[2 * RING];
    memset(bytes, tag, size);
    return queue_append(&queue, &(queue_piece_t){bytes, size}, 1);
}

/* The tag of the next record, or -1. */
static int next(uint32_t *record)
{
    const uint8_t *payload;
    uint32_t size;
    return queue_next(&queue, record, &payload, &size) ? payload[size - 1] : -1;
}

static void test_first_in_first_out(void **state)
{
    (void)state;
    uint32_t record;
    assert_int_equal(next(&record), -1);
    for (uint8_t tag = 1; tag <= 3; tag++) {
        assert_int_equal(append(tag, 100), NODE_OK);
    }
    for (int tag = 1; tag <= 3; tag++) {
        assert_int_equal(next(&record), tag);
        assert_int_equal(queue_done(&queue, record), NODE_OK);
    }
    assert_int_equal(next(&record), -1);
    assert_int_equal(queue.waiting, 0);
    assert_int_equal(queue_open(&queue, &driver, SECTOR, RING), NODE_OK);
    assert_int_equal(queue.waiting, 0); /* done is done after a boot, too */
}

static void test_what_is_not_done_comes_again(void **state)
{
    (void)state;
    uint32_t first, second;
    assert_int_equal(append(1, 100), NODE_OK);
    assert_int_equal(append(2, 300), NODE_OK);
    assert_int_equal(next(&first), 1);
    assert_int_equal(next(&second), 2);
    assert_int_equal(queue_done(&queue, second), NODE_OK); /* out of order */
    queue_rewind(&queue);
    assert_int_equal(next(&first), 1);
    assert_int_equal(next(&second), -1);
    assert_int_equal(queue_open(&queue, &driver, SECTOR, RING), NODE_OK);
    assert_int_equal(next(&first), 1);
    assert_int_equal(next(&second), -1);
}

static void test_short_records_share_a_sector(void **state)
{
    (void)state;
    for (uint8_t tag = 0; tag < 16; tag++) {
        assert_int_equal(append(tag, 16), NODE_OK); /* 64 bytes each */
    }
    assert_int_equal(queue.waiting, 16);
    assert_int_equal(queue.dropped, 0);
    assert_int_equal(append(16, 16), NODE_OK);
    assert_int_equal(queue.dropped, 4); /* a sector of them */
}

static void test_the_oldest_give_way(void **state)
{
    (void)state;
    uint32_t record;
    for (uint8_t tag = 1; tag <= 10; tag++) {
        assert_int_equal(append(tag, 200), NODE_OK);
    }
    assert_int_equal(queue.dropped, 6);
    for (int tag = 7; tag <= 10; tag++) {
        assert_int_equal(next(&record), tag);
    }
    assert_int_equal(next(&record), -1);
}

static void test_what_is_handed_out_does_not_give_way(void **state)
{
    (void)state;
    uint32_t record;
    for (uint8_t tag = 1; tag <= 4; tag++) {
        assert_int_equal(append(tag, 200), NODE_OK);
    }
    assert_int_equal(next(&record), 1);
    assert_int_equal(append(5, 200), NODE_E_FULL);
    assert_int_equal(queue.waiting, 4);
    queue_rewind(&queue);
    assert_int_equal(append(5, 200), NODE_OK);
    assert_int_equal(next(&record), 2);
}

static void test_a_record_as_large_as_the_ring(void **state)
{
    (void)state;
    uint32_t record;
    assert_int_equal(append(1, 10), NODE_OK);
    assert_int_equal(append(2, RING - QUEUE_RECORD_BYTES), NODE_OK);
    assert_int_equal(next(&record), 2);
    assert_int_equal(next(&record), -1);
    assert_int_equal(append(3, RING - QUEUE_RECORD_BYTES + 1), NODE_E_ARGUMENT);
    assert_int_equal(append(3, RING + 1), NODE_E_ARGUMENT);
}

static void test_what_it_cannot_work_with(void **state)
{
    (void)state;
    assert_int_equal(queue_open(&queue, &driver, 1, RING), NODE_E_ARGUMENT);
    assert_int_equal(queue_open(&queue, &driver, 0, 100), NODE_E_ARGUMENT);
    assert_int_equal(queue_open(&queue, &driver, 0, 0), NODE_E_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_first_in_first_out, setup),
        cmocka_unit_test_setup(test_what_is_not_done_comes_again, setup),
        cmocka_unit_test_setup(test_short_records_share_a_sector, setup),
        cmocka_unit_test_setup(test_the_oldest_give_way, setup),
        cmocka_unit_test_setup(test_what_is_handed_out_does_not_give_way, setup),
        cmocka_unit_test_setup(test_a_record_as_large_as_the_ring, setup),
        cmocka_unit_test_setup(test_what_it_cannot_work_with, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
