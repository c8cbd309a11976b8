/* What QEMU's mps2-an386 (Cortex-M4F) and mps2-an385 (Cortex-M3) have in common: the Arm MPS2 FPGA board's memory map,
 * and registers of CMSDK (Arm DUI 0479, DAI 0385) and of Armv7-M (Arm DDI 0403). */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))

#define CLOCK_HZ 25000000U

#define TIMER_0        0x40000000U /* wakes the core */
#define TIMER_1        0x40001000U /* counts time */
#define UART_0         0x40004000U
#define UART_1         0x40005000U
#define WATCHDOG       0x40008000U
#define LAN9118        0x40200000U
#define PSRAM          0x21000000U /* a file, under QEMU: it stands for NOR flash */
#define NOR_BYTES      0x00200000U /* of its 16 MiB, what is used */
#define SYSTEM_CONTROL 0xE000E000U

/* Interrupts; the UART's when something came. */
enum { IRQ_UART_1 = 2, IRQ_TIMER_0 = 8, IRQ_ETHERNET = 13, IRQ_COUNT = 32 };

static inline void interrupt_enable(unsigned number)
{
    REGISTER(SYSTEM_CONTROL + 0x100) = UINT32_C(1) << number; /* NVIC_ISER */
}

/* Between linker script and code. */
extern uint32_t stack_bottom[], stack_top[], data_start[], data_end[], data_load[], bss_start[], bss_end[];

#endif
