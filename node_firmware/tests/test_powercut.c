/* The power is cut before and inside every step of a long life of the queue and of the session log, and again in the
 * recovery.
 *
 * What must hold: a record whose append returned is there until it is done or had to give way; a record is there whole
 * or not at all; the order stays; no unit is programmed twice between erases; life goes on. */
#include <stdbool.h>
#include <string.h>

#include "flash.h"
#include "queue.h"
#include "session.h"
#include "test.h"

#define SECTOR 256
#define RING   (8 * SECTOR)
#define MOST   64 /* records in the ring, at most */

typedef struct content {
    uint32_t tags[MOST];
    unsigned count;
} content_t;

static const uint32_t sizes[] = {10, 100, 300, 4, 700, 20, 20, 1500, 208, 90, 464, 33, 1000, 5, 2000, 61, 150, 256};
#define ACTIONS 54

static flash_t flash;
static node_flash_t driver;
static queue_t queue;
static long cuts;

/* A record of `size` bytes says who it is in every one of them. */
static void fill(uint8_t *out, uint32_t tag, uint32_t size)
{
    memcpy(out, &tag, sizeof tag);
    for (uint32_t i = sizeof tag; i < size; i++) {
        out[i] = (uint8_t)(tag * 31 + i);
    }
}

/* What would be sent now, in order. Fails the test where a record is torn or cannot be read. */
static void list(const queue_t *q, content_t *content)
{
    queue_t copy = *q;
    uint32_t record, size, tag;
    const uint8_t *payload;
    uint8_t found[RING], expected[RING];
    queue_rewind(&copy);
    content->count = 0;
    while (queue_next(&copy, &record, &payload, &size)) {
        assert_true(size >= sizeof tag && content->count < MOST);
        assert_int_equal(driver.read(driver.context, (uint32_t)(payload - flash.bytes), found, size), 0);
        memcpy(&tag, found, sizeof tag);
        fill(expected, tag, size);
        assert_memory_equal(found, expected, size);
        assert_int_equal(size, sizes[tag % (sizeof sizes / sizeof *sizes)]);
        content->tags[content->count++] = tag;
    }
    assert_int_equal(copy.unsent, 0);
    assert_int_equal(content->count, q->waiting);
}

static int append(uint32_t tag)
{
    uint8_t bytes[RING];
    const uint32_t size = sizes[tag % (sizeof sizes / sizeof *sizes)], half = size / 3;
    fill(bytes, tag, size);
    const queue_piece_t pieces[2] = {{bytes, half}, {bytes + half, size - half}};
    return queue_append(&queue, pieces, 2);
}

static void finish_oldest(void)
{
    uint32_t record, size;
    const uint8_t *payload;
    if (queue_next(&queue, &record, &payload, &size)) {
        assert_int_equal(queue_done(&queue, record), NODE_OK);
    }
}

/* The life: mostly appends, some records are sent and done, now and then a boot. */
static void act(uint32_t action)
{
    if (action % 5 == 3 || action % 7 == 2) {
        finish_oldest();
    } else if (action % 11 == 10) {
        assert_int_equal(queue_open(&queue, &driver, 0, RING), NODE_OK);
    } else {
        assert_int_equal(append(action), NODE_OK);
    }
}

static bool contains(const content_t *content, uint32_t tag)
{
    for (unsigned i = 0; i < content->count; i++) {
        if (content->tags[i] == tag) {
            return true;
        }
    }
    return false;
}

/* What is found after a cut: nothing but what was there or was being added, in its order, and all that had to stay. */
static void check_recovered(const content_t *before, const content_t *after, uint32_t added)
{
    content_t found;
    list(&queue, &found);
    for (unsigned i = 0; i < found.count; i++) {
        assert_true(contains(before, found.tags[i]) || found.tags[i] == added);
        assert_true(i == 0 || found.tags[i - 1] < found.tags[i]);
    }
    for (unsigned i = 0; i < after->count; i++) {
        assert_true(contains(&found, after->tags[i]) || after->tags[i] == added);
    }
}

/* Runs actions until the power fails; `before` and `after` bracket the one in which it did. False where it did not. */
static bool live(uint32_t first, uint32_t last, long steps, const content_t *afters, content_t *before,
                 volatile uint32_t *action)
{
    list(&queue, before);
    flash.steps = steps;
    if (setjmp(flash.cut) == 0) {
        for (*action = first; *action < last; (*action)++) {
            act(*action);
            if (afters != NULL) {
                *before = afters[*action];
            }
        }
        flash.steps = -1;
        return false;
    }
    flash.steps = -1;
    cuts++;
    return true;
}

