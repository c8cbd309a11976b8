/* A life of updates on small slots, with the power cut at every step, and again at every step of every recovery.
 *
 * The life: one image is confirmed; another is received, tried and confirmed; the first is taken back; a third is tried
 * and reverted; a fourth is rejected; what is left of it is erased. After a cut the node boots and the gateway goes on:
 * it looks at the slots and does what comes next, until this part of the life has ended as it should.
 *
 * What must hold after every cut: the image that is confirmed is there, byte by byte and readable, and so is one that
 * is verified; the counter has not decreased and is not above what was confirmed; of what is received, no byte is
 * claimed that is not there, and no claim is lost; nothing is on test; states have changed along the table only; no
 * unit was programmed twice.
 *
 * test_update_powercut [N]: with N > 1 every way of tearing for both cuts of a pair, N times at random, and N times as
 * many triples. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flash.h"
#include "slots.h"
#include "test.h"

#define CAPACITY  1024
#define CHUNK     100 /* of an upload: no multiple of a unit, no divisor of a sector */
#define TRIPLES   5000
#define MOST_CUTS 3

typedef enum ending { CONFIRMED, RETURNED, REVERTED, REJECTED, ERASED } ending_t;

/* A part of the life. The image's number is also its security counter. */
typedef struct part {
    unsigned image;
    ending_t ending;
} part_t;

static const part_t first = {1, CONFIRMED};
static const part_t life[] = {{2, CONFIRMED}, {1, RETURNED}, {3, REVERTED}, {4, REJECTED}, {4, ERASED}};
#define PARTS (sizeof life / sizeof *life)

/* Of the images: one fills its sectors, one a byte of its last unit. */
static const uint32_t sizes[] = {0, 700, 717, 512, 273};

/* All that is known when the power fails: what is in flash, and what the node had said before the call that was cut
 * short. */
typedef struct moment {
    flash_t flash;
    slots_t said;
    uint32_t asked; /* the highest counter that was to be confirmed */
} moment_t;

static moment_t now;
static node_flash_t driver;
static slots_t slots;
static bool begun;  /* the upload, in this boot */
static bool sound;  /* what must hold does */
static bool failed; /* the driver did */
static long then;   /* steps until the power fails after that */
static long cuts, failures;
static unsigned ways = 1;

static void expect(bool holds, const char *what, int line)
{
    if (!holds) {
        if (sound && failures < 5) {
            print_error("after cut %ld, line %d: %s\n", cuts, line, what);
        }
        sound = false;
    }
}
#define EXPECT(condition) expect((condition), #condition, __LINE__)

/* ---- what must hold ---- */

static void image_bytes(unsigned image, uint32_t from, uint8_t *out, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        out[i] = (uint8_t)((from + i) * (2 * image + 1) + ((from + i) >> 8) * 7 + image);
    }
}

static void check_bytes(unsigned slot, uint32_t size)
{
    static uint8_t images[5][CAPACITY];
    const unsigned image = slots.slot[slot].upload[0];
    uint8_t found[CAPACITY];
    EXPECT(image >= 1 && image <= 4 && slots.slot[slot].size == sizes[image]);
    if (!sound) {
        return;
    }
    if (images[image][0] == 0) {
        image_bytes(image, 0, images[image], CAPACITY);
    }
    const uint32_t at = (uint32_t)(slots_data(&slots, slot) - now.flash.bytes);
    EXPECT(driver.read(driver.context, at, found, size) == 0 && memcmp(found, images[image], size) == 0);
}

static void check_slot(unsigned i)
{
    const slot_t *const slot = &slots.slot[i];
    switch (slot->state) {
    case SLOT_RECEIVING:
        EXPECT(slot->received == slot->size || slot->received % driver.sector_size == 0);
        check_bytes(i, slot->received);
        break;
    case SLOT_VERIFIED:
    case SLOT_TEST:
    case SLOT_CONFIRMED:
        EXPECT(slot->received == slot->size && slot->sha256[0] == slot->upload[0]);
        check_bytes(i, slot->size);
        break;
    default:
        break;
    }
}

/* Whether the one call that may have been cut short leads from one to the other; a trial ends with the boot. */
static bool leads_to(const slot_t *from, const slot_t *to)
{
    bool leads = from->state == to->state;
    for (unsigned event = 0; !leads && event < SLOT_EVENTS; event++) {
        const int next = slots_step((slot_state_t)from->state, (slot_event_t)event);
        leads = next == to->state || (next == SLOT_TEST && to->state == SLOT_REJECTED && to->fault == FAULT_RESET);
    }
    return leads;
}

static void check(void)
{
    unsigned confirmed = 0, on_test = 0;
    for (unsigned i = 0; i < SLOTS; i++) {
        const slot_t *const said = &now.said.slot[i], *const slot = &slots.slot[i];
        EXPECT(leads_to(said, slot));
        EXPECT(said->state != SLOT_RECEIVING || slot->state != SLOT_RECEIVING ||
               memcmp(said->upload, slot->upload, sizeof slot->upload) != 0 || slot->received >= said->received);
        confirmed += slot->state == SLOT_CONFIRMED;
        on_test += slot->state == SLOT_TEST;
    }
    EXPECT(confirmed == 1 ||
           (confirmed == 0 && now.said.counter == 0)); /* there is none yet in the life's first part */
    EXPECT(on_test <= 1);
    EXPECT(slots.counter >= now.said.counter && slots.counter <= now.asked);
    EXPECT(now.flash.broken_rules == 0);
}

