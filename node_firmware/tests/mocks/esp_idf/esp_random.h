/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of random numbers. */
#ifndef MOCK_ESP_IDF_ESP_RANDOM_H
#define MOCK_ESP_IDF_ESP_RANDOM_H

#include <stdint.h>

uint32_t esp_random(void);

#endif