/* After a cut: boots, and cuts the power in the boot and in the append that follows it, at every step. */
static void cut_recovery(const content_t *before, const content_t *after, uint32_t action)
{
    static flash_t torn;
    torn = flash;
    for (volatile long steps = 0;; steps++) {
        volatile bool recovered = false;
        content_t base = {.count = 0};
        flash = torn;
        flash.steps = steps;
        flash.random ^= (uint32_t)steps;
        flash.tear = (flash_tear_t)(flash_random(&flash) % FLASH_TEARS);
        if (setjmp(flash.cut) == 0) {
            assert_int_equal(queue_open(&queue, &driver, 0, RING), NODE_OK);
            recovered = true;
            assert_int_equal(append(1000), NODE_OK);
            flash.steps = -1;
            return;
        }
        flash.steps = -1;
        cuts++;
        assert_int_equal(queue_open(&queue, &driver, 0, RING), NODE_OK);
        assert_int_equal(flash.broken_rules, 0);
        list(&queue, &base);
        if (!recovered) {
            check_recovered(before, after, action);
        }
        assert_int_equal(append(2000), NODE_OK);
        list(&queue, &base);
        assert_int_equal(base.tags[base.count - 1], 2000);
    }
}

static void test_queue_survives_every_cut(void **state)
{
    (void)state;
    static content_t afters[ACTIONS];
    content_t before;
    volatile uint32_t action;
    flash_init(&flash, RING);
    driver = flash_driver(&flash, SECTOR);
    assert_int_equal(queue_open(&queue, &driver, 0, RING), NODE_OK);
    for (uint32_t i = 0; i < ACTIONS; i++) {
        act(i);
        list(&queue, &afters[i]);
    }
    assert_true(queue.dropped != 0); /* the life is long enough to come round */
    for (long cut = 0;; cut++) {
        flash_init(&flash, RING);
        flash.random = (uint32_t)cut;
        flash.tear = (flash_tear_t)(cut % FLASH_TEARS);
        assert_int_equal(queue_open(&queue, &driver, 0, RING), NODE_OK);
        if (!live(0, ACTIONS, cut / FLASH_TEARS, afters, &before, &action)) {
            break;
        }
        static flash_t torn;
        torn = flash;
        assert_int_equal(queue_open(&queue, &driver, 0, RING), NODE_OK);
        check_recovered(&before, &afters[action], action);
        for (uint32_t i = 0; i < 4; i++) { /* the life goes on, and comes round once more */
            assert_int_equal(append(3000 + i), NODE_OK);
        }
        assert_int_equal(flash.broken_rules, 0);
        flash = torn;
        cut_recovery(&before, &afters[action], action);
    }
    print_message("queue: %ld cuts\n", cuts);
}

static void test_any_content_is_a_queue(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 2000; seed++) {
        flash_init(&flash, RING);
        driver = flash_driver(&flash, SECTOR);
        assert_int_equal(queue_open(&queue, &driver, 0, RING), NODE_OK);
        for (uint32_t i = 0; i < 12; i++) {
            assert_int_equal(append(i), NODE_OK);
        }
        flash.random = seed;
        for (unsigned i = 0; i < 1 + seed % 20; i++) {
            const uint32_t at = flash_random(&flash) % RING;
            flash.bytes[at] ^= (uint8_t)(1U << flash_random(&flash) % 8);
            flash.unreadable[at / FLASH_UNIT] = i % 4 == 3;
        }
        content_t content;
        assert_int_equal(queue_open(&queue, &driver, 0, RING), NODE_OK);
        list(&queue, &content); /* a changed byte of a record is noticed */
        assert_int_equal(append(100), NODE_OK);
        list(&queue, &content);
        assert_int_equal(content.tags[content.count - 1], 100);
    }
}

static void test_sessions_never_repeat(void **state)
{
    (void)state;
    volatile long session_cuts = 0;
    for (volatile long steps = 0; steps < 400; steps++) {
        volatile uint32_t newest = 0;
        volatile long budget = steps;
        flash_init(&flash, 2 * SECTOR);
        driver = flash_driver(&flash, SECTOR);
        flash.random = (uint32_t)steps;
        for (volatile unsigned boot = 0; boot < 120; boot++) {
            uint32_t session = 0;
            flash.steps = budget;
            flash.tear = (flash_tear_t)((steps + boot) % FLASH_TEARS);
            if (setjmp(flash.cut) == 0) {
                assert_int_equal(session_next(&driver, &session), NODE_OK);
                budget = flash.steps;
                assert_true(session > newest);
                assert_true(session <= newest + 2); /* a torn write may have been whole */
                newest = session;
            } else {
                session_cuts++;
                budget = (long)boot % 23; /* the next cut is soon, often in the boot after this one */
            }
        }
        assert_int_equal(flash.broken_rules, 0);
        assert_true(newest > 20);
    }
    print_message("session: %ld cuts\n", session_cuts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_queue_survives_every_cut),
        cmocka_unit_test(test_any_content_is_a_queue),
        cmocka_unit_test(test_sessions_never_repeat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
