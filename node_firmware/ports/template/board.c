/* See board.h. Each function says what must be true of it when UNFINISHED() has gone. */
#include "board.h"

#include "provision.h"

void board_panic(const char *why)
{
    static bool again; /* the console itself may be what is not finished */
    if (!again) {
        again = true;
        board_log(why);
    }
    __builtin_trap();
}

/* ---- 2. clock and log ---- */

void board_start(void)
{
    /* The core runs at its speed, .data and .bss are as C wants them, the stack is painted if its depth is to be known.
     * Interrupts are on: from here on board_ms() goes on. */
    UNFINISHED();
}

uint32_t board_ms(void)
{
    /* Monotonic milliseconds; it wraps at 2^32 and nowhere else, not where a 24-bit timer does. It goes on in
     * board_sleep(), however deep that is: keepalive and trials are counted with it. */
    UNFINISHED();
}

uint32_t board_us(void)
{
    /* Microseconds, for measuring an inference; it wraps at 2^32. A cycle counter that is divided wraps too early. */
    UNFINISHED();
}

void board_log(const char *line)
{
    /* The line and its end go out on the console. It may wait for the UART, but no longer than the watchdog does, and
     * it works before board_start(), or is silent there. The line is nobody's secret: the core logs no key. */
    (void)line;
    UNFINISHED();
}

void board_sleep(uint32_t ms)
{
    /* Returns at the latest after `ms`, and at once where an interrupt has come since main() looked: mask interrupts,
     * look again, and only then wait for one (on Arm: PRIMASK, then wfi, which wakes all the same). */
    (void)ms;
    UNFINISHED();
}

/* ---- 3. flash ---- */

/* Offsets are from the end of the factory's image: what is before belongs to provisioning, and the core must not reach
 * it. Whatever runs meanwhile, interrupts included, must not come from the flash that is busy. */

static int flash_erase(void *context, uint32_t offset, uint32_t size)
{
    /* Whole sectors, all 0xff when it returns 0. It returns only when the flash is done: success is what was read from
     * the status register, not the command that was sent. Out of range: negative. */
    (void)context;
    (void)offset;
    (void)size;
    UNFINISHED();
}

static int flash_program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    /* Units of FLASH_PROGRAM, erased before and not programmed since; they hold `data` when it returns 0. `data` may be
     * unaligned, and may itself lie in this flash. Flash with ECC must be given whole ECC words: FLASH_PROGRAM is at
     * least one of them. Where the chip's page is larger, fill the rest of it with 0xff: NOR ignores ones. */
    (void)context;
    (void)offset;
    (void)data;
    (void)size;
    UNFINISHED();
}

static int flash_read(void *context, uint32_t offset, void *data, uint32_t size)
{
    /* Any offset and size. Where a power cut left a word that ECC cannot correct this returns negative, and nothing
     * faults: catch the bus fault or NMI, or ask the controller. A cache in front shows what is in flash now. */
    (void)context;
    (void)offset;
    (void)data;
    (void)size;
    UNFINISHED();
}

static const uint8_t *flash_map(void *context, uint32_t offset)
{
    /* The address at which `offset` can be read like memory, 16-byte aligned where a sector starts. Models run from
     * there. Flash that is not in the address space (SPI without XIP) cannot serve this node. */
    (void)context;
    (void)offset;
    UNFINISHED();
}

const uint8_t *board_provisioning(void)
{
    /* The mapped address of the node's first byte of flash. The firmware has no way to write there. */
    UNFINISHED();
}

/* ---- 4. the network ---- */

static uint32_t port_random(void *context)
{
    /* 32 bits that nobody can predict, also not who has seen all before or resets the board again and again: a hardware
     * source, or a generator that one seeds. TLS keys, TCP's first sequence number and session jitter hang on it. A
     * source that fails its health test ends in board_panic(), not in a constant. */
    (void)context;
    UNFINISHED();
}

void board_network_start(const char *hostname)
{
    /* Link and address (DHCP) will come by themselves from here on, and again after each loss; nothing is waited for.
     */
    (void)hostname;
    UNFINISHED();
}

int board_connect(const char *host, uint16_t port)
{
    /* Begins with a look-up of the name, which may also be an IPv4 address, and goes on where it was when called again.
     * Each attempt comes from another local port, also after a reset: see port_random(). It gives up by itself. */
    (void)host;
    (void)port;
    UNFINISHED();
}

int board_send(const uint8_t *data, size_t size)
{
    /* `data` may be gone when it returns: it was copied, or waits for no acknowledgement from the stack. No Nagle. */
    (void)data;
    (void)size;
    UNFINISHED();
}

int board_receive(uint8_t *data, size_t capacity)
{
    /* What does not fit into `capacity` stays for the next call; TCP's window opens only for what was taken. */
    (void)data;
    (void)capacity;
    UNFINISHED();
}

void board_disconnect(void)
{
    /* Nothing of this connection comes up any more, and its memory is free, whatever state it was in. */
    UNFINISHED();
}

/* ---- 6. the sensor ---- */

bool board_listen(int16_t samples[SENSOR_BLOCK])
{
    /* Every sample once and in order, at 16 kHz by the sensor's clock, signed and with its mean near zero. A DMA ring
     * holds at least what comes while a slot sector is erased and a signature is checked. What is lost shows as a gap
     * that nobody fills: the node counts time of detection in samples. */
    (void)samples;
    UNFINISHED();
}

/* ---- 7. watchdog and crash record ---- */

void board_watchdog_start(void)
{
    /* From here on the board resets where main() does not come round in time: longer than the longest step (erasing a
     * sector, a TLS handshake, a self-test), shorter than patience. It also bites in a fault handler and in sleep. */
    UNFINISHED();
}

void board_watchdog_feed(void)
{
    /* Called by main() only: never from an interrupt, which goes on where main() hangs. */
    UNFINISHED();
}

const char *board_reset_reason(void)
{
    /* From the reset controller's register, which is cleared then, so that the next reset does not show this one's. */
    UNFINISHED();
}

const node_crash_t *board_crash(void)
{
    /* What the fault handler, or the watchdog's early warning, left in RAM that start-up does not clear. It counts only
     * with magic and checksum, and only once: after power-on that RAM holds anything. */
    UNFINISHED();
}

static void port_reset(void *context)
{
    /* As a power cycle, for processor and peripherals; does not return. The next reason is "software". */
    (void)context;
    UNFINISHED();
}

static void port_health(void *context, node_health_t *health)
{
    /* Sets what the board can measure: battery_percent, rssi_dbm, heap_free_bytes, stack_free_bytes. The rest stays as
     * it is, NODE_UNKNOWN. */
    (void)context;
    (void)health;
    UNFINISHED();
}

/* ---- 8. what a verdict does ---- */

static void port_action(void *context, const char *cascade, const char *action, const char *label)
{
    /* What this product does when the gateway agrees: a light, a relay. It comes once for each event, and returns
     * soon. An action that it does not know does nothing. */
    (void)context;
    (void)cascade;
    (void)action;
    (void)label;
    UNFINISHED();
}

/* ---- the contract ---- */

static uint32_t port_micros(void *context)
{
    (void)context;
    return board_us();
}

static void port_log(void *context, const char *line)
{
    (void)context;
    board_log(line);
}

const node_port_t board_port = {.flash = {.sector_size = FLASH_SECTOR,
                                          .program_size = FLASH_PROGRAM,
                                          .size = FLASH_BYTES - PROVISION_BYTES - FACTORY_BYTES,
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
