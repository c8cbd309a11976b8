/* The link over lwIP against a broker and a DNS server at the other end of a wire that can be cut; both ends are one
 * lwIP, and time is a variable. */
#include "link.h"

#include <stdlib.h>
#include <string.h>

#include "flash.h"
#include "lwip/dns.h"
#include "lwip/inet_chksum.h"
#include "lwip/init.h"
#include "lwip/ip.h"
#include "lwip/timeouts.h"
#include "lwip/udp.h"
#include "node_parts.h"
#include "test.h"

#define SECTOR       256
#define FLASH_SIZE   16384
#define WINDOW_BYTES 8000 /* more than TCP takes at once */
#define PORT         1883
#define RETRY_MS     250U

static uint32_t now_ms;
static flash_t flash;
static node_t node;
static node_port_t port;
static link_t broker_link;
static char said[4096]; /* by the link */

u32_t sys_now(void)
{
    return now_ms;
}

uint32_t random_u32(void)
{
    static uint32_t word = 1;
    word = word * UINT32_C(1664525) + UINT32_C(1013904223);
    return word;
}

static uint32_t port_random(void *context)
{
    (void)context;
    return random_u32();
}

static void port_log(void *context, const char *line)
{
    (void)context;
    assert_true(strlen(said) + strlen(line) + 2 < sizeof said);
    strcat(strcat(said, line), "\n");
}

static void expect_said(const char *lines)
{
    assert_string_equal(said, lines);
    said[0] = '\0';
}

/* ---- the wire ---- */

typedef struct packet {
    struct packet *next;
    size_t size;
    uint8_t bytes[1500];
} packet_t;

static struct netif netif;
static packet_t *wire;
static bool deaf;            /* the wire loses everything */
static unsigned loses_every; /* n-th packet; 0: none */

/* A UDP datagram to whom it may concern, which here is us. */
static void to_ourselves(uint8_t *bytes)
{
    memcpy(bytes + 16, netif_ip4_addr(&netif), 4);
    memset(bytes + 10, 0, 2);
    const u16_t checksum = inet_chksum(bytes, 20);
    memcpy(bytes + 10, &checksum, 2);
    memset(bytes + 26, 0, 2); /* UDP needs none */
}

static err_t wire_output(struct netif *to, struct pbuf *p, const ip4_addr_t *address)
{
    static unsigned count;
    (void)to;
    if (deaf || (loses_every != 0 && ++count % loses_every == 0)) {
        return ERR_OK;
    }
    packet_t *const packet = calloc(1, sizeof *packet);
    packet->size = pbuf_copy_partial(p, packet->bytes, sizeof packet->bytes, 0);
    if (ip4_addr_ismulticast(address)) {
        to_ourselves(packet->bytes);
    }
    packet_t **end = &wire;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = packet;
    return ERR_OK;
}

static void deliver_packets(void)
{
    packet_t *waiting = wire;
    wire = NULL;
    while (waiting != NULL) {
        packet_t *const packet = waiting;
        waiting = packet->next;
        struct pbuf *const p = pbuf_alloc(PBUF_RAW, (u16_t)packet->size, PBUF_POOL);
        if (p != NULL) {
            assert_int_equal(pbuf_take(p, packet->bytes, (u16_t)packet->size), ERR_OK);
            assert_int_equal(netif.input(p, &netif), ERR_OK);
        }
        free(packet);
    }
}

static err_t wire_init(struct netif *n)
{
    n->output = wire_output;
    n->mtu = 1500;
    n->flags = NETIF_FLAG_LINK_UP;
    return ERR_OK;
}

/* ---- the broker ---- */

#define CIPHER 0x55 /* what stands for TLS: every byte is xored; the client begins with '?', the broker with '!' */

typedef enum manners { POLITE, SILENT, RUDE, EAGER, CLOSES, ABORTS } manners_t;

