/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of the task watchdog. */
#ifndef MOCK_ESP_IDF_ESP_TASK_WDT_H
#define MOCK_ESP_IDF_ESP_TASK_WDT_H

#include "esp_err.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"

esp_err_t esp_task_wdt_add(TaskHandle_t task_handle);
esp_err_t esp_task_wdt_reset(void);

#endif
