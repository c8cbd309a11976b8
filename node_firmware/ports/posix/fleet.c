/* gateway-fleet: thousands of nodes in one process, the same core as on a microcontroller behind one epoll. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "key.h"
#include "posix.h"
#include "session.h"
#include "stream.h"

#define SECTOR_BYTES      512  /* of a fleet without images: one page of memory for a node that has little to say */
#define IMAGE_SECTOR      4096 /* with images: a page each */
#define IMAGE_BYTES       (128 * 1024)
#define ARENA_BYTES       (256 * 1024)
#define MIN_QUEUE_BYTES   2048
#define QUEUED_EVENTS     4 /* that find place in a node's flash, at least */
#define PORTS_PER_ADDRESS 20000
#define MAX_JOINING       64 /* at the same time: what overflows mosquitto's listen queue of 100 waits a second */
#define STEP_MS           20
#define DRAIN_MS          5000

typedef struct member {
    node_t node;
    node_config_t config;
    node_port_t port;
    flash_memory_t flash;
    char id[NODE_MAX_ID + 1];
    stream_t stream;
    bool joining, wants_out, online; /* joining: until CONNACK */
    uint64_t due_us;                 /* of node_step(), or of the next attempt to connect */
} member_t;

typedef struct fleet {
    const char *prefix, *broker, *cascade, *image, *flash;
    const char *keys; /* of all, for TLS; NULL: plain TCP */
    uint8_t key[1][IMAGE_KEY_BYTES];
    unsigned key_count;
    uint8_t *image_data; /* NULL: nodes without an image */
    uint32_t image_size;
    unsigned count;
    double event_rate, duration_s; /* events/s of the whole fleet */
    uint32_t window_bytes;
    uint16_t vitals_s;
    struct sockaddr_in address;
    member_t *members;
    uint8_t *window, *arena; /* arena: for the self-tests of all, one at a time */
    int epoll;
    unsigned joining, online;
    uint64_t start_us, online_us;
    uint32_t random;
} fleet_t;

static volatile sig_atomic_t stop_asked;

static void on_signal(int number)
{
    (void)number;
    stop_asked = 1;
}

/* xorshift32: simulated randomness, the same in every run. */
static uint32_t next_random(fleet_t *fleet)
{
    fleet->random ^= fleet->random << 13;
    fleet->random ^= fleet->random >> 17;
    fleet->random ^= fleet->random << 5;
    return fleet->random;
}

static uint32_t port_random(void *context)
{
    return next_random(context);
}

static uint32_t port_micros(void *context)
{
    (void)context;
    return (uint32_t)clock_us();
}

static uint32_t to_ms(uint64_t us)
{
    return (uint32_t)(us / 1000);
}

/* ---- one member ---- */

static void set_out(fleet_t *fleet, member_t *m, bool out)
{
    if (m->wants_out == out) {
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | (out ? (uint32_t)EPOLLOUT : 0), .data.ptr = m};
    m->wants_out = out;
    epoll_ctl(fleet->epoll, EPOLL_CTL_MOD, m->stream.fd, &event);
}

static void member_down(fleet_t *fleet, member_t *m, uint64_t now_us)
{
    stream_close(&m->stream, to_ms(now_us));
    fleet->online -= m->online ? 1 : 0;
    fleet->joining -= m->joining ? 1 : 0;
    m->online = m->joining = false;
    m->due_us = now_us + 500000 + next_random(fleet) % 1000000;
}

static void member_dial(fleet_t *fleet, member_t *m, uint64_t now_us)
{
    const unsigned block = (unsigned)(m - fleet->members) / PORTS_PER_ADDRESS;
    if (!stream_dial(&m->stream, &fleet->address, block != 0 ? htonl(INADDR_LOOPBACK + block) : 0)) {
        if (errno == EMFILE || errno == ENFILE) {
            die("%u nodes need more open files than are allowed", fleet->count);
        }
        m->due_us = now_us + 1000000;
        return;
    }
    m->joining = m->wants_out = true;
    fleet->joining++;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = m};
    epoll_ctl(fleet->epoll, EPOLL_CTL_ADD, m->stream.fd, &event);
}