static struct {
    struct tcp_pcb *listener, *pcb;
    manners_t manners;
    size_t segment; /* bytes it sends at once; 0: all it can */
    bool secure;    /* it speaks the cipher below */
    bool greeted;   /* and has answered the handshake */
    uint8_t in[16384], out[16384];
    size_t in_size, out_size;
    unsigned connects, events;
    uint8_t window[WINDOW_BYTES]; /* of the last event */
} broker;

static void broker_say(const void *data, size_t size)
{
    assert_true(size <= sizeof broker.out - broker.out_size);
    for (size_t i = 0; i < size; i++) {
        broker.out[broker.out_size++] = ((const uint8_t *)data)[i] ^ (broker.secure ? CIPHER : 0);
    }
}

static void broker_pump(void)
{
    while (broker.pcb != NULL && broker.out_size != 0) {
        size_t size = LWIP_MIN(broker.out_size, tcp_sndbuf(broker.pcb));
        size = broker.segment != 0 ? LWIP_MIN(size, broker.segment) : size;
        if (size == 0 || tcp_write(broker.pcb, broker.out, (u16_t)size, TCP_WRITE_FLAG_COPY) != ERR_OK) {
            return;
        }
        tcp_output(broker.pcb);
        memmove(broker.out, broker.out + size, broker.out_size -= size);
    }
}

static void broker_publish(const char *topic, const void *payload, size_t size)
{
    const size_t topic_size = strlen(topic), length = 2 + topic_size + size;
    const uint8_t head[] = {0x30, (uint8_t)(length % 128 | 128), (uint8_t)(length / 128), 0, (uint8_t)topic_size};
    assert_true(length < 128 * 128);
    broker_say(head, sizeof head);
    broker_say(topic, topic_size);
    broker_say(payload, size);
}

static void gateway_online(void)
{
    static const char state[] = "\xa2\x00\x66online\x01\x1a\x6b\x49\xd2\x00";
    broker_publish(TOPIC_GATEWAY "g1/state", state, sizeof state - 1);
}

static void broker_hear(uint8_t kind, const uint8_t *body, size_t size)
{
    if (kind >> 4 == 1) {
        broker.connects++;
        broker_say("\x20\x02\x00\x00", 4);
    } else if (kind >> 4 == 12) {
        broker_say("\xd0\x00", 2);
    } else if (kind >> 4 == 8) {
        broker_say((const uint8_t[]){0x90, 5, body[0], body[1], 1, 1, 1}, 7);
    } else if (kind >> 4 == 3 && (kind & 2) != 0) {
        const size_t topic = (size_t)body[0] << 8 | body[1];
        if (memcmp(body + 2 + topic - 6, "/event", 6) == 0) {
            broker.events++;
            assert_true(size > WINDOW_BYTES);
            memcpy(broker.window, body + size - WINDOW_BYTES, WINDOW_BYTES);
        }
        broker_say((const uint8_t[]){0x40, 2, body[2 + topic], body[3 + topic]}, 4);
    }
}

/* The packets that are whole. */
static void broker_read(void)
{
    for (;;) {
        size_t length = 0, at = 1;
        for (unsigned shift = 0; at < broker.in_size; shift += 7) {
            length |= (size_t)(broker.in[at] & 0x7f) << shift;
            if ((broker.in[at++] & 0x80) == 0) {
                break;
            }
        }
        if (broker.in_size < 2 || broker.in_size < at + length) {
            return;
        }
        broker_hear(broker.in[0], broker.in + at, length);
        memmove(broker.in, broker.in + at + length, broker.in_size -= at + length);
    }
}

