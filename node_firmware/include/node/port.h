/* The whole porting contract: what a board gives to the core.
 *
 * The core does no I/O, reads no clock and allocates nothing. A port owns the main loop:
 *
 *   connect a TCP socket (or TLS) to the broker    -> node_link_up()
 *   bytes came                                     -> node_receive()
 *   node_transmit() has bytes                      -> send them, node_transmitted()
 *   the socket closed, or a call returned < 0      -> node_link_down()
 *   a sensor has samples                           -> node_feed()
 *   an SMP request came another way than by MQTT   -> node_manage()
 *   otherwise, and when node_step()'s time is over -> node_step()
 *
 * All calls come from one thread. `now_ms` is any monotonic millisecond counter; it may wrap. */
#ifndef NODE_PORT_H
#define NODE_PORT_H

#include <stddef.h>
#include <stdint.h>

/* NOR flash: erase sets whole sectors to 0xff, program only clears bits and never touches a unit twice between
 * erases. Power may fail before, inside and after any operation. All functions return 0 or a negative error. */
typedef struct node_flash {
    uint32_t sector_size;  /* bytes, a power of two */
    uint32_t program_size; /* bytes, a power of two <= 16; offsets and sizes of program() are multiples of it */
    uint32_t size;         /* bytes, a multiple of sector_size */
    int (*erase)(void *context, uint32_t offset, uint32_t size);
    int (*program)(void *context, uint32_t offset, const void *data, uint32_t size);
    /* Negative where a word cannot be read, as flash with ECC has it after a cut inside program() or erase(). */
    int (*read)(void *context, uint32_t offset, void *data, uint32_t size);
    /* For reading in place what read() can read; 16-byte aligned at sector starts. */
    const uint8_t *(*map)(void *context, uint32_t offset);
    void *context;
} node_flash_t;

/* What only the board can know of itself; each is NODE_UNKNOWN unless it says so, and what cannot be is not told. */
typedef struct node_health {
    int32_t battery_percent, rssi_dbm, heap_free_bytes, stack_free_bytes; /* stack_free: never used since boot */
} node_health_t;
#define NODE_UNKNOWN INT32_MIN

/* How the firmware's last life ended, where that was not by intention: what its fault handler left in memory that a
 * reset does not clear. The word that goes with it, node_config_t's `reset_reason`, is "fault" or "watchdog". */
typedef struct node_crash {
    uint32_t pc, lr;      /* where it was, and who had called */
    uint32_t status;      /* of the processor, for example Armv7-M's CFSR; 0 for a watchdog */
    uint32_t stack_bytes; /* the most that was used until then */
} node_crash_t;

typedef struct node_port {
    node_flash_t flash;
    uint32_t (*random)(void *context);            /* unpredictable, also for who tries: TLS keys hang on it */
    uint32_t (*micros)(void *context);            /* for measuring inference; may wrap */
    void (*log)(void *context, const char *line); /* may be NULL */
    void (*action)(void *context, const char *cascade, const char *action,
                   const char *label);                    /* a verdict is carried out */
    void (*reset)(void *context);                         /* restarts the node, does not return; may be NULL */
    void (*health)(void *context, node_health_t *health); /* fills in what the board knows; may be NULL */
    /* For being provisioned over Bluetooth LE (improv.c), which ends with reset(); all may be NULL. */
    const node_flash_t *provisioning; /* the sector that provision_load() reads */
    void (*identify)(void *context);  /* shows whoever stands there which one it is */
    /* Negative: no Wi-Fi can be had with these. They come back in the sector; `password` may be empty. */
    int (*wifi)(void *context, const char *ssid, const char *password);
    void *context;
} node_port_t;

#endif
