/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of lwIP's view of the compiler. */
#ifndef MOCK_PICO_SDK_ARCH_CC_H
#define MOCK_PICO_SDK_ARCH_CC_H

typedef int sys_prot_t;

unsigned int pico_lwip_rand(void);
#define LWIP_RAND pico_lwip_rand

#endif
