/* flash_check() finds what a young driver does wrong, and nothing wrong with one that keeps the rules. */
#include "flash_check.h"

#include <string.h>

#include "flash.h"
#include "test.h"

#define SECTOR 256U
#define SIZE   (4 * SECTOR)

typedef enum mistake {
    NONE,
    ERASES_ONE_SECTOR,
    ERASES_TOO_MUCH,
    PROGRAMS_ALIGNED_WORDS,
    PROGRAMS_A_PAGE,
    STALE_MAP,
    NO_RANGE,
    SUM_WRAPS
} mistake_t;

static uint8_t bytes[SIZE + SECTOR] __attribute__((aligned(16))), cache[SIZE] __attribute__((aligned(16)));
static mistake_t mistake;

static int in_range(uint32_t offset, uint32_t size)
{
    if (mistake == NO_RANGE) {
        return 1;
    }
    if (mistake == SUM_WRAPS) {
        return offset + size <= SIZE;
    }
    return offset <= SIZE && size <= SIZE - offset;
}

static int erase(void *context, uint32_t offset, uint32_t size)
{
    (void)context;
    if (!in_range(offset, size)) {
        return -1;
    }
    if (mistake == ERASES_TOO_MUCH && offset != 0) {
        offset -= SECTOR;
        size += SECTOR;
    }
    memset(bytes + offset, 0xff, mistake == ERASES_ONE_SECTOR ? SECTOR : size);
    return 0;
}

static int program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    (void)context;
    if (!in_range(offset, size) || (mistake == PROGRAMS_A_PAGE && size > 64)) {
        return -1;
    }
    if (offset > SIZE) { /* only a driver that does not look */
        return 0;
    }
    const uint8_t *const from =
        mistake == PROGRAMS_ALIGNED_WORDS ? (const uint8_t *)((uintptr_t)data & ~(uintptr_t)3) : data;
    for (uint32_t i = 0; i < size; i++) {
        bytes[offset + i] &= from[i];
        cache[(offset + i) % SIZE] &= from[i];
    }
    return 0;
}

static int read(void *context, uint32_t offset, void *data, uint32_t size)
{
    (void)context;
    if (!in_range(offset, size)) {
        return -1;
    }
    memcpy(data, bytes + offset, size);
    return 0;
}

static const uint8_t *map(void *context, uint32_t offset)
{
    (void)context;
    return (mistake == STALE_MAP ? cache : bytes) + offset;
}

static const char *check(mistake_t with)
{
    const node_flash_t flash = {.sector_size = SECTOR,
                                .program_size = 4,
                                .size = SIZE,
                                .erase = erase,
                                .program = program,
                                .read = read,
                                .map = map};
    mistake = with;
    memset(bytes, 0, sizeof bytes);
    memset(cache, 0xff, sizeof cache);
    return flash_check(&flash);
}

static void test_a_driver_that_keeps_the_rules(void **state)
{
    (void)state;
    assert_null(check(NONE));
}

/* The check itself programs nothing twice and erases whole sectors: the simulated flash counts what breaks a rule. */
static void test_the_check_keeps_the_rules(void **state)
{
    static flash_t flash;
    const unsigned out_of_range = 4;
    (void)state;
    flash_init(&flash, 8192);
    const node_flash_t driver = flash_driver(&flash, 1024);
    assert_null(flash_check(&driver));
    assert_int_equal(flash.broken_rules, out_of_range);
}

static void test_mistakes(void **state)
{
    const struct {
        mistake_t mistake;
        const char *found;
    } cases[] = {{ERASES_ONE_SECTOR, "erase: two"},
                 {ERASES_TOO_MUCH, "erase: it reached"},
                 {PROGRAMS_ALIGNED_WORDS, "program: a sector"},
                 {PROGRAMS_A_PAGE, "program: not from flash"},
                 {STALE_MAP, "erase: a sector"},
                 {NO_RANGE, "it goes on"},
                 {SUM_WRAPS, "an offset"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const found = check(cases[i].mistake);
        assert_non_null(found);
        assert_memory_equal(found, cases[i].found, strlen(cases[i].found));
    }
}

static void test_geometry(void **state)
{
    const node_flash_t good = {.sector_size = SECTOR,
                               .program_size = 4,
                               .size = SIZE,
                               .erase = erase,
                               .program = program,
                               .read = read,
                               .map = map};
    node_flash_t bad[4] = {good, good, good, good};
    (void)state;
    mistake = NONE;
    bad[0].sector_size = 300;
    bad[1].size = SIZE - 1;
    bad[2].program_size = 32;
    bad[3].program_size = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_non_null(flash_check(&bad[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_driver_that_keeps_the_rules),
                                       cmocka_unit_test(test_the_check_keeps_the_rules),
                                       cmocka_unit_test(test_mistakes), cmocka_unit_test(test_geometry)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
