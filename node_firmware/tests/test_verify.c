/* Admission: a good image passes, and each thing that is wrong with it, or with what a node asks for, has its word. */
#include "verify.h"

#include <string.h>

#include "frontend/tables.h"
#include "test.h"
#include "vector.h"

static uint8_t *data;
static uint32_t size;
static image_t image;
static uint8_t arena[2048] __attribute__((aligned(NN_ALIGNMENT)));
static verify_policy_t policy;
static uint8_t keys[2][IMAGE_KEY_BYTES]; /* the first one is a stranger's */

static int setup(void **state)
{
    (void)state;
    data = vector_load(&size);
    memcpy(keys[1], vector_key, sizeof vector_key);
    policy = (verify_policy_t){.keys = (const uint8_t(*)[IMAGE_KEY_BYTES])keys,
                               .key_count = 2,
                               .cascade = "vibration",
                               .counter = 7,
                               .capacity = size,
                               .ring_bytes = 40000,
                               .arena = arena,
                               .arena_bytes = sizeof arena};
    return image_parse(&image, data, size) == FAULT_NONE ? 0 : -1;
}

static void test_a_good_one_passes_more_than_once(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(verify_origin(&image, &policy), FAULT_NONE);
        assert_int_equal(verify_image(&image, &policy), FAULT_NONE);
        assert_int_equal(verify_model(&image, &policy), FAULT_NONE);
    }
    policy.cascade = NULL;
    assert_int_equal(verify_image(&image, &policy), FAULT_NONE);
}

static void test_who_signed_it(void **state)
{
    (void)state;
    for (uint32_t at = size - VECTOR_SIGNED_BYTES; at < size; at++) {
        image_t changed;
        data[at] ^= 0x10;
        if (image_parse(&changed, data, size) == FAULT_NONE) {
            const image_fault_t expected = at < size - 68 ? FAULT_KEY : FAULT_SIGNATURE;
            assert_int_equal(verify_origin(&changed, &policy), expected);
        }
        data[at] ^= 0x10;
    }
    policy.key_count = 1;
    assert_int_equal(verify_image(&image, &policy), FAULT_KEY);
    policy.key_count = 2;
    image.key_hash = image.signature = NULL; /* not signed */
    assert_int_equal(verify_image(&image, &policy), FAULT_KEY);
}

static void test_what_does_not_fit_this_node(void **state)
{
    (void)state;
    const verify_policy_t good = policy;
    policy.cascade = "wakeword";
    policy.capacity = size - 1; /* what comes first in the list of reasons is said */
    assert_int_equal(verify_image(&image, &policy), FAULT_CASCADE);
    policy.cascade = good.cascade;
    assert_int_equal(verify_image(&image, &policy), FAULT_CAPACITY);
    policy = good;
    policy.counter = 8;
    assert_int_equal(verify_image(&image, &policy), FAULT_COUNTER);
    policy = good;
    policy.arena_bytes = image.arena_bytes - 1;
    assert_int_equal(verify_image(&image, &policy), FAULT_ARENA);
    policy = good;
    policy.ring_bytes = sense_ring_bytes(&image) - 1;
    assert_int_equal(verify_image(&image, &policy), FAULT_DECISION);
}

static void test_what_this_build_does_not_have(void **state)
{
    (void)state;
    static const uint8_t operators[65] = {[1] = 2, [64] = 1};
    image.operators = (span_t){operators, sizeof operators};
    assert_int_equal(verify_image(&image, &policy), FAULT_OPERATORS);
    image.operators.size = 64; /* the same set, written longer */
    assert_int_equal(verify_image(&image, &policy), FAULT_NONE);
    assert_int_equal(verify_model(&image, &policy), FAULT_NONE);
    image.front_end.window = 1024;
    assert_int_equal(verify_image(&image, &policy), FAULT_FRONT_END);
    image.front_end.window = 512;
    image.decision.detect.window = 0;
    assert_int_equal(verify_image(&image, &policy), FAULT_DECISION);
}

