/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of the timer. */
#ifndef MOCK_ESP_IDF_ESP_TIMER_H
#define MOCK_ESP_IDF_ESP_TIMER_H

#include <stdint.h>

int64_t esp_timer_get_time(void); /* microseconds */

#endif
