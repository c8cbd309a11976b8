/* A node that is managed: frames, and the groups behind them. Nothing of it needs a link. */
#include "smp.h"

#include <string.h>

#include "flash.h"
#include "resign.h"
#include "session.h"
#include "smp_parts.h"
#include "test.h"
#include "vector.h"

#define SECTOR   256
#define CAPACITY (5 * SECTOR)
#define BYTES    ((SESSION_SECTORS + 2 * JOURNAL_SECTORS) * SECTOR + SLOTS * CAPACITY + 8 * SECTOR)
#define TRIAL_S  100
#define OWN      1000 /* what refusal() adds to SMP's own errors */
#define READ     0
#define WRITE    2

static flash_t flash;
static node_t node;
static node_port_t port;
static sense_t sense;
static uint8_t arena[1024] __attribute__((aligned(NN_ALIGNMENT))), ring[NODE_MAX_WINDOW];
static uint8_t key[1][IMAGE_KEY_BYTES];
static const node_config_t config = {.id = "n-1",
                                     .hardware = "test",
                                     .board = "bench",
                                     .firmware = "1.0",
                                     .reset_reason = "power-on",
                                     .keys = (const uint8_t (*)[IMAGE_KEY_BYTES])key,
                                     .key_count = 1,
                                     .images = 1,
                                     .image_bytes = CAPACITY,
                                     .arena_bytes = sizeof arena,
                                     .trial_s = TRIAL_S,
                                     .keepalive_s = 60,
                                     .vitals_s = 30};
static uint32_t now_ms;
static unsigned resets;

static uint8_t request[NODE_RECEIVE_BYTES], answer[NODE_RECEIVE_BYTES];
static cbor_writer_t body; /* of the request */
static smp_call_t got;     /* the answer, to be asked as a handler asks a request */

static uint32_t port_random(void *context)
{
    (void)context;
    return now_ms;
}

static uint32_t port_micros(void *context)
{
    (void)context;
    return 0;
}

static void port_reset(void *context)
{
    (void)context;
    resets++;
}

static void boot(void)
{
    const sense_memory_t memory = {arena, sizeof arena, ring, sizeof ring};
    port = (node_port_t){
        .flash = flash_driver(&flash, SECTOR), .random = port_random, .micros = port_micros, .reset = port_reset};
    assert_int_equal(node_init(&node, &config, &port, now_ms), NODE_OK);
    assert_int_equal(node_load(&node, 1, &sense, &memory), NODE_OK);
}

static int setup(void **state)
{
    (void)state;
    memcpy(key[0], vector_key, sizeof vector_key);
    now_ms = 1;
    resets = 0;
    flash_init(&flash, BYTES);
    boot();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return flash.broken_rules == 0 ? 0 : -1;
}

/* ---- a client of thirty lines ---- */

static void begin(unsigned op, unsigned group, unsigned command, uint32_t pairs)
{
    const uint8_t header[SMP_HEADER_BYTES] = {(uint8_t)(1 << 3 | op), 0, 0, 0, 0, (uint8_t)group, 77, (uint8_t)command};
    memcpy(request, header, sizeof header);
    body = cbor_writer(request + sizeof header, sizeof request - sizeof header);
    cbor_put_map(&body, pairs);
}

static void put_bytes(const char *name, const uint8_t *data, uint32_t size)
{
    cbor_put_text(&body, name);
    cbor_put_bytes(&body, data, size);
}

static void put_text(const char *name, const char *text)
{
    cbor_put_text(&body, name);
    cbor_put_text(&body, text);
}

static void put_uint(const char *name, uint32_t value)
{
    cbor_put_text(&body, name);
    cbor_put_uint(&body, value);
}

/* -1 where it is none; SMP's own errors and those of a group are told apart. */
static int refusal(void)
{
    cbor_reader_t r = cbor_reader(got.map.data, got.map.size);
    if (cbor_map(&r) != 1) {
        return -1;
    }
    const span_t name = cbor_text(&r);
    if (smp_equal(name, "rc")) {
        return OWN + (int)cbor_uint(&r, 255);
    }
    if (!smp_equal(name, "err")) {
        return -1;
    }
    assert_int_equal(cbor_map(&r), 2);
    assert_true(smp_equal(cbor_text(&r), "group"));
    assert_int_equal(cbor_uint(&r, UINT16_MAX), request[5]);
    assert_true(smp_equal(cbor_text(&r), "rc"));
    return (int)cbor_uint(&r, 255);
}

