/* Mock: of Zephyr 3.7, what ports/zephyr uses of the task watchdog. */
#ifndef MOCK_ZEPHYR_TASK_WDT_TASK_WDT_H
#define MOCK_ZEPHYR_TASK_WDT_TASK_WDT_H

#include <zephyr/device.h>

typedef void (*task_wdt_callback_t)(int channel_id, void *user_data);

int task_wdt_init(const struct device *hw_wdt);
int task_wdt_add(uint32_t reload_period, task_wdt_callback_t callback, void *user_data);
int task_wdt_feed(int channel_id);

#endif
