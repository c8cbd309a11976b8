/* What main.c wants from a board, in the order in which a new one meets the work (PORTING.md). Copy this folder, and
 * make every function in board.c true. Until then the firmware stops at its start, and once clock and log are there it
 * says what is missing. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>

#include "node/node.h"

#define BOARD_NAME    "template"
#define HARDWARE_NAME "template"

/* ---- 2. clock and log ---- */

void board_start(void); /* first of all: clocks, memory, pins; whatever the vendor's start-up code has left to do */
uint32_t board_ms(void);
uint32_t board_us(void);
void board_log(const char *line);
/* Until an interrupt comes, at most `ms`. */
void board_sleep(uint32_t ms);

/* ---- 3. flash ---- */

#define FLASH_SECTOR  4096U          /* the smallest erase */
#define FLASH_PROGRAM 16U            /* the smallest write, or more: a power of two, at most 16 */
#define FLASH_BYTES   (1024U * 1024) /* for the node: provisioning, the factory's image, and what the core keeps */
#define FACTORY_BYTES (128U * 1024)  /* for the factory's image, behind the provisioning */
#define IMAGE_BYTES   (128U * 1024)  /* of a slot; there are two */

const uint8_t *
board_provisioning(void); /* the first byte of FLASH_BYTES; PROVISION_BYTES and FACTORY_BYTES from here */

/* ---- 4. the network ---- */

void board_network_start(const char *hostname);
/* 1: connected, 0: not yet (it is called again), negative: it will not be. */
NODE_MUST_USE int board_connect(const char *host, uint16_t port);
/* How many bytes were taken, or were there; 0: none now; negative: the connection is gone. Neither waits. */
NODE_MUST_USE int board_send(const uint8_t *data, size_t size);
NODE_MUST_USE int board_receive(uint8_t *data, size_t capacity);
void board_disconnect(void); /* also where there is no connection */

/* ---- 6. the sensor ---- */

#define SENSOR_BLOCK 320U /* samples: 20 ms of 16 kHz */

/* The next block, where there is one: whether there was. */
bool board_listen(int16_t samples[SENSOR_BLOCK]);

/* ---- 7. watchdog and crash record ---- */

void board_watchdog_start(void);
void board_watchdog_feed(void);
/* "power-on", "brown-out", "pin", "software", "watchdog", "fault" or "unknown" */
const char *board_reset_reason(void);
/* NULL unless the reason is "watchdog" or "fault", and its record is whole. */
const node_crash_t *board_crash(void);

/* ---- what the core calls itself: flash, random numbers, actions, reset, health ---- */

extern const node_port_t board_port;

/* ---- not finished ---- */

/* Says why on the console, where there is one, and ends in a fault that a debugger catches. */
__attribute__((noreturn)) void board_panic(const char *why);

/* The whole body of a function that is not written yet. Its name goes into a section of the program, which main() looks
 * into: none can be forgotten because nobody calls it early. */
#ifdef __clang__
#define IN_ORDER /* as it is */
#else
#define IN_ORDER no_reorder
#endif
#define UNFINISHED()                                                                                                   \
    do {                                                                                                               \
        static const char *const name __attribute__((section("unfinished"), used, IN_ORDER)) = __func__;               \
        board_panic(name);                                                                                             \
    } while (0)

#endif