static err_t broker_received(void *context, struct tcp_pcb *pcb, struct pbuf *data, err_t error)
{
    (void)context;
    (void)error;
    if (data == NULL || broker.manners == ABORTS) {
        if (data != NULL) {
            pbuf_free(data);
        }
        tcp_abort(pcb);
        return ERR_ABRT;
    }
    if (broker.manners == CLOSES) {
        tcp_recved(pcb, data->tot_len);
        pbuf_free(data);
        return tcp_shutdown(pcb, 0, 1);
    }
    assert_true(data->tot_len <= sizeof broker.in - broker.in_size);
    for (unsigned i = 0; i < data->tot_len; i++) {
        const uint8_t byte = (uint8_t)(pbuf_get_at(data, (u16_t)i) ^ (broker.secure ? CIPHER : 0));
        if (broker.secure && !broker.greeted) {
            assert_int_equal(byte, '?');
            broker.greeted = true;
            broker_say("!", 1);
            if (broker.manners == EAGER) {
                gateway_online(); /* before it was asked to connect */
            }
        } else {
            broker.in[broker.in_size++] = byte;
        }
    }
    tcp_recved(pcb, data->tot_len);
    pbuf_free(data);
    if (broker.manners == RUDE) {
        broker_say("\xff\xff\xff\xff\xff\xff", 6);
    } else if (broker.manners == POLITE) {
        broker_read();
    }
    return ERR_OK;
}

static void broker_error(void *context, err_t error)
{
    (void)error;
    if (broker.pcb == context) {
        broker.pcb = NULL;
    }
}

static err_t broker_accepted(void *context, struct tcp_pcb *pcb, err_t error)
{
    (void)context;
    assert_int_equal(error, ERR_OK);
    if (broker.pcb != NULL) {
        tcp_arg(broker.pcb, NULL);
        tcp_abort(broker.pcb); /* the client has come again */
    }
    broker.pcb = pcb;
    broker.in_size = broker.out_size = 0;
    broker.greeted = false;
    tcp_nagle_disable(pcb);
    tcp_arg(pcb, pcb);
    tcp_recv(pcb, broker_received);
    tcp_err(pcb, broker_error);
    return ERR_OK;
}

static void broker_listen(void)
{
    struct tcp_pcb *const pcb = tcp_new();
    assert_int_equal(tcp_bind(pcb, IP4_ADDR_ANY, PORT), ERR_OK);
    broker.listener = tcp_listen(pcb);
    tcp_accept(broker.listener, broker_accepted);
}

/* ---- TLS, as far as the link sees it ---- */

static struct {
    bool ready;
    uint8_t out[512];
    size_t size;
} cipher;

int tls_start(tls_t *t)
{
    (void)t;
    cipher.ready = false;
    cipher.out[0] = '?' ^ CIPHER;
    cipher.size = 1;
    return 0;
}

int tls_receive(tls_t *t, const uint8_t *data, size_t size,
                int (*received)(void *context, const uint8_t *data, size_t size), void *context)
{
    (void)t;
    for (size_t i = 0; i < size; i++) {
        const uint8_t plain = data[i] ^ CIPHER;
        if (!cipher.ready && plain != '!') {
            cipher.size = 1; /* an alert */
            return MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE;
        }
        const int status = cipher.ready ? received(context, &plain, 1) : 0;
        cipher.ready = true;
        if (status < 0) {
            return status;
        }
    }
    return 0;
}

size_t tls_transmit(const tls_t *t, const uint8_t **data)
{
    (void)t;
    *data = cipher.out;
    return cipher.size;
}

int tls_transmitted(tls_t *t, size_t size)
{
    (void)t;
    memmove(cipher.out, cipher.out + size, cipher.size -= size);
    return 0;
}

bool tls_ready(const tls_t *t)
{
    (void)t;
    return cipher.ready;
}

int tls_write(tls_t *t, const uint8_t *data, size_t size)
{
    (void)t;
    if (cipher.size != 0) {
        return 0;
    }
    cipher.size = LWIP_MIN(size, sizeof cipher.out);
    for (size_t i = 0; i < cipher.size; i++) {
        cipher.out[i] = data[i] ^ CIPHER;
    }
    return (int)cipher.size;
}

/* ---- the DNS server ---- */

static enum { DNS_KNOWS, DNS_DENIES, DNS_SILENT } dns_manners;

