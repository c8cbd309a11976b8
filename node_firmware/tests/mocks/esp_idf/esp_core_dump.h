/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of core dumps. */
#ifndef MOCK_ESP_IDF_ESP_CORE_DUMP_H
#define MOCK_ESP_IDF_ESP_CORE_DUMP_H

#include <stdint.h>

#include "esp_err.h"

typedef struct {
    uint32_t exc_tcb;
    char exc_task[16];
    uint32_t exc_pc;
} esp_core_dump_summary_t;

esp_err_t esp_core_dump_get_summary(esp_core_dump_summary_t *summary);
esp_err_t esp_core_dump_image_erase(void);

#endif