/* Sends the frame as it is. */
static int send_raw(size_t size)
{
    const size_t answered = node_manage(&node, request, size, answer, sizeof answer, now_ms);
    assert_true(answered > SMP_HEADER_BYTES);
    assert_int_equal(answer[2] << 8 | answer[3], answered - SMP_HEADER_BYTES);
    assert_int_equal(answer[0] & 7, (request[0] & 7) + 1);
    assert_int_equal(answer[1], 0);
    assert_memory_equal(answer + 4, request + 4, 4);
    got = (smp_call_t){.map = {answer + SMP_HEADER_BYTES, (uint32_t)(answered - SMP_HEADER_BYTES)}};
    return refusal();
}

static int send(void)
{
    request[2] = (uint8_t)(body.size >> 8);
    request[3] = (uint8_t)body.size;
    return send_raw(SMP_HEADER_BYTES + body.size);
}

static int ask(unsigned op, unsigned group, unsigned command)
{
    begin(op, group, command, 0);
    return send();
}

static void step_s(uint32_t seconds)
{
    now_ms += seconds * 1000;
    assert_true(node_step(&node, now_ms) >= 0);
}

/* ---- frames ---- */

static void test_what_is_no_request(void **state)
{
    (void)state;
    for (uint8_t op = 0; op < 8; op++) {
        begin(op, 0, 0, 0);
        request[3] = 1;
        const size_t answered = node_manage(&node, request, SMP_HEADER_BYTES + 1, answer, sizeof answer, now_ms);
        assert_int_equal(answered != 0, op == READ || op == WRITE); /* above all: an answer is not answered */
    }
    begin(READ, 0, 0, 0);
    for (size_t size = 0; size < SMP_HEADER_BYTES; size++) {
        assert_int_equal(node_manage(&node, request, size, answer, sizeof answer, now_ms), 0);
        assert_int_equal(node_manage(&node, request, SMP_HEADER_BYTES, answer, size, now_ms), 0);
    }
}

static void test_refusals_are_answers(void **state)
{
    (void)state;
    assert_int_equal(ask(READ, 9, 0), OWN + SMP_ENOTSUP);
    assert_int_equal(ask(READ, 0, 99), OWN + SMP_ENOTSUP);
    assert_int_equal(ask(READ, 0, 5), OWN + SMP_ENOTSUP); /* nobody reads a reset */
    begin(READ, 0, 0, 0);
    assert_int_equal(send_raw(SMP_HEADER_BYTES), OWN + SMP_EINVAL); /* shorter than it says, or not a map at all */
    begin(READ, 0, 0, 0);
    request[0] = 2 << 3;
    request[3] = 1;
    assert_true(node_manage(&node, request, SMP_HEADER_BYTES + 1, answer, sizeof answer, now_ms) != 0);
    assert_int_equal(answer[0], 1 << 3 | 1); /* what is newer is told what is known here */
    assert_int_equal(answer[SMP_HEADER_BYTES + 4], SMP_ETOONEW);
}

static void test_version_1_knows_no_groups(void **state)
{
    (void)state;
    begin(READ, 2, 0, 1);
    put_text("name", "nobody");
    request[0] = READ;
    assert_int_equal(send(), OWN + SMP_ENOENT);
    assert_int_equal(answer[0], 1);
    begin(READ, 2, 0, 1);
    put_text("name", "nobody");
    assert_int_equal(send(), 2);
}

static void test_every_cut_of_a_request(void **state)
{
    (void)state;
    begin(WRITE, 0, 0, 2);
    put_text("d", "hello");
    put_bytes("other", (const uint8_t *)"x", 1); /* what nobody asks for is ignored */
    assert_int_equal(send(), -1);
    assert_true(smp_equal(smp_text(&got, "r"), "hello"));
    for (size_t size = body.size; size-- != 0;) {
        request[3] = (uint8_t)size;
        assert_int_equal(send_raw(SMP_HEADER_BYTES + size), OWN + SMP_EINVAL);
    }
}

static void test_fields_of_another_type(void **state)
{
    (void)state;
    begin(WRITE, 0, 0, 1);
    put_uint("d", 1);
    assert_int_equal(send(), OWN + SMP_EINVAL);
    begin(WRITE, 1, 1, 2);
    put_text("off", "0");
    put_bytes("data", request, 1);
    assert_int_equal(send(), OWN + SMP_EINVAL);
    begin(WRITE, 1, 0, 1);
    put_uint("confirm", 1);
    assert_int_equal(send(), OWN + SMP_EINVAL);
    begin(WRITE, 1, 5, 1);
    put_text("slot", "1");
    assert_int_equal(send(), OWN + SMP_EINVAL);
}

