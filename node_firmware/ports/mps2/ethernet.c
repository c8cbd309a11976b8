/* See ethernet.h. Registers: SMSC LAN9118 data sheet, chapter 5. Its interrupt stays off from when it came until the
 * next poll. */
#include "ethernet.h"

#include <string.h>

#include "board.h"
#include "lwip/etharp.h"
#include "lwip/snmp.h"

#define REG(offset) REGISTER(LAN9118 + (offset))
#define RX_DATA     REG(0x00)
#define TX_DATA     REG(0x20)
#define RX_STATUS   REG(0x40)
#define ID_REV      REG(0x50)
#define IRQ_CFG     REG(0x54)
#define INT_STS     REG(0x58)
#define INT_EN      REG(0x5C)
#define RX_CFG      REG(0x6C)
#define TX_CFG      REG(0x70)
#define HW_CFG      REG(0x74)
#define RX_FIFO_INF REG(0x7C)
#define TX_FIFO_INF REG(0x80)
#define MAC_CMD     REG(0xA4)
#define MAC_DATA    REG(0xA8)

#define CHIP              0x0118U
#define INT_PHY           (1U << 18)
#define INT_RX            (1U << 3) /* a frame is in the FIFO */
#define IRQ_ENABLE        (1U << 8)
#define IRQ_ACTIVE_HIGH   (1U << 4)
#define IRQ_PUSH_PULL     (1U << 0)
#define SOFT_RESET        (1U << 0)
#define STORE_AND_FORWARD (1U << 20)
#define TX_FIFO_5_KB      (5U << 16) /* the rest of 16 KB is for receiving */
#define TX_ON             (1U << 1)
#define TX_STATUS_UNREAD  (1U << 2) /* nobody needs it */
#define TX_FIRST          (1U << 13)
#define TX_LAST           (1U << 12)
#define RX_DAMAGED        (1U << 15)

/* Of the MAC, which is behind MAC_CMD. */
enum { MAC_CONTROL = 1, MAC_ADDRESS_HIGH = 2, MAC_ADDRESS_LOW = 3, MAC_MII = 6, MAC_MII_DATA = 7 };
#define MAC_BUSY        (1U << 31)
#define MAC_READ        (1U << 30)
#define MAC_FULL_DUPLEX (1U << 20)
#define MAC_TX_ON       (1U << 3)
#define MAC_RX_ON       (1U << 2)

/* Of the PHY, which is behind MAC_MII. */
enum { PHY_STATUS = 1, PHY_INTERRUPTS = 29, PHY_INTERRUPT_MASK = 30 };
#define MII_PHY        (1U << 11)
#define MII_WRITE      (1U << 1)
#define MII_BUSY       (1U << 0)
#define PHY_LINKED     (1U << 2)
#define PHY_NEGOTIATED (1U << 6) /* the link came */
#define PHY_DOWN       (1U << 4)

#define FRAMES_AT_ONCE 16 /* others want their turn */
#define FCS_BYTES      4

static uint32_t mac_read(unsigned index)
{
    MAC_CMD = MAC_BUSY | MAC_READ | index;
    while ((MAC_CMD & MAC_BUSY) != 0) {
    }
    return MAC_DATA;
}

static void mac_write(unsigned index, uint32_t value)
{
    MAC_DATA = value;
    MAC_CMD = MAC_BUSY | index;
    while ((MAC_CMD & MAC_BUSY) != 0) {
    }
}

static void mii_command(unsigned index, uint32_t flags)
{
    mac_write(MAC_MII, MII_PHY | index << 6 | flags | MII_BUSY);
    while ((mac_read(MAC_MII) & MII_BUSY) != 0) {
    }
}

static uint32_t phy_read(unsigned index)
{
    mii_command(index, 0);
    return mac_read(MAC_MII_DATA);
}

static void phy_write(unsigned index, uint32_t value)
{
    mac_write(MAC_MII_DATA, value);
    mii_command(index, MII_WRITE);
}

/* ---- out ---- */

static void send_piece(const uint8_t *data, size_t size)
{
    uint32_t word = 0;
    for (; size >= sizeof word; data += sizeof word, size -= sizeof word) {
        memcpy(&word, data, sizeof word);
        TX_DATA = word;
    }
    if (size != 0) {
        memcpy(&word, data, size);
        TX_DATA = word;
    }
}