static void boot(void)
{
    begun = false;
    const int status = slots_open(&slots, &driver, 0, CAPACITY);
    EXPECT(status == NODE_OK);
    EXPECT(slots_running(&slots) == slots_confirmed(&slots));
    check();
    check_slot(0);
    check_slot(1);
    now.said = slots;
}

/* ---- the gateway ---- */

static int find(unsigned image)
{
    for (int i = 0; i < SLOTS; i++) {
        if (slots.slot[i].state != SLOT_EMPTY && slots.slot[i].upload[0] == image) {
            return i;
        }
    }
    return -1;
}

static int confirm(unsigned slot, uint32_t counter)
{
    now.asked = counter > now.asked ? counter : now.asked;
    return slots_confirm(&slots, slot, counter);
}

static int begin(const part_t *part)
{
    uint8_t name[32];
    memset(name, (int)part->image, sizeof name);
    begun = true;
    return slots_begin(&slots, sizes[part->image], name);
}

static int receive(const part_t *part, unsigned slot)
{
    uint8_t chunk[CHUNK];
    const uint32_t left = slots.slot[slot].size - slots.written, size = left < CHUNK ? left : CHUNK;
    if (!begun) {
        return begin(part);
    }
    if (size == 0) {
        return slots_judge(&slots, part->ending == REJECTED ? FAULT_SIGNATURE : FAULT_NONE, slots.slot[slot].upload);
    }
    image_bytes(part->image, slots.written, chunk, size);
    return slots_write(&slots, chunk, size);
}

/* Does what comes next; false where nothing does: this part of the life has ended. */
static bool advance(const part_t *part, int *status)
{
    const ending_t ending = part->ending;
    const int slot = find(part->image);
    const slot_t nothing = {.state = SLOT_EMPTY}, *const there = slot < 0 ? &nothing : &slots.slot[slot];
    switch (there->state) {
    case SLOT_RECEIVING:
        *status = receive(part, (unsigned)slot);
        return true;
    case SLOT_VERIFIED:
        *status = ending == RETURNED ? confirm((unsigned)slot, part->image) : slots_test(&slots, (unsigned)slot);
        return true;
    case SLOT_TEST:
        *status = ending == REVERTED ? slots_revert(&slots, FAULT_REVERTED) : confirm((unsigned)slot, part->image);
        return true;
    case SLOT_CONFIRMED:
        return false;
    case SLOT_REJECTED:
        if (ending == ERASED) {
            *status = slots_erase(&slots);
            return true;
        }
        if ((ending == REVERTED && (there->fault == FAULT_REVERTED || there->fault == FAULT_RESET)) ||
            (ending == REJECTED && there->fault == FAULT_SIGNATURE)) {
            return false;
        }
        break;
    default:
        if (ending == ERASED) {
            return false;
        }
        break;
    }
    *status = begin(part);
    return true;
}

/* From the boot to the end of the part. */
static void live(const part_t *part)
{
    int status = NODE_OK;
    boot();
    for (unsigned calls = 0; sound && advance(part, &status); calls++) {
        if (status == NODE_E_FLASH && now.flash.fails) {
            failed = true;
            now.flash.fails = false;
            now.flash.steps = then;
            status = NODE_OK;
        }
        EXPECT(status == NODE_OK && calls < 100);
        check();
        now.said = slots;
    }
    EXPECT(part->ending == ERASED ? find(part->image) < 0 : find(part->image) >= 0);
    EXPECT(now.flash.broken_rules == 0);
}

/* ---- the cuts ---- */

static unsigned worst[MOST_CUTS + 1][2]; /* erases of a sector in one part, by cuts: of the journal, of the slots */

static void measure_wear(const moment_t *start, unsigned depth)
{
    for (uint32_t sector = 0; sector < now.flash.size / driver.sector_size; sector++) {
        const unsigned erases = now.flash.erases[sector] - start->flash.erases[sector];
        unsigned *const most = &worst[depth][sector >= JOURNAL_SECTORS];
        *most = erases > *most ? erases : *most;
    }
}

/* Lives on from `from` with a fault at `step`; false where the part ended before that. Leaves what was then in `now`.
 */
static bool live_until(const moment_t *from, const part_t *part, long step, unsigned way, bool fails)
{
    now = *from;
    now.flash.steps = step;
    now.flash.tear = (flash_tear_t)(fails ? way % (TEAR_WHOLE + 1) : way % FLASH_TEARS);
    now.flash.fails = fails;
    now.flash.random = (from->flash.random ^ (uint32_t)step) * 2654435761U + way;
    sound = true;
    failed = false;
    if (setjmp(now.flash.cut) == 0) {
        live(part);
        now.flash.steps = -1;
        return false;
    }
    now.flash.steps = -1;
    return true;
}