static void member_transmit(fleet_t *fleet, member_t *m, uint64_t now_us)
{
    if (stream_transmit(&m->stream, to_ms(now_us)) != NULL) {
        member_down(fleet, m, now_us);
        return;
    }
    set_out(fleet, m, stream_waits(&m->stream));
    if (m->joining && m->node.mqtt.link == MQTT_UP) {
        m->joining = false;
        fleet->joining--;
    }
    if (!m->online && node_ready(&m->node)) {
        m->online = true;
        if (++fleet->online == fleet->count && fleet->online_us == 0) {
            fleet->online_us = now_us;
            printf("%u online in %u ms\n", fleet->count, to_ms(now_us - fleet->start_us));
            fflush(stdout);
        }
    }
}

/* After anything that happened to a member: sends what it has to say, and notes when it wants to be called. */
static void member_step(fleet_t *fleet, member_t *m, uint64_t now_us)
{
    const int wait_ms = node_step(&m->node, to_ms(now_us));
    if (wait_ms < 0 || node_stopped(&m->node)) {
        member_down(fleet, m, now_us);
        return;
    }
    m->due_us = now_us + (uint64_t)wait_ms * 1000;
    member_transmit(fleet, m, now_us);
}

static void member_event(fleet_t *fleet, member_t *m, uint32_t events, uint64_t now_us)
{
    const bool readable = (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
    if (stream_event(&m->stream, readable, to_ms(now_us)) != NULL) {
        member_down(fleet, m, now_us);
        return;
    }
    member_step(fleet, m, now_us);
}

/* ---- the fleet ---- */

/* Every member has the image as its image 1, and takes another by SMP. It thinks elsewhere: its events are made up. */
static void install(fleet_t *fleet, member_t *m)
{
    const sense_memory_t memory = {
        .arena = fleet->arena, .arena_bytes = ARENA_BYTES, .ring_bytes = NODE_MAX_WINDOW + ADPCM_BLOCK};
    int status = node_load(&m->node, 1, NULL, &memory);
    if (status == NODE_OK) {
        status = node_provision(&m->node, 1, fleet->image_data, fleet->image_size);
    }
    if (status != NODE_OK) {
        const image_fault_t fault = (image_fault_t)m->node.models[0].slots.slot[0].fault;
        die("%s: the image: %s", m->id, fault != FAULT_NONE ? image_fault_name(fault) : "flash");
    }
}

static void init_member(fleet_t *fleet, member_t *m, uint8_t *flash, uint32_t flash_bytes)
{
    static const uint8_t model[NODE_MODEL_BYTES] = "fleet-01";
    const bool images = fleet->image_data != NULL;
    snprintf(m->id, sizeof m->id, "%s%u", fleet->prefix, (unsigned)(m - fleet->members));
    m->stream =
        (stream_t){.node = &m->node, .fd = -1, .tls = fleet->keys != NULL ? tls_with_key(fleet->keys, m->id) : NULL};
    m->flash = (flash_memory_t){.bytes = flash, .size = flash_bytes};
    m->config = (node_config_t){.id = m->id,
                                .hardware = "fleet",
                                .board = "posix",
                                .firmware = NODE_VERSION,
                                .reset_reason = "power-on",
                                .keys = (const uint8_t(*)[IMAGE_KEY_BYTES])fleet->key,
                                .key_count = fleet->key_count,
                                .images = images ? 1 : 0,
                                .image_bytes = IMAGE_BYTES,
                                .arena_bytes = images ? ARENA_BYTES : 0,
                                .trial_s = 3600,
                                .keepalive_s = 60,
                                .vitals_s = fleet->vitals_s};
    m->port = (node_port_t){.flash = flash_driver(&m->flash, images ? IMAGE_SECTOR : SECTOR_BYTES),
                            .random = port_random,
                            .micros = port_micros,
                            .context = fleet};
    if (node_init(&m->node, &m->config, &m->port, to_ms(fleet->start_us)) != NODE_OK ||
        (!images && node_add_cascade(&m->node, fleet->cascade, model) != 0)) {
        die("%s: not a node's name, or not a cascade's", m->id);
    }
    if (images) {
        install(fleet, m);
    }
}

static void raise_file_limit(rlim_t files)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < files) {
        limit = (struct rlimit){files, limit.rlim_max > files ? limit.rlim_max : files};
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
            die("%llu open files: %s", (unsigned long long)files, strerror(errno));
        }
    }
}

