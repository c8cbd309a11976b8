/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of non-volatile storage. */
#ifndef MOCK_ESP_IDF_NVS_FLASH_H
#define MOCK_ESP_IDF_NVS_FLASH_H

#include "esp_err.h"

esp_err_t nvs_flash_init(void);
esp_err_t nvs_flash_erase(void);

#endif
