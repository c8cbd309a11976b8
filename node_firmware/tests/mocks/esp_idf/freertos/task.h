/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of FreeRTOS's tasks. */
#ifndef MOCK_ESP_IDF_FREERTOS_TASK_H
#define MOCK_ESP_IDF_FREERTOS_TASK_H

#include "freertos/FreeRTOS.h"

#define tskIDLE_PRIORITY ((UBaseType_t)0U)

typedef struct mock_task *TaskHandle_t;
typedef void (*TaskFunction_t)(void *argument);

BaseType_t xTaskCreate(TaskFunction_t pxTaskCode, const char *pcName, uint32_t usStackDepth, void *pvParameters,
                       UBaseType_t uxPriority, TaskHandle_t *pxCreatedTask);
void vTaskDelay(TickType_t xTicksToDelay);
UBaseType_t uxTaskGetStackHighWaterMark(TaskHandle_t xTask);
BaseType_t xTaskNotifyGive(TaskHandle_t xTaskToNotify);
uint32_t ulTaskNotifyTake(BaseType_t xClearCountOnExit, TickType_t xTicksToWait);

#endif
