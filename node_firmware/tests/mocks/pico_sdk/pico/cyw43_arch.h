/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of the radio. */
#ifndef MOCK_PICO_SDK_PICO_CYW43_ARCH_H
#define MOCK_PICO_SDK_PICO_CYW43_ARCH_H

#include <lwip/netif.h>

#include "pico/types.h"

#define CYW43_ITF_STA           0
#define CYW43_LINK_JOIN         1
#define CYW43_AUTH_WPA2_AES_PSK 0x00400004
#define CYW43_WL_GPIO_LED_PIN   0

typedef struct {
    struct netif netif[2];
} cyw43_t;

extern cyw43_t cyw43_state;
int cyw43_wifi_link_status(cyw43_t *self, int itf);
int cyw43_wifi_get_rssi(cyw43_t *self, int32_t *rssi);

int cyw43_arch_init(void);
void cyw43_arch_enable_sta_mode(void);
int cyw43_arch_wifi_connect_async(const char *ssid, const char *pw, uint32_t auth);
void cyw43_arch_gpio_put(uint wl_gpio, bool value);
void cyw43_arch_poll(void);
void cyw43_arch_wait_for_work_until(absolute_time_t until);

#endif
