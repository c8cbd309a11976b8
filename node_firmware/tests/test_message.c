/* The golden vectors, read by C: every message to a node, good and bad. tests/test_node_wire.py reads them all. */
#include "message.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "test.h"

static size_t load(const char *name, uint8_t *out, size_t capacity)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", VECTORS, name);
    FILE *const file = fopen(path, "rb");
    assert_non_null(file);
    const size_t size = fread(out, 1, capacity, file);
    assert_true(size < capacity);
    fclose(file);
    return size;
}

/* 1: the name is of a message that the node reads, and `*status` is what its decoder said. */
static int decode(const char *kind, const uint8_t *data, size_t size, int *status)
{
    verdict_t verdict;
    front_end_t front_end;
    decision_t decision;
    bool online;
    const span_t span = {data, (uint32_t)size};
    if (strncmp(kind, "verdict-", 8) == 0) {
        *status = verdict_decode(&verdict, data, size);
    } else if (strncmp(kind, "gateway-state-", 14) == 0) {
        *status = gateway_state_decode(&online, data, size);
    } else if (strncmp(kind, "front-end-", 10) == 0) {
        *status = front_end_decode(&front_end, span);
    } else if (strncmp(kind, "decision-", 9) == 0) {
        *status = decision_decode(&decision, span);
    } else {
        return 0;
    }
    return 1;
}

static void test_vectors(void **state)
{
    (void)state;
    DIR *const folder = opendir(VECTORS);
    unsigned good = 0, bad = 0;
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        uint8_t data[2048];
        int status;
        const bool is_bad = strncmp(entry->d_name, "bad-", 4) == 0;
        if (strstr(entry->d_name, ".cbor") == NULL) {
            continue;
        }
        const size_t size = load(entry->d_name, data, sizeof data);
        if (decode(entry->d_name + (is_bad ? 4 : 0), data, size, &status) == 0) {
            continue;
        }
        if (status != (is_bad ? NODE_E_FORMAT : NODE_OK)) {
            fail_msg("%s: %d", entry->d_name, status);
        }
        *(is_bad ? &bad : &good) += 1;
        for (size_t cut = 0; cut < size && !is_bad; cut++) { /* none of them is whole before its end */
            (void)decode(entry->d_name, data, cut, &status);
            assert_int_equal(status, NODE_E_FORMAT);
        }
    }
    closedir(folder);
    assert_true(good >= 6 && bad >= 10);
}

static void test_what_does_not_fit_is_not_sent(void **state)
{
    (void)state;
    uint8_t out[32];
    assert_int_equal(state_encode(out, sizeof out, "ready", 7), 10);
    assert_int_equal(state_encode(out, 9, "ready", 7), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_what_does_not_fit_is_not_sent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