static void test_an_answer_that_does_not_fit(void **state)
{
    (void)state;
    begin(WRITE, 0, 0, 1);
    put_text("d", "a text that is longer than there is room");
    request[3] = (uint8_t)body.size;
    assert_int_equal(node_manage(&node, request, SMP_HEADER_BYTES + body.size, answer, 20, now_ms), 8 + 5);
    assert_int_equal(answer[SMP_HEADER_BYTES + 4], SMP_EMSGSIZE);
}

/* ---- groups 0, 2, 3 ---- */

static void test_parameters_and_info(void **state)
{
    (void)state;
    assert_int_equal(ask(READ, 0, 6), -1);
    assert_int_equal(smp_uint(&got, "buf_size", 0), NODE_RECEIVE_BYTES);
    begin(READ, 0, 7, 1);
    put_text("format", "in");
    assert_int_equal(send(), -1);
    assert_true(smp_equal(smp_text(&got, "output"), "n-1 bench"));
    begin(READ, 0, 7, 1);
    put_text("format", "x");
    assert_int_equal(send(), 2);
}

static void test_the_clock(void **state)
{
    (void)state;
    static const struct {
        const char *set, *read;
    } times[] = {{"2024-02-29T23:59:59", "2024-03-01T00:00:00"},
                 {"2023-12-31T23:59:59Z", "2024-01-01T00:00:00"},
                 {"1970-01-01T00:00:00.5", "1970-01-01T00:00:01"},
                 {"2026-10-05T07:08:09", "2026-10-05T07:08:10"},
                 {"2100-02-28T23:59:59.999999", "2100-03-01T00:00:00"}};
    static const char *const bad[] = {"",
                                      "2024-02-29",
                                      "2023-02-29T00:00:00",
                                      "2024-13-01T00:00:00",
                                      "2024-00-01T00:00:00",
                                      "2024-01-00T00:00:00",
                                      "2024-01-01T24:00:00",
                                      "2024-01-01 00:00:00",
                                      "2024-01-01T00:00:00+02:00",
                                      "1969-01-01T00:00:00",
                                      "2106-01-01T00:00:00"};
    assert_int_equal(ask(READ, 0, 4), 4); /* nobody has said it */
    for (unsigned i = 0; i < sizeof times / sizeof *times; i++) {
        begin(WRITE, 0, 4, 1);
        put_text("datetime", times[i].set);
        assert_int_equal(send(), -1);
        now_ms += 1000;
        assert_int_equal(ask(READ, 0, 4), -1);
        assert_true(smp_equal(smp_text(&got, "datetime"), times[i].read));
    }
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        begin(WRITE, 0, 4, 1);
        put_text("datetime", bad[i]);
        assert_int_equal(send(), OWN + SMP_EINVAL);
    }
}

static void test_a_reset_is_answered_first(void **state)
{
    (void)state;
    assert_int_equal(ask(WRITE, 0, 5), -1);
    step_s(0);
    assert_int_equal(resets, 0);
    step_s(1);
    assert_int_equal(resets, 1);
    port.reset = NULL;
    assert_int_equal(ask(WRITE, 0, 5), OWN + SMP_ENOTSUP);
}

/* A counter of the group "update". */
static uint32_t counted(const char *name)
{
    begin(READ, 2, 0, 1);
    put_text("name", "update");
    assert_int_equal(send(), -1);
    cbor_reader_t r = cbor_reader(got.map.data, got.map.size);
    cbor_map(&r);
    for (unsigned i = 0; i < 3; i++) {
        cbor_skip(&r); /* "name", "update", "fields" */
    }
    got.map = (span_t){r.at, (uint32_t)(r.end - r.at)};
    const uint32_t value = smp_uint(&got, name, UINT32_MAX);
    assert_int_not_equal(value, UINT32_MAX);
    return value;
}

/* ---- images ---- */

static uint8_t image[2048];
static uint32_t size;
static uint8_t upload_name[32], hash[32];

/* What an upload is called means nothing to the node. */
static void rename_upload(void)
{
    upload_name[0]++;
}

static void take_image(uint16_t revision, uint32_t counter)
{
    memcpy(image, make_image(revision, counter, &size), sizeof image);
    memcpy(hash, image + size - 136, sizeof hash);
    rename_upload();
}

