/* The node's firmware for a board that has no network stack of ours: start, and the loop of port.h. It needs no change
 * for a new board, except for sizes and for what is listened to. (With lwIP, ports/lwip/link.h is the link; ports/mps2
 * shows it.) */
#include <mbedtls/memory_buffer_alloc.h>

#include "board.h"
#include "provision.h"
#include "tls.h"
#ifdef NODE_FLASH_CHECK
#include "flash_check.h"
#endif

#define ARENA_BYTES (32U * 1024U) /* the model's memory: at least what the image's plan says */
#define RING_BYTES  (32U * 1024U) /* the clip's: four seconds of ADPCM */
#define TRIAL_S     3600
#define KEEPALIVE_S 60
#define VITALS_S    60

#define CONNECT_MS   30000 /* from the first board_connect() to MQTT, TLS included */
#define RETRY_MS     1000  /* before the second attempt; doubled for each further one */
#define RETRY_MAX_MS 60000
#define SLEEP_MS     10 /* where the network's interrupt does not wake the core: how late bytes may be */

typedef enum link { LINK_DOWN, LINK_CONNECTING, LINK_SECURING, LINK_UP } link_t;

static node_t node;
static node_config_t config;
static provision_t provision;
static sense_t sense;
static uint8_t arena[ARENA_BYTES] __attribute__((aligned(NN_ALIGNMENT)));
static uint8_t ring[RING_BYTES];
static tls_t tls;
static tls_credentials_t credentials;
static uint8_t tls_heap[TLS_HEAP_BYTES] __attribute__((aligned(8)));
static link_t link;
static uint32_t link_ms;  /* LINK_DOWN: when the next attempt is due; otherwise when this one began */
static uint32_t retry_ms; /* 0: the last attempt brought the node online */

/* ---- start ---- */

/* The names of board.c's functions that are not written yet: the linker gives a section its bounds. */
extern const char *const __start_unfinished[] __attribute__((weak));
extern const char *const __stop_unfinished[] __attribute__((weak));

static void refuse_what_is_unfinished(void)
{
    const ptrdiff_t count = __stop_unfinished - __start_unfinished;
    if (count == 0) {
        return;
    }
    board_log("not finished:");
    for (ptrdiff_t i = 0; i < count; i++) {
        board_log(__start_unfinished[i]);
    }
    board_panic("this is no firmware yet");
}

static void start_node(void)
{
    const sense_memory_t memory = {
        .arena = arena, .arena_bytes = sizeof arena, .ring = ring, .ring_bytes = sizeof ring};
    config = (node_config_t){.id = provision.id,
                             .user = provision.user[0] != '\0' ? provision.user : NULL,
                             .password = provision.password[0] != '\0' ? provision.password : NULL,
                             .hardware = HARDWARE_NAME,
                             .board = BOARD_NAME,
                             .firmware = NODE_VERSION,
                             .reset_reason = board_reset_reason(),
                             .crash = board_crash(),
                             .keys = (const uint8_t(*)[IMAGE_KEY_BYTES])provision.keys,
                             .key_count = provision.key_count,
                             .images = 1,
                             .image_bytes = IMAGE_BYTES,
                             .arena_bytes = sizeof arena,
                             .trial_s = TRIAL_S,
                             .keepalive_s = KEEPALIVE_S,
                             .vitals_s = VITALS_S};
    int status = node_init(&node, &config, &board_port, board_ms());
    if (status == NODE_OK) {
        status = node_load(&node, 1, &sense, &memory);
    }
    if (status == NODE_OK && provision.image_size != 0 && provision.image_size <= FACTORY_BYTES) {
        status = node_provision(&node, 1, board_provisioning() + PROVISION_BYTES, provision.image_size);
    }
    if (status != NODE_OK && status != NODE_E_IMAGE) { /* an image that is rejected is reported, and another may come */
        board_panic("the node cannot start: flash, or a size in its configuration");
    }
}

static void start_tls(void)
{
    mbedtls_memory_buffer_alloc_init(tls_heap, sizeof tls_heap);
    credentials = (tls_credentials_t){.identity = provision.id,
                                      .psk = provision.psk.data,
                                      .psk_size = provision.psk.size,
                                      .host = provision.host,
                                      .ca = provision.ca.data,
                                      .ca_size = provision.ca.size,
                                      .certificate = provision.certificate.data,
                                      .certificate_size = provision.certificate.size,
                                      .key = provision.key.data,
                                      .key_size = provision.key.size,
                                      .random = board_port.random,
                                      .context = board_port.context};
    if (tls_open(&tls, &credentials) != 0) { /* never in clear instead */
        board_panic("this firmware cannot do the security that was provisioned");
    }
}

