/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of logging. */
#ifndef MOCK_ESP_IDF_ESP_LOG_H
#define MOCK_ESP_IDF_ESP_LOG_H

__attribute__((format(printf, 2, 3))) void mock_log(const char *tag, const char *format, ...);

#define ESP_LOGI(tag, ...) mock_log(tag, __VA_ARGS__)
#define ESP_LOGE(tag, ...) mock_log(tag, __VA_ARGS__)

#endif
