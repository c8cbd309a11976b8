/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of errors. */
#ifndef MOCK_ESP_IDF_ESP_ERR_H
#define MOCK_ESP_IDF_ESP_ERR_H

typedef int esp_err_t;

#define ESP_OK             0
#define ESP_ERR_NO_MEM     0x101
#define ESP_ERROR_CHECK(x) mock_error_check(x)
void mock_error_check(esp_err_t error); /* ends the program where it is one */

#endif
