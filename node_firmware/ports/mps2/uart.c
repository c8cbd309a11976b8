/* See uart.h. CMSDK APB UART, with a buffer of one byte. */
#include "uart.h"

#include "board.h"
#include "clock.h"

enum { DATA = 0x0, STATE = 0x4, CONTROL = 0x8, INTERRUPT_CLEAR = 0xC, BAUD_DIVIDER = 0x10 };
#define TX_FULL      1U
#define RX_FULL      2U
#define ENABLE       3U /* both ways */
#define RX_INTERRUPT 8U
#define RX_CLEAR     2U
#define BAUD         1000000U
#define RING_BYTES   1024U /* a power of two */

static uint8_t ring[RING_BYTES];
static volatile uint32_t came, taken; /* bytes */

void uart_init(void)
{
    REGISTER(UART_1 + BAUD_DIVIDER) = CLOCK_HZ / BAUD;
    REGISTER(UART_1 + CONTROL) = ENABLE | RX_INTERRUPT;
    interrupt_enable(IRQ_UART_1);
}

void uart_interrupt(void)
{
    REGISTER(UART_1 + INTERRUPT_CLEAR) = RX_CLEAR;
    while ((REGISTER(UART_1 + STATE) & RX_FULL) != 0) {
        const uint8_t byte = (uint8_t)REGISTER(UART_1 + DATA);
        if (came - taken < RING_BYTES) {
            ring[came % RING_BYTES] = byte;
            came++;
        }
    }
}

bool uart_pending(void)
{
    return came != taken;
}

size_t uart_read(uint8_t *data, size_t capacity)
{
    size_t size = 0;
    while (size < capacity && came != taken) {
        data[size++] = ring[taken % RING_BYTES];
        taken++;
    }
    return size;
}

size_t uart_write(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        const uint32_t since_ms = clock_ms();
        while ((REGISTER(UART_1 + STATE) & TX_FULL) != 0) {
            if (clock_ms() - since_ms > 1) {
                return i;
            }
        }
        REGISTER(UART_1 + DATA) = data[i];
    }
    return size;
}
