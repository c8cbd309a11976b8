/* Files of the host, and the end, through Arm's semihosting. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stddef.h>
#include <stdint.h>

int semihosting_open(const char *name); /* to read; negative where there is none */
uint32_t semihosting_length(int file);
void semihosting_seek(int file, uint32_t offset);
size_t semihosting_read(int file, void *data, size_t size); /* returns how many bytes there were */

/* These end the program with an error where the host cannot. */
int semihosting_create(const char *name);
size_t semihosting_load(const char *name, void *data, size_t capacity); /* returns the file's size */
void semihosting_write(int file, const void *data, size_t size);
__attribute__((noreturn)) void semihosting_exit(int status);

#endif
