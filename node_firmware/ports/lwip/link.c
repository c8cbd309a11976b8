/* The link over lwIP. lwIP's callbacks hand bytes on and note what happened; only link_step() ends a connection, so no
 * callback ever frees what lwIP is at work on. What is received is used at once and never kept. */
#include "link.h"

#include <string.h>

#include "lwip/dns.h"
#include "lwip/netif.h"
#include "lwip/sys.h"
#include "lwip/timeouts.h"

#define SILENCE_MS 10000 /* an attempt that hears nothing for so long is given up */
#define RETRY_MS   250   /* the first backoff; each is twice the one before */
#define RETRY_MOST 30000

void link_init(link_t *link, node_t *node, const char *host, uint16_t port, tls_t *tls)
{
    *link = (link_t){.node = node, .host = host, .port = port, .tls = tls};
}

/* ---- what happened ---- */

static void say(const link_t *link, const char *what, const char *more)
{
    char line[96] = "";
    if (link->node->port->log != NULL) {
        strncat(line, what, sizeof line - 1);
        strncat(line, more, sizeof line - 1 - strlen(line));
        link->node->port->log(link->node->port->context, line);
    }
}

static void enter(link_t *link, link_state_t state)
{
    link->state = state;
    link->since_ms = sys_now();
}

/* Only the first reason counts. */
static void fail(link_t *link, const char *why, const char *more)
{
    if (link->state != LINK_OFFLINE && link->state != LINK_FAILED) {
        enter(link, LINK_FAILED);
        say(link, why, more);
    }
}

static void fail_node(link_t *link, int status)
{
    fail(link, "offline: ",
         status == NODE_E_TIMEOUT   ? "the broker is silent"
         : status == NODE_E_REFUSED ? "refused by the broker"
                                    : "protocol error");
}

/* ---- bytes out ---- */

/* How many bytes TCP took; it has copied them. */
static size_t give(link_t *link, const uint8_t *data, size_t size)
{
    const size_t room = tcp_sndbuf(link->pcb);
    size = size < room ? size : room;
    size = size < TCP_MSS ? size : TCP_MSS; /* in parts: where memory is short, some of them find it */
    const err_t status = size != 0 ? tcp_write(link->pcb, data, (u16_t)size, TCP_WRITE_FLAG_COPY) : ERR_MEM;
    if (status != ERR_OK && status != ERR_MEM) {
        fail(link, "offline: ", "TCP does not send");
    }
    return status == ERR_OK ? size : 0;
}

static void greet(link_t *link)
{
    enter(link, LINK_GREETING);
    const int status = node_link_up(link->node, sys_now());
    if (status < 0) {
        fail_node(link, status);
    }
}

static bool connected(const link_t *link)
{
    return link->state == LINK_SECURING || link->state == LINK_GREETING || link->state == LINK_ONLINE;
}

#ifdef NODE_TLS
static size_t give_records(link_t *link);

static void fail_tls(link_t *link, int status)
{
    static const char digits[] = "0123456789abcdef";
    char code[] = "-0x0000";
    if (!connected(link)) {
        return; /* it was the node, and has said why */
    }
    for (unsigned i = 0; i < 4; i++) {
        code[3 + i] = digits[(unsigned)-status >> (12 - 4 * i) & 0xf];
    }
    fail(link, "offline: TLS: ", code);
    (void)give_records(link); /* an alert, for the broker's log */
}

/* The next bytes of TLS's own, records and alerts. */
static size_t give_records(link_t *link)
{
    const uint8_t *data;
    const size_t size = tls_transmit(link->tls, &data);
    const size_t taken = size != 0 ? give(link, data, size) : 0;
    const int status = taken != 0 ? tls_transmitted(link->tls, taken) : 0;
    if (status < 0) {
        fail_tls(link, status);
    }
    return taken;
}

