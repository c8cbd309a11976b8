/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of FreeRTOS's queues. */
#ifndef MOCK_ESP_IDF_FREERTOS_QUEUE_H
#define MOCK_ESP_IDF_FREERTOS_QUEUE_H

#include "freertos/FreeRTOS.h"

typedef struct mock_queue *QueueHandle_t;

QueueHandle_t xQueueCreate(UBaseType_t uxQueueLength, UBaseType_t uxItemSize);
BaseType_t xQueueSend(QueueHandle_t xQueue, const void *pvItemToQueue, TickType_t xTicksToWait);
BaseType_t xQueueReceive(QueueHandle_t xQueue, void *pvBuffer, TickType_t xTicksToWait);

#endif
