/* lwIP on any of our compilers: what it cannot find out itself. */
#ifndef LWIP_ARCH_CC_H
#define LWIP_ARCH_CC_H

#include <stdint.h>

uint32_t random_u32(void); /* the board's, unpredictable; as sys_now(), its milliseconds */
#define LWIP_RAND() random_u32()

/* The text would only cost flash: what a failed assertion leaves is a crash record that says where. */
#define LWIP_PLATFORM_ASSERT(text) __builtin_trap()
#define LWIP_PLATFORM_DIAG(text)

#define LWIP_NO_CTYPE_H 1

#endif
