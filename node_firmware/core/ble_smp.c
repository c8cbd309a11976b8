/* The SMP characteristic: frames one after the other, in pieces as they come. A request that is in one piece is
 * answered where it lies, another grows in node_t's `received`; where a message of MQTT grows there, it is refused.
 * Several requests may be out: their answers queue up, and where that is full a request is refused. */
#include <string.h>

#include "ble_parts.h"

#define REQUESTS   4    /* out at a time: they wait on their way, their answers here */
#define GIVE_UP_MS 2000 /* a write may be lost on its way: what comes after this silence begins a frame */

static size_t frame_bytes(const uint8_t header[SMP_HEADER_BYTES])
{
    return SMP_HEADER_BYTES + ((size_t)header[2] << 8 | header[3]);
}

/* `frame` NULL: it could not be kept. */
static int answer(node_t *n, const uint8_t header[SMP_HEADER_BYTES], const uint8_t *frame, size_t size)
{
    uint8_t *const out = n->ble_answers + n->ble.answers;
    const size_t room = sizeof n->ble_answers - n->ble.answers;
    size_t answered;
    if (frame != NULL && room >= NODE_ANSWER_BYTES) {
        answered = smp_answer(n, frame, size, out, room, REQUESTS);
    } else {
        answered = smp_refuse(header, SMP_EBUSY, out, room);
        n->counts.unanswered++;
        if (answered == 0) {
            return NODE_E_FULL; /* not even for that is there room: nobody takes the answers */
        }
    }
    n->ble.answers = (uint16_t)(n->ble.answers + answered);
    return NODE_OK;
}

/* Adds to the frame that comes; how many bytes belong to it. */
static size_t grow(node_t *n, const uint8_t *data, size_t size)
{
    ble_t *const b = &n->ble;
    const bool headed = b->request_bytes >= SMP_HEADER_BYTES;
    const size_t wanted = (headed ? frame_bytes(b->request) : SMP_HEADER_BYTES) - b->request_bytes;
    const size_t taken = size < wanted ? size : wanted;
    const size_t room = b->request_bytes < sizeof n->received ? sizeof n->received - b->request_bytes : 0;
    if (!headed) {
        memcpy(b->request + b->request_bytes, data, taken);
    } else if (n->receiving == CARRIER_BLE && room != 0) {
        memcpy(n->received + b->request_bytes, data, taken < room ? taken : room);
    }
    b->request_bytes += (uint32_t)taken;
    if (!headed && b->request_bytes == SMP_HEADER_BYTES && n->receiving == CARRIER_NONE) {
        n->receiving = CARRIER_BLE;
        memcpy(n->received, b->request, SMP_HEADER_BYTES);
    }
    return taken;
}

static void end_request(node_t *n)
{
    n->ble.request_bytes = 0;
    if (n->receiving == CARRIER_BLE) {
        n->receiving = CARRIER_NONE;
    }
}

/* All of a frame is there; of one that is larger than `received` its beginning, which is enough for a refusal. */
static int end_frame(node_t *n)
{
    const size_t size = n->ble.request_bytes;
    const bool kept = n->receiving == CARRIER_BLE;
    const int status =
        answer(n, n->ble.request, kept ? n->received : NULL, size < sizeof n->received ? size : sizeof n->received);
    end_request(n);
    return status;
}

int ble_smp_take(node_t *n, const uint8_t *data, size_t size, uint32_t now_ms)
{
    ble_t *const b = &n->ble;
    if (b->request_bytes != 0 && now_ms - b->request_ms > GIVE_UP_MS) {
        end_request(n);
        n->counts.unanswered++;
    }
    b->request_ms = now_ms;
    int status = NODE_OK;
    while (size != 0 && status == NODE_OK) {
        size_t taken;
        if (b->request_bytes == 0 && size >= SMP_HEADER_BYTES && size >= frame_bytes(data)) {
            taken = frame_bytes(data);
            status = answer(n, data, data, taken);
        } else {
            taken = grow(n, data, size);
            if (b->request_bytes >= SMP_HEADER_BYTES && b->request_bytes == frame_bytes(b->request)) {
                status = end_frame(n);
            }
        }
        data += taken;
        size -= taken;
    }
    return status;
}

size_t ble_smp_next(node_t *n, size_t most)
{
    ble_t *const b = &n->ble;
    if (b->answers != 0 && b->answer_left == 0) {
        b->answer_left = (uint16_t)frame_bytes(n->ble_answers);
    }
    return b->answer_left < most ? b->answer_left : most;
}

void ble_smp_sent(node_t *n, size_t size)
{
    ble_t *const b = &n->ble;
    b->answers = (uint16_t)(b->answers - size);
    b->answer_left = (uint16_t)(b->answer_left - size);
    memmove(n->ble_answers, n->ble_answers + size, b->answers);
}