static uint32_t flash_bytes(const fleet_t *fleet)
{
    const uint32_t sector = fleet->image_data != NULL ? IMAGE_SECTOR : SECTOR_BYTES;
    const uint32_t record = (QUEUE_RECORD_BYTES + NODE_HEAD_BYTES + fleet->window_bytes) / sector + 1;
    const uint32_t queue = QUEUED_EVENTS * record * sector;
    const uint32_t images = fleet->image_data != NULL ? JOURNAL_SECTORS * sector + SLOTS * IMAGE_BYTES : 0;
    return (SESSION_SECTORS + JOURNAL_SECTORS) * sector + images + (queue < MIN_QUEUE_BYTES ? MIN_QUEUE_BYTES : queue);
}

/* The flash of all, of which most is never written: it costs neither memory nor, in a file, disk. What was never
 * written is zero and not 0xff, but a node takes any flash. */
static uint8_t *map_flash(const char *path, size_t size)
{
    int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (path != NULL) {
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        flags = MAP_SHARED;
        if (fd < 0 || ftruncate(fd, (off_t)size) != 0) {
            die("%s: %s", path, strerror(errno));
        }
    }
    uint8_t *const flash = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (flash == MAP_FAILED) {
        die("no memory for %zu bytes of flash", size);
    }
    if (fd >= 0) {
        close(fd);
    }
    madvise(flash, size, MADV_NOHUGEPAGE);
    return flash;
}

static void start(fleet_t *fleet)
{
    raise_file_limit(fleet->count + 64);
    if (fleet->image != NULL) {
        fleet->image_data = malloc(IMAGE_BYTES);
        fleet->image_size = (uint32_t)read_file(fleet->image, fleet->image_data, IMAGE_BYTES);
        fleet->arena = aligned_alloc(NN_ALIGNMENT, ARENA_BYTES);
    }
    const uint32_t bytes = flash_bytes(fleet);
    uint8_t *const flash = map_flash(fleet->flash, (size_t)fleet->count * bytes);
    fleet->members = calloc(fleet->count, sizeof *fleet->members);
    fleet->window = malloc(fleet->window_bytes + 1);
    fleet->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (fleet->members == NULL || fleet->window == NULL || fleet->epoll < 0) {
        die("no memory for %u nodes", fleet->count);
    }
    for (uint32_t i = 0; i < fleet->window_bytes; i++) {
        fleet->window[i] = (uint8_t)next_random(fleet);
    }
    fleet->start_us = clock_us();
    for (unsigned i = 0; i < fleet->count; i++) {
        init_member(fleet, &fleet->members[i], flash + (size_t)i * bytes, bytes);
    }
    fprintf(stderr, "%u nodes, %zu bytes each and %u of flash\n", fleet->count, sizeof(member_t), bytes);
    fleet->start_us = clock_us();
}

static void send_event(fleet_t *fleet, uint64_t now_us)
{
    member_t *const m = &fleet->members[next_random(fleet) % fleet->count];
    const node_window_t window = {.kind = WINDOW_PCM16,
                                  .rate_hz = 16000,
                                  .channels = 1,
                                  .shape = {fleet->window_bytes / 2},
                                  .rank = 1,
                                  .piece = {fleet->window, NULL},
                                  .piece_size = {fleet->window_bytes, 0}};
    const node_event_t event = {.score = (float)(next_random(fleet) % 1000) / 1000.0F,
                                .reason = NODE_TRIGGER,
                                .window = fleet->window_bytes != 0 ? &window : NULL};
    (void)!node_event(&m->node, &event, to_ms(now_us)); /* what does not fit is counted as lost */
    if (m->stream.fd >= 0) {
        member_transmit(fleet, m, now_us);
    }
}

