/* Files of the host, and the end, through Arm's semihosting. */
#ifndef M4_SEMIHOSTING_H
#define M4_SEMIHOSTING_H

#include <stddef.h>
#include <stdint.h>

/* All end the program with an error where the host cannot. */
int semihosting_create(const char *name);
size_t semihosting_load(const char *name, void *data, size_t capacity); /* returns the file's size */
void semihosting_write(int file, const void *data, size_t size);
__attribute__((noreturn)) void semihosting_exit(int status);

#endif
