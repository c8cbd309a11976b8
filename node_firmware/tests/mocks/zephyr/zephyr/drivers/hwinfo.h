/* Mock: of Zephyr 3.7, what ports/zephyr uses of what the hardware knows of itself. */
#ifndef MOCK_ZEPHYR_DRIVERS_HWINFO_H
#define MOCK_ZEPHYR_DRIVERS_HWINFO_H

#include <zephyr/kernel.h>

#define RESET_PIN        BIT(0)
#define RESET_SOFTWARE   BIT(1)
#define RESET_BROWNOUT   BIT(2)
#define RESET_POR        BIT(3)
#define RESET_WATCHDOG   BIT(4)
#define RESET_CPU_LOCKUP BIT(8)

int hwinfo_get_reset_cause(uint32_t *cause);
int hwinfo_clear_reset_cause(void);

#endif
