/* The codec: RFC 8949's examples, the edges of its numbers, and what must be refused. */
#include "cbor.h"

#include <float.h>
#include <string.h>

#include "test.h"

#define READ(...) cbor_reader((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void test_numbers_survive(void **state)
{
    (void)state;
    static const uint64_t values[] = {0,         23, 24, 255, 256, 65535, 65536, UINT32_MAX, UINT32_MAX + UINT64_C(1),
                                      UINT64_MAX};
    static const size_t sizes[] = {1, 1, 2, 2, 3, 3, 5, 5, 9, 9};
    for (unsigned i = 0; i < sizeof values / sizeof *values; i++) {
        uint8_t bytes[9];
        cbor_writer_t w = cbor_writer(bytes, sizeof bytes);
        cbor_put_uint(&w, values[i]);
        assert_int_equal(cbor_written(&w), sizes[i]);
        cbor_reader_t r = cbor_reader(bytes, w.size);
        assert_true(cbor_uint(&r, UINT64_MAX) == values[i]);
        assert_true(cbor_ended(&r));
        r = cbor_reader(bytes, w.size);
        if (values[i] != 0) {
            assert_int_equal(cbor_uint(&r, values[i] - 1), 0);
            assert_true(r.failed);
        }
    }
    static const int64_t signed_values[] = {0, -1, -24, -25, 1000, -1000, INT64_MAX, INT64_MIN};
    for (unsigned i = 0; i < sizeof signed_values / sizeof *signed_values; i++) {
        uint8_t bytes[9];
        cbor_writer_t w = cbor_writer(bytes, sizeof bytes);
        cbor_put_int(&w, signed_values[i]);
        cbor_reader_t r = cbor_reader(bytes, w.size);
        assert_true(cbor_int(&r) == signed_values[i]);
        assert_true(cbor_ended(&r));
    }
}

static void test_floats_of_three_sizes(void **state)
{
    (void)state;
    cbor_reader_t r = READ(0xf9, 0x3e, 0x00, 0xf9, 0x00, 0x01, 0xf9, 0x7b, 0xff, 0xf9, 0xc4, 0x00);
    assert_true(cbor_float(&r) == 1.5F);
    assert_true(cbor_float(&r) == 5.960464477539063e-8F);
    assert_true(cbor_float(&r) == 65504.0F);
    assert_true(cbor_float(&r) == -4.0F);
    assert_true(cbor_ended(&r));
    r = READ(0xfa, 0x47, 0xc3, 0x50, 0x00, 0xfb, 0x3f, 0xf1, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a);
    assert_true(cbor_float(&r) == 100000.0F);
    assert_true(cbor_float(&r) == 1.1F);
    assert_true(cbor_ended(&r));
    const float values[] = {0, -0.0F, FLT_MAX, -FLT_MAX, FLT_MIN, 1e-45F, 0.1F};
    for (unsigned i = 0; i < sizeof values / sizeof *values; i++) {
        uint8_t bytes[5];
        cbor_writer_t w = cbor_writer(bytes, sizeof bytes);
        cbor_put_float(&w, values[i]);
        r = cbor_reader(bytes, w.size);
        assert_true(cbor_float(&r) == values[i] && cbor_ended(&r));
    }
}

static void test_floats_that_are_none(void **state)
{
    (void)state;
    const cbor_reader_t readers[] = {
        READ(0xf9, 0x7c, 0x00), /* infinity */
        READ(0xf9, 0x7e, 0x00), /* NaN */
        READ(0xfa, 0xff, 0x80, 0x00, 0x00),
        READ(0xfa, 0x7f, 0xc0, 0x00, 0x00),
        READ(0xfb, 0x7f, 0xf0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00),
        READ(0xfb, 0x7f, 0xef, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), /* more than a float holds */
        READ(0x01),                                                 /* an integer */
        READ(0xf5),                                                 /* true */
        READ(0xfa, 0x00, 0x00, 0x00),
    };
    for (unsigned i = 0; i < sizeof readers / sizeof *readers; i++) {
        cbor_reader_t r = readers[i];
        assert_true(cbor_float(&r) == 0);
        assert_true(r.failed);
    }
}

