/* Mock: of Zephyr 3.7, what ports/zephyr uses of random numbers. */
#ifndef MOCK_ZEPHYR_RANDOM_RANDOM_H
#define MOCK_ZEPHYR_RANDOM_RANDOM_H

#include <stddef.h>

int sys_csrand_get(void *dst, size_t len);

#endif