/* Every pbuf is a buffer of its own for the chip, which puts them together. */
static err_t send(struct netif *netif, struct pbuf *frame)
{
    const uint32_t overhead = 3 * sizeof(uint32_t) * pbuf_clen(frame); /* two commands, and what fills the last word */
    (void)netif;
    if ((TX_FIFO_INF & 0xffff) < frame->tot_len + overhead) {
        return ERR_MEM; /* TCP tries it again */
    }
    uint32_t first = TX_FIRST;
    for (const struct pbuf *piece = frame; piece != NULL; piece = piece->next) {
        TX_DATA = first | (piece->next == NULL ? TX_LAST : 0) | piece->len;
        TX_DATA = frame->tot_len;
        send_piece(piece->payload, piece->len);
        first = 0;
    }
    return ERR_OK;
}

/* ---- in ---- */

/* Takes a frame of `size` bytes out of the FIFO, into `frame` as far as there is one. */
static void read_frame(struct pbuf *frame, uint32_t size)
{
    uint32_t words = (size + 3) / 4;
    for (struct pbuf *piece = frame; piece != NULL; piece = piece->next) {
        uint8_t *const to = piece->payload;
        for (size_t at = 0; at < piece->len; at += 4, words--) { /* all but the last are whole words */
            const uint32_t word = RX_DATA;
            memcpy(to + at, &word, piece->len - at < 4 ? piece->len - at : 4);
        }
    }
    for (; words != 0; words--) {
        (void)RX_DATA;
    }
}

static void receive(struct netif *netif)
{
    const uint32_t status = RX_STATUS, size = status >> 16 & 0x3fff;
    const bool damaged = (status & RX_DAMAGED) != 0 || size <= FCS_BYTES;
    struct pbuf *const frame = damaged ? NULL : pbuf_alloc(PBUF_RAW, (u16_t)(size - FCS_BYTES), PBUF_POOL);
    read_frame(frame, size);
    if (frame != NULL && netif->input(frame, netif) != ERR_OK) {
        pbuf_free(frame);
    }
}

static bool frame_waits(void)
{
    return (RX_FIFO_INF >> 16 & 0xff) != 0;
}

static void look_at_cable(struct netif *netif)
{
    (void)phy_read(PHY_INTERRUPTS); /* clears them */
    INT_STS = INT_PHY;
    (void)phy_read(PHY_STATUS); /* says first whether the link has been down, then whether it is */
    if ((phy_read(PHY_STATUS) & PHY_LINKED) != 0) {
        netif_set_link_up(netif);
    } else {
        netif_set_link_down(netif);
    }
}

void ethernet_poll(struct netif *netif)
{
    if ((INT_STS & INT_PHY) != 0) {
        look_at_cable(netif);
    }
    for (unsigned i = 0; i < FRAMES_AT_ONCE && frame_waits(); i++) {
        receive(netif);
    }
    INT_STS = INT_RX; /* for a frame that comes now, there is ethernet_pending() */
    INT_EN = INT_RX | INT_PHY;
}

bool ethernet_pending(void)
{
    return frame_waits() || (INT_STS & INT_PHY) != 0;
}

void ethernet_interrupt(void)
{
    INT_EN = 0;
}

/* ---- start ---- */

static void start_chip(uint8_t address[6])
{
    HW_CFG = SOFT_RESET;
    while ((HW_CFG & SOFT_RESET) != 0) {
    }
    HW_CFG = STORE_AND_FORWARD | TX_FIFO_5_KB;
    const uint32_t low = mac_read(MAC_ADDRESS_LOW), high = mac_read(MAC_ADDRESS_HIGH);
    memcpy(address, &low, 4);
    memcpy(address + 4, &high, 2);
    RX_CFG = 0;
    TX_CFG = TX_ON | TX_STATUS_UNREAD;
    mac_write(MAC_CONTROL, MAC_FULL_DUPLEX | MAC_TX_ON | MAC_RX_ON);
    phy_write(PHY_INTERRUPT_MASK, PHY_NEGOTIATED | PHY_DOWN);
    IRQ_CFG = IRQ_ENABLE | IRQ_ACTIVE_HIGH | IRQ_PUSH_PULL; /* active low until here: to the core, a storm */
    INT_STS = UINT32_MAX;
    interrupt_enable(IRQ_ETHERNET); /* it may come once for nothing */
}

err_t ethernet_init(struct netif *netif)
{
    if (ID_REV >> 16 != CHIP) {
        return ERR_IF;
    }
    start_chip(netif->hwaddr);
    netif->hwaddr_len = sizeof netif->hwaddr;
    netif->name[0] = 'e';
    netif->name[1] = 'n';
    netif->mtu = 1500;
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET;
    netif->output = etharp_output;
    netif->linkoutput = send;
    look_at_cable(netif);
    return ERR_OK;
}
