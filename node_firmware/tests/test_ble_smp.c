/* SMP over Bluetooth LE, and an upload that comes that way. */
#include "ble.h"

#include <string.h>

#include "cbor.h"
#include "central.h"
#include "session.h"
#include "site.h"
#include "smp_parts.h"
#include "test.h"
#include "vector.h"

#define IMAGE_BYTES (5 * SECTOR)
#define FLASH_BYTES ((SESSION_SECTORS + JOURNAL_SECTORS + 8) * SECTOR)

static int setup(void **state)
{
    (void)state;
    central_reset();
    site_start(FLASH_BYTES);
    boot();
    return 0;
}

static void expect_both(const char *words)
{
    converse();
    expect(words);
}

/* ---- SMP ---- */

#define FRAME_BYTES 1200

static size_t frame(uint8_t out[FRAME_BYTES], uint8_t op, uint8_t group, uint8_t command, uint8_t sequence,
                    cbor_writer_t map)
{
    const size_t size = SMP_HEADER_BYTES + map.size;
    assert_true(size <= FRAME_BYTES);
    memcpy(out, (uint8_t[]){8 | op, 0, (uint8_t)(map.size >> 8), (uint8_t)map.size, 0, group, sequence, command}, 8);
    memcpy(out + SMP_HEADER_BYTES, map.data, map.size);
    return size;
}

static size_t echo(uint8_t out[FRAME_BYTES], uint8_t sequence, size_t letters)
{
    static const uint8_t text[1000];
    uint8_t map[FRAME_BYTES];
    cbor_writer_t w = cbor_writer(map, sizeof map);
    cbor_put_map(&w, 1);
    cbor_put_text(&w, "d");
    cbor_put_span(&w, (span_t){text, (uint32_t)letters});
    return frame(out, 2, 0, 0, sequence, w);
}

static void write_pieces(const uint8_t *data, size_t size, size_t piece)
{
    for (size_t at = 0; at < size; at += piece) {
        const size_t taken = size - at < piece ? size - at : piece;
        assert_int_equal(node_ble_written(&node, BLE_SMP, data + at, taken, now_ms), NODE_OK);
    }
}

/* The next answer; NULL where there is none. */
static const uint8_t *next_answer(size_t *at)
{
    if (*at == central.answered) {
        return NULL;
    }
    const uint8_t *const found = central.answers + *at;
    *at += SMP_HEADER_BYTES + ((size_t)found[2] << 8 | found[3]);
    assert_true(*at <= central.answered);
    return found;
}

static bool refused_busy(const uint8_t *frame_)
{
    return frame_[3] == 5 && memcmp(frame_ + SMP_HEADER_BYTES, "\xa1\x62rc\x0a", 5) == 0;
}

static void test_requests_in_every_cut(void **state)
{
    (void)state;
    uint8_t stream[3 * FRAME_BYTES];
    size_t size = 0;
    for (uint8_t sequence = 0; sequence < 3; sequence++) {
        size += echo(stream + size, sequence, 10U * sequence);
    }
    for (size_t piece = 1; piece <= size; piece++) {
        central_connect(23);
        write_pieces(stream, size, piece);
        converse();
        size_t at = 0;
        for (unsigned sequence = 0; sequence < 3; sequence++) {
            const uint8_t *const found = next_answer(&at);
            assert_non_null(found);
            assert_int_equal(found[6], sequence);
            assert_int_equal(found[3], 4 + 10 * sequence);
        }
        assert_null(next_answer(&at));
        central_disconnect();
    }
    assert_int_equal(node.counts.unanswered, 0);
}

static void test_it_says_how_many_requests_may_be_out(void **state)
{
    (void)state;
    uint8_t request[FRAME_BYTES], map[8], over_wire[FRAME_BYTES];
    cbor_writer_t w = cbor_writer(map, sizeof map);
    cbor_put_map(&w, 0);
    const size_t size = frame(request, 0, 0, 6, 1, w);
    central_connect(185);
    write_pieces(request, size, 180);
    converse();
    assert_int_equal(central.answers[central.answered - 1], 4); /* buf_count is the last field */
    const size_t answered = node_manage(&node, request, size, over_wire, sizeof over_wire, now_ms);
    assert_int_equal(over_wire[answered - 1], 1);
}

static void test_an_answer_has_its_own_notifications(void **state)
{
    (void)state;
    uint8_t stream[2 * FRAME_BYTES];
    size_t size = echo(stream, 0, 100);
    const size_t answer_bytes = size;
    size += echo(stream + size, 1, 100);
    central_connect(185);
    node_ble_subscribed(&node, BLE_UP, false, now_ms);
    write_pieces(stream, size, size);
    for (unsigned i = 1; i <= 2; i++) {
        assert_true(node_sends());
        assert_int_equal(central.answered, i * answer_bytes);
    }
}

