/* Start-up: vectors, memory, main(). And what ends it: faults, which leave a record and begin anew. */
#include <string.h>

#include "board.h"
#include "clock.h"
#include "crash.h"
#include "ethernet.h"
#include "uart.h"

#define CPACR REGISTER(SYSTEM_CONTROL + 0xD88) /* coprocessor access */

int main(void);
void reset(void);
void fault(void);
void watchdog_bite(void);
void unexpected(void);

void reset(void)
{
    CPACR |= 0xFU << 20; /* the FPU, where there is one */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    crash_paint_stack();
    memcpy(data_start, data_load, (size_t)((char *)data_end - (char *)data_start));
    memset(bss_start, 0, (size_t)((char *)bss_end - (char *)bss_start));
    main();
    crash_reset(RESET_UNKNOWN); /* it does not return */
}

/* Both leave the interrupted stack as it is, which may be none any more, and go on on one of their own. */
__attribute__((naked)) void fault(void)
{
    __asm__ volatile(
        "mrs r0, msp\n\tldr r1, =crash_stack_top\n\tldr r1, [r1]\n\tmov sp, r1\n\tmov r1, %0\n\tb crash_handle" ::"i"(
            RESET_FAULT));
}

__attribute__((naked)) void watchdog_bite(void)
{
    __asm__ volatile(
        "mrs r0, msp\n\tldr r1, =crash_stack_top\n\tldr r1, [r1]\n\tmov sp, r1\n\tmov r1, %0\n\tb crash_handle" ::"i"(
            RESET_WATCHDOG));
}

void unexpected(void)
{
    fault();
}

// clang-format off
__attribute__((section(".vectors"), used)) static void *const vectors[16 + IRQ_COUNT] = {
    stack_top, (void *)reset,
    (void *)watchdog_bite, /* NMI */
    (void *)fault, (void *)fault, (void *)fault, (void *)fault, /* hard, memory, bus, usage */
    [11] = (void *)fault, [14] = (void *)fault, [15] = (void *)fault, /* SVC, PendSV, SysTick: nobody's */
#if NODE_BLE
    [16 + IRQ_UART_1] = (void *)uart_interrupt,
#endif
    [16 + IRQ_TIMER_0] = (void *)clock_interrupt,
    [16 + IRQ_ETHERNET] = (void *)ethernet_interrupt,
};
// clang-format on
