/* gateway-node: one node as a process. Its flash is a file, its sensors are files or pipes. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "input.h"
#include "line.h"
#include "options.h"
#include "sector.h"
#include "stream.h"
#include "udp.h"

#define SECTOR_BYTES 4096
#define QUEUE_BYTES  (1024 * 1024)
/* session and settings, the images with their journals, the queue */
#define FLASH_BYTES                                                                                                    \
    ((4 + NODE_MAX_CASCADES * JOURNAL_SECTORS) * SECTOR_BYTES + NODE_MAX_CASCADES * SLOTS * IMAGE_BYTES + QUEUE_BYTES)
#define RESET_REASON "GATEWAY_NODE_RESET_REASON" /* in the environment, from one life of the process to the next */
#define DRAIN_MS     10000                       /* --exit-at-end: how long events may still wait for a gateway */
#define FDS          3                           /* beside the inputs' */
#define FAST_BACKLOG 8                           /* --fast: events that may wait before the sensor does */

typedef struct host {
    options_t options;
    node_port_t port;
    node_t node;
    flash_memory_t flash;
    sector_t sector; /* where no --id says who it is */
    sense_t senses[NODE_MAX_CASCADES];
    input_t inputs[MAX_INPUTS];
    struct sockaddr_in broker;
    char **arguments;
    stream_t stream;
    line_t line; /* without a path: no radio */
    bool shown;  /* the number that is to be compared */
    int smp_fd;  /* -1: no SMP over UDP */
    bool online;
    uint64_t retry_us, start_us, ended_us;
    uint32_t retry_ms;
} host_t;

static volatile sig_atomic_t stop_asked, yes_said;

static void on_signal(int number)
{
    (void)number;
    stop_asked = 1;
}

static void on_yes(int number)
{
    (void)number;
    yes_said = 1;
}

static uint32_t now_ms(void)
{
    return (uint32_t)(clock_us() / 1000);
}

static uint32_t port_random(void *context)
{
    (void)context;
    return random_u32();
}

static uint32_t port_micros(void *context)
{
    (void)context;
    return (uint32_t)clock_us();
}

static const char *name(const host_t *host)
{
    return host->options.config.id != NULL ? host->options.config.id : "nobody";
}

static void port_log(void *context, const char *line)
{
    fprintf(stderr, "%s: %s\n", name(context), line);
}

static void port_identify(void *context)
{
    fprintf(stderr, "%s: here I am\n", name(context));
}

/* A host has its network: the node keeps what it is told. */
static int port_wifi(void *context, const char *ssid, const char *password)
{
    (void)password;
    fprintf(stderr, "%s: is to use the Wi-Fi %s\n", name(context), ssid);
    return 0;
}

static void port_action(void *context, const char *cascade, const char *action, const char *label)
{
    const host_t *const host = context;
    fprintf(stderr, "%s: %s: action %s (%s)\n", host->options.config.id, cascade, action, label);
}

/* As a board's reset: nothing but the flash outlives it. */
static void port_reset(void *context)
{
    const host_t *const host = context;
    fprintf(stderr, "%s: reset\n", name(host));
    setenv(RESET_REASON, "software", 1);
    execv("/proc/self/exe", host->arguments);
    die("reset: %s", strerror(errno));
}

/* ---- start ---- */

static void *allocate(size_t size)
{
    void *const memory = aligned_alloc(NN_ALIGNMENT, (size + NN_ALIGNMENT - 1) / NN_ALIGNMENT * NN_ALIGNMENT);
    if (memory == NULL) {
        die("out of memory");
    }
    return memory;
}

/* A microcontroller has fixed arrays here. */
static void load(host_t *host, unsigned image)
{
    const sense_memory_t memory = {.arena = allocate(IMAGE_BYTES),
                                   .arena_bytes = IMAGE_BYTES,
                                   .ring = allocate(NODE_MAX_WINDOW + ADPCM_BLOCK),
                                   .ring_bytes = NODE_MAX_WINDOW + ADPCM_BLOCK};
    static uint8_t bytes[IMAGE_BYTES];
    int status = node_load(&host->node, image, &host->senses[image - 1], &memory);
    if (status == NODE_OK && image <= host->options.image_count) {
        const size_t size = read_file(host->options.images[image - 1], bytes, sizeof bytes);
        status = node_provision(&host->node, image, bytes, (uint32_t)size);
    }
    if (status != NODE_OK && status != NODE_E_IMAGE) { /* a rejected image is reported, and another may come */
        die("%s: image %u: %d", host->options.config.id, image, status);
    }
}

static uint32_t model_rate_hz(const host_t *host, front_end_kind_t sensor)
{
    for (unsigned i = 0; i < host->node.cascade_count; i++) {
        const node_cascade_t *const cascade = &host->node.cascades[i];
        if (cascade->runs && cascade->sense->image.front_end.kind == sensor) {
            return cascade->sense->image.front_end.rate_hz;
        }
    }
    return 0;
}

