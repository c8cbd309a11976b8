/* Start-up of a bare Cortex-M4: vectors, the FPU, .data and .bss, main(). */
#include <stdint.h>
#include <string.h>

#include "semihosting.h"

#define CPACR (*(volatile uint32_t *)0xE000ED88) /* coprocessor access */

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[], stack_top[];
int main(void);
void reset(void);

static void fault(void)
{
    semihosting_exit(1);
}

void reset(void)
{
    CPACR |= 0xFU << 20; /* the FPU */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    memcpy(data_start, data_load, (size_t)((char *)data_end - (char *)data_start));
    memset(bss_start, 0, (size_t)((char *)bss_end - (char *)bss_start));
    semihosting_exit(main());
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};
