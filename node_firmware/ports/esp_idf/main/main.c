/* The node's firmware on ESP-IDF: what port.h asks for, and the loop around it. */
#include <stdlib.h>

#include "esp_core_dump.h"
#include "esp_log.h"
#include "esp_partition.h"
#include "esp_random.h"
#include "esp_system.h"
#include "esp_task_wdt.h"
#include "esp_timer.h"
#include "esp_wifi.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "link.h"
#include "microphone.h"
#include "node/node.h"
#include "provision.h"
#include "sdkconfig.h"
#include "wifi.h"

#define PARTITION_TYPE ((esp_partition_type_t)0x40) /* partitions.csv */
#define IMAGE_BYTES    (128U * 1024U)               /* of a slot */
#define ARENA_BYTES    (32U * 1024U)
#define RING_BYTES     (32U * 1024U) /* four seconds of ADPCM */
#define TRIAL_S        3600
#define KEEPALIVE_S    60
#define VITALS_S       60
#define SOCKET_MS      10 /* how long a byte may wait for the loop to look at the socket */

static const char tag[] = "node";

static node_t node;
static node_config_t config;
static node_port_t port;
static node_crash_t crash;
static provision_t provision;
static const esp_partition_t *area;
static const uint8_t *map;
static sense_t sense;
static uint8_t arena[ARENA_BYTES] __attribute__((aligned(NN_ALIGNMENT)));
static uint8_t ring[RING_BYTES];

static __attribute__((noreturn)) void die(const char *why)
{
    ESP_LOGE(tag, "%s", why);
    vTaskDelay(pdMS_TO_TICKS(5000)); /* what is wrong is wrong after the reset too: not too fast */
    esp_restart();
}

/* ---- what port.h asks for ---- */

/* esp_err_t is positive where port.h wants negative. ESP-IDF stops the other core and all code that is in flash while
 * it programs, and renews what the cache has of the map. */
static int flash_status(esp_err_t error)
{
    return error == ESP_OK ? 0 : -1;
}

static int flash_erase(void *context, uint32_t offset, uint32_t size)
{
    (void)context;
    return flash_status(esp_partition_erase_range(area, offset, size));
}

static int flash_program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    (void)context;
    return flash_status(esp_partition_write(area, offset, data, size));
}

static int flash_read(void *context, uint32_t offset, void *data, uint32_t size)
{
    (void)context;
    return flash_status(esp_partition_read(area, offset, data, size));
}

static const uint8_t *flash_map(void *context, uint32_t offset)
{
    (void)context;
    return map + offset;
}

static uint32_t port_random(void *context)
{
    (void)context;
    return esp_random(); /* true randomness while Wi-Fi is on, which app_main() starts first */
}

static uint32_t port_micros(void *context)
{
    (void)context;
    return (uint32_t)esp_timer_get_time();
}

static void port_log(void *context, const char *line)
{
    (void)context;
    ESP_LOGI(tag, "%s", line);
}

/* The place for what this product does: a light, a relay. */
static void port_action(void *context, const char *cascade, const char *action, const char *label)
{
    (void)context;
    ESP_LOGI(tag, "%s: action %s (%s)", cascade, action, label);
}

static void port_reset(void *context)
{
    (void)context;
    esp_restart();
}

static void port_health(void *context, node_health_t *health)
{
    int rssi;
    (void)context;
    if (esp_wifi_sta_get_rssi(&rssi) == ESP_OK) {
        health->rssi_dbm = rssi;
    }
    health->heap_free_bytes = (int32_t)esp_get_free_heap_size();
    health->stack_free_bytes = (int32_t)uxTaskGetStackHighWaterMark(NULL);
}

/* ---- start ---- */

static const char *reset_reason(void)
{
    switch (esp_reset_reason()) {
    case ESP_RST_POWERON:
        return "power-on";
    case ESP_RST_BROWNOUT:
        return "brown-out";
    case ESP_RST_EXT:
        return "pin";
    case ESP_RST_SW:
        return "software";
    case ESP_RST_PANIC:
        return "fault";
    case ESP_RST_INT_WDT:
    case ESP_RST_TASK_WDT:
    case ESP_RST_WDT:
        return "watchdog";
    default:
        return "unknown";
    }
}

