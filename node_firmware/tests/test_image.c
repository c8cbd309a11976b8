/* Images: one is read, and no change of a byte and no cut is overlooked. */
#include "image.h"

#include <string.h>

#include "test.h"
#include "vector.h"

static uint8_t *data;
static uint32_t size;

static int setup(void **state)
{
    (void)state;
    data = vector_load(&size);
    return 0;
}

static void test_what_is_in_it(void **state)
{
    (void)state;
    image_t image;
    assert_int_equal(image_parse(&image, data, size), FAULT_NONE);
    assert_int_equal(image.size, size);
    assert_ptr_equal(image.payload.data, data + IMAGE_HEADER_BYTES);
    assert_int_equal(image.payload.size, 608);
    assert_string_equal(image.cascade, "vibration");
    assert_string_equal(image.version, "255.255.65535+4294967295");
    assert_int_equal(image.counter, 7);
    assert_int_equal(image.arena_bytes, 1024);
    assert_int_equal(image.operators.size, 2);
    assert_int_equal(image.front_end.kind, FRONT_END_VIBRATION);
    assert_int_equal(image.front_end.parameters.size, 16);
    assert_int_equal(image.decision.detect.rule, DETECT_ERROR);
    assert_int_equal(image.decision.clip_ms, 2000);
    assert_int_equal(image.inputs.size, 128);
    assert_int_equal(image.outputs.size, 128);
    assert_ptr_equal(image.signature, data + size - 64);
    assert_ptr_equal(image.key_hash, data + size - 68 - 32);
    assert_ptr_equal(image.sha256, data + size - 68 - 36 - 32);
}

static void test_every_changed_bit(void **state)
{
    (void)state;
    image_t image;
    for (uint32_t at = 0; at < size - VECTOR_SIGNED_BYTES; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            data[at] ^= (uint8_t)(1U << bit);
            assert_in_range(image_parse(&image, data, size), FAULT_SIZE, FAULT_DIGEST);
            data[at] ^= (uint8_t)(1U << bit);
        }
    }
}

static void test_only_one_of_the_two_looks_at_the_digest(void **state)
{
    (void)state;
    image_t image;
    data[IMAGE_HEADER_BYTES] ^= 1;
    assert_int_equal(image_read(&image, data, size), FAULT_NONE);
    assert_int_equal(image_parse(&image, data, size), FAULT_DIGEST);
    data[IMAGE_HEADER_BYTES] ^= 1;
}

static void test_every_cut_and_every_tail(void **state)
{
    (void)state;
    image_t image;
    for (uint32_t cut = 0; cut < size; cut++) {
        assert_in_range(image_parse(&image, data, cut), FAULT_SIZE, FAULT_TLV);
    }
    assert_int_equal(image_parse(&image, data, size + 1), FAULT_SIZE);
}

static void test_every_fault_has_its_word(void **state)
{
    (void)state;
    assert_null(image_fault_name(FAULT_NONE));
    assert_null(image_fault_name(FAULT_COUNT));
    assert_string_equal(image_fault_name(FAULT_SIZE), "size");
    assert_string_equal(image_fault_name(FAULT_SELF_TEST), "self-test");
    assert_string_equal(image_fault_name(FAULT_REVERTED), "reverted");
    for (int fault = FAULT_SIZE; fault < FAULT_COUNT; fault++) {
        assert_non_null(image_fault_name((image_fault_t)fault));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_in_it),
        cmocka_unit_test(test_every_changed_bit),
        cmocka_unit_test(test_only_one_of_the_two_looks_at_the_digest),
        cmocka_unit_test(test_every_cut_and_every_tail),
        cmocka_unit_test(test_every_fault_has_its_word),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