static size_t give_secured(link_t *link)
{
    const uint8_t *data;
    const size_t taken = give_records(link);
    if (taken != 0 || !tls_ready(link->tls)) {
        return taken;
    }
    if (link->state == LINK_SECURING) {
        greet(link);
    }
    const size_t size = node_transmit(link->node, &data);
    const int status = size != 0 ? tls_write(link->tls, data, size) : 0;
    if (status < 0) {
        fail_tls(link, status);
    } else if (status > 0) {
        node_transmitted(link->node, (size_t)status, sys_now());
    }
    return status > 0 ? (size_t)status : 0;
}
#endif

static size_t give_plain(link_t *link)
{
    const uint8_t *data;
    const size_t size = node_transmit(link->node, &data);
    const size_t taken = size != 0 ? give(link, data, size) : 0;
    if (taken != 0) {
        node_transmitted(link->node, taken, sys_now());
    }
    return taken;
}

/* Sends what there is, as far as TCP has room. Whether there was anything. */
static bool transmit(link_t *link)
{
    size_t sent = 0, taken = 1;
    while (taken != 0 && connected(link)) {
#ifdef NODE_TLS
        taken = link->tls != NULL ? give_secured(link) : give_plain(link);
#else
        taken = give_plain(link);
#endif
        sent += taken;
    }
    if (sent != 0) {
        tcp_output(link->pcb); /* where it cannot, it is tried again with the next segment or timer */
    }
    return sent != 0;
}

/* ---- lwIP's callbacks ---- */

static int on_plain(void *context, const uint8_t *data, size_t size)
{
    link_t *const link = context;
    const int status = node_receive(link->node, data, size, sys_now());
    if (status < 0) {
        fail_node(link, status);
    }
    return status;
}

static void take(link_t *link, const uint8_t *data, size_t size)
{
#ifdef NODE_TLS
    const int status =
        link->tls != NULL ? tls_receive(link->tls, data, size, on_plain, link) : on_plain(link, data, size);
    if (status < 0) {
        fail_tls(link, status);
    }
#else
    (void)on_plain(link, data, size);
#endif
}

static err_t on_received(void *context, struct tcp_pcb *pcb, struct pbuf *data, err_t error)
{
    link_t *const link = context;
    (void)error;
    if (data == NULL) {
        fail(link, "offline: ", "closed by the broker");
        return ERR_OK;
    }
    for (const struct pbuf *piece = data; piece != NULL && connected(link); piece = piece->next) {
        take(link, piece->payload, piece->len);
        (void)transmit(link);
    }
    if (connected(link)) {
        link->since_ms = sys_now();
    }
    tcp_recved(pcb, data->tot_len);
    pbuf_free(data);
    return ERR_OK;
}

static err_t on_connected(void *context, struct tcp_pcb *pcb, err_t error)
{
    link_t *const link = context;
    (void)pcb;
    (void)error;
#ifdef NODE_TLS
    if (link->tls != NULL) {
        enter(link, LINK_SECURING);
        const int status = tls_start(link->tls);
        if (status < 0) {
            fail_tls(link, status);
        }
    } else {
        greet(link);
    }
#else
    greet(link);
#endif
    (void)transmit(link);
    return ERR_OK;
}

/* lwIP has freed the connection already. */
static void on_error(void *context, err_t error)
{
    link_t *const link = context;
    const bool dialling = link->state == LINK_CONNECTING;
    link->pcb = NULL;
    fail(link,
         dialling && error == ERR_RST ? "offline: refused by "
         : dialling                   ? "offline: no answer from "
         : error == ERR_RST           ? "offline: reset by "
                                      : "offline: lost ",
         link->host);
}

static void dial(link_t *link, const ip_addr_t *address)
{
    enter(link, LINK_CONNECTING);
    link->pcb = tcp_new();
    if (link->pcb == NULL) {
        fail(link, "offline: ", "no memory");
        return;
    }
    tcp_arg(link->pcb, link);
    tcp_recv(link->pcb, on_received);
    tcp_err(link->pcb, on_error);
    tcp_nagle_disable(link->pcb); /* what belongs together is written together, by transmit() */
    if (tcp_connect(link->pcb, address, link->port, on_connected) != ERR_OK) {
        fail(link, "offline: cannot reach ", link->host);
    }
}

