/* See link.h. A thread of its own looks names up, connects and shakes hands, because all that blocks; the node hears
 * meanwhile. It knows nothing of the node: it is asked for a socket, and gives it. */
#include "link.h"

#include <errno.h>
#include <string.h>
#include <zephyr/kernel.h>
#include <zephyr/net/socket.h>
#include <zephyr/net/tls_credentials.h>

#define RETRY_MS     1000 /* before the second attempt; doubled for each further one */
#define RETRY_MAX_MS 60000
#define TLS_TAG      1

static node_t *node;
static const provision_t *provision;

/* ---- the thread that dials ---- */

K_SEM_DEFINE(wanted, 0, 1);
K_MSGQ_DEFINE(dialled, sizeof(int), 1, sizeof(int)); /* a socket, or a negative number */

static int add_credentials(void)
{
    const struct {
        enum tls_credential_type type;
        const void *data;
        size_t size;
    } all[] = {{TLS_CREDENTIAL_PSK, provision->psk.data, provision->psk.size},
               {TLS_CREDENTIAL_PSK_ID, provision->id, provision->psk.size != 0 ? strlen(provision->id) : 0},
               {TLS_CREDENTIAL_CA_CERTIFICATE, provision->ca.data, provision->ca.size},
               {TLS_CREDENTIAL_PUBLIC_CERTIFICATE, provision->certificate.data, provision->certificate.size},
               {TLS_CREDENTIAL_PRIVATE_KEY, provision->key.data, provision->key.size}};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        if (all[i].size != 0 && tls_credential_add(TLS_TAG, all[i].type, all[i].data, all[i].size) != 0) {
            return -1;
        }
    }
    return 0;
}

static int open_socket(const struct zsock_addrinfo *address)
{
    const bool secure = provision->security != PROVISION_PLAIN;
    const sec_tag_t tags[] = {TLS_TAG};
    const int one = 1;
    const int fd = zsock_socket(address->ai_family, SOCK_STREAM, secure ? IPPROTO_TLS_1_2 : IPPROTO_TCP);
    if (fd < 0) {
        return fd;
    }
    const bool ready =
        zsock_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0 &&
        (!secure || (zsock_setsockopt(fd, SOL_TLS, TLS_SEC_TAG_LIST, tags, sizeof tags) == 0 &&
                     zsock_setsockopt(fd, SOL_TLS, TLS_HOSTNAME, provision->host, strlen(provision->host)) == 0));
    if (!ready || zsock_connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
        zsock_close(fd);
        return -1;
    }
    return fd;
}

static void dial(void *a, void *b, void *c)
{
    (void)a;
    (void)b;
    (void)c;
    for (;;) {
        k_sem_take(&wanted, K_FOREVER);
        const struct zsock_addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
        struct zsock_addrinfo *found;
        char text[6];
        int fd = -1;
        snprintk(text, sizeof text, "%u", provision->port);
        if (zsock_getaddrinfo(provision->host, text, &hints, &found) == 0) {
            fd = open_socket(found);
            zsock_freeaddrinfo(found);
        }
        k_msgq_put(&dialled, &fd, K_FOREVER);
    }
}

K_THREAD_DEFINE(dialler, 6144, dial, NULL, NULL, NULL, K_PRIO_PREEMPT(8), 0, 0);

/* ---- the link ---- */

static int broker = -1; /* the socket */
static bool dialling;
static uint32_t retry_ms, retry_at_ms;

static void link_down(void)
{
    if (broker >= 0) {
        node_link_down(node, k_uptime_get_32());
        zsock_close(broker);
        broker = -1;
    }
    retry_ms = retry_ms == 0 ? RETRY_MS : MIN(2 * retry_ms, RETRY_MAX_MS);
    retry_at_ms = k_uptime_get_32() + retry_ms / 2 + node->port->random(node->port->context) % retry_ms;
}

static void connect_broker(void)
{
    int fd;
    if (!dialling) {
        if ((int32_t)(k_uptime_get_32() - retry_at_ms) >= 0) {
            dialling = true;
            k_sem_give(&wanted);
        }
        return;
    }
    if (k_msgq_get(&dialled, &fd, K_NO_WAIT) != 0) {
        return;
    }
    dialling = false;
    broker = fd;
    if (fd < 0 || node_link_up(node, k_uptime_get_32()) != NODE_OK) {
        link_down();
    }
}

static bool receive(void)
{
    static uint8_t bytes[1024];
    for (;;) {
        const ssize_t got = zsock_recv(broker, bytes, sizeof bytes, ZSOCK_MSG_DONTWAIT);
        if (got < 0) {
            return errno == EAGAIN;
        }
        if (got == 0 || node_receive(node, bytes, (size_t)got, k_uptime_get_32()) != NODE_OK) {
            return false;
        }
    }
}

static bool transmit(void)
{
    const uint8_t *data;
    for (size_t size; (size = node_transmit(node, &data)) != 0;) {
        const ssize_t sent = zsock_send(broker, data, size, ZSOCK_MSG_DONTWAIT);
        if (sent < 0) {
            return errno == EAGAIN;
        }
        node_transmitted(node, (size_t)sent, k_uptime_get_32());
    }
    return true;
}

int link_start(node_t *n, const provision_t *p)
{
    node = n;
    provision = p;
    return add_credentials();
}

int32_t link_step(void)
{
    const int wait_ms = node_step(node, k_uptime_get_32());
    if (broker < 0) {
        connect_broker();
    } else if (wait_ms < 0 || !receive() || !transmit()) {
        link_down();
    } else if (node_ready(node)) {
        retry_ms = 0;
    }
    return MAX(wait_ms, 0);
}
