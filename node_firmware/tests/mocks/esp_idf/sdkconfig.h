/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of Kconfig. */
#ifndef MOCK_ESP_IDF_SDKCONFIG_H
#define MOCK_ESP_IDF_SDKCONFIG_H

#define CONFIG_IDF_TARGET          "mock"
#define CONFIG_NODE_WIFI_SSID      "mock"
#define CONFIG_NODE_WIFI_PASSWORD  "mock"
#define CONFIG_NODE_I2S_CLOCK_GPIO 4
#define CONFIG_NODE_I2S_WORD_GPIO  5
#define CONFIG_NODE_I2S_DATA_GPIO  6

#endif
