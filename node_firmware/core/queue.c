/* The event journal: see queue.h for its layout, and tests/test_powercut.c for the proof. */
#include "queue.h"

#include <string.h>

#include "crc32.h"
#include "nor.h"

#define MAGIC UINT32_C(0x31514e4c)
#define UNIT  NOR_UNIT
#define NONE  UINT32_MAX

typedef struct header {
    uint32_t magic, id, size, crc; /* size of the payload; crc of the three before */
} header_t;

typedef struct commit {
    uint32_t crc, inverse, unused[2]; /* crc of the payload */
} commit_t;

static uint32_t sector(const queue_t *q)
{
    return q->flash->sector_size;
}

static uint32_t round_up(uint32_t value, uint32_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static int program(const queue_t *q, uint32_t at, const void *data, uint32_t size)
{
    return nor_program(q->flash, q->base + at, data, size);
}

static bool read_header(const queue_t *q, uint32_t at, header_t *header)
{
    return q->size - at >= QUEUE_RECORD_BYTES && nor_read(q->flash, q->base + at, header, sizeof *header) == NODE_OK &&
           header->magic == MAGIC && header->crc == node_crc32(0, header, offsetof(header_t, crc)) &&
           header->size <= q->size - at - QUEUE_RECORD_BYTES;
}

static bool read_commit(const queue_t *q, uint32_t at, commit_t *commit)
{
    return nor_read(q->flash, q->base + at + UNIT, commit, sizeof *commit) == NODE_OK &&
           commit->crc == ~commit->inverse;
}

static bool intact(const queue_t *q, uint32_t at, uint32_t size)
{
    commit_t commit;
    uint32_t crc;
    return read_commit(q, at, &commit) && nor_crc(q->flash, q->base + at + QUEUE_RECORD_BYTES, size, &crc) == NODE_OK &&
           crc == commit.crc;
}

/* A done unit that was cut short counts: the acknowledgement had come. */
static bool done(const queue_t *q, uint32_t at)
{
    return !nor_erased(q->flash, q->base + at + 2 * UNIT, UNIT);
}

/* Committed and not done. */
static bool waits(const queue_t *q, uint32_t at)
{
    commit_t commit;
    return read_commit(q, at, &commit) && !done(q, at);
}

static int mark_done(const queue_t *q, uint32_t at)
{
    static const uint8_t zeros[UNIT];
    return program(q, at + 2 * UNIT, zeros, UNIT);
}

/* Where the next record may begin. What follows a record of several sectors would be lost with that one's first sector,
 * so nothing does. */
static uint32_t record_end(const queue_t *q, uint32_t at, uint32_t size)
{
    const uint32_t record = QUEUE_RECORD_BYTES + round_up(size, UNIT);
    return record <= sector(q) ? at + record : round_up(at + record, sector(q));
}

/* The next record to be sent behind the one at `at`, in order of age; NONE where the ring ends first. Those of this
 * boot were read back when they were written. */
static uint32_t following(const queue_t *q, uint32_t at)
{
    const uint32_t start = at;
    uint32_t laps = 0;
    header_t header;
    bool there = read_header(q, at, &header);
    while (laps == 0 || at <= start) {
        at = there ? record_end(q, at, header.size) : round_up(at + 1, sector(q));
        if (at >= q->size) {
            at = 0;
            laps++;
        }
        if (at == q->head) {
            return NONE;
        }
        there = read_header(q, at, &header);
        if (there && waits(q, at) && ((int32_t)(header.id - q->first_id) >= 0 || intact(q, at, header.size))) {
            return at;
        }
    }
    return NONE;
}

/* Takes in the records of one run of sectors; returns the sector behind it. What does not hold is passed over and left
 * as it is: it may lie in a sector whose erase was cut short. */
static uint32_t scan_run(queue_t *q, uint32_t start, uint32_t *oldest_id)
{
    header_t header;
    uint32_t at = start;
    while (at < q->size && (at == start || at % sector(q) != 0) && read_header(q, at, &header)) {
        const uint32_t record = at;
        at = record_end(q, record, header.size);
        if ((int32_t)(header.id - q->next_id) >= 0) {
            q->next_id = header.id + 1;
            q->head = at;
        }
        if (waits(q, record) && intact(q, record, header.size) &&
            (q->waiting++ == 0 || (int32_t)(header.id - *oldest_id) < 0)) {
            *oldest_id = header.id;
            q->oldest = record;
        }
    }
    return at == start ? start + sector(q) : round_up(at, sector(q));
}

int queue_open(queue_t *q, const node_flash_t *flash, uint32_t base, uint32_t size)
{
    *q = (queue_t){.flash = flash, .base = base, .size = size};
    if (size == 0 || base % flash->sector_size != 0 || size % flash->sector_size != 0 ||
        flash->sector_size < QUEUE_RECORD_BYTES || UNIT % flash->program_size != 0) {
        return NODE_E_ARGUMENT;
    }
    uint32_t oldest_id = 0;
    for (uint32_t at = 0; at < size;) {
        at = scan_run(q, at, &oldest_id);
    }
    q->first_id = q->next_id;
    q->head = round_up(q->head, sector(q)) % size;
    queue_rewind(q);
    return NODE_OK;
}

void queue_rewind(queue_t *q)
{
    q->unsent = q->waiting;
    q->next = q->oldest;
}

/* Lets the sectors from `start` to `end` go, and the records that begin there: these are the oldest. */
static int reclaim(queue_t *q, uint32_t start, uint32_t end)
{
    while (q->waiting != 0 && q->oldest >= start && q->oldest < end) {
        if (q->waiting != q->unsent) {
            return NODE_E_FULL; /* handed out: somebody may be reading it */
        }
        q->waiting--;
        q->unsent--;
        q->dropped++;
        q->next = q->oldest = following(q, q->oldest);
    }
    return nor_erase(q->flash, q->base + start, end - start);
}

/* Makes `head` the start of erased sectors for a record of `size` bytes. */
static int make_room(queue_t *q, uint32_t size)
{
    const uint32_t run = round_up(size, sector(q));
    q->head = round_up(q->head, sector(q)) % q->size;
    if (q->size - q->head < run) { /* a record does not wrap: what is left of the ring stays empty this time */
        const int status = reclaim(q, q->head, q->size);
        if (status != NODE_OK) {
            return status;
        }
        q->head = 0;
    }
    return reclaim(q, q->head, q->head + run);
}

/* Programs the pieces one after the other in whole units, the last one padded. */
static int program_pieces(const queue_t *q, uint32_t at, const queue_piece_t *pieces, unsigned count)
{
    uint8_t unit[UNIT];
    uint32_t filled = 0;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *data = pieces[i].data;
        uint32_t size = pieces[i].size;
        while (size != 0) {
            uint32_t taken = UNIT - filled < size ? UNIT - filled : size;
            int status = NODE_OK;
            if (filled == 0 && size >= UNIT) { /* whole units go straight from where they are */
                taken = size / UNIT * UNIT;
                status = program(q, at, data, taken);
                at += taken;
            } else {
                memcpy(unit + filled, data, taken);
                filled += taken;
            }
            if (filled == UNIT) {
                status = program(q, at, unit, UNIT);
                at += UNIT;
                filled = 0;
            }
            if (status != NODE_OK) {
                return status;
            }
            data += taken;
            size -= taken;
        }
    }
    if (filled == 0) {
        return NODE_OK;
    }
    memset(unit + filled, 0xff, UNIT - filled);
    return program(q, at, unit, UNIT);
}