static int send_chunk(uint32_t offset, uint32_t length)
{
    begin(WRITE, 1, 1, offset == 0 ? 5 : 2);
    put_uint("off", offset);
    if (offset == 0) {
        put_uint("image", 1);
        put_uint("len", size);
        put_bytes("sha", upload_name, sizeof upload_name);
    }
    put_bytes("data", image + offset, length < size - offset ? length : size - offset);
    return send();
}

/* From the beginning to `end`, or to the first refusal. */
static int upload(uint32_t end, uint32_t step)
{
    int refused = send_chunk(0, step < end ? step : end);
    for (uint32_t offset; refused < 0 && (offset = smp_uint(&got, "off", 0)) < end;) {
        refused = send_chunk(offset, step < end - offset ? step : end - offset);
    }
    return refused;
}

static int set_state(const uint8_t *which, bool confirm)
{
    begin(WRITE, 1, 0, (which != NULL ? 1U : 0U) + (confirm ? 1U : 0U));
    if (which != NULL) {
        put_bytes("hash", which, 32);
    }
    if (confirm) {
        cbor_put_text(&body, "confirm");
        cbor_put_bool(&body, true);
    }
    return send();
}

static slot_state_t state_of(unsigned slot)
{
    return (slot_state_t)node.models[0].slots.slot[slot].state;
}

static void assert_states(slot_state_t first, slot_state_t second)
{
    assert_int_equal(state_of(0), first);
    assert_int_equal(state_of(1), second);
    const int running = slots_running(&node.models[0].slots);
    assert_int_equal(node.models[0].open, running);
    assert_true(node.cascade_count == 0 || node.cascades[0].runs == (running >= 0));
    if (running >= 0) {
        assert_memory_equal(node.cascades[0].model, node.models[0].slots.slot[running].sha256, NODE_MODEL_BYTES);
    }
}

static uint8_t first_hash[32];

/* One image runs, confirmed by the factory. */
static int setup_running(void **state)
{
    if (setup(state) != 0) {
        return -1;
    }
    take_image(1, 7);
    memcpy(first_hash, hash, sizeof hash);
    assert_int_equal(node_provision(&node, 1, image, size), NODE_OK);
    assert_states(SLOT_CONFIRMED, SLOT_EMPTY);
    take_image(2, 7);
    return 0;
}

static void test_an_update(void **state)
{
    (void)state;
    assert_int_equal(upload(size, 100), -1);
    assert_true(smp_bool(&got, "match"));
    assert_states(SLOT_CONFIRMED, SLOT_VERIFIED);
    assert_int_equal(set_state(hash, true), 32); /* not without a trial */
    assert_int_equal(set_state(hash, false), -1);
    assert_states(SLOT_CONFIRMED, SLOT_TEST);
    assert_int_equal(set_state(NULL, true), -1);
    assert_states(SLOT_VERIFIED, SLOT_CONFIRMED);
    boot();
    assert_states(SLOT_VERIFIED, SLOT_CONFIRMED);
    assert_int_equal(set_state(first_hash, true), -1); /* it was confirmed before: back without a trial */
    assert_states(SLOT_CONFIRMED, SLOT_VERIFIED);
}

static void test_the_list_of_images(void **state)
{
    (void)state;
    static const char *const keys[] = {"image", "slot", "version", "hash", "pending", "confirmed", "active"};
    assert_int_equal(upload(size, 4000), -1);
    assert_int_equal(set_state(hash, false), -1);
    const uint32_t answered = got.map.size;
    assert_int_equal(ask(READ, 1, 0), -1);
    assert_int_equal(got.map.size, answered);
    cbor_reader_t r = cbor_reader(got.map.data, got.map.size);
    assert_int_equal(cbor_map(&r), 1);
    assert_true(smp_equal(cbor_text(&r), "images"));
    assert_int_equal(cbor_array(&r), 2);
    for (unsigned slot = 0; slot < 2; slot++) {
        got.map.data = r.at;
        assert_int_equal(cbor_map(&r), sizeof keys / sizeof *keys);
        for (unsigned i = 0; i < sizeof keys / sizeof *keys; i++) {
            assert_true(smp_equal(cbor_text(&r), keys[i]));
            cbor_skip(&r);
        }
        got.map.size = (uint32_t)(r.at - got.map.data);
        assert_int_equal(smp_uint(&got, "image", 0), 1);
        assert_int_equal(smp_uint(&got, "slot", 9), slot);
        assert_memory_equal(smp_bytes(&got, "hash").data, slot == 0 ? first_hash : hash, 32);
        assert_int_equal(smp_bool(&got, "confirmed"), slot == 0);
        assert_int_equal(smp_bool(&got, "active"), slot == 1);
        assert_false(smp_bool(&got, "pending") || got.malformed);
    }
}

