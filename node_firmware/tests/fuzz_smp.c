/* Fuzz target: any bytes as SMP requests, one after the other, to a node on which an image runs. Each is [size u16,
 * seconds that pass u8, frame]; its length is made right, or little would get past it. */
#include <stdlib.h>
#include <string.h>

#include "flash.h"
#include "node/node.h"
#include "session.h"
#include "smp.h"
#include "vector.h"

#define SECTOR   256
#define CAPACITY (5 * SECTOR)
#define BYTES    ((SESSION_SECTORS + 2 * JOURNAL_SECTORS) * SECTOR + SLOTS * CAPACITY + 8 * SECTOR)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static flash_t flash, installed;
static node_port_t port;
static node_t node;
static sense_t sense;
static uint8_t arena[1024] __attribute__((aligned(NN_ALIGNMENT))), ring[NODE_MAX_WINDOW];
static const node_config_t config = {.id = "fuzz",
                                     .hardware = "fuzz",
                                     .board = "fuzz",
                                     .firmware = "1",
                                     .reset_reason = "power-on",
                                     .keys = (const uint8_t (*)[IMAGE_KEY_BYTES])vector_key,
                                     .key_count = 1,
                                     .images = 1,
                                     .image_bytes = CAPACITY,
                                     .arena_bytes = sizeof arena,
                                     .trial_s = 100,
                                     .keepalive_s = 60,
                                     .vitals_s = 60};

static uint32_t port_random(void *context)
{
    (void)context;
    return 4;
}

static void port_reset(void *context)
{
    (void)context;
}

static void require(bool what)
{
    if (!what) {
        abort();
    }
}

static void boot(void)
{
    const sense_memory_t memory = {arena, sizeof arena, ring, sizeof ring};
    port = (node_port_t){.flash = flash_driver(&flash, SECTOR), .random = port_random, .reset = port_reset};
    require(node_init(&node, &config, &port, 0) == NODE_OK && node_load(&node, 1, &sense, &memory) == NODE_OK);
}

static void install(void)
{
    uint32_t size;
    const uint8_t *const image = vector_load(&size);
    flash_init(&flash, BYTES);
    boot();
    require(node_provision(&node, 1, image, size) == NODE_OK);
    installed = flash;
}

/* Whatever the answer says, a client can read it. */
static void check(const uint8_t *request, const uint8_t *answer, size_t size)
{
    cbor_reader_t map = cbor_reader(answer + SMP_HEADER_BYTES, size - SMP_HEADER_BYTES), all = map;
    cbor_map(&map);
    cbor_skip(&all);
    require(!map.failed && cbor_ended(&all));
    require((answer[0] & 7) == (request[0] & 7) + 1 && memcmp(answer + 4, request + 4, 4) == 0);
    require((size_t)(answer[2] << 8 | answer[3]) + SMP_HEADER_BYTES == size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (installed.size == 0) {
        install();
    }
    flash = installed;
    boot();
    uint32_t now_ms = 0;
    while (size >= 3) {
        const size_t wanted = data[0] | (size_t)data[1] << 8, length = wanted < size - 3 ? wanted : size - 3;
        uint8_t *const request = malloc(length + 1), answer[NODE_ANSWER_BYTES]; /* so that a read beyond it is seen */
        memcpy(request, data + 3, length);
        now_ms += data[2] * 1000U;
        if (length >= SMP_HEADER_BYTES) {
            request[2] = (uint8_t)((length - SMP_HEADER_BYTES) >> 8);
            request[3] = (uint8_t)(length - SMP_HEADER_BYTES);
        }
        const size_t answered = node_manage(&node, request, length, answer, sizeof answer, now_ms);
        require(answered <= sizeof answer);
        if (answered != 0) {
            check(request, answer, answered);
        }
        require(node_step(&node, now_ms) >= 0);
        require(slots_running(&node.models[0].slots) >= 0); /* whatever it is told, it has a model */
        free(request);
        data += 3 + length;
        size -= 3 + length;
    }
    require(flash.broken_rules == 0);
    return 0;
}