static void test_answers_that_nobody_takes(void **state)
{
    (void)state;
    uint8_t request[FRAME_BYTES];
    central_connect(185);
    unsigned written = 0, refused = 0;
    while (node_ble_written(&node, BLE_SMP, request, echo(request, (uint8_t)written, 120), now_ms) == NODE_OK) {
        written++;
        assert_true(written < 1000);
    }
    assert_true(node_ble_broken(&node));
    central_disconnect();

    central_connect(185);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(node_ble_written(&node, BLE_SMP, request, echo(request, (uint8_t)i, 120), now_ms), NODE_OK);
    }
    converse();
    size_t at = 0;
    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *const found = next_answer(&at);
        assert_non_null(found); /* every one has its answer, and in order */
        assert_int_equal(found[6], i);
        refused += refused_busy(found);
    }
    assert_int_equal(refused, 7);
}

static void test_a_request_that_is_too_large_or_ends_early(void **state)
{
    (void)state;
    static uint8_t large[NODE_RECEIVE_BYTES + 100];
    uint8_t request[FRAME_BYTES];
    central_connect(247);
    echo(large, 9, 0);
    large[2] = (uint8_t)((sizeof large - SMP_HEADER_BYTES) >> 8);
    large[3] = (uint8_t)(sizeof large - SMP_HEADER_BYTES);
    write_pieces(large, sizeof large, 244);
    converse();
    size_t at = 0;
    assert_memory_equal(next_answer(&at) + SMP_HEADER_BYTES, "\xa1\x62rc\x03", 5);

    const size_t size = echo(request, 1, 300);
    write_pieces(request, 244, 244); /* what follows is lost */
    now_ms += 2001;
    write_pieces(request, size, 244);
    converse();
    const uint8_t *const found = next_answer(&at);
    assert_non_null(found);
    assert_int_equal(found[6], 1);
    assert_int_equal(found[2] << 8 | found[3], size - SMP_HEADER_BYTES);
    assert_null(next_answer(&at));
}

/* Both carriers' requests grow in one buffer: MQTT's has it, and the other is told to come again. */
static void test_requests_over_both_carriers(void **state)
{
    (void)state;
    uint8_t request[FRAME_BYTES], packet[FRAME_BYTES + 100] = {0x30};
    const size_t size = echo(request, 1, 900);
    const size_t length = 2 + sizeof REQUEST - 1 + size;
    packet[1] = (uint8_t)(length % 128 | 128);
    packet[2] = (uint8_t)(length / 128);
    packet[4] = sizeof REQUEST - 1;
    memcpy(packet + 5, REQUEST, sizeof REQUEST - 1);
    memcpy(packet + 4 + sizeof REQUEST, request, size);
    assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
    talk();
    central_connect(185);
    converse();
    heard[0] = '\0';
    write_pieces(request, 300, 182);
    answer(packet, 500);
    write_pieces(request + 300, size - 300, 182); /* it was first, and yet */
    write_pieces(request, size, 182);
    answer(packet + 500, 3 + length - 500);
    expect_both("smp ");
    size_t at = 0;
    for (unsigned i = 0; i < 2; i++) {
        const uint8_t *const found = next_answer(&at);
        assert_non_null(found);
        assert_true(refused_busy(found));
    }
    write_pieces(request, size, 182);
    converse();
    assert_false(refused_busy(next_answer(&at)));
    assert_int_equal(node.counts.unanswered, 2);
}

/* ---- an upload ---- */

static sense_t sense;
static uint8_t arena[1024] __attribute__((aligned(NN_ALIGNMENT)));
static uint8_t ring[NODE_MAX_WINDOW];
static const uint8_t *image;
static uint32_t image_bytes;

static void boot_with_image(void)
{
    const sense_memory_t memory = {arena, sizeof arena, ring, sizeof ring};
    boot();
    assert_int_equal(node_load(&node, 1, &sense, &memory), NODE_OK);
}

static int setup_with_image(void **state)
{
    (void)state;
    setup(NULL);
    image = vector_load(&image_bytes);
    site_start(FLASH_BYTES + JOURNAL_SECTORS * SECTOR + SLOTS * IMAGE_BYTES);
    config.keys = (const uint8_t(*)[IMAGE_KEY_BYTES])vector_key;
    config.key_count = 1;
    config.images = 1;
    config.image_bytes = IMAGE_BYTES;
    config.arena_bytes = sizeof arena;
    config.trial_s = 100;
    boot_with_image();
    return 0;
}

static size_t chunk(uint8_t out[FRAME_BYTES], uint32_t offset, uint32_t size)
{
    uint8_t map[FRAME_BYTES];
    static const uint8_t name[32] = "the upload";
    cbor_writer_t w = cbor_writer(map, sizeof map);
    cbor_put_map(&w, offset == 0 ? 5 : 2);
    if (offset == 0) {
        cbor_put_text(&w, "image");
        cbor_put_uint(&w, 1);
        cbor_put_text(&w, "len");
        cbor_put_uint(&w, image_bytes);
        cbor_put_text(&w, "sha");
        cbor_put_bytes(&w, name, sizeof name);
    }
    cbor_put_text(&w, "off");
    cbor_put_uint(&w, offset);
    cbor_put_text(&w, "data");
    cbor_put_bytes(&w, image + offset, size);
    return frame(out, 2, 1, 1, (uint8_t)(offset / 100), w);
}