/* Boots in `now`, after `depth` cuts since `start`, and the part ends. */
static void recover(const moment_t *start, const part_t *part, unsigned depth)
{
    live(part);
    boot(); /* a cut after the last step */
    measure_wear(start, depth);
    failures += !sound;
}

/* Which ways of a cut are tried: TEAR_NOTHING and TEAR_FAINT are torn in one way only; of a pair's second cut, the
 * short form tries TEAR_NOTHING and one of the others by turns. */
static bool is_tried(unsigned way, unsigned depth, long turn)
{
    const unsigned tear = way % FLASH_TEARS;
    if (ways == 1 && depth > 1) {
        return tear == TEAR_NOTHING || tear == 1 + (unsigned long)turn % (FLASH_TEARS - 1);
    }
    return way < FLASH_TEARS || tear == TEAR_BITS || tear == TEAR_UNREADABLE;
}

static void cut_everywhere(const moment_t *start, const moment_t *from, const part_t *part, unsigned depth)
{
    static moment_t torn;
    for (long step = 0;; step++) {
        const long turn = cuts;
        for (unsigned way = 0; way < ways * FLASH_TEARS; way++) {
            if (!is_tried(way, depth, turn)) {
                continue;
            }
            if (!live_until(from, part, step, way, false)) {
                return;
            }
            cuts++;
            if (depth == 1) {
                torn = now;
            }
            recover(start, part, depth);
            if (depth == 1) {
                cut_everywhere(start, &torn, part, 2);
            }
        }
    }
}

static void cut_thrice(const moment_t *start, const part_t *part, uint32_t *random)
{
    moment_t torn = *start;
    unsigned depth = 0;
    for (; depth < MOST_CUTS; depth++) {
        *random = *random * 1664525 + 1013904223;
        if (!live_until(&torn, part, *random >> 8 & (depth == 0 ? 127 : 31), *random >> 16, false)) {
            return; /* this life was shorter */
        }
        torn = now;
    }
    cuts++;
    recover(start, part, depth);
}

/* An error of the driver at every step, and the power fails at every step after that, or at last not at all. */
static void fail_everywhere(const moment_t *start, const part_t *part)
{
    for (long step = 0;; step++) {
        for (unsigned i = 0; i < ways; i++) {
            bool cut = true;
            for (then = 0; cut; then++) {
                cut = live_until(start, part, step, (unsigned)step + i, true);
                if (!failed) {
                    return;
                }
                cuts += cut;
                recover(start, part, 1);
            }
        }
    }
}

/* ---- the tests ---- */

static moment_t starts[PARTS];

/* Lives all of the life, and remembers where its parts began. */
static void prepare(uint32_t sector_size)
{
    now = (moment_t){.asked = 0};
    flash_init(&now.flash, JOURNAL_SECTORS * sector_size + SLOTS * CAPACITY);
    driver = flash_driver(&now.flash, sector_size);
    sound = true;
    live(&first);
    for (unsigned i = 0; i < PARTS; i++) {
        starts[i] = now;
        live(&life[i]);
        measure_wear(&starts[i], 0);
    }
    assert_true(sound);
}

/* In a sector there is room for one record of the journal, or for several. */
static const uint32_t sector_sizes[] = {256, 512};

static void test_every_cut_and_every_pair(void **state)
{
    (void)state;
    uint32_t random = 1;
    long triples = 0;
    for (unsigned k = 0; k < 2; k++) {
        prepare(sector_sizes[k]);
        for (unsigned i = 0; i < PARTS; i++) {
            cut_everywhere(&starts[i], &starts[i], &life[i], 1);
        }
        triples -= cuts;
        for (unsigned i = 0; i < TRIPLES * ways; i++) {
            cut_thrice(&starts[i % PARTS], &life[i % PARTS], &random);
        }
        triples += cuts;
    }
    print_message("single cuts and pairs: %ld, sampled triples: %ld\n", cuts - triples, triples);
    print_message("ota.power_cuts=%ld ota.power_cut_failures=%ld\n", cuts, failures);
    for (unsigned i = 0; i <= MOST_CUTS; i++) {
        print_message("%u cuts: a sector of the journal was erased %u times, of a slot %u times\n", i, worst[i][0],
                      worst[i][1]);
        assert_in_range(worst[i][1], 0, 1 + i);
        assert_in_range(worst[i][0], 0, 5 * (1 + i));
    }
    assert_int_equal(failures, 0);
}

static void test_every_error_of_the_driver(void **state)
{
    (void)state;
    cuts = failures = 0;
    for (unsigned k = 0; k < 2; k++) {
        prepare(sector_sizes[k]);
        for (unsigned i = 0; i < PARTS; i++) {
            fail_everywhere(&starts[i], &life[i]);
        }
    }
    print_message("cuts after an error of the driver: %ld\n", cuts);
    assert_int_equal(failures, 0);
}

int main(int count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut_and_every_pair),
        cmocka_unit_test(test_every_error_of_the_driver),
    };
    ways = count > 1 ? (unsigned)atoi(arguments[1]) : 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
