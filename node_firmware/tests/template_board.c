/* ports/template/board.c as it would be for this computer, so that the template's main.c is a node that tests can run:
 * flash is the file that FLASH names, provisioning at its start; the sensor is silent. */
#define _GNU_SOURCE
#include "../ports/template/board.h"

#include <errno.h>
#include <mbedtls/memory_buffer_alloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "posix.h"
#include "provision.h"

static flash_memory_t all;
static flash_memory_t core;
static node_flash_t driver;
static struct sockaddr_in address;
static int fd = -1;

/* A host's mbedTLS has malloc(). */
void mbedtls_memory_buffer_alloc_init(unsigned char *buffer, size_t size)
{
    (void)buffer;
    (void)size;
}

void board_panic(const char *why)
{
    die("%s", why);
}

void board_start(void)
{
    flash_map(&all, getenv("FLASH"), FLASH_BYTES);
    const uint32_t begin = PROVISION_BYTES + FACTORY_BYTES;
    core = (flash_memory_t){.bytes = all.bytes + begin, .size = FLASH_BYTES - begin};
    driver = flash_driver(&core, FLASH_SECTOR);
}

uint32_t board_ms(void)
{
    return (uint32_t)(clock_us() / 1000);
}

uint32_t board_us(void)
{
    return (uint32_t)clock_us();
}

void board_log(const char *line)
{
    fprintf(stderr, "%s\n", line);
}

void board_sleep(uint32_t ms)
{
    struct pollfd socket = {.fd = fd, .events = POLLIN};
    poll(&socket, 1, (int)ms);
}

const uint8_t *board_provisioning(void)
{
    return all.bytes;
}

static int flash_erase(void *context, uint32_t offset, uint32_t size)
{
    (void)context;
    return driver.erase(driver.context, offset, size);
}

static int flash_program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    (void)context;
    return driver.program(driver.context, offset, data, size);
}

static int flash_read(void *context, uint32_t offset, void *data, uint32_t size)
{
    (void)context;
    return driver.read(driver.context, offset, data, size);
}

static const uint8_t *flash_at(void *context, uint32_t offset)
{
    (void)context;
    return driver.map(driver.context, offset);
}

void board_network_start(const char *hostname)
{
    (void)hostname;
}

int board_connect(const char *host, uint16_t port)
{
    if (fd < 0) {
        char text[PROVISION_TEXT + 8];
        snprintf(text, sizeof text, "%s:%u", host, port);
        address = resolve(text);
        fd = dial(&address, 0);
        return fd < 0 ? -1 : 0;
    }
    struct pollfd socket = {.fd = fd, .events = POLLOUT};
    if (poll(&socket, 1, 0) == 0) {
        return 0;
    }
    return dialled(fd) ? 1 : -1;
}

static int moved(ssize_t count)
{
    return count >= 0 ? (int)count : errno == EAGAIN ? 0 : -1;
}

int board_send(const uint8_t *data, size_t size)
{
    return moved(send(fd, data, size, MSG_NOSIGNAL));
}

int board_receive(uint8_t *data, size_t capacity)
{
    const ssize_t count = recv(fd, data, capacity, 0);
    return count == 0 ? -1 : moved(count);
}

void board_disconnect(void)
{
    if (fd >= 0) {
        close(fd);
    }
    fd = -1;
}

bool board_listen(int16_t samples[SENSOR_BLOCK])
{
    (void)samples;
    return false;
}

void board_watchdog_start(void)
{
}

void board_watchdog_feed(void)
{
}

const char *board_reset_reason(void)
{
    return "pin";
}

const node_crash_t *board_crash(void)
{
    return NULL;
}

static uint32_t port_random(void *context)
{
    (void)context;
    return random_u32();
}

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

static void port_action(void *context, const char *cascade, const char *action, const char *label)
{
    (void)context;
    fprintf(stderr, "%s: action %s (%s)\n", cascade, action, label);
}

static void port_reset(void *context)
{
    (void)context;
    exit(0);
}

const node_port_t board_port = {.flash = {.sector_size = FLASH_SECTOR,
                                          .program_size = FLASH_PROGRAM,
                                          .size = FLASH_BYTES - PROVISION_BYTES - FACTORY_BYTES,
                                          .erase = flash_erase,
                                          .program = flash_program,
                                          .read = flash_read,
                                          .map = flash_at},
                                .random = port_random,
                                .micros = port_micros,
                                .log = port_log,
                                .action = port_action,
                                .reset = port_reset};