/* Calls every member whose time has come. */
static void step_all(fleet_t *fleet, uint64_t now_us, bool connecting)
{
    for (unsigned i = 0; i < fleet->count; i++) {
        member_t *const m = &fleet->members[i];
        if (m->due_us > now_us || m->stream.dialling) {
            continue;
        }
        if (m->stream.fd >= 0) {
            member_step(fleet, m, now_us);
        } else if (connecting && fleet->joining < MAX_JOINING) {
            member_dial(fleet, m, now_us);
        }
    }
}

static void poll_sockets(fleet_t *fleet, int most_ms)
{
    struct epoll_event events[256];
    const int count = epoll_wait(fleet->epoll, events, 256, most_ms);
    const uint64_t now_us = clock_us();
    for (int i = 0; i < count; i++) {
        member_t *const m = events[i].data.ptr;
        if (m->stream.fd >= 0) {
            member_event(fleet, m, events[i].events, now_us);
        }
    }
}

static uint64_t total(const fleet_t *fleet, size_t counter)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < fleet->count; i++) {
        const uint8_t *const node = (const uint8_t *)&fleet->members[i].node;
        sum += *(const uint32_t *)(const void *)(node + counter);
    }
    return sum;
}

#define TOTAL(fleet, counter) ((unsigned long long)total(fleet, offsetof(node_t, counter)))

static void run(fleet_t *fleet)
{
    const uint64_t gap_us = fleet->event_rate > 0 ? (uint64_t)(1e6 / fleet->event_rate) : 0;
    uint64_t event_us = 0, step_us = 0;
    for (uint64_t now_us = clock_us(); !stop_asked; now_us = clock_us()) {
        if (fleet->online_us != 0 && (double)(now_us - fleet->online_us) >= fleet->duration_s * 1e6) {
            break;
        }
        if (now_us >= step_us || fleet->online_us == 0) {
            step_all(fleet, now_us, true);
            step_us = now_us + STEP_MS * 1000;
        }
        for (event_us = event_us == 0 ? fleet->online_us : event_us; gap_us != 0 && event_us != 0 && event_us <= now_us;
             event_us += gap_us) {
            send_event(fleet, now_us);
        }
        const uint64_t next_us = gap_us != 0 && event_us != 0 && event_us < step_us ? event_us : step_us;
        poll_sockets(fleet, fleet->online_us == 0 ? 1 : next_us > now_us ? (int)((next_us - now_us) / 1000) : 0);
    }
}

/* Lets what was sent be acknowledged and answered, then says goodbye for every node. */
static void finish(fleet_t *fleet)
{
    const uint64_t deadline_us = clock_us() + DRAIN_MS * 1000;
    for (uint64_t now_us = clock_us(); now_us < deadline_us; now_us = clock_us()) {
        const bool answered =
            TOTAL(fleet, counts.verdicts) == 0 ||
            TOTAL(fleet, counts.verdicts) + TOTAL(fleet, counts.late) >= TOTAL(fleet, counts.acknowledged);
        if (TOTAL(fleet, queue.waiting) == 0 && answered) {
            break;
        }
        step_all(fleet, now_us, true);
        poll_sockets(fleet, STEP_MS);
    }
    for (unsigned i = 0; i < fleet->count; i++) {
        node_stop(&fleet->members[i].node, to_ms(clock_us()));
        fleet->members[i].due_us = 0;
    }
    const unsigned online = fleet->online;
    for (const uint64_t end_us = clock_us() + DRAIN_MS * 1000; fleet->online != 0 && clock_us() < end_us;) {
        step_all(fleet, clock_us(), false);
        poll_sockets(fleet, STEP_MS);
    }
    printf("{\"nodes\": %u, \"online\": %u, \"online_ms\": %u, \"events\": %llu, \"acknowledged\": %llu, "
           "\"verdicts\": %llu, \"late\": %llu, \"refused\": %llu, \"lost\": %llu, \"dropped\": %llu, \"waiting\": "
           "%llu, ",
           fleet->count, online, fleet->online_us != 0 ? to_ms(fleet->online_us - fleet->start_us) : 0,
           TOTAL(fleet, counts.events), TOTAL(fleet, counts.acknowledged), TOTAL(fleet, counts.verdicts),
           TOTAL(fleet, counts.late), TOTAL(fleet, counts.refused), TOTAL(fleet, counts.lost),
           TOTAL(fleet, queue.dropped), TOTAL(fleet, queue.waiting));
    printf("\"uploads\": %llu, \"resumed\": %llu, \"verified\": %llu, \"rejected\": %llu, \"tests\": %llu, "
           "\"confirms\": %llu, \"reverts\": %llu, \"repeated\": %llu}\n",
           TOTAL(fleet, counts.uploads), TOTAL(fleet, counts.resumed), TOTAL(fleet, counts.verified),
           TOTAL(fleet, counts.rejected), TOTAL(fleet, counts.tests), TOTAL(fleet, counts.confirms),
           TOTAL(fleet, counts.reverts), TOTAL(fleet, counts.repeated));
}

