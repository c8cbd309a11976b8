/* A radio chip for tests of radio.c: it makes frames, and reads those of the host. And a node on Bluetooth LE that
 * notes what it is told, in place of core/ble.c. */
#ifndef RADIO_CHIP_H
#define RADIO_CHIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHIP_FRAME 1024

/* A frame as it is on the line; its size. */
size_t chip_encode(uint8_t line[CHIP_FRAME], uint8_t type, uint8_t number, const uint8_t *payload, size_t size);
/* The type, number and payload in a frame without its end; its size, 0 where it does not hold. */
size_t chip_decode(uint8_t frame[CHIP_FRAME], const uint8_t *line, size_t size);

extern struct stub {
    bool connected, changed, refuses; /* changed: what is advertised; refuses: what is written, and the connection */
    char heard[4096];                 /* the calls, as words */
    unsigned waiting, notified;       /* notifications */
    size_t notification_size;
} stub;

#endif
