/* Fuzz target: a radio chip that says anything, in frames that hold and as bare bytes. The stub in radio_chip.c ends
 * the program where radio.c breaks the contract of ble.h. The first byte of each piece says how long it is; its high
 * bit, that it is a frame: type, and then the payload. */
#include <stdlib.h>
#include <string.h>

#include "radio.h"
#include "radio_chip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static radio_t radio;

/* The host's frames hold whatever the radio said. */
static void listen(uint32_t now_ms)
{
    const uint8_t *line;
    size_t size;
    uint8_t frame[CHIP_FRAME];
    while ((size = radio_transmit(&radio, &line, now_ms)) != 0) {
        const size_t zero = line[0] == 0;
        if (size > RADIO_FRAME_BYTES || line[size - 1] != 0 || chip_decode(frame, line + zero, size - zero - 1) == 0) {
            abort();
        }
        radio_transmitted(&radio, size);
    }
    if (radio.out > 8 || radio.connected != stub.connected) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    memset(&stub, 0, sizeof stub);
    radio_init(&radio, NULL);
    radio_start(&radio, 0);
    for (size_t at = 0; at < size;) {
        const uint32_t now_ms = (uint32_t)at * 50;
        const uint8_t head = data[at++];
        const size_t length = (head & 0x7f) * 5u, taken = length < size - at ? length : size - at;
        uint8_t line[CHIP_FRAME];
        stub.heard[0] = '\0';
        stub.waiting = 12;
        stub.changed = head & 1;
        stub.refuses = head & 2;
        stub.notification_size = 1 + head * 2u;
        if ((head & 0x80) != 0 && taken != 0) {
            const uint8_t number = data[at] == 0x81 ? 0 : radio.next_received;
            radio_receive(&radio, line, chip_encode(line, data[at], number, data + at + 1, taken - 1), now_ms);
        } else {
            radio_receive(&radio, data + at, taken, now_ms);
        }
        listen(now_ms);
        at += taken;
    }
    return 0;
}