static void assert_only_this_audio(image_t *audio, bool band)
{
    front_end_t *const f = &audio->front_end;
    uint32_t *const numbers[] = {&f->rate_hz, &f->window, &f->step, &f->channels, &f->low_hz, &f->high_hz};
    assert_int_equal(sense_check(audio, ADPCM_BLOCK), FAULT_NONE);
    for (unsigned i = 0; i < (band ? 6 : 4); i++) {
        ++*numbers[i];
        assert_int_equal(sense_check(audio, ADPCM_BLOCK), FAULT_FRONT_END);
        --*numbers[i];
        *numbers[i] += UINT32_C(1) << 25; /* times the rate, this is 0 in 32 bits */
        assert_int_equal(sense_check(audio, ADPCM_BLOCK), FAULT_FRONT_END);
        *numbers[i] -= UINT32_C(1) << 25;
    }
}

static void test_an_audio_front_end_is_the_standard_one_or_brings_its_parameters(void **state)
{
    (void)state;
    image_t audio = {.front_end = {FRONT_END_AUDIO, AUDIO_RATE_HZ, 30, 10, 40, 125, 7500, {NULL, 0}},
                     .decision.detect = {.rule = DETECT_AVERAGE, .cutoff = 0.5F, .window = 1}};
    assert_only_this_audio(&audio, true);
    uint8_t parameters[AUDIO_STANDARD_BYTES];
    memcpy(parameters, audio_standard, sizeof parameters);
    parameters[2] = 320 & 0xff; /* the step */
    parameters[3] = 320 >> 8;
    audio.front_end.parameters = (span_t){parameters, sizeof parameters};
    audio.front_end.step = 20;
    assert_only_this_audio(&audio, false);
    audio.front_end.parameters.size--;
    assert_int_equal(sense_check(&audio, ADPCM_BLOCK), FAULT_FRONT_END);
    audio.front_end.parameters.size = 0;
    assert_int_equal(sense_check(&audio, ADPCM_BLOCK), FAULT_FRONT_END);
}

static void test_what_is_wrong_with_the_model(void **state)
{
    (void)state;
    image_t changed = image;
    changed.operators.size = 0; /* conceals */
    assert_int_equal(verify_model(&changed, &policy), FAULT_OPERATORS);
    changed = image;
    changed.arena_bytes = 64; /* though there would be more */
    assert_int_equal(verify_model(&changed, &policy), FAULT_ARENA);
    changed.arena_bytes = sizeof arena + 1;
    assert_int_equal(verify_model(&changed, &policy), FAULT_ARENA);
    changed = image;
    changed.payload.size /= 2;
    assert_int_equal(verify_model(&changed, &policy), FAULT_MODEL);
    changed.payload.size = 0;
    assert_int_equal(verify_model(&changed, &policy), FAULT_MODEL);
    changed = image;
    changed.front_end.channels = 3; /* rows that do not make an input */
    assert_int_equal(verify_model(&changed, &policy), FAULT_MODEL);
    changed = image;
    changed.decision.detect.rule = DETECT_AVERAGE; /* wants one output */
    assert_int_equal(verify_model(&changed, &policy), FAULT_MODEL);
}

static void test_what_is_wrong_with_the_self_test(void **state)
{
    (void)state;
    image_t changed = image;
    uint8_t wrong[128];
    for (unsigned at = 0; at < sizeof wrong; at++) {
        memcpy(wrong, image.outputs.data, sizeof wrong);
        wrong[at] ^= 1;
        changed.outputs.data = wrong;
        assert_int_equal(verify_model(&changed, &policy), FAULT_SELF_TEST);
    }
    for (uint32_t bytes = 0; bytes < 128; bytes++) {
        changed = image;
        changed.outputs.size = bytes;
        assert_int_equal(verify_model(&changed, &policy), FAULT_SELF_TEST);
        changed.inputs.size = bytes;
        assert_int_equal(verify_model(&changed, &policy), bytes != 0 && bytes % 4 == 0 ? FAULT_NONE : FAULT_SELF_TEST);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_a_good_one_passes_more_than_once, setup),
        cmocka_unit_test_setup(test_who_signed_it, setup),
        cmocka_unit_test_setup(test_what_does_not_fit_this_node, setup),
        cmocka_unit_test_setup(test_what_this_build_does_not_have, setup),
        cmocka_unit_test_setup(test_an_audio_front_end_is_the_standard_one_or_brings_its_parameters, setup),
        cmocka_unit_test_setup(test_what_is_wrong_with_the_model, setup),
        cmocka_unit_test_setup(test_what_is_wrong_with_the_self_test, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
