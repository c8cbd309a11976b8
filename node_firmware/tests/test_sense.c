/* What a follow window holds: counted in samples, so that no clock and no model decides. */
#include "sense.h"
#include "test.h"

#define RATE_HZ   8000
#define LISTEN_MS 2000
#define BEFORE    (RATE_HZ * SENSE_BEFORE_MS / 1000)
#define LISTEN    (RATE_HZ * LISTEN_MS / 1000)

static uint8_t ring[2 * LISTEN];
static const node_port_t port; /* no inference happens */

/* Ready to listen, but so slow to make a feature row that nothing is ever inferred. */
static void open_deaf(sense_t *s)
{
    const vibration_config_t config = {.rate_hz = RATE_HZ, .frames = 1024, .bands = 1, .low_hz = 100, .high_hz = 3000};
    *s = (sense_t){.image.front_end = {.kind = FRONT_END_VIBRATION, .rate_hz = RATE_HZ, .channels = 1},
                   .image.decision.listen_ms = LISTEN_MS,
                   .in.size = 1};
    assert_int_equal(vibration_frontend_init(&s->front_end.vibration, &config), 0);
    clip_init(&s->clip, CLIP_PCM16, ring, sizeof ring);
}

/* Feeds numbered samples up to `last`, or until a follow ends; whether one did. */
static bool feed_until(sense_t *s, uint32_t last)
{
    while (s->samples < last) {
        const int16_t sample = (int16_t)s->samples;
        sense_outcome_t outcome;
        const int taken = sense_feed(s, &sample, 1, &port, &outcome);
        assert_in_range(taken, 0, 1);
        if (outcome == SENSE_FOLLOW) {
            return true;
        }
        assert_int_equal(outcome, SENSE_NOTHING);
    }
    return false;
}

static void assert_window_starts(const sense_t *s, uint32_t expected)
{
    node_window_t window;
    assert_true(sense_window(s, LISTEN_MS, &window));
    assert_int_equal(window.piece_size[0] + window.piece_size[1], 2 * LISTEN);
    assert_int_equal(window.piece[0][0] | window.piece[0][1] << 8, expected);
}

static void test_a_window_starts_before_its_trigger(void **state)
{
    (void)state;
    const uint32_t trigger = 2 * LISTEN;
    for (uint32_t late = 0; late <= LISTEN - BEFORE; late += (LISTEN - BEFORE) / 4) { /* until the verdict */
        sense_t s;
        open_deaf(&s);
        assert_false(feed_until(&s, trigger + late));
        sense_follow(&s, 7, trigger);
        sense_follow(&s, 8, trigger); /* one is under way */
        assert_true(feed_until(&s, trigger + 2 * LISTEN));
        assert_int_equal(s.follow_ref, 7);
        assert_window_starts(&s, trigger - BEFORE);
        assert_false(feed_until(&s, (uint32_t)s.samples + LISTEN)); /* once */
    }
}

static void test_a_late_verdict_ends_it_at_once(void **state)
{
    (void)state;
    const uint32_t now = 3 * LISTEN;
    sense_t s;
    open_deaf(&s);
    assert_false(feed_until(&s, now));
    sense_follow(&s, 7, now - LISTEN);
    assert_true(feed_until(&s, now + 1));
    assert_window_starts(&s, now - LISTEN);
}

static void test_nothing_is_heard_where_none_is_asked_for(void **state)
{
    (void)state;
    sense_t s;
    open_deaf(&s);
    s.image.decision.listen_ms = 0;
    sense_follow(&s, 7, 0);
    assert_false(feed_until(&s, LISTEN));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_window_starts_before_its_trigger),
        cmocka_unit_test(test_a_late_verdict_ends_it_at_once),
        cmocka_unit_test(test_nothing_is_heard_where_none_is_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
