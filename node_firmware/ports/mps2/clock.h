/* clock: time since boot, and sleep. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdbool.h>
#include <stdint.h>

void clock_init(void);
uint64_t clock_us(void); /* to be called at least every 171 s */
uint32_t clock_ms(void); /* wraps */
/* Deep sleep until an interrupt comes, at most `ms`; not at all while one waits whose work is not done: `busy`. */
void clock_sleep(uint32_t ms, bool (*busy)(void));
void clock_interrupt(void);

#endif
