/* The node's firmware on Zephyr: what port.h asks for, and the loop around it. */
#include <errno.h>
#include <zephyr/audio/dmic.h>
#include <zephyr/drivers/flash.h>
#include <zephyr/kernel.h>
#include <zephyr/logging/log.h>
#include <zephyr/logging/log_ctrl.h>
#include <zephyr/random/random.h>
#include <zephyr/storage/flash_map.h>
#include <zephyr/sys/reboot.h>
#include <zephyr/task_wdt/task_wdt.h>

#include "crash.h"
#include "link.h"
#include "node/node.h"
#include "provision.h"

LOG_MODULE_REGISTER(node, LOG_LEVEL_INF);

#define FACTORY_BYTES (128U * 1024U) /* of the partition, behind the provisioning */
#define IMAGE_BYTES   (128U * 1024U) /* of a slot */
#define BEGIN         (PROVISION_BYTES + FACTORY_BYTES)
#define MAP           (CONFIG_FLASH_BASE_ADDRESS + FIXED_PARTITION_OFFSET(node_partition))

#define ARENA_BYTES (16U * 1024U)
#define RING_BYTES  (32U * 1024U) /* four seconds of ADPCM */
#define TRIAL_S     3600
#define KEEPALIVE_S 60
#define VITALS_S    60
#define WATCHDOG_MS 8000
#define SOCKET_MS   10 /* how long a byte may wait for the loop to look at the socket */

#define RATE_HZ     16000
#define BLOCK_BYTES (RATE_HZ / 10 * 2) /* 100 ms: the driver's interrupts wait where flash is erased */

K_MEM_SLAB_DEFINE_STATIC(sound, BLOCK_BYTES, 4, 4);
static const struct device *const microphone = DEVICE_DT_GET(DT_NODELABEL(dmic_dev));

static node_t node;
static node_config_t config;
static node_port_t port;
static provision_t provision;
static const struct flash_area *area;
static sense_t sense;
static uint8_t arena[ARENA_BYTES] __aligned(NN_ALIGNMENT);
static uint8_t ring[RING_BYTES];

static __attribute__((noreturn)) void die(const char *why)
{
    LOG_ERR("%s", why);
    LOG_PANIC();
    k_sleep(K_SECONDS(5)); /* what is wrong is wrong after the reset too: not too fast */
    sys_reboot(SYS_REBOOT_COLD);
}

/* ---- what port.h asks for ---- */

static int flash_erase_sectors(void *context, uint32_t offset, uint32_t size)
{
    (void)context;
    return flash_area_erase(area, (off_t)(BEGIN + offset), size);
}

static int flash_program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    (void)context;
    return flash_area_write(area, (off_t)(BEGIN + offset), data, size);
}

static int flash_read_bytes(void *context, uint32_t offset, void *data, uint32_t size)
{
    (void)context;
    return flash_area_read(area, (off_t)(BEGIN + offset), data, size);
}

static const uint8_t *flash_map(void *context, uint32_t offset)
{
    (void)context;
    return (const uint8_t *)(uintptr_t)(MAP + BEGIN + offset);
}

static uint32_t port_random(void *context)
{
    uint32_t value;
    (void)context;
    if (sys_csrand_get(&value, sizeof value) != 0) {
        die("no entropy");
    }
    return value;
}

static uint32_t port_micros(void *context)
{
    (void)context;
    return (uint32_t)k_ticks_to_us_floor64((uint64_t)k_uptime_ticks());
}

static void port_log(void *context, const char *line)
{
    (void)context;
    LOG_INF("%s", line);
}

/* The place for what this product does: a light, a relay. */
static void port_action(void *context, const char *cascade, const char *action, const char *label)
{
    (void)context;
    LOG_INF("%s: action %s (%s)", cascade, action, label);
}

static void port_reset(void *context)
{
    (void)context;
    LOG_PANIC();
    sys_reboot(SYS_REBOOT_COLD);
}

static void port_health(void *context, node_health_t *health)
{
    size_t unused;
    (void)context;
    if (k_thread_stack_space_get(k_current_get(), &unused) == 0) {
        health->stack_free_bytes = (int32_t)unused;
    }
}

/* ---- start ---- */

