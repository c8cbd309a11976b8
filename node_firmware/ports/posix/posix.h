/* What both posix ports need: clock, randomness, sockets, and a file or memory that behaves like NOR flash. */
#ifndef POSIX_H
#define POSIX_H

#include <netinet/in.h>
#include <stdbool.h>

#include "node/node.h"

#define FLASH_PROGRAM_BYTES 16

typedef struct flash_memory {
    uint8_t *bytes;
    uint32_t size;
} flash_memory_t;

uint64_t clock_us(void); /* monotonic */
uint32_t random_u32(void);
/* HOST:PORT to an IPv4 address; ends the program where there is none. */
struct sockaddr_in resolve(const char *host_port);
/* A non-blocking socket on its way to `address`; -1 with errno. `source` may be 0. */
int dial(const struct sockaddr_in *address, in_addr_t source);
/* Whether a socket that has become writable is connected. */
bool dialled(int fd);
/* The whole file; ends the program where it cannot be read, is empty or larger than `capacity`. */
size_t read_file(const char *path, uint8_t *bytes, size_t capacity);
/* Maps `path`, made where it is missing and filled with 0xff up to `size`; an anonymous mapping where it is NULL. */
void flash_map(flash_memory_t *memory, const char *path, uint32_t size);
/* The driver: it refuses what NOR cannot do, so that a mistake of the core is seen here. */
node_flash_t flash_driver(flash_memory_t *memory, uint32_t sector_size);
__attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...);

#endif
