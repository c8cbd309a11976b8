/* Images: one is read, and no change of a byte and no cut is overlooked. */
#include "image.h"

#include <stdio.h>
#include <string.h>

#include "test.h"

static uint8_t data[4096];
static uint32_t size;

static int setup(void **state)
{
    (void)state;
    memset(data, 0xff, sizeof data); /* flash behind the image */
    FILE *const file = fopen(VECTORS "/model.img", "rb");
    if (file == NULL) {
        return -1;
    }
    size = (uint32_t)fread(data, 1, sizeof data, file);
    fclose(file);
    return size < sizeof data ? 0 : -1;
}

static void test_what_is_in_it(void **state)
{
    (void)state;
    image_t image;
    assert_int_equal(image_parse(&image, data, sizeof data), NODE_OK);
    assert_int_equal(image.size, size);
    assert_ptr_equal(image.payload.data, data + IMAGE_HEADER_BYTES);
    assert_int_equal(image.payload.size, 64);
    assert_string_equal(image.cascade, "vibration");
    assert_string_equal(image.version, "255.255.65535+4294967295");
    assert_int_equal(image.counter, 7);
    assert_int_equal(image.arena_bytes, 4096);
    assert_int_equal(image.operators.size, 2);
    assert_int_equal(image.front_end.kind, FRONT_END_VIBRATION);
    assert_int_equal(image.front_end.normalisation.size, 8);
    assert_int_equal(image.decision.detect.rule, DETECT_ERROR);
    assert_int_equal(image.decision.clip_ms, 2000);
    assert_memory_equal(image.sha256, data + size - 32, 32);
    assert_int_equal(image_parse(&image, data, size), NODE_OK); /* also where it just fits */
}

static void test_every_changed_byte(void **state)
{
    (void)state;
    image_t image;
    for (uint32_t at = 0; at < size; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            data[at] ^= (uint8_t)(1U << bit);
            assert_int_equal(image_parse(&image, data, sizeof data), NODE_E_IMAGE);
            data[at] ^= (uint8_t)(1U << bit);
        }
    }
}

static void test_every_cut(void **state)
{
    (void)state;
    image_t image;
    for (uint32_t cut = 0; cut < size; cut++) {
        assert_int_equal(image_parse(&image, data, cut), NODE_E_IMAGE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_in_it),
        cmocka_unit_test(test_every_changed_byte),
        cmocka_unit_test(test_every_cut),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