static void test_what_is_done_is_not_done_again(void **state)
{
    (void)state;
    assert_int_equal(upload(size, 400), -1);
    assert_int_equal(upload(size, 400), -1); /* one question, one answer */
    assert_int_equal(smp_uint(&got, "off", 0), size);
    assert_int_equal(counted("repeated"), 1);
    assert_int_equal(set_state(hash, false), -1);
    assert_int_equal(set_state(hash, false), -1);
    assert_int_equal(counted("repeated"), 2);
    assert_int_equal(set_state(hash, true), -1);
    const uint32_t generation = node.models[0].slots.journal.generation;
    assert_int_equal(set_state(hash, true), -1);
    assert_int_equal(set_state(NULL, true), -1);
    assert_int_equal(counted("repeated"), 4);
    assert_int_equal(node.models[0].slots.journal.generation, generation);
    assert_int_equal(counted("uploads"), 1);
    assert_int_equal(counted("verified"), 1);
    assert_int_equal(counted("tests"), 1);
    assert_int_equal(counted("confirms"), 1);
    assert_int_equal(counted("reverts"), 0);
}

static void test_a_trial_that_nobody_watches(void **state)
{
    (void)state;
    assert_int_equal(upload(size, 400), -1);
    assert_int_equal(set_state(hash, false), -1);
    step_s(TRIAL_S - 1);
    assert_int_equal(ask(READ, 1, 0), -1); /* somebody looks */
    step_s(TRIAL_S - 1);
    assert_states(SLOT_CONFIRMED, SLOT_TEST);
    step_s(1);
    assert_states(SLOT_CONFIRMED, SLOT_REJECTED);
    assert_int_equal(node.models[0].slots.slot[1].fault, FAULT_DEADLINE);
    assert_int_equal(counted("reverts"), 1);
    assert_int_equal(set_state(hash, false), 8); /* it is no image any more */
}

static void test_a_reset_ends_a_trial(void **state)
{
    (void)state;
    assert_int_equal(upload(size, 400), -1);
    assert_int_equal(set_state(hash, false), -1);
    boot();
    assert_states(SLOT_CONFIRMED, SLOT_REJECTED);
    assert_int_equal(node.models[0].slots.slot[1].fault, FAULT_RESET);
}

static void test_the_way_back_ends_a_trial(void **state)
{
    (void)state;
    assert_int_equal(upload(size, 400), -1);
    assert_int_equal(set_state(hash, false), -1);
    assert_int_equal(upload(size, 400), -1); /* there already */
    take_image(3, 7);
    assert_int_equal(upload(size, 400), 9); /* no room for a third */
    assert_int_equal(set_state(first_hash, false), 33);
    assert_int_equal(set_state(first_hash, true), -1);
    assert_states(SLOT_CONFIRMED, SLOT_REJECTED);
    assert_int_equal(node.models[0].slots.slot[1].fault, FAULT_REVERTED);
    assert_int_equal(upload(size, 400), -1); /* in its place */
    assert_states(SLOT_CONFIRMED, SLOT_VERIFIED);
}

static void test_an_upload_goes_on_after_a_reset(void **state)
{
    (void)state;
    const uint32_t sent = 3 * SECTOR + 100;
    assert_int_equal(upload(sent, 150), -1);
    boot();
    assert_int_equal(send_chunk(sent, 100), 20); /* nobody knows of which upload that is */
    assert_int_equal(send_chunk(0, 100), -1);
    assert_int_equal(smp_uint(&got, "off", 0), 3 * SECTOR); /* what is in flash for certain */
    assert_int_equal(send_chunk(5 * SECTOR - 90, 10), -1);  /* it is told where to go on */
    assert_int_equal(smp_uint(&got, "off", 0), 3 * SECTOR);
    assert_int_equal(upload(size, 400), -1);
    assert_states(SLOT_CONFIRMED, SLOT_VERIFIED);
    assert_int_equal(counted("resumed"), 2);
    assert_int_equal(counted("uploads"), 0); /* it began in another life */
}

