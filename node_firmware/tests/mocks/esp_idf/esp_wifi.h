/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of Wi-Fi. */
#ifndef MOCK_ESP_IDF_ESP_WIFI_H
#define MOCK_ESP_IDF_ESP_WIFI_H

#include <stdint.h>

#include "esp_err.h"
#include "esp_event.h"

extern esp_event_base_t const WIFI_EVENT;
enum { WIFI_EVENT_STA_START = 2, WIFI_EVENT_STA_DISCONNECTED = 5 };

typedef enum { WIFI_MODE_NULL, WIFI_MODE_STA } wifi_mode_t;
typedef enum { WIFI_IF_STA } wifi_interface_t;

typedef struct {
    int magic;
} wifi_init_config_t;
#define WIFI_INIT_CONFIG_DEFAULT()                                                                                     \
    {                                                                                                                  \
        .magic = 0x1f2f3f4f                                                                                            \
    }

typedef struct {
    uint8_t ssid[32], password[64];
} wifi_sta_config_t;
typedef union {
    wifi_sta_config_t sta;
} wifi_config_t;

esp_err_t esp_wifi_init(const wifi_init_config_t *config);
esp_err_t esp_wifi_set_mode(wifi_mode_t mode);
esp_err_t esp_wifi_set_config(wifi_interface_t interface, wifi_config_t *conf);
esp_err_t esp_wifi_start(void);
esp_err_t esp_wifi_connect(void);
esp_err_t esp_wifi_sta_get_rssi(int *rssi);

#endif
