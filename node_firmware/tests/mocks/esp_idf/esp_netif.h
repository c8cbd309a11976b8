/* Mock: of ESP-IDF 5.3, what ports/esp_idf uses of network interfaces. */
#ifndef MOCK_ESP_IDF_ESP_NETIF_H
#define MOCK_ESP_IDF_ESP_NETIF_H

#include "esp_err.h"

typedef struct esp_netif_obj esp_netif_t;

esp_err_t esp_netif_init(void);
esp_err_t esp_netif_set_hostname(esp_netif_t *esp_netif, const char *hostname);
esp_netif_t *esp_netif_create_default_wifi_sta(void);

#endif