static void test_another_upload_begins_anew(void **state)
{
    (void)state;
    assert_int_equal(upload(3 * SECTOR, SECTOR), -1);
    take_image(3, 7);
    assert_int_equal(send_chunk(0, SECTOR), -1);
    assert_int_equal(smp_uint(&got, "off", 0), SECTOR);
    assert_int_equal(counted("resumed"), 0);
    assert_int_equal(counted("uploads"), 2);
}

static void test_an_upload_without_a_name_begins_anew(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        now_ms++;
        begin(WRITE, 1, 1, 4);
        put_uint("off", 0);
        put_uint("image", 1);
        put_uint("len", size);
        put_bytes("data", image, 2 * SECTOR);
        assert_int_equal(send(), -1);
        assert_int_equal(smp_uint(&got, "off", 0), 2 * SECTOR);
    }
    assert_int_equal(counted("uploads"), 2);
}

static void test_first_requests_that_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint32_t image, size, sha_bytes;
        int expected;
    } cases[] = {{0, 1000, 32, 14}, {2, 1000, 32, 14}, {1, 0, 32, 21}, {1, 1000, 31, 24}, {1, CAPACITY + 1, 32, 30}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin(WRITE, 1, 1, 5);
        put_uint("off", 0);
        put_uint("image", cases[i].image);
        put_uint("len", cases[i].size);
        put_bytes("sha", hash, cases[i].sha_bytes);
        put_bytes("data", image, 100);
        assert_int_equal(send(), cases[i].expected);
    }
    image[0] ^= 1;
    assert_int_equal(send_chunk(0, 100), 23);
    assert_states(SLOT_CONFIRMED, SLOT_EMPTY);
    image[0] ^= 1;
    assert_int_equal(send_chunk(0, 100), -1);
    size += 100; /* the last request would go beyond what was said */
    begin(WRITE, 1, 1, 2);
    put_uint("off", 100);
    put_bytes("data", image + 100, size - 100);
    assert_int_equal(send(), 31);
}

/* An image that is wrong is refused at its end, and its slot says why. */
static void assert_rejected(int expected, image_fault_t fault)
{
    const uint32_t before = counted("rejected");
    rename_upload();
    assert_int_equal(upload(size, 400), expected);
    assert_states(SLOT_CONFIRMED, SLOT_REJECTED);
    assert_int_equal(node.models[0].slots.slot[1].fault, fault);
    assert_int_equal(counted("rejected"), before + 1);
    assert_int_equal(set_state(hash, false), 8);
}

static void test_images_that_are_wrong(void **state)
{
    (void)state;
    image[size - 1] ^= 1;
    assert_rejected(1, FAULT_SIGNATURE);
    take_image(2, 7);
    image[100] ^= 1;
    assert_rejected(24, FAULT_DIGEST);
    take_image(2, 6);
    assert_rejected(27, FAULT_COUNTER);
    take_image(2, 7);
    size -= 1;
    assert_rejected(31, FAULT_SIZE);
    key[0][0] ^= 1;
    take_image(2, 7);
    assert_rejected(1, FAULT_KEY);
}

static void test_the_counter_closes_the_way_back(void **state)
{
    (void)state;
    take_image(2, 8);
    assert_int_equal(upload(size, 400), -1);
    assert_int_equal(set_state(hash, false), -1);
    assert_int_equal(node.models[0].slots.counter, 7); /* after the confirmation, not before */
    assert_int_equal(set_state(hash, true), -1);
    assert_int_equal(set_state(first_hash, true), 27);
    assert_states(SLOT_VERIFIED, SLOT_CONFIRMED);
}

static void test_states_that_cannot_be(void **state)
{
    (void)state;
    assert_int_equal(set_state(NULL, false), 24);
    begin(WRITE, 1, 0, 1);
    put_bytes("hash", hash, 31);
    assert_int_equal(send(), 24);
    assert_int_equal(set_state(hash, false), 8);
    assert_int_equal(set_state(first_hash, false), 33);
}

static int erase_slot(uint32_t slot)
{
    begin(WRITE, 1, 5, 1);
    put_uint("slot", slot);
    return send();
}

static void test_erase(void **state)
{
    (void)state;
    assert_int_equal(upload(size, 400), -1);
    assert_int_equal(erase_slot(2), 9);
    assert_int_equal(erase_slot(0), 14);
    assert_int_equal(erase_slot(3), -1);
    assert_states(SLOT_CONFIRMED, SLOT_EMPTY);
    assert_int_equal(ask(WRITE, 1, 5), -1);
    assert_int_equal(counted("repeated"), 1);
    assert_int_equal(upload(size, 400), -1);
    assert_int_equal(set_state(hash, false), -1);
    assert_int_equal(ask(WRITE, 1, 5), 9); /* both are needed */
}

