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

/* All that a node is; as it was installed it is copied for every input, since a boot checks a signature and takes its
 * time. */
typedef struct device {
    flash_t flash;
    node_t node;
    sense_t sense;
    uint8_t arena[1024] __attribute__((aligned(NN_ALIGNMENT)));
} device_t;

static device_t device, installed;
static node_port_t port;
static uint8_t ring[NODE_MAX_WINDOW];
static const node_config_t config = {.id = "fuzz",
                                     .hardware = "fuzz",
                                     .board = "fuzz",
                                     .firmware = "1",
                                     .reset_reason = "power-on",
                                     .keys = (const uint8_t (*)[IMAGE_KEY_BYTES])vector_key,
                                     .key_count = 1,
                                     .images = 1,
                                     .image_bytes = CAPACITY,
                                     .arena_bytes = sizeof device.arena,
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

static void install(void)
{
    const sense_memory_t memory = {device.arena, sizeof device.arena, ring, sizeof ring};
    uint32_t size;
    const uint8_t *const image = vector_load(&size);
    flash_init(&device.flash, BYTES);
    port = (node_port_t){.flash = flash_driver(&device.flash, SECTOR), .random = port_random, .reset = port_reset};
    require(node_init(&device.node, &config, &port, 0) == NODE_OK &&
            node_load(&device.node, 1, &device.sense, &memory) == NODE_OK &&
            node_provision(&device.node, 1, image, size) == NODE_OK);
    installed = device;
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
    if (installed.flash.size == 0) {
        install();
    }
    device = installed;
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
        const size_t answered = node_manage(&device.node, request, length, answer, sizeof answer, now_ms);
        require(answered <= sizeof answer);
        if (answered != 0) {
            check(request, answer, answered);
        }
        require(node_step(&device.node, now_ms) >= 0);
        require(slots_running(&device.node.models[0].slots) >= 0); /* whatever it is told, it has a model */
        free(request);
        data += 3 + length;
        size -= 3 + length;
    }
    require(device.flash.broken_rules == 0);
    return 0;
}