static void dns_asked(void *context, struct udp_pcb *pcb, struct pbuf *question, const ip_addr_t *from, u16_t from_port)
{
    static const uint8_t answer[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 2}; /* A, IN, 60 s */
    (void)context;
    const u16_t size = question->tot_len, more = dns_manners == DNS_KNOWS ? sizeof answer : 0;
    struct pbuf *const reply = pbuf_alloc(PBUF_TRANSPORT, (u16_t)(size + more), PBUF_RAM);
    uint8_t *const bytes = reply->payload;
    pbuf_copy_partial(question, bytes, size, 0);
    pbuf_free(question);
    bytes[2] = 0x81;                                 /* a response */
    bytes[3] = dns_manners == DNS_DENIES ? 3 : 0x80; /* no such name */
    bytes[7] = more != 0;                            /* answers */
    memcpy(bytes + size, answer, more);
    if (dns_manners != DNS_SILENT) {
        assert_int_equal(udp_sendto(pcb, reply, from, from_port), ERR_OK);
    }
    pbuf_free(reply);
}

/* ---- both ends in time ---- */

static void run(uint32_t ms)
{
    const uint32_t end_ms = now_ms + ms;
    unsigned idle_steps = 0; /* that wanted no time to pass, and had nothing to do */
    for (;;) {
        deliver_packets();
        broker_pump();
        const int wait_ms = link_step(&broker_link);
        assert_true(wait_ms >= 0);
        if (wire != NULL) {
            idle_steps = 0;
            continue;
        }
        assert_true(wait_ms != 0 || ++idle_steps < 10);
        if (now_ms == end_ms) {
            return;
        }
        if (wait_ms != 0) {
            now_ms += LWIP_MIN((uint32_t)wait_ms, end_ms - now_ms);
            idle_steps = 0;
        }
    }
}

static void start(const char *host, tls_t *tls)
{
    link_init(&broker_link, &node, host, PORT, tls);
}

static void set_network(bool there)
{
    if (there) {
        netif_set_link_up(&netif);
    } else {
        netif_set_link_down(&netif);
    }
}

static int setup_stack(void **state)
{
    ip4_addr_t address, mask;
    (void)state;
    lwip_init();
    IP4_ADDR(&address, 10, 0, 0, 2);
    IP4_ADDR(&mask, 255, 255, 255, 0);
    netif_add(&netif, &address, &mask, &address, NULL, wire_init, ip_input);
    netif_set_default(&netif);
    netif_set_up(&netif);
    dns_setserver(0, &netif.ip_addr);
    for (unsigned i = 0; i < 2; i++) {
        struct udp_pcb *const dns = udp_new();
        assert_int_equal(udp_bind(dns, IP4_ADDR_ANY, i == 0 ? 53 : 5353), ERR_OK);
        udp_recv(dns, dns_asked, NULL);
    }
    broker_listen();
    return 0;
}

static int setup(void **state)
{
    static const node_config_t config = {.id = "n-1",
                                         .hardware = "test",
                                         .board = "test",
                                         .firmware = "1.0",
                                         .reset_reason = "power-on",
                                         .keepalive_s = 60,
                                         .vitals_s = 30};
    static const uint8_t model[] = "8 bytes!";
    (void)state;
    flash_init(&flash, FLASH_SIZE);
    port = (node_port_t){.flash = flash_driver(&flash, SECTOR), .random = port_random, .log = port_log};
    assert_int_equal(node_init(&node, &config, &port, now_ms), NODE_OK);
    assert_int_equal(node_add_cascade(&node, "c", model), 0);
    broker.manners = POLITE;
    broker.secure = deaf = false;
    broker.segment = loses_every = 0;
    broker.connects = broker.events = 0;
    dns_manners = DNS_KNOWS;
    said[0] = '\0';
    return 0;
}

/* The network goes and comes: nothing of a test is left for the next one. */
static int teardown(void **state)
{
    (void)state;
    set_network(false);
    run(1);
    assert_null(broker_link.pcb);
    if (broker.pcb != NULL) {
        tcp_abort(broker.pcb);
    }
    now_ms += 60000; /* what DNS knows is forgotten */
    set_network(true);
    deliver_packets();
    return 0;
}