static int write_record(const queue_t *q, const queue_piece_t *pieces, unsigned count, uint32_t size)
{
    header_t header = {.magic = MAGIC, .id = q->next_id, .size = size};
    header.crc = node_crc32(0, &header, offsetof(header_t, crc));
    commit_t commit = {.unused = {UINT32_MAX, UINT32_MAX}};
    for (unsigned i = 0; i < count; i++) {
        commit.crc = node_crc32(commit.crc, pieces[i].data, pieces[i].size);
    }
    commit.inverse = ~commit.crc;
    int status = program(q, q->head, &header, sizeof header);
    if (status == NODE_OK) {
        status = program_pieces(q, q->head + QUEUE_RECORD_BYTES, pieces, count);
    }
    return status == NODE_OK ? program(q, q->head + UNIT, &commit, sizeof commit) : status;
}

int queue_append(queue_t *q, const queue_piece_t *pieces, unsigned count)
{
    uint32_t size = 0;
    for (unsigned i = 0; i < count; i++) {
        if (pieces[i].size > q->size - size) {
            return NODE_E_ARGUMENT;
        }
        size += pieces[i].size;
    }
    const uint32_t record = QUEUE_RECORD_BYTES + round_up(size, UNIT);
    if (record > q->size) {
        return NODE_E_ARGUMENT;
    }
    if (q->head % sector(q) == 0 || sector(q) - q->head % sector(q) < record) {
        const int status = make_room(q, record);
        if (status != NODE_OK) {
            return status;
        }
    }
    const uint32_t at = q->head;
    const int status = write_record(q, pieces, count, size);
    q->next_id++;
    if (status != NODE_OK) {
        q->head = round_up(record_end(q, at, size), sector(q)) % q->size; /* what is there now is not known */
        return status;
    }
    q->head = record_end(q, at, size) % q->size;
    if (q->waiting++ == 0) {
        q->oldest = at;
    }
    if (q->unsent++ == 0) {
        q->next = at;
    }
    return NODE_OK;
}

bool queue_next(queue_t *q, uint32_t *record, const uint8_t **payload, uint32_t *size)
{
    header_t header;
    if (q->unsent == 0 || !read_header(q, q->next, &header)) {
        return false;
    }
    *record = q->next;
    *payload = q->flash->map(q->flash->context, q->base + q->next + QUEUE_RECORD_BYTES);
    *size = header.size;
    q->unsent--;
    q->next = following(q, q->next);
    return true;
}

int queue_done(queue_t *q, uint32_t record)
{
    const int status = mark_done(q, record);
    q->waiting--;
    if (record == q->oldest) {
        q->oldest = following(q, record);
    }
    return status;
}