static void test_what_is_refused(void **state)
{
    (void)state;
    const cbor_reader_t readers[] = {
        READ(0x5f, 0x41, 0x00, 0xff),                                     /* bytes without a length */
        READ(0x9f, 0xff),                                                 /* an array without a length */
        READ(0xc1, 0x00),                                                 /* a tag */
        READ(0xf6),                                                       /* null */
        READ(0xf8, 0x20),                                                 /* a simple value */
        READ(0x1c),                                                       /* reserved */
        READ(0x19, 0x01),                                                 /* cut short */
        READ(0x42, 0x00),                                                 /* longer than what is there */
        READ(0x82, 0x00),                                                 /* more items than bytes */
        READ(0xa1, 0x00),                                                 /* more pairs than bytes allow */
        READ(0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00), /* 2^64 items */
    };
    for (unsigned i = 0; i < sizeof readers / sizeof *readers; i++) {
        cbor_reader_t r = readers[i];
        cbor_skip(&r);
        assert_true(r.failed);
        assert_false(cbor_ended(&r));
        assert_int_equal(cbor_map(&r), 0); /* and it stays so */
    }
}

static void test_utf8(void **state)
{
    (void)state;
    cbor_reader_t r = READ(0x6a, 'a', 0xc3, 0xbc, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80);
    assert_int_equal(cbor_text(&r).size, 10);
    assert_true(cbor_ended(&r));
    const cbor_reader_t readers[] = {
        READ(0x61, 0x80),                   /* a continuation alone */
        READ(0x62, 0xc0, 0x80),             /* not the shortest */
        READ(0x63, 0xe0, 0x80, 0x80),       /* not the shortest */
        READ(0x63, 0xed, 0xa0, 0x80),       /* a surrogate */
        READ(0x64, 0xf4, 0x90, 0x80, 0x80), /* above U+10FFFF */
        READ(0x62, 0xe2, 0x82),             /* cut short */
        READ(0x62, 0xc3, 0x41),             /* no continuation */
        READ(0x61, 0xff),
    };
    for (unsigned i = 0; i < sizeof readers / sizeof *readers; i++) {
        r = readers[i];
        cbor_text(&r);
        assert_true(r.failed);
    }
}

static void test_skip_takes_everything(void **state)
{
    (void)state;
    /* {"a": [1, -2, {3: h'04'}], 5: 1.5, 6: true} and one more */
    cbor_reader_t r =
        READ(0xa3, 0x61, 'a', 0x83, 0x01, 0x21, 0xa1, 0x03, 0x41, 0x04, 0x05, 0xf9, 0x3e, 0x00, 0x06, 0xf5, 0x07);
    cbor_skip(&r);
    assert_int_equal(cbor_uint(&r, 10), 7);
    assert_true(cbor_ended(&r));
    uint8_t deep[100000]; /* arrays in arrays */
    memset(deep, 0x81, sizeof deep);
    deep[sizeof deep - 1] = 0;
    r = cbor_reader(deep, sizeof deep);
    cbor_skip(&r);
    assert_true(cbor_ended(&r));
}

static void test_a_writer_stays_inside(void **state)
{
    (void)state;
    uint8_t bytes[8];
    memset(bytes, 0xee, sizeof bytes);
    cbor_writer_t w = cbor_writer(bytes, 4);
    cbor_put_text(&w, "abc");
    assert_int_equal(cbor_written(&w), 4);
    cbor_put_uint(&w, 1);
    cbor_put_bytes(&w, (const uint8_t *)"xy", 2);
    assert_int_equal(cbor_written(&w), 0);
    assert_int_equal(bytes[4], 0xee);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_survive),
        cmocka_unit_test(test_floats_of_three_sizes),
        cmocka_unit_test(test_floats_that_are_none),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_skip_takes_everything),
        cmocka_unit_test(test_a_writer_stays_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