static void open_inputs(host_t *host)
{
    for (unsigned i = 0; i < host->options.input_count; i++) {
        input_t *const input = &host->inputs[i];
        const char *const spec = host->options.inputs[i];
        input_open(input, spec);
        input->loops = host->options.loop;
        const uint32_t rate_hz = model_rate_hz(host, input->sensor);
        if (rate_hz != 0 && input->rate_hz != 0 && input->rate_hz != rate_hz) {
            die("%s has %u Hz, and the models want %u", spec, input->rate_hz, rate_hz);
        }
    }
}

static void start_radio(host_t *host)
{
    line_init(&host->line, host->options.radio, &host->node);
    host->line.radio.level = host->options.radio_level;
    host->line.radio.input_output = host->options.radio_input_output;
    if (host->options.config.id == NULL && host->options.radio_input_output == 0) {
        die("%s is not provisioned, and cannot be over a radio without --pairing", host->options.flash);
    }
    host->line.radio.passkey = host->options.passkey;
}

/* Who it is: as the command line says, or the flash. */
static void find_name(host_t *host)
{
    const bool named = host->options.config.id != NULL;
    host->stream = (stream_t){.node = &host->node, .fd = -1};
    flash_map(&host->flash, host->options.flash, FLASH_BYTES + (named ? 0 : PROVISION_BYTES));
    if (host->options.psk != NULL) {
        host->stream.tls = tls_with_key(read_keys(host->options.psk), host->options.config.id);
    }
    if (!named && !sector_take(&host->sector, &host->flash, &host->options, &host->stream.tls)) {
        host->port.provisioning = &host->sector.flash;
    }
}

/* A node that is nobody yet: it has its radio, and nothing else. */
static void start_nobody(host_t *host)
{
    if (host->options.radio == NULL) {
        die("%s is not provisioned: --radio, or `gatewayctl node flash-image`", host->options.flash);
    }
    host->smp_fd = -1;
    host->options.input_count = 0;
    node_ble_unprovisioned(&host->node, &host->port, now_ms());
    fprintf(stderr, "%s: waits to be provisioned\n", name(host));
}

static void start(host_t *host)
{
    host->line.fd = -1;
    host->port = (node_port_t){.random = port_random,
                               .micros = port_micros,
                               .log = port_log,
                               .action = port_action,
                               .reset = port_reset,
                               .identify = port_identify,
                               .wifi = port_wifi,
                               .context = host};
    find_name(host);
    host->port.flash = flash_driver(&host->flash, SECTOR_BYTES);
    if (host->options.radio != NULL) {
        start_radio(host);
    }
    if (host->options.broker != NULL) {
        host->broker = resolve(host->options.broker);
    }
    if (host->options.config.id == NULL) {
        start_nobody(host);
        return;
    }
    host->smp_fd = host->options.smp != NULL ? udp_open(host->options.smp) : -1;
    const int status = node_init(&host->node, &host->options.config, &host->port, now_ms());
    if (status != NODE_OK) {
        die("%s: node_init %d", host->options.config.id, status);
    }
    for (unsigned image = 1; image <= NODE_MAX_CASCADES; image++) {
        load(host, image);
    }
    open_inputs(host);
    fprintf(stderr, "%s: session %u, %u cascades, %u events wait\n", host->options.config.id, host->node.session,
            host->node.cascade_count, host->node.queue.waiting);
    host->start_us = clock_us();
}

/* ---- the link ---- */

static void link_down(host_t *host, const char *why)
{
    fprintf(stderr, "%s: offline: %s\n", host->options.config.id, why);
    stream_close(&host->stream, now_ms());
    host->online = false;
    const uint32_t most_ms = 30000;
    host->retry_ms = host->retry_ms == 0 ? 250 : host->retry_ms < most_ms / 2 ? 2 * host->retry_ms : most_ms;
    host->retry_us = clock_us() + (host->retry_ms / 2 + random_u32() % host->retry_ms) * UINT64_C(1000);
}

static void transmit(host_t *host)
{
    const char *const why = stream_transmit(&host->stream, now_ms());
    if (why != NULL) {
        link_down(host, why);
    }
}

/* ---- the radio ---- */

/* Whether node_step() is due. */
static bool step_radio(host_t *host)
{
    radio_t *const radio = &host->line.radio;
    if (host->line.path == NULL) {
        return false;
    }
    if (radio->compares && !host->shown) {
        fprintf(stderr, "%s: does the peer show %06u?\n", name(host), radio->number);
    }
    host->shown = radio->compares;
    if (radio->compares && yes_said) {
        radio_confirm(radio, true);
    }
    yes_said = 0;
    return line_step(&host->line);
}

/* ---- the sensors ---- */