static void online(void)
{
    start("10.0.0.2", NULL);
    run(100);
    expect_said("network: 10.0.0.2\nonline\n");
}

/* An event whose window the broker must get byte for byte. */
static uint8_t window_data[WINDOW_BYTES];

static void send_event(void)
{
    for (size_t i = 0; i < sizeof window_data; i++) {
        window_data[i] = (uint8_t)(random_u32() >> 24);
    }
    const node_window_t window = {.kind = WINDOW_PCM16,
                                  .rate_hz = 16000,
                                  .channels = 1,
                                  .shape = {WINDOW_BYTES / 2},
                                  .rank = 1,
                                  .piece = {window_data, NULL},
                                  .piece_size = {WINDOW_BYTES, 0}};
    assert_int_equal(node_event(&node, &(node_event_t){.score = 0.5F, .window = &window}, now_ms), NODE_OK);
}

static void expect_event(void)
{
    assert_int_equal(node.queue.waiting, 0);
    assert_memory_equal(broker.window, window_data, WINDOW_BYTES);
    memset(broker.window, 0, WINDOW_BYTES);
}

/* ---- tests ---- */

static void test_an_address(void **state)
{
    (void)state;
    online();
    run(600000); /* pings and vitals; nothing breaks */
    expect_said("");
    assert_int_equal(broker.connects, 1);
}

static void test_a_name(void **state)
{
    (void)state;
    start("broker.test", NULL);
    run(100);
    expect_said("network: 10.0.0.2\nonline\n");
}

/* Multicast DNS: nobody has to run a server. */
static void test_a_local_name(void **state)
{
    (void)state;
    dns_setserver(0, IP4_ADDR_ANY);
    start("gateway.local", NULL);
    run(100);
    expect_said("network: 10.0.0.2\nonline\n");
    dns_setserver(0, &netif.ip_addr);
}

static void test_a_name_that_nobody_knows(void **state)
{
    (void)state;
    dns_manners = DNS_DENIES;
    start("nobody.test", NULL);
    run(100);
    expect_said("network: 10.0.0.2\noffline: cannot resolve nobody.test\n");
    dns_manners = DNS_KNOWS;
    run(400);
    expect_said("online\n");
}

static void test_a_silent_dns_server(void **state)
{
    (void)state;
    dns_manners = DNS_SILENT;
    start("slow.test", NULL);
    run(20000);
    assert_string_not_equal(said, "network: 10.0.0.2\n");
    said[0] = '\0';
    dns_manners = DNS_KNOWS;
    run(20000);
    assert_non_null(strstr(said, "online\n"));
}

/* The cable was out while a name was being resolved: the answer to both questions opens one connection. */
static void test_a_late_answer(void **state)
{
    (void)state;
    dns_manners = DNS_SILENT;
    start("late.test", NULL);
    run(100);
    set_network(false);
    run(1);
    set_network(true);
    run(0);
    dns_manners = DNS_KNOWS;
    run(5000);
    expect_said("network: 10.0.0.2\noffline: no network\nnetwork: 10.0.0.2\nonline\n");
    assert_int_equal(broker.connects, 1);
}

static void test_an_answer_that_nobody_waits_for(void **state)
{
    (void)state;
    start("unasked.test", NULL);
    (void)link_step(&broker_link);
    deliver_packets(); /* the question; the answer is on the wire */
    set_network(false);
    (void)link_step(&broker_link); /* gives the attempt up */
    run(100);
    expect_said("network: 10.0.0.2\noffline: no network\n");
}

static void test_no_dns_server(void **state)
{
    (void)state;
    dns_setserver(0, IP4_ADDR_ANY);
    start("broker.test", NULL);
    run(100);
    expect_said("network: 10.0.0.2\noffline: cannot resolve broker.test\n");
    dns_setserver(0, &netif.ip_addr);
}

