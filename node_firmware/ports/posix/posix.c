/* See posix.h. */
#define _GNU_SOURCE
#include "posix.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

uint64_t clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint32_t random_u32(void)
{
    uint32_t value;
    if (getrandom(&value, sizeof value, 0) != sizeof value) {
        die("getrandom: %s", strerror(errno));
    }
    return value;
}

struct sockaddr_in resolve(const char *host_port)
{
    char host[256];
    const char *const colon = strrchr(host_port, ':');
    if (colon == NULL || (size_t)(colon - host_port) >= sizeof host) {
        die("%s is not HOST:PORT", host_port);
    }
    snprintf(host, sizeof host, "%.*s", (int)(colon - host_port), host_port);
    const struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    const int status = getaddrinfo(host, colon + 1, &hints, &found);
    if (status != 0) {
        die("%s: %s", host_port, gai_strerror(status));
    }
    struct sockaddr_in address;
    memcpy(&address, found->ai_addr, sizeof address);
    freeaddrinfo(found);
    return address;
}

int dial(const struct sockaddr_in *address, in_addr_t source)
{
    const int one = 1;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    const struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = source};
    if (source != 0) { /* the port is chosen by connect(): it may then be one that another destination uses */
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    }
    if ((source == 0 || bind(fd, (const struct sockaddr *)&local, sizeof local) == 0) &&
        (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EINPROGRESS)) {
        return fd;
    }
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
}

bool dialled(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
}

size_t read_file(const char *path, uint8_t *bytes, size_t capacity)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t size = fd >= 0 ? read(fd, bytes, capacity) : -1;
    uint8_t more;
    if (size <= 0 || read(fd, &more, 1) != 0) {
        die("%s: %s", path, size > 0 ? "too large" : size == 0 ? "empty" : strerror(errno));
    }
    close(fd);
    return (size_t)size;
}

void flash_map(flash_memory_t *memory, const char *path, uint32_t size)
{
    int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    off_t old_size = 0;
    if (path != NULL) {
        struct stat status;
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0 || fstat(fd, &status) != 0 || (status.st_size < size && ftruncate(fd, size) != 0)) {
            die("%s: %s", path, strerror(errno));
        }
        old_size = status.st_size;
        flags = MAP_SHARED;
    }
    memory->size = size;
    memory->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (memory->bytes == MAP_FAILED) {
        die("%s: %s", path != NULL ? path : "flash", strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
        if (old_size < size) {
            memset(memory->bytes + old_size, 0xff, (size_t)(size - old_size));
        }
    }
}

static int flash_erase(void *context, uint32_t offset, uint32_t size)
{
    const flash_memory_t *const memory = context;
    if (offset > memory->size || size > memory->size - offset) {
        return -1;
    }
    memset(memory->bytes + offset, 0xff, size);
    return 0;
}

static int flash_program(void *context, uint32_t offset, const void *data, uint32_t size)
{
    const flash_memory_t *const memory = context;
    const uint8_t *from = data;
    if (offset > memory->size || size > memory->size - offset || (offset | size) % FLASH_PROGRAM_BYTES != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < size; i++) {
        if (memory->bytes[offset + i] != 0xff) {
            return -1; /* programmed before and not erased since */
        }
    }
    memcpy(memory->bytes + offset, from, size);
    return 0;
}

static int flash_read(void *context, uint32_t offset, void *data, uint32_t size)
{
    const flash_memory_t *const memory = context;
    if (offset > memory->size || size > memory->size - offset) {
        return -1;
    }
    memcpy(data, memory->bytes + offset, size);
    return 0;
}

static const uint8_t *flash_at(void *context, uint32_t offset)
{
    return ((const flash_memory_t *)context)->bytes + offset;
}

node_flash_t flash_driver(flash_memory_t *memory, uint32_t sector_size)
{
    return (node_flash_t){.sector_size = sector_size,
                          .program_size = FLASH_PROGRAM_BYTES,
                          .size = memory->size,
                          .erase = flash_erase,
                          .program = flash_program,
                          .read = flash_read,
                          .map = flash_at,
                          .context = memory};
}
