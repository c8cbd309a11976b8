/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of FreeRTOS. */
#ifndef MOCK_ESP_IDF_FREERTOS_FREERTOS_H
#define MOCK_ESP_IDF_FREERTOS_FREERTOS_H

#include <stdint.h>

typedef int BaseType_t;
typedef unsigned int UBaseType_t;
typedef uint32_t TickType_t;

#define configTICK_RATE_HZ 100
#define pdTRUE             ((BaseType_t)1)
#define pdPASS             pdTRUE
#define portMAX_DELAY      ((TickType_t)0xffffffffUL)
#define pdMS_TO_TICKS(ms)  ((TickType_t)(((TickType_t)(ms) * (TickType_t)configTICK_RATE_HZ) / (TickType_t)1000U))

#endif