static void test_the_first_image_of_a_node(void **state)
{
    (void)state;
    take_image(1, 7);
    assert_int_equal(node.cascade_count, 0);
    assert_int_equal(upload(size, 400), -1);
    assert_states(SLOT_VERIFIED, SLOT_EMPTY);
    assert_int_equal(set_state(hash, false), -1);
    assert_string_equal(node.cascades[0].name, "vibration");
    step_s(TRIAL_S);
    assert_states(SLOT_REJECTED, SLOT_EMPTY); /* nothing to go back to: it is silent */
    const node_event_t event = {.cascade = 0};
    assert_int_equal(node_event(&node, &event, now_ms), NODE_E_STATE);
}

static void test_what_was_confirmed_is_looked_at_again(void **state)
{
    (void)state;
    assert_int_equal(upload(size, 400), -1);
    assert_int_equal(set_state(hash, false), -1);
    assert_int_equal(set_state(hash, true), -1);
    flash.bytes[slots_data(&node.models[0].slots, 1) - flash.bytes + 100] ^= 1; /* flash that forgets */
    boot();
    assert_states(SLOT_CONFIRMED, SLOT_REJECTED);
    key[0][0] ^= 1; /* the node's next firmware trusts others */
    boot();
    assert_states(SLOT_REJECTED, SLOT_REJECTED);
}

static void test_a_model_hears_on_while_others_come(void **state)
{
    (void)state;
    static const int16_t samples[512];
    for (unsigned i = 0; i < 64; i++) {
        node_feed(&node, FRONT_END_VIBRATION, samples, 512, now_ms);
    }
    const uint32_t invokes = sense.invokes;
    const uint64_t heard = sense.samples;
    assert_true(invokes > 0);
    image[size - 1] ^= 1;
    assert_rejected(1, FAULT_SIGNATURE);
    take_image(2, 7);
    assert_int_equal(upload(size, 400), -1); /* its self-test takes the arena */
    for (unsigned i = 0; i < 64; i++) {
        node_feed(&node, FRONT_END_VIBRATION, samples, 512, now_ms);
    }
    assert_int_equal(sense.samples, 2 * heard);
    assert_int_equal(sense.invokes, 2 * invokes);
}

/* ---- settings ---- */

static int write_setting(const char *name, const void *value, uint32_t bytes)
{
    begin(WRITE, 3, 0, 2);
    put_text("name", name);
    put_bytes("val", value, bytes);
    return send();
}

static uint32_t read_setting(const char *name)
{
    uint32_t value = 0;
    begin(READ, 3, 0, 1);
    put_text("name", name);
    assert_int_equal(send(), -1);
    const span_t bytes = smp_bytes(&got, "val");
    assert_in_range(bytes.size, 1, sizeof value);
    memcpy(&value, bytes.data, bytes.size);
    return value;
}

static void test_settings_act_at_once(void **state)
{
    (void)state;
    const float cutoff = 0.75F;
    const uint32_t audit_s = 17, interval_s = 5, off = 0;
    assert_int_equal(read_setting("vitals_s"), 30);
    assert_int_equal(write_setting("vitals_s", &interval_s, 4), -1);
    assert_int_equal(read_setting("vitals_s"), 5);
    assert_int_equal(write_setting("vibration/cutoff", &cutoff, 4), -1);
    assert_int_equal(write_setting("vibration/audit_s", &audit_s, 4), -1);
    assert_true(sense.detect.config.cutoff == cutoff);
    assert_int_equal(sense.detect.config.audit_mean_s, 17);
    assert_int_equal(upload(size, 400), -1);
    assert_int_equal(set_state(hash, false), -1);
    assert_true(sense.detect.config.cutoff == cutoff); /* also for the next model */
    assert_int_equal(write_setting("vibration/on", &off, 1), -1);
    const uint64_t heard = sense.samples;
    static const int16_t samples[512];
    node_feed(&node, FRONT_END_VIBRATION, samples, 512, now_ms);
    assert_int_equal(sense.samples, heard);
    begin(WRITE, 3, 1, 1);
    put_text("name", "vibration/cutoff");
    assert_int_equal(send(), -1);
    assert_true(sense.detect.config.cutoff == sense.image.decision.detect.cutoff);
}