static void usage(void)
{
    die("usage: gateway-fleet --broker HOST:PORT [--count N] [--prefix TEXT] [--cascade NAME] [--event-rate PER_S]\n"
        "                     [--window-bytes B] [--vitals-s S] [--duration S]\n"
        "                     [--image FILE --key FILE [--flash FILE]] [--psk FILE]\n"
        "With an image every node has it installed, and takes others over SMP. --flash keeps the flash of all in one "
        "file.\n"
        "--psk is a psk_file of mosquitto's: with it the link is TLS, and every node has its own key there.\n"
        "The event rate is that of the whole fleet; the duration begins when all nodes are online.");
}

static double number(const char *text, double least, double most)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= least && value <= most)) {
        die("%s is not a number from %g to %g", text, least, most);
    }
    return value;
}

static void parse_options(fleet_t *fleet, int argc, char **argv)
{
    static const struct option options[] = {{"broker", required_argument, NULL, 'b'},
                                            {"count", required_argument, NULL, 'n'},
                                            {"prefix", required_argument, NULL, 'p'},
                                            {"cascade", required_argument, NULL, 'c'},
                                            {"event-rate", required_argument, NULL, 'r'},
                                            {"vitals-s", required_argument, NULL, 'v'},
                                            {"window-bytes", required_argument, NULL, 'w'},
                                            {"duration", required_argument, NULL, 'd'},
                                            {"image", required_argument, NULL, 'm'},
                                            {"key", required_argument, NULL, 'k'},
                                            {"flash", required_argument, NULL, 'f'},
                                            {"psk", required_argument, NULL, 'P'},
                                            {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'b':
            fleet->broker = optarg;
            break;
        case 'n':
            fleet->count = (unsigned)number(optarg, 1, 1e6);
            break;
        case 'p':
            fleet->prefix = optarg;
            break;
        case 'c':
            fleet->cascade = optarg;
            break;
        case 'r':
            fleet->event_rate = number(optarg, 0, 1e6);
            break;
        case 'v':
            fleet->vitals_s = (uint16_t)number(optarg, 1, UINT16_MAX);
            break;
        case 'w':
            fleet->window_bytes = (uint32_t)number(optarg, 0, NODE_MAX_WINDOW) & ~UINT32_C(1);
            break;
        case 'd':
            fleet->duration_s = number(optarg, 0, 1e9);
            break;
        case 'm':
            fleet->image = optarg;
            break;
        case 'k':
            read_key(optarg, fleet->key[0]);
            fleet->key_count = 1;
            break;
        case 'f':
            fleet->flash = optarg;
            break;
        case 'P':
            fleet->keys = read_keys(optarg);
            break;
        default:
            usage();
        }
    }
    if (optind != argc || fleet->broker == NULL || (fleet->image == NULL) != (fleet->key_count == 0)) {
        usage();
    }
}

int main(int argc, char **argv)
{
    fleet_t fleet = {
        .prefix = "fleet-", .cascade = "wakeword", .count = 100, .duration_s = HUGE_VAL, .vitals_s = 60, .random = 1};
    parse_options(&fleet, argc, argv);
    const struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    fleet.address = resolve(fleet.broker);
    start(&fleet);
    run(&fleet);
    finish(&fleet);
    return 0;
}
