/* wifi: the site's network, and again when it was lost. */
#ifndef WIFI_H
#define WIFI_H

/* Returns at once. From here on esp_random() has the radio's noise to draw on. */
void wifi_start(const char *hostname);

#endif