static node_flash_t open_flash(void)
{
    struct flash_pages_info sector;
    if (flash_area_open(FIXED_PARTITION_ID(node_partition), &area) != 0 || flash_area_erased_val(area) != 0xff ||
        flash_get_page_info_by_offs(area->fa_dev, area->fa_off, &sector) != 0) {
        die("no node_partition, or not on NOR flash");
    }
    return (node_flash_t){.sector_size = sector.size,
                          .program_size = flash_area_align(area),
                          .size = area->fa_size - BEGIN,
                          .erase = flash_erase_sectors,
                          .program = flash_program,
                          .read = flash_read_bytes,
                          .map = flash_map};
}

static void start_node(void)
{
    const sense_memory_t memory = {
        .arena = arena, .arena_bytes = sizeof arena, .ring = ring, .ring_bytes = sizeof ring};
    port = (node_port_t){.flash = open_flash(),
                         .random = port_random,
                         .micros = port_micros,
                         .log = port_log,
                         .action = port_action,
                         .reset = port_reset,
                         .health = port_health};
    if (provision_read(&provision, (const uint8_t *)(uintptr_t)MAP) != NODE_OK) {
        die("not provisioned: there is no valid sector at the start of node_partition");
    }
    const node_crash_t *crash;
    const char *const reason = crash_take(&crash);
    config = (node_config_t){.id = provision.id,
                             .user = provision.user[0] != '\0' ? provision.user : NULL,
                             .password = provision.password[0] != '\0' ? provision.password : NULL,
                             .hardware = CONFIG_SOC,
                             .board = CONFIG_BOARD,
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
    int status = node_init(&node, &config, &port, k_uptime_get_32());
    if (status == NODE_OK) {
        status = node_load(&node, 1, &sense, &memory);
    }
    if (status == NODE_OK && provision.image_size != 0 && provision.image_size <= FACTORY_BYTES) {
        status = node_provision(&node, 1, (const uint8_t *)(uintptr_t)(MAP + PROVISION_BYTES), provision.image_size);
    }
    if (status != NODE_OK && status != NODE_E_IMAGE) { /* an image that is rejected is reported, and another may come */
        die("the node cannot start");
    }
}

static void start_microphone(void)
{
    struct pcm_stream_cfg stream = {
        .pcm_rate = RATE_HZ, .pcm_width = 16, .block_size = BLOCK_BYTES, .mem_slab = &sound};
    struct dmic_cfg settings = {
        .io = {.min_pdm_clk_freq = 1000000, .max_pdm_clk_freq = 3500000, .min_pdm_clk_dc = 40, .max_pdm_clk_dc = 60},
        .streams = &stream,
        .channel = {
            .req_chan_map_lo = dmic_build_channel_map(0, 0, PDM_CHAN_LEFT), .req_num_chan = 1, .req_num_streams = 1}};
    if (!device_is_ready(microphone) || dmic_configure(microphone, &settings) != 0 ||
        dmic_trigger(microphone, DMIC_TRIGGER_START) != 0) {
        die("no microphone");
    }
}

/* ---- the loop ---- */

/* Waits for the next block of sound, at most `wait_ms`. */
static void listen(int32_t wait_ms)
{
    void *block;
    size_t size;
    const int status = dmic_read(microphone, 0, &block, &size, wait_ms);
    if (status == 0) {
        node_feed(&node, FRONT_END_AUDIO, block, size / sizeof(int16_t), k_uptime_get_32());
        k_mem_slab_free(&sound, block);
    } else if (status != -EAGAIN) { /* the driver had no memory left while flash was busy, and has stopped */
        (void)dmic_trigger(microphone, DMIC_TRIGGER_START);
        k_sleep(K_MSEC(wait_ms));
    }
}

int main(void)
{
    const int watchdog = task_wdt_init(DEVICE_DT_GET_OR_NULL(DT_ALIAS(watchdog0))) == 0
                             ? task_wdt_add(WATCHDOG_MS, watchdog_expired, NULL)
                             : -1;
    if (watchdog < 0) {
        die("no watchdog");
    }
    start_node();
    LOG_INF("%s: firmware %s, reset: %s", provision.id, NODE_VERSION, config.reset_reason);
    start_microphone();
    if (link_start(&node, &provision) < 0) {
        die("credentials that this build cannot keep");
    }
    for (;;) {
        task_wdt_feed(watchdog);
        const int32_t wait_ms = link_step();
        listen(MIN(wait_ms, SOCKET_MS));
    }
}
