/* See clock.h. Timer 1 runs free and is the clock, timer 0 wakes the core (CMSDK APB timer: down-counters). */
#include "clock.h"

#include "board.h"

enum { CONTROL = 0x0, VALUE = 0x4, RELOAD = 0x8, CLEAR = 0xC };
#define ENABLE    1U
#define INTERRUPT 8U
#define MAX_MS    100000U /* what the clock's 32 bits bear */
#define SCR       REGISTER(SYSTEM_CONTROL + 0xD10)
#define SLEEPDEEP (1U << 2)

void clock_init(void)
{
    REGISTER(TIMER_1 + VALUE) = UINT32_MAX;
    REGISTER(TIMER_1 + RELOAD) = UINT32_MAX;
    REGISTER(TIMER_1 + CONTROL) = ENABLE;
    SCR |= SLEEPDEEP;
    interrupt_enable(IRQ_TIMER_0);
}

uint64_t clock_us(void)
{
    static uint32_t last;
    static uint64_t ticks;
    const uint32_t now = ~REGISTER(TIMER_1 + VALUE);
    ticks += now - last;
    last = now;
    return ticks / (CLOCK_HZ / 1000000);
}

uint32_t clock_ms(void)
{
    return (uint32_t)(clock_us() / 1000);
}

void clock_sleep(uint32_t ms, bool (*busy)(void))
{
    if (ms == 0) {
        return;
    }
    const uint32_t ticks = (ms < MAX_MS ? ms : MAX_MS) * (CLOCK_HZ / 1000);
    REGISTER(TIMER_0 + RELOAD) = ticks;
    REGISTER(TIMER_0 + VALUE) = ticks;
    REGISTER(TIMER_0 + CONTROL) = ENABLE | INTERRUPT;
    __asm__ volatile("cpsid i" ::: "memory");
    if (!busy()) { /* wfi also wakes from an interrupt that is masked: none is missed in between */
        __asm__ volatile("dsb\n\twfi" ::: "memory");
    }
    __asm__ volatile("cpsie i\n\tisb" ::: "memory");
    REGISTER(TIMER_0 + CONTROL) = 0;
    REGISTER(TIMER_0 + CLEAR) = 1;
}

void clock_interrupt(void)
{
    REGISTER(TIMER_0 + CONTROL) = 0;
    REGISTER(TIMER_0 + CLEAR) = 1;
}
