/* The node's firmware for MPS2: what port.h asks for, and the loop around it. */
#include <string.h>

#include "board.h"
#include "clock.h"
#include "console.h"
#include "crash.h"
#include "ethernet.h"
#include "flash.h"
#include "link.h"
#include "lwip/dhcp.h"
#include "lwip/init.h"
#include "microphone.h"
#include "netif/ethernet.h"
#include "provision.h"
#include "random.h"
#include "watchdog.h"
#if NODE_BLE
#include "radio.h"
#include "uart.h"
#endif
#ifdef NODE_TLS
#include <mbedtls/memory_buffer_alloc.h>
#endif

#define ARENA_BYTES (16U * 1024U)
#define RING_BYTES  (32U * 1024U) /* four seconds of ADPCM */
#define TRIAL_S     600           /* a trial that nobody watches */
#define KEEPALIVE_S 60
#define VITALS_S    60

static node_t node;
static node_config_t config;
static node_port_t port;
static node_flash_t sector; /* of the provisioning */
static node_crash_t crash;
static provision_t provision;
static sense_t sense;
static uint8_t arena[ARENA_BYTES] __attribute__((aligned(NN_ALIGNMENT)));
static uint8_t ring[RING_BYTES];
static struct netif netif;
static link_t broker;
#if NODE_BLE
static radio_t radio;
#endif
#ifdef NODE_TLS
static tls_t tls;
static tls_credentials_t credentials;
static uint8_t tls_heap[TLS_HEAP_BYTES] __attribute__((aligned(8)));
#endif

u32_t sys_now(void) /* lwIP's clock */
{
    return clock_ms();
}

/* ---- what port.h asks for ---- */

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

static void port_log(void *context, const char *line)
{
    (void)context;
    console_say(line, NULL);
}

static void port_action(void *context, const char *cascade, const char *action, const char *label)
{
    (void)context;
    console_say(cascade, ": action ", action, " (", label, ")", NULL);
}

static void port_reset(void *context)
{
    (void)context;
    console_say("reset", NULL);
    crash_reset(RESET_SOFTWARE);
}

static void port_health(void *context, node_health_t *health)
{
    (void)context;
    health->stack_free_bytes = (int32_t)stack_free_bytes();
}

/* ---- start ---- */