/* ESP-IDF keeps a core dump in flash; where it was is told once. */
static bool take_crash(void)
{
    esp_core_dump_summary_t *const summary = calloc(1, sizeof *summary);
    const bool whole = summary != NULL && esp_core_dump_get_summary(summary) == ESP_OK;
    if (whole) {
        crash.pc = summary->exc_pc;
        (void)esp_core_dump_image_erase();
    }
    free(summary);
    return whole;
}

static const esp_partition_t *find(const char *name, const uint8_t **at)
{
    const void *mapped;
    esp_partition_mmap_handle_t handle;
    const esp_partition_t *const found = esp_partition_find_first(PARTITION_TYPE, ESP_PARTITION_SUBTYPE_ANY, name);
    if (found == NULL ||
        esp_partition_mmap(found, 0, found->size, ESP_PARTITION_MMAP_DATA, &mapped, &handle) != ESP_OK) {
        die("a partition is missing");
    }
    *at = mapped;
    return found;
}

/* The factory's image, where there is one, is behind the provisioning. */
static const uint8_t *read_provisioning(void)
{
    const uint8_t *at;
    const esp_partition_t *const partition = find("provision", &at);
    if (provision_read(&provision, at) != NODE_OK || provision.image_size > partition->size - PROVISION_BYTES) {
        die("not provisioned: partition `provision` has no valid sector at its start");
    }
    return at + PROVISION_BYTES;
}

static void start_node(const uint8_t *factory_image)
{
    const sense_memory_t memory = {
        .arena = arena, .arena_bytes = sizeof arena, .ring = ring, .ring_bytes = sizeof ring};
    area = find("node", &map);
    if (area->encrypted) { /* erased flash would not read as 0xff */
        die("partition `node` must not be encrypted");
    }
    config = (node_config_t){.id = provision.id,
                             .user = provision.user[0] != '\0' ? provision.user : NULL,
                             .password = provision.password[0] != '\0' ? provision.password : NULL,
                             .hardware = CONFIG_IDF_TARGET,
                             .board = "esp-idf",
                             .firmware = NODE_VERSION,
                             .reset_reason = reset_reason(),
                             .crash = take_crash() ? &crash : NULL,
                             .keys = (const uint8_t(*)[IMAGE_KEY_BYTES])provision.keys,
                             .key_count = provision.key_count,
                             .images = 1,
                             .image_bytes = IMAGE_BYTES,
                             .arena_bytes = sizeof arena,
                             .trial_s = TRIAL_S,
                             .keepalive_s = KEEPALIVE_S,
                             .vitals_s = VITALS_S};
    port = (node_port_t){.flash = {.sector_size = area->erase_size,
                                   .program_size = 16,
                                   .size = area->size,
                                   .erase = flash_erase,
                                   .program = flash_program,
                                   .read = flash_read,
                                   .map = flash_map},
                         .random = port_random,
                         .micros = port_micros,
                         .log = port_log,
                         .action = port_action,
                         .reset = port_reset,
                         .health = port_health};
    int status = node_init(&node, &config, &port, (uint32_t)(esp_timer_get_time() / 1000));
    if (status == NODE_OK) {
        status = node_load(&node, 1, &sense, &memory);
    }
    if (status == NODE_OK && provision.image_size != 0) {
        status = node_provision(&node, 1, factory_image, provision.image_size);
    }
    if (status != NODE_OK && status != NODE_E_IMAGE) { /* an image that is rejected is reported, and another may come */
        die("the node cannot start");
    }
}

/* ---- the loop ---- */

void app_main(void)
{
    const uint8_t *const factory_image = read_provisioning();
    wifi_start(provision.id);
    ESP_ERROR_CHECK(esp_task_wdt_add(NULL)); /* sdkconfig.defaults: 8 s, then a panic */
    start_node(factory_image);
    ESP_LOGI(tag, "%s: firmware %s, reset: %s", provision.id, NODE_VERSION, config.reset_reason);
    microphone_start();
    link_start(&node, &provision);
    for (;;) {
        int16_t samples[MICROPHONE_BLOCK];
        ESP_ERROR_CHECK(esp_task_wdt_reset());
        const uint32_t wait_ms = link_step();
        const size_t count = microphone_read(samples, wait_ms < SOCKET_MS ? wait_ms : SOCKET_MS);
        if (count != 0) {
            node_feed(&node, FRONT_END_AUDIO, samples, count, (uint32_t)(esp_timer_get_time() / 1000));
        }
    }
}