/* Each attempt waits about twice as long as the one before, 30 s at most; success forgets it. */
static void test_backoff(void **state)
{
    (void)state;
    tcp_close(broker.listener);
    start("10.0.0.2", NULL);
    run(0);
    uint32_t last_ms = now_ms, backoff_ms = RETRY_MS;
    expect_said("network: 10.0.0.2\noffline: refused by 10.0.0.2\n");
    for (unsigned i = 0; i < 12; i++) {
        while (said[0] == '\0') {
            run(1);
        }
        expect_said("offline: refused by 10.0.0.2\n");
        assert_in_range(now_ms - last_ms, backoff_ms / 2, backoff_ms + backoff_ms / 2 + 1);
        last_ms = now_ms;
        backoff_ms = LWIP_MIN(2 * backoff_ms, 30000);
    }
    broker_listen();
    run(45000);
    expect_said("online\n");
    tcp_abort(broker.pcb);
    run(RETRY_MS + RETRY_MS / 2 + 1);
    expect_said("offline: reset by 10.0.0.2\nonline\n");
}

static void test_nobody_answers(void **state)
{
    (void)state;
    start("10.0.0.9", NULL);
    run(9999);
    expect_said("network: 10.0.0.2\n");
    run(2);
    expect_said("offline: no answer from 10.0.0.9\n");
}

static void test_a_broker_that_accepts_and_says_nothing(void **state)
{
    (void)state;
    broker.manners = SILENT;
    start("10.0.0.2", NULL);
    run(9990);
    expect_said("network: 10.0.0.2\n");
    run(100);
    expect_said("offline: silence from 10.0.0.2\n");
    broker.manners = POLITE;
    run(500);
    expect_said("online\n");
}

static void test_a_slow_broker(void **state)
{
    (void)state;
    broker.manners = SILENT;
    start("10.0.0.2", NULL);
    for (unsigned i = 0; i < 4; i++) {
        run(6000);
        broker_read();
    }
    run(0);
    expect_said("network: 10.0.0.2\nonline\n");
}

static void test_brokers_that_break_off(void **state)
{
    static const char *const reasons[] = {[RUDE] = "network: 10.0.0.2\noffline: protocol error\n",
                                          [CLOSES] = "network: 10.0.0.2\noffline: closed by the broker\n",
                                          [ABORTS] = "network: 10.0.0.2\noffline: reset by 10.0.0.2\n"};
    (void)state;
    for (manners_t manners = RUDE; manners <= ABORTS; manners++) {
        if (reasons[manners] == NULL) {
            continue;
        }
        broker.manners = manners;
        start("10.0.0.2", NULL);
        run(100);
        expect_said(reasons[manners]);
        run(60000); /* no memory is lost: there are three places for connections */
        broker.manners = POLITE;
        said[0] = '\0';
        run(45000);
        expect_said("online\n");
        assert_int_equal(teardown(state), 0);
        said[0] = '\0';
    }
}

static void test_a_broker_that_falls_silent(void **state)
{
    (void)state;
    online();
    deaf = true;
    run(80000);
    expect_said("offline: the broker is silent\n");
    deaf = false;
    run(20000);
    assert_non_null(strstr(said, "online\n"));
}

static void test_the_cable(void **state)
{
    (void)state;
    online();
    for (unsigned i = 0; i < 10; i++) {
        set_network(false);
        run(100000);
        expect_said("offline: no network\n");
        set_network(true);
        run(100);
        expect_said("network: 10.0.0.2\nonline\n");
    }
}

static void test_a_network_that_comes_back_is_tried_at_once(void **state)
{
    (void)state;
    tcp_close(broker.listener);
    start("10.0.0.2", NULL);
    run(60000);
    said[0] = '\0';
    set_network(false);
    run(1);
    broker_listen();
    set_network(true);
    run(100);
    expect_said("network: 10.0.0.2\nonline\n");
}