static uint32_t offset_of(const uint8_t *found)
{
    cbor_reader_t r = cbor_reader(found + SMP_HEADER_BYTES, (size_t)found[2] << 8 | found[3]);
    uint32_t offset = 0;
    for (uint32_t pairs = cbor_map(&r); pairs != 0; pairs--) {
        if (smp_equal(cbor_text(&r), "off")) {
            offset = (uint32_t)cbor_uint(&r, UINT32_MAX);
        } else {
            cbor_skip(&r);
        }
    }
    return offset;
}

/* Four requests are out at a time, as many as there are bytes; where the upload is afterwards. */
static uint32_t upload(uint32_t offset, size_t piece)
{
    uint8_t request[FRAME_BYTES];
    size_t at = 0;
    uint32_t sent = offset;
    unsigned out = 0;
    while (central.connected && offset < image_bytes) {
        for (; out < 4 && sent < image_bytes; out++) {
            const uint32_t size = image_bytes - sent < 100 ? image_bytes - sent : 100;
            write_pieces(request, chunk(request, sent, size), piece);
            sent += size;
        }
        converse();
        for (const uint8_t *found; (found = next_answer(&at)) != NULL; out--) {
            assert_false(refused_busy(found));
            assert_true(offset_of(found) >= offset);
            offset = offset_of(found);
        }
    }
    return offset;
}

static slot_state_t uploaded(void)
{
    return (slot_state_t)node.models[0].slots.slot[0].state;
}

static void test_an_upload_with_four_requests_in_flight(void **state)
{
    (void)state;
    static const size_t pieces[] = {20, 101, 244, 1000};
    for (unsigned i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        setup_with_image(NULL);
        central_connect(BLE_MTU_MOST);
        assert_int_equal(upload(0, pieces[i]), image_bytes);
        assert_int_equal(uploaded(), SLOT_VERIFIED);
        assert_non_null(strstr(heard, "binfo ")); /* and it is told */
        assert_int_equal(flash.broken_rules, 0);
    }
}

static void test_an_upload_goes_on_over_the_other_carrier(void **state)
{
    (void)state;
    uint8_t request[FRAME_BYTES];
    for (long at = 1; at < 40; at++) {
        setup_with_image(NULL);
        central_connect(185);
        central.cut_at = at;
        (void)upload(0, 182);
        central.cut_at = -1;
        boot_with_image(); /* the node was reset, too */
        assert_int_equal(node_link_up(&node, now_ms), NODE_OK);
        talk();
        uint32_t offset = 0;
        for (unsigned guard = 0; offset < image_bytes && guard < 50; guard++) {
            const uint32_t size = image_bytes - offset < 100 ? image_bytes - offset : 100;
            deliver(REQUEST, request, chunk(request, offset, size));
            talk();
            offset = offset_of(node.answer);
        }
        assert_int_equal(offset, image_bytes);
        assert_int_equal(uploaded(), SLOT_VERIFIED);
        assert_int_equal(flash.broken_rules, 0);
    }
}

static void test_the_model_is_in_the_beacon(void **state)
{
    (void)state;
    uint8_t data[BLE_ADVERTISEMENT_BYTES], response[BLE_ADVERTISEMENT_BYTES];
    size_t size, response_size;
    assert_true(node_ble_advertisement(&node, data, &size, response, &response_size));
    assert_true(data[25] == 0 && data[26] == 0);
    assert_int_equal(node_provision(&node, 1, image, image_bytes), NODE_OK);
    assert_true(node_step(&node, now_ms) >= 0);
    assert_true(node_ble_advertisement(&node, data, &size, response, &response_size));
    assert_memory_equal(data + 25, node.models[0].slots.slot[0].sha256, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_requests_in_every_cut, setup),
        cmocka_unit_test_setup(test_it_says_how_many_requests_may_be_out, setup),
        cmocka_unit_test_setup(test_an_answer_has_its_own_notifications, setup),
        cmocka_unit_test_setup(test_answers_that_nobody_takes, setup),
        cmocka_unit_test_setup(test_a_request_that_is_too_large_or_ends_early, setup),
        cmocka_unit_test_setup(test_requests_over_both_carriers, setup),
        cmocka_unit_test_setup(test_an_upload_with_four_requests_in_flight, setup_with_image),
        cmocka_unit_test_setup(test_an_upload_goes_on_over_the_other_carrier, setup_with_image),
        cmocka_unit_test_setup(test_the_model_is_in_the_beacon, setup_with_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
