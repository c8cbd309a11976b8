/* See console.h. */
#include "console.h"

#include <stdarg.h>
#include <stddef.h>

#include "board.h"
#include "clock.h"

enum { DATA = 0x0, STATE = 0x4, CONTROL = 0x8, BAUD_DIVIDER = 0x10 }; /* CMSDK APB UART */
#define TX_FULL   1U
#define TX_ENABLE 1U
#define BAUD      115200U

void console_init(void)
{
    REGISTER(UART_0 + BAUD_DIVIDER) = CLOCK_HZ / BAUD;
    REGISTER(UART_0 + CONTROL) = TX_ENABLE;
}

static void put(const char *text)
{
    for (; *text != '\0'; text++) {
        while ((REGISTER(UART_0 + STATE) & TX_FULL) != 0) {
        }
        REGISTER(UART_0 + DATA) = (uint8_t)*text;
    }
}

const char *decimal(decimal_t text, uint32_t value)
{
    char *at = text + sizeof(decimal_t) - 1;
    *at = '\0';
    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    return at;
}

void console_say(const char *text, ...)
{
    va_list more;
    decimal_t now;
    put("[");
    put(decimal(now, clock_ms()));
    put("] ");
    va_start(more, text);
    for (; text != NULL; text = va_arg(more, const char *)) {
        put(text);
    }
    va_end(more);
    put("\n");
}
