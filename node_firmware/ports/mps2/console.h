/* console: lines on UART 0, each with the time since boot. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include <stdint.h>

void console_init(void);
/* A line of these texts, one after the other; the last one is NULL. */
void console_say(const char *text, ...) __attribute__((sentinel));
typedef char decimal_t[11];
/* Its digits, in `text`. */
const char *decimal(decimal_t text, uint32_t value);

#endif