static void test_another_address(void **state)
{
    (void)state;
    online();
    const ip4_addr_t before = *netif_ip4_addr(&netif);
    ip4_addr_t address;
    IP4_ADDR(&address, 10, 0, 0, 3);
    netif_set_ipaddr(&netif, &address); /* lwIP ends what the old one had, at both ends */
    run(100);
    expect_said("offline: lost 10.0.0.2\n");
    netif_set_ipaddr(&netif, &before);
    run(45000);
    assert_non_null(strstr(said, "online\n"));
}

static void test_bytes_are_whole(void **state)
{
    static const uint8_t nonsense[4000];
    (void)state;
    online();
    gateway_online();
    for (unsigned i = 0; i < 6; i++) {
        broker.segment = i == 1; /* a byte at a time */
        loses_every = i < 2 ? 0 : 5 + i;
        broker_publish(TOPIC_DOWN "n-1/verdict", nonsense, sizeof nonsense);
        send_event();
        run(60000);
        expect_event();
        assert_int_equal(node.counts.refused, i + 1);
    }
    assert_int_equal(broker.connects, 1);
}

static void test_an_event_is_sent_at_once(void **state)
{
    (void)state;
    online();
    gateway_online();
    run(0);
    send_event();
    run(0);
    expect_event();
}

static void test_an_event_outlives_the_link(void **state)
{
    (void)state;
    online();
    gateway_online();
    run(0);
    deaf = true;
    send_event();
    run(100); /* some of it is on its way */
    tcp_abort(broker.pcb);
    deaf = false;
    run(60000);
    gateway_online();
    run(1000);
    assert_int_equal(broker.connects, 2);
    expect_event();
}

static void test_memory_is_short(void **state)
{
    (void)state;
    online();
    gateway_online();
    run(0);
    void *taken[64];
    unsigned count = 0;
    while ((taken[count] = mem_malloc(512)) != NULL) {
        count++;
    }
    send_event();
    run(1000);
    assert_int_equal(node.queue.waiting, 1);
    while (count != 0) {
        mem_free(taken[--count]);
    }
    run(1000);
    expect_event();
    expect_said("");
}

static void test_tls(void **state)
{
    static tls_t tls;
    (void)state;
    broker.secure = true;
    start("10.0.0.2", &tls);
    run(100);
    expect_said("network: 10.0.0.2\nonline\n");
    gateway_online();
    send_event();
    run(1000);
    expect_event();
    tcp_abort(broker.pcb);
    run(1000);
    expect_said("offline: reset by 10.0.0.2\nonline\n");
}

static void test_tls_that_fails(void **state)
{
    static tls_t tls;
    (void)state;
    broker.manners = RUDE; /* and speaks in clear */
    start("10.0.0.2", &tls);
    run(50);
    expect_said("network: 10.0.0.2\noffline: TLS: -0x7780\n");
    assert_int_equal(broker.in_size, 2); /* hello and alert */
    broker.manners = SILENT;
    run(10500);
    expect_said("offline: silence from 10.0.0.2\n");
}

static void test_a_broker_that_speaks_first(void **state)
{
    static tls_t tls;
    (void)state;
    broker.secure = true;
    broker.manners = EAGER;
    start("10.0.0.2", &tls);
    run(50);
    expect_said("network: 10.0.0.2\noffline: protocol error\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_an_address, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_local_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_name_that_nobody_knows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_silent_dns_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_late_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_answer_that_nobody_waits_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_dns_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backoff, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_broker_that_accepts_and_says_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_slow_broker, setup, teardown),
        cmocka_unit_test_setup_teardown(test_brokers_that_break_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_broker_that_falls_silent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_cable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_network_that_comes_back_is_tried_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_address, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bytes_are_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_event_is_sent_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_event_outlives_the_link, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory_is_short, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tls_that_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_broker_that_speaks_first, setup, teardown),
    };
    return cmocka_run_group_tests(tests, setup_stack, NULL);
}