static void on_resolved(const char *name, const ip_addr_t *address, void *context)
{
    link_t *const link = context;
    (void)name;
    link->asked = false;
    if (link->state != LINK_RESOLVING) {
        return; /* that attempt was given up */
    }
    if (address == NULL) {
        fail(link, "offline: cannot resolve ", link->host);
    } else {
        dial(link, address);
    }
}

/* ---- in their time ---- */

static void resolve(link_t *link)
{
    ip_addr_t address;
    enter(link, LINK_RESOLVING);
    if (link->asked) {
        return; /* by an attempt that was given up: that answer will do */
    }
    const err_t status = dns_gethostbyname(link->host, &address, on_resolved, link);
    if (status == ERR_OK) {
        dial(link, &address);
    } else if (status == ERR_INPROGRESS) {
        link->asked = true;
    } else {
        fail(link, "offline: cannot resolve ", link->host);
    }
}

static void watch_network(link_t *link)
{
    const struct netif *const netif = netif_default;
    const bool there =
        netif != NULL && netif_is_up(netif) && netif_is_link_up(netif) && !ip4_addr_isany(netif_ip4_addr(netif));
    if (there && !link->network) {
        say(link, "network: ", ip4addr_ntoa(netif_ip4_addr(netif)));
        link->wait_ms = link->backoff_ms = 0; /* whatever did not work before */
    } else if (!there && link->network) {
        fail(link, "offline: ", "no network");
    }
    link->network = there;
}

/* How long this state may still last. */
static uint32_t left_ms(const link_t *link)
{
    const uint32_t passed_ms = sys_now() - link->since_ms;
    const uint32_t most_ms = link->state == LINK_OFFLINE ? link->wait_ms : SILENCE_MS;
    if (link->state == LINK_FAILED) {
        return 0;
    }
    if (link->state == LINK_ONLINE || (link->state == LINK_OFFLINE && !link->network)) {
        return INT32_MAX;
    }
    return passed_ms < most_ms ? most_ms - passed_ms : 0;
}

static void give_up_hanging(link_t *link)
{
    if (link->state != LINK_OFFLINE && left_ms(link) == 0) {
        fail(link,
             link->state == LINK_RESOLVING    ? "offline: cannot resolve "
             : link->state == LINK_CONNECTING ? "offline: no answer from "
                                              : "offline: silence from ",
             link->host);
    }
}

static void drop(link_t *link)
{
    if (link->pcb != NULL) {
        tcp_abort(link->pcb); /* on_error() forgets it */
    }
    node_link_down(link->node, sys_now());
    const uint32_t next_ms = link->backoff_ms != 0 ? 2 * link->backoff_ms : RETRY_MS;
    link->backoff_ms = next_ms < RETRY_MOST ? next_ms : RETRY_MOST;
    link->wait_ms = link->backoff_ms / 2 + link->node->port->random(link->node->port->context) % link->backoff_ms;
    enter(link, LINK_OFFLINE);
}

int link_step(link_t *link)
{
    sys_check_timeouts();
    watch_network(link);
    give_up_hanging(link);
    int wait_ms = node_step(link->node, sys_now());
    if (wait_ms < 0) {
        fail_node(link, wait_ms);
        wait_ms = 0;
    }
    if (link->state == LINK_FAILED) {
        drop(link);
    }
    if (link->state == LINK_OFFLINE && left_ms(link) == 0) {
        resolve(link);
    }
    if (transmit(link)) {
        wait_ms = 0; /* node_step() may want another time now */
    }
    if (link->state == LINK_GREETING && node_ready(link->node)) {
        enter(link, LINK_ONLINE);
        link->backoff_ms = 0;
        say(link, "online", "");
    }
    const uint32_t timer_ms = LWIP_MIN(left_ms(link), sys_timeouts_sleeptime());
    return timer_ms < (uint32_t)wait_ms ? (int)timer_ms : wait_ms;
}
