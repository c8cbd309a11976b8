/* See link.h. A task of its own looks names up, connects and shakes hands, because all that blocks; the node hears
 * meanwhile. It knows nothing of the node: it is asked for a connection, and gives it. */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "esp_timer.h"
#include "esp_tls.h"
#include "freertos/FreeRTOS.h"
#include "freertos/queue.h"
#include "freertos/task.h"

#define CONNECT_MS   15000
#define RETRY_MS     1000 /* before the second attempt; doubled for each further one */
#define RETRY_MAX_MS 60000
#define DIAL_STACK   8192 /* bytes: TLS's handshake */
#define PRIORITY     (tskIDLE_PRIORITY + 1)

static node_t *node;
static const provision_t *provision;

static uint32_t now_ms(void)
{
    return (uint32_t)(esp_timer_get_time() / 1000);
}

/* ---- the task that dials ---- */

static TaskHandle_t dialler;
static QueueHandle_t dialled; /* of an esp_tls_t *, NULL where there is no connection */

static esp_tls_t *connect_broker(void)
{
    const psk_hint_key_t psk = {.key = provision->psk.data, .key_size = provision->psk.size, .hint = provision->id};
    esp_tls_cfg_t how = {.timeout_ms = CONNECT_MS};
    switch (provision->security) {
    case PROVISION_PLAIN:
        how.is_plain_tcp = true;
        break;
    case PROVISION_PSK:
        how.psk_hint_key = &psk;
        break;
    case PROVISION_X509:
        how.cacert_buf = provision->ca.data;
        how.cacert_bytes = provision->ca.size;
        how.clientcert_buf = provision->certificate.data;
        how.clientcert_bytes = provision->certificate.size;
        how.clientkey_buf = provision->key.data;
        how.clientkey_bytes = provision->key.size;
        break;
    }
    esp_tls_t *const tls = esp_tls_init();
    const int length = (int)strlen(provision->host);
    int fd;
    if (tls == NULL || esp_tls_conn_new_sync(provision->host, length, provision->port, &how, tls) != 1 ||
        esp_tls_get_conn_sockfd(tls, &fd) != ESP_OK || fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        esp_tls_conn_destroy(tls); /* NULL too */
        return NULL;
    }
    return tls;
}

static void dial(void *argument)
{
    (void)argument;
    for (;;) {
        ulTaskNotifyTake(pdTRUE, portMAX_DELAY);
        esp_tls_t *const tls = connect_broker();
        xQueueSend(dialled, &tls, portMAX_DELAY);
    }
}

/* ---- the link ---- */

static esp_tls_t *broker; /* NULL: no link */
static bool dialling;
static uint32_t retry_ms, retry_at_ms;

static void link_down(void)
{
    if (broker != NULL) {
        node_link_down(node, now_ms());
        esp_tls_conn_destroy(broker);
        broker = NULL;
    }
    retry_ms = retry_ms == 0 ? RETRY_MS : retry_ms < RETRY_MAX_MS / 2 ? 2 * retry_ms : RETRY_MAX_MS;
    retry_at_ms = now_ms() + retry_ms / 2 + node->port->random(node->port->context) % retry_ms;
}

static void link_up(void)
{
    if (!dialling) {
        if ((int32_t)(now_ms() - retry_at_ms) >= 0) {
            dialling = true;
            xTaskNotifyGive(dialler);
        }
        return;
    }
    if (xQueueReceive(dialled, &broker, 0) != pdTRUE) {
        return;
    }
    dialling = false;
    if (broker == NULL || node_link_up(node, now_ms()) != NODE_OK) {
        link_down();
    }
}

/* In clear esp-tls says with errno what it says with a code of its own otherwise. */
static bool not_now(ssize_t result)
{
    return result == ESP_TLS_ERR_SSL_WANT_READ || result == ESP_TLS_ERR_SSL_WANT_WRITE ||
           (provision->security == PROVISION_PLAIN && result == -1 && errno == EAGAIN);
}

static bool receive(void)
{
    static uint8_t bytes[1024];
    for (;;) {
        const ssize_t got = esp_tls_conn_read(broker, bytes, sizeof bytes);
        if (got < 0) {
            return not_now(got);
        }
        if (got == 0 || node_receive(node, bytes, (size_t)got, now_ms()) != NODE_OK) {
            return false;
        }
    }
}

static bool transmit(void)
{
    const uint8_t *data;
    for (size_t size; (size = node_transmit(node, &data)) != 0;) {
        const ssize_t sent = esp_tls_conn_write(broker, data, size);
        if (sent < 0) {
            return not_now(sent);
        }
        node_transmitted(node, (size_t)sent, now_ms());
    }
    return true;
}

void link_start(node_t *n, const provision_t *p)
{
    node = n;
    provision = p;
    dialled = xQueueCreate(1, sizeof broker);
    const bool started = dialled != NULL && xTaskCreate(dial, "dial", DIAL_STACK, NULL, PRIORITY, &dialler) == pdPASS;
    ESP_ERROR_CHECK(started ? ESP_OK : ESP_ERR_NO_MEM);
}

uint32_t link_step(void)
{
    const int wait_ms = node_step(node, now_ms());
    if (broker == NULL) {
        link_up();
    } else if (wait_ms < 0 || !receive() || !transmit()) {
        link_down();
    } else if (node_ready(node)) {
        retry_ms = 0;
    }
    return wait_ms < 0 ? 0 : (uint32_t)wait_ms;
}