static void start_node(const char *reset_reason, bool crashed)
{
    const sense_memory_t memory = {
        .arena = arena, .arena_bytes = sizeof arena, .ring = ring, .ring_bytes = sizeof ring};
    config = (node_config_t){.id = provision.id,
                             .user = provision.user[0] != '\0' ? provision.user : NULL,
                             .password = provision.password[0] != '\0' ? provision.password : NULL,
                             .hardware = NODE_CPU_NAME,
                             .board = NODE_BOARD_NAME,
                             .firmware = NODE_VERSION,
                             .reset_reason = reset_reason,
                             .crash = crashed ? &crash : NULL,
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
    int status = node_init(&node, &config, &port, clock_ms());
    if (status == NODE_OK) {
        status = node_load(&node, 1, &sense, &memory);
    }
    if (status == NODE_OK && provision.image_size != 0 && provision.image_size <= FACTORY_BYTES) {
        status = node_provision(&node, 1, flash_factory_image(), provision.image_size);
    }
    if (status != NODE_OK && status != NODE_E_IMAGE) { /* an image that is rejected is reported, and another may come */
        decimal_t text;
        console_say("the node cannot start: -", decimal(text, (uint32_t)-status), NULL);
        crash_reset(RESET_UNKNOWN);
    }
}

/* NULL where the node speaks in clear. */
static tls_t *start_tls(void)
{
#ifdef NODE_TLS
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
    if (tls_open(&tls, &credentials) == 0) {
        return &tls;
    }
#else
    if (provision.security == PROVISION_PLAIN) {
        return NULL;
    }
#endif
    for (;;) { /* never in clear instead */
        console_say("this firmware cannot do the security that was provisioned", NULL);
        watchdog_feed();
        clock_sleep(5000, ethernet_pending);
    }
}

static void start_network(void)
{
    lwip_init();
    if (netif_add(&netif, IP4_ADDR_ANY4, IP4_ADDR_ANY4, IP4_ADDR_ANY4, NULL, ethernet_init, ethernet_input) == NULL) {
        console_say("no Ethernet", NULL);
        crash_reset(RESET_UNKNOWN);
    }
    netif_set_default(&netif);
    netif_set_hostname(&netif, provision.id);
    netif_set_up(&netif);
    dhcp_start(&netif);
    link_init(&broker, &node, provision.host, provision.port, start_tls());
}

/* ---- the radio ---- */

#if NODE_BLE
static void start_radio(void)
{
    uart_init();
    radio_init(&radio, &node);
    radio.level = provision.security == PROVISION_PLAIN ? 0 : 1; /* a node that has a key says nothing in clear */
    radio_start(&radio, clock_ms());
}

static void hear_radio(void)
{
    uint8_t bytes[64];
    for (size_t size; (size = uart_read(bytes, sizeof bytes)) != 0;) {
        radio_receive(&radio, bytes, size, clock_ms());
    }
}

/* Says what there is; returns the milliseconds until it wants to be called again. */
static uint32_t step_radio(void)
{
    const uint8_t *data;
    uint32_t wait_ms = 1000;
    for (size_t size; (size = radio_transmit(&radio, &data, clock_ms())) != 0; wait_ms = 0) {
        const size_t taken = uart_write(data, size);
        radio_transmitted(&radio, taken);
        if (taken != size) {
            return 10;
        }
    }
    return wait_ms; /* 0: node_step() comes first */
}

static bool pending(void)
{
    return ethernet_pending() || uart_pending();
}

/* Waits on the radio until somebody says who the board is. It has no display but the console, which shows another
 * passkey after each reset. */
static void wait_for_provisioning(void)
{
    decimal_t text;
    port = (node_port_t){.random = port_random, .log = port_log, .reset = port_reset, .provisioning = &sector};
    node_ble_unprovisioned(&node, &port, clock_ms());
    start_radio();
    radio.level = BLE_AUTHENTICATED;
    radio.input_output = 1;
    radio.passkey = 100000 + random_u32() % 900000;
    console_say("not provisioned: waits on its radio, with the passkey ", decimal(text, radio.passkey), NULL);
    for (;;) {
        watchdog_feed();
        hear_radio();
        const uint32_t node_ms = (uint32_t)node_step(&node, clock_ms()), radio_ms = step_radio();
        clock_sleep(node_ms < radio_ms ? node_ms : radio_ms, uart_pending);
    }
}
#else
static void start_radio(void)
{
}

static void hear_radio(void)
{
}

static uint32_t step_radio(void)
{
    return UINT32_MAX;
}

static bool pending(void)
{
    return ethernet_pending();
}

/* It can do nothing, but say so. */
static void wait_for_provisioning(void)
{
    for (;;) {
        console_say("not provisioned: there is no valid sector at the start of flash", NULL);
        for (uint32_t s = 0; s < 10; s++) {
            watchdog_feed();
            clock_sleep(1000, ethernet_pending);
        }
    }
}
#endif

/* ---- the loop ---- */

static bool listens(void)
{
    for (unsigned i = 0; i < node.cascade_count; i++) {
        if (node.cascades[i].runs && node.cascades[i].on) {
            return true;
        }
    }
    return false;
}

static uint32_t listen(void)
{
    int16_t samples[MICROPHONE_BLOCK];
    if (!listens()) {
        return UINT32_MAX;
    }
    while (microphone_read(samples, clock_us())) {
        node_feed(&node, FRONT_END_AUDIO, samples, MICROPHONE_BLOCK, clock_ms());
    }
    return microphone_wait_ms(clock_us());
}

int main(void)
{
    console_init();
    clock_init();
    watchdog_start();
    const reset_cause_t cause = crash_take(&crash);
    sector = flash_provisioning();
    if (provision_load(&provision, &sector) != NODE_OK) {
        wait_for_provisioning();
    }
    console_say(provision.id, ": firmware ", NODE_VERSION, ", reset: ", reset_cause_name(cause), NULL);
    microphone_open();
    start_node(reset_cause_name(cause), cause == RESET_FAULT || cause == RESET_WATCHDOG);
    start_network();
    start_radio();
    for (;;) {
        watchdog_feed();
        const uint32_t sound_ms = listen();
        ethernet_poll(&netif);
        hear_radio();
        const uint32_t link_ms = (uint32_t)link_step(&broker), radio_ms = step_radio();
        const uint32_t wait_ms = sound_ms < link_ms ? sound_ms : link_ms;
        clock_sleep(wait_ms < radio_ms ? wait_ms : radio_ms, pending);
    }
}
