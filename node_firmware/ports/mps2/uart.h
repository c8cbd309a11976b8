/* uart: the board's second one, where a radio chip may be (docs/radio.md). */
#ifndef UART_H
#define UART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void uart_init(void);
/* What came, at most `capacity` bytes. A kilobyte is kept; more is lost. */
size_t uart_read(uint8_t *data, size_t capacity);
bool uart_pending(void); /* there is something to read */
/* How many bytes the other end took; it has a millisecond for each. */
size_t uart_write(const uint8_t *data, size_t size);
void uart_interrupt(void);

#endif
