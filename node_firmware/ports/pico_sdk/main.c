/* The node's firmware for a Raspberry Pi Pico W: what port.h asks for, and the loop around it. */
#include <hardware/watchdog.h>
#include <lwip/netif.h>
#include <mbedtls/memory_buffer_alloc.h>
#include <pico/cyw43_arch.h>
#include <pico/rand.h>
#include <pico/stdlib.h>
#include <stdio.h>

#include "../lwip/link.h"
#include "crash.h"
#include "flash.h"
#include "microphone.h"
#include "node/node.h"
#include "provision.h"

#define ARENA_BYTES (32U * 1024U)
#define RING_BYTES  (32U * 1024U) /* four seconds of ADPCM */
#define TRIAL_S     3600
#define KEEPALIVE_S 60
#define VITALS_S    60
#define WATCHDOG_MS 8000 /* an RP2040 can count to 8388 */
#define SOUND_MS    10   /* how long a block of sound may wait */

static node_t node;
static node_config_t config;
static node_port_t port;
static provision_t provision;
static sense_t sense;
static uint8_t arena[ARENA_BYTES] __attribute__((aligned(NN_ALIGNMENT)));
static uint8_t ring[RING_BYTES];
static link_t broker;
static tls_t tls;
static tls_credentials_t credentials;
static uint8_t tls_heap[TLS_HEAP_BYTES] __attribute__((aligned(8)));

static uint32_t now_ms(void) /* the SDK's lwIP has the same clock */
{
    return to_ms_since_boot(get_absolute_time());
}

static __attribute__((noreturn)) void die(const char *why)
{
    puts(why);
    sleep_ms(5000); /* what is wrong is wrong after the reset too: not too fast */
    crash_reset();
}

/* ---- what port.h asks for ---- */

static uint32_t port_random(void *context)
{
    (void)context;
    return get_rand_32();
}

static uint32_t port_micros(void *context)
{
    (void)context;
    return time_us_32();
}

static void port_log(void *context, const char *line)
{
    (void)context;
    puts(line);
}

/* The place for what this product does: here the board's light. */
static void port_action(void *context, const char *cascade, const char *action, const char *label)
{
    (void)context;
    printf("%s: action %s (%s)\n", cascade, action, label);
    cyw43_arch_gpio_put(CYW43_WL_GPIO_LED_PIN, true);
}

static void port_reset(void *context)
{
    (void)context;
    crash_reset();
}

static void port_health(void *context, node_health_t *health)
{
    int32_t rssi;
    (void)context;
    if (cyw43_wifi_get_rssi(&cyw43_state, &rssi) == 0) {
        health->rssi_dbm = rssi;
    }
}

/* ---- start ---- */

static void start_node(void)
{
    const node_crash_t *crash;
    const char *const reason = crash_take(&crash);
    const sense_memory_t memory = {
        .arena = arena, .arena_bytes = sizeof arena, .ring = ring, .ring_bytes = sizeof ring};
    config = (node_config_t){.id = provision.id,
                             .user = provision.user[0] != '\0' ? provision.user : NULL,
                             .password = provision.password[0] != '\0' ? provision.password : NULL,
                             .hardware = "rp2040",
                             .board = "pico-w",
                             .firmware = NODE_VERSION,
                             .reset_reason = reason,
                             .crash = crash,
                             .keys = (const uint8_t(*)[IMAGE_KEY_BYTES])provision.keys,
                             .key_count = provision.key_count,
                             .images = 1,
                             .image_bytes = IMAGE_BYTES,
                             .arena_bytes = sizeof arena,
                             .trial_s = TRIAL_S,
                             .keepalive_s = KEEPALIVE_S,
                             .vitals_s = VITALS_S};
    port = (node_port_t){.flash = flash_driver(),
                         .random = port_random,
                         .micros = port_micros,
                         .log = port_log,
                         .action = port_action,
                         .reset = port_reset,
                         .health = port_health};
    printf("%s: firmware %s, reset: %s\n", provision.id, NODE_VERSION, reason);
    int status = node_init(&node, &config, &port, now_ms());
    if (status == NODE_OK) {
        status = node_load(&node, 1, &sense, &memory);
    }
    if (status == NODE_OK && provision.image_size != 0 && provision.image_size <= FACTORY_BYTES) {
        status = node_provision(&node, 1, flash_factory_image(), provision.image_size);
    }
    if (status != NODE_OK && status != NODE_E_IMAGE) { /* an image that is rejected is reported, and another may come */
        die("the node cannot start");
    }
}

/* NULL where the node speaks in clear. */
static tls_t *start_tls(void)
{
    if (provision.security == PROVISION_PLAIN) {
        return NULL;
    }
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
                                      .random = port_random};
    if (tls_open(&tls, &credentials) != 0) { /* never in clear instead */
        die("this firmware cannot do the security that was provisioned");
    }
    return &tls;
}

static void start_network(void)
{
    if (cyw43_arch_init() != 0) {
        die("no radio");
    }
    cyw43_arch_enable_sta_mode();
    netif_set_hostname(&cyw43_state.netif[CYW43_ITF_STA], provision.id);
    link_init(&broker, &node, provision.host, provision.port, start_tls());
}

/* ---- the loop ---- */

static void keep_joined(void)
{
    static uint32_t due_ms;
    const int status = cyw43_wifi_link_status(&cyw43_state, CYW43_ITF_STA);
    if (status == CYW43_LINK_JOIN || (int32_t)(now_ms() - due_ms) < 0) {
        return;
    }
    (void)cyw43_arch_wifi_connect_async(NODE_WIFI_SSID, NODE_WIFI_PASSWORD, CYW43_AUTH_WPA2_AES_PSK);
    due_ms = now_ms() + 15000;
}

static void listen(void)
{
    int16_t samples[MICROPHONE_BLOCK];
    while (microphone_read(samples)) {
        node_feed(&node, FRONT_END_AUDIO, samples, MICROPHONE_BLOCK, now_ms());
    }
}

int main(void)
{
    stdio_init_all();
    watchdog_enable(WATCHDOG_MS, true);
    if (flash_provisioning() == NULL || provision_read(&provision, flash_provisioning()) != NODE_OK) {
        die("not provisioned: there is no valid sector where flash's last megabyte begins");
    }
    start_node();
    microphone_start();
    start_network();
    for (;;) {
        watchdog_update();
        listen();
        keep_joined();
        cyw43_arch_poll();
        const int wait_ms = link_step(&broker);
        cyw43_arch_wait_for_work_until(make_timeout_time_ms(wait_ms < SOUND_MS ? (uint32_t)wait_ms : SOUND_MS));
    }
}