/* How many samples of a file are due. */
static size_t due(const host_t *host, const input_t *input)
{
    if (!input->paced) {
        return INPUT_MAX_SAMPLES;
    }
    if (host->options.speed == 0) {
        const bool behind = node_delivers(&host->node) && host->node.queue.waiting >= FAST_BACKLOG;
        return behind ? 0 : INPUT_MAX_SAMPLES;
    }
    const double elapsed_s = (double)(clock_us() - host->start_us) * 1e-6;
    const uint64_t target = (uint64_t)(elapsed_s * host->options.speed * input->rate_hz);
    const uint64_t count = target > input->fed ? target - input->fed : 0;
    return count < INPUT_MAX_SAMPLES ? (size_t)count : INPUT_MAX_SAMPLES;
}

static void feed(host_t *host)
{
    int16_t samples[INPUT_MAX_SAMPLES];
    bool ended = true;
    for (unsigned i = 0; i < host->options.input_count; i++) {
        input_t *const input = &host->inputs[i];
        if (input->rate_hz == 0) {
            input->rate_hz = model_rate_hz(host, input->sensor); /* none yet: it waits for a model */
        }
        const size_t wanted = input->ended || input->rate_hz == 0 ? 0 : due(host, input);
        const size_t count = wanted != 0 ? input_read(input, samples, wanted) : 0;
        if (count != 0) {
            node_feed(&host->node, input->sensor, samples, count, now_ms());
        }
        ended = ended && input->ended;
    }
    if (ended && host->ended_us == 0) {
        host->ended_us = clock_us();
        fprintf(stderr, "%s: inputs ended\n", host->options.config.id);
    }
}

/* ---- the loop ---- */

static bool finished(const host_t *host)
{
    if (!host->options.exit_at_end || host->ended_us == 0) {
        return false;
    }
    const bool told = node_ready(&host->node) || node_delivers(&host->node);
    return (told && host->node.queue.waiting == 0) || clock_us() - host->ended_us > DRAIN_MS * UINT64_C(1000);
}

/* Sleeps until something happens, at most `most_ms`. */
static void wait_for_work(host_t *host, int most_ms)
{
    struct pollfd fds[FDS + MAX_INPUTS];
    fds[0] =
        (struct pollfd){.fd = host->stream.fd, .events = (short)(POLLIN | (stream_waits(&host->stream) ? POLLOUT : 0))};
    fds[1] = (struct pollfd){.fd = host->smp_fd, .events = POLLIN};
    fds[2] = (struct pollfd){.fd = host->line.fd, .events = (short)(POLLIN | (host->line.full ? POLLOUT : 0))};
    for (unsigned i = 0; i < host->options.input_count; i++) {
        const input_t *const input = &host->inputs[i];
        const bool waits = !input->paced && !input->ended && input->rate_hz != 0;
        fds[FDS + i] = (struct pollfd){.fd = waits ? input->fd : -1, .events = POLLIN};
        if (input->paced && !input->ended) {
            most_ms = host->options.speed == 0 ? 0 : most_ms < 10 ? most_ms : 10;
        }
    }
    if (poll(fds, FDS + host->options.input_count, most_ms) <= 0) {
        return;
    }
    if (fds[0].revents != 0) {
        const char *const why =
            stream_event(&host->stream, (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0, now_ms());
        if (why != NULL) {
            link_down(host, why);
        }
    }
    if (fds[1].revents != 0) {
        udp_serve(host->smp_fd, &host->node, now_ms());
    }
    if ((fds[2].revents & ~POLLOUT) != 0) {
        line_receive(&host->line);
    }
}

static void run(host_t *host)
{
    bool stopping = false;
    while (!node_stopped(&host->node)) {
        if (!stopping && (stop_asked || finished(host))) {
            node_stop(&host->node, now_ms());
            stopping = true;
            continue;
        }
        if (host->options.broker != NULL && host->stream.fd < 0 && clock_us() >= host->retry_us &&
            !stream_dial(&host->stream, &host->broker, 0)) {
            link_down(host, strerror(errno));
        }
        if (!stopping && host->options.config.id != NULL) {
            feed(host);
        }
        int wait_ms = node_step(&host->node, now_ms());
        if (wait_ms < 0) {
            link_down(host, link_fault(wait_ms));
            wait_ms = 0;
        }
        transmit(host);
        if (step_radio(host)) {
            wait_ms = 0;
        }
        if (!host->online && node_ready(&host->node)) {
            fprintf(stderr, "%s: online\n", host->options.config.id);
            host->online = true;
            host->retry_ms = 0;
        }
        wait_for_work(host, wait_ms < 200 ? wait_ms : 200);
        transmit(host);
    }
}

int main(int argc, char **argv)
{
    static host_t host;
    host.arguments = argv;
    parse_options(&host.options, argc, argv);
    const char *const reason = getenv(RESET_REASON);
    host.options.config.reset_reason = reason != NULL ? reason : "power-on";
    const struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &(const struct sigaction){.sa_handler = on_yes}, NULL);
    start(&host);
    run(&host);
    const node_t *const node = &host.node;
    fprintf(stderr, "%s: stopped: %u events, %u acknowledged, %u verdicts, %u wait\n", name(&host), node->counts.events,
            node->counts.acknowledged, node->counts.verdicts, node->queue.waiting);
    return 0;
}