static void test_settings_are_kept_when_saved(void **state)
{
    (void)state;
    const uint32_t saved = 20, other = 21;
    assert_int_equal(write_setting("trial_s", &saved, 4), -1);
    assert_int_equal(write_setting("vibration/audit_s", &saved, 4), -1);
    assert_int_equal(ask(WRITE, 3, 3), -1);
    assert_int_equal(write_setting("trial_s", &other, 4), -1);
    assert_int_equal(ask(READ, 3, 3), -1); /* back to what was saved */
    assert_int_equal(read_setting("trial_s"), saved);
    assert_int_equal(write_setting("trial_s", &other, 4), -1);
    boot();
    assert_int_equal(read_setting("trial_s"), saved);
    assert_int_equal(read_setting("vibration/audit_s"), saved);
    assert_int_equal(sense.detect.config.audit_mean_s, saved);
}

static void test_settings_that_cannot_be(void **state)
{
    (void)state;
    const uint32_t zero = 0, large = UINT32_MAX, nan = 0x7fc00000, negative = 0xbf800000;
    assert_int_equal(write_setting("vitals_s", &zero, 4), OWN + SMP_EINVAL);
    assert_int_equal(write_setting("vitals_s", &large, 4), OWN + SMP_EINVAL);
    assert_int_equal(write_setting("vitals_s", &large, 2), OWN + SMP_EINVAL);
    assert_int_equal(write_setting("trial_s", &zero, 4), OWN + SMP_EINVAL);
    assert_int_equal(write_setting("vibration/cutoff", &nan, 4), OWN + SMP_EINVAL);
    assert_int_equal(write_setting("vibration/cutoff", &negative, 4), OWN + SMP_EINVAL);
    assert_int_equal(write_setting("vibration/audit_s", &large, 4), OWN + SMP_EINVAL);
    assert_int_equal(write_setting("vibration/on", &large, 1), OWN + SMP_EINVAL);
    assert_int_equal(write_setting("vibration/off", &zero, 1), 3);
    assert_int_equal(write_setting("wakeword/on", &zero, 1), 5);
    assert_int_equal(write_setting("cutoff", &zero, 4), 3);
    assert_int_equal(write_setting("", &zero, 4), 3);
    assert_int_equal(write_setting("/", &zero, 4), 5);
    assert_int_equal(ask(READ, 3, 0), OWN + SMP_EINVAL);
    assert_int_equal(read_setting("vitals_s"), 30);
}

#define ON_EMPTY(test)   cmocka_unit_test_setup_teardown(test, setup, teardown)
#define ON_RUNNING(test) cmocka_unit_test_setup_teardown(test, setup_running, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_EMPTY(test_what_is_no_request),
        ON_EMPTY(test_refusals_are_answers),
        ON_EMPTY(test_version_1_knows_no_groups),
        ON_EMPTY(test_every_cut_of_a_request),
        ON_EMPTY(test_fields_of_another_type),
        ON_EMPTY(test_an_answer_that_does_not_fit),
        ON_EMPTY(test_parameters_and_info),
        ON_EMPTY(test_the_clock),
        ON_EMPTY(test_a_reset_is_answered_first),
        ON_RUNNING(test_an_update),
        ON_RUNNING(test_the_list_of_images),
        ON_RUNNING(test_what_is_done_is_not_done_again),
        ON_RUNNING(test_a_trial_that_nobody_watches),
        ON_RUNNING(test_a_reset_ends_a_trial),
        ON_RUNNING(test_the_way_back_ends_a_trial),
        ON_RUNNING(test_an_upload_goes_on_after_a_reset),
        ON_RUNNING(test_another_upload_begins_anew),
        ON_RUNNING(test_an_upload_without_a_name_begins_anew),
        ON_RUNNING(test_first_requests_that_are_refused),
        ON_RUNNING(test_images_that_are_wrong),
        ON_RUNNING(test_the_counter_closes_the_way_back),
        ON_RUNNING(test_states_that_cannot_be),
        ON_RUNNING(test_erase),
        ON_EMPTY(test_the_first_image_of_a_node),
        ON_RUNNING(test_what_was_confirmed_is_looked_at_again),
        ON_RUNNING(test_a_model_hears_on_while_others_come),
        ON_RUNNING(test_settings_act_at_once),
        ON_RUNNING(test_settings_are_kept_when_saved),
        ON_RUNNING(test_settings_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
