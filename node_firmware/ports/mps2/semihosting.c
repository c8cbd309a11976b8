/* Semihosting: the number of an operation in r0, its parameters' address in r1, and a breakpoint that the host serves.
 */
#include "semihosting.h"

#include <string.h>

enum {
    SYS_OPEN = 0x01,
    SYS_CLOSE = 0x02,
    SYS_WRITE = 0x05,
    SYS_READ = 0x06,
    SYS_SEEK = 0x0A,
    SYS_FLEN = 0x0C,
    SYS_EXIT_EXTENDED = 0x20
};
enum { MODE_RB = 1, MODE_WB = 5 };
#define APPLICATION_EXIT 0x20026U

static int call(int operation, const void *parameters)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = parameters;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void require(int condition)
{
    if (!condition) {
        semihosting_exit(2);
    }
}

static int open_file(const char *name, uint32_t mode)
{
    const uint32_t parameters[] = {(uint32_t)name, mode, strlen(name)};
    return call(SYS_OPEN, parameters);
}

int semihosting_open(const char *name)
{
    return open_file(name, MODE_RB);
}

uint32_t semihosting_length(int file)
{
    const int size = call(SYS_FLEN, &file);
    return size > 0 ? (uint32_t)size : 0;
}

void semihosting_seek(int file, uint32_t offset)
{
    const uint32_t parameters[] = {(uint32_t)file, offset};
    (void)call(SYS_SEEK, parameters);
}

size_t semihosting_read(int file, void *data, size_t size)
{
    const uint32_t parameters[] = {(uint32_t)file, (uint32_t)data, (uint32_t)size};
    const int missing = call(SYS_READ, parameters);
    return missing >= 0 && (uint32_t)missing <= size ? size - (uint32_t)missing : 0;
}

int semihosting_create(const char *name)
{
    const int file = open_file(name, MODE_WB);
    require(file >= 0);
    return file;
}

size_t semihosting_load(const char *name, void *data, size_t capacity)
{
    const int file = semihosting_open(name);
    require(file >= 0);
    const uint32_t size = semihosting_length(file);
    require(size <= capacity && semihosting_read(file, data, size) == size);
    require(call(SYS_CLOSE, &file) == 0);
    return size;
}

void semihosting_write(int file, const void *data, size_t size)
{
    const uint32_t parameters[] = {(uint32_t)file, (uint32_t)data, size};
    require(call(SYS_WRITE, parameters) == 0);
}

void semihosting_exit(int status)
{
    const uint32_t parameters[] = {APPLICATION_EXIT, (uint32_t)status};
    for (;;) {
        (void)call(SYS_EXIT_EXTENDED, parameters);
    }
}