/* ---- the link ---- */

static bool secure(void)
{
    return provision.security != PROVISION_PLAIN;
}

/* After an error: the next attempt comes later than this one did, and not when all other nodes try. */
static void link_down(void)
{
    if (link == LINK_UP) {
        node_link_down(&node, board_ms());
    }
    board_disconnect();
    link = LINK_DOWN;
    retry_ms = retry_ms == 0 ? RETRY_MS : retry_ms < RETRY_MAX_MS / 2 ? 2 * retry_ms : RETRY_MAX_MS;
    link_ms = board_ms() + retry_ms / 2 + board_port.random(board_port.context) % retry_ms;
}

static int link_up(void)
{
    link = LINK_UP;
    return node_link_up(&node, board_ms());
}

static int connect(void)
{
    const int status = board_connect(provision.host, provision.port);
    if (status <= 0) {
        return status;
    }
    if (!secure()) {
        return link_up();
    }
    link = LINK_SECURING;
    return tls_start(&tls);
}

static int receive_plain(void *context, const uint8_t *data, size_t size)
{
    (void)context;
    if (link != LINK_UP) { /* a broker does not speak first */
        return NODE_E_PROTOCOL;
    }
    return node_receive(&node, data, size, board_ms());
}

static int receive(void)
{
    uint8_t bytes[1024];
    int got;
    while ((got = board_receive(bytes, sizeof bytes)) > 0) {
        const size_t size = (size_t)got;
        const int status =
            secure() ? tls_receive(&tls, bytes, size, receive_plain, NULL) : receive_plain(NULL, bytes, size);
        if (status < 0) {
            return status;
        }
    }
    return got;
}

/* As much as the network takes. A record of TLS that waits goes before what is to be the next one. */
static int transmit(void)
{
    for (;;) {
        const uint8_t *data;
        size_t size = secure() ? tls_transmit(&tls, &data) : 0;
        int taken;
        if (size != 0) {
            taken = board_send(data, size);
            if (taken > 0 && tls_transmitted(&tls, (size_t)taken) < 0) {
                return -1;
            }
        } else if (link == LINK_UP && (size = node_transmit(&node, &data)) != 0) {
            taken = secure() ? tls_write(&tls, data, size) : board_send(data, size);
            node_transmitted(&node, taken > 0 ? (size_t)taken : 0, board_ms());
        } else {
            return 0;
        }
        if (taken <= 0) {
            return taken;
        }
    }
}

/* One step of an attempt that is under way, or of a link that is up; negative where it is over. */
static int step_link(void)
{
    if (link == LINK_CONNECTING) {
        return connect();
    }
    int status = receive();
    if (status == 0 && link == LINK_SECURING && tls_ready(&tls)) {
        status = link_up();
    }
    return status < 0 ? status : transmit();
}

static void run_link(void)
{
    const uint32_t now_ms = board_ms();
    if (link == LINK_DOWN) {
        if ((int32_t)(now_ms - link_ms) < 0) {
            return;
        }
        link = LINK_CONNECTING;
        link_ms = now_ms;
    }
    const bool late = link != LINK_UP && now_ms - link_ms > CONNECT_MS;
    if (late || step_link() < 0) {
        link_down();
    } else if (node_ready(&node)) {
        retry_ms = 0;
    }
}

/* ---- the loop ---- */

static void listen(void)
{
    int16_t samples[SENSOR_BLOCK];
    while (board_listen(samples)) {
        node_feed(&node, FRONT_END_AUDIO, samples, SENSOR_BLOCK, board_ms());
    }
}

int main(void)
{
    board_start();
#ifdef NODE_FLASH_CHECK
    const char *const wrong = flash_check(&board_port.flash);
    board_panic(wrong != NULL ? wrong : "the flash driver does what port.h says");
#endif
    refuse_what_is_unfinished();
    if (provision_read(&provision, board_provisioning()) != NODE_OK) {
        board_panic("not provisioned: see gatewayctl node flash-image");
    }
    board_watchdog_start();
    start_node();
    if (secure()) {
        start_tls();
    }
    board_network_start(provision.id);
    for (;;) {
        board_watchdog_feed();
        listen();
        run_link();
        int wait_ms = node_step(&node, board_ms());
        if (wait_ms < 0) {
            link_down();
            wait_ms = 0;
        }
        board_sleep(wait_ms < SLEEP_MS ? (uint32_t)wait_ms : SLEEP_MS);
    }
}
