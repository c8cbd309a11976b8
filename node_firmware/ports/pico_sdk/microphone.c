/* See microphone.h. The ADC runs by itself and DMA fills two halves of memory, each of two channels starting the other
 * and beginning anew at its own half: no interrupt is needed, so sound goes on where flash is busy and interrupts are
 * off. Who does not read for a quarter of a second loses it. */
#include "microphone.h"

#include <hardware/adc.h>
#include <hardware/dma.h>

#define ADC_HZ    48000000
#define RATE_HZ   16000
#define HALF_BITS 13 /* bytes of a half: 4096 samples, 256 ms */
#define HALF      (1U << (HALF_BITS - 1))
#define MIDDLE    2048 /* of 12 bits */
#define GAIN      16   /* 12 bits to 16 */

static uint16_t ring[2 * HALF] __attribute__((aligned(1 << HALF_BITS)));
static unsigned channels[2];
static uint32_t next; /* sample of the ring */

static void configure(unsigned half, unsigned other)
{
    dma_channel_config config = dma_channel_get_default_config(channels[half]);
    channel_config_set_transfer_data_size(&config, DMA_SIZE_16);
    channel_config_set_read_increment(&config, false);
    channel_config_set_write_increment(&config, true);
    channel_config_set_ring(&config, true, HALF_BITS);
    channel_config_set_dreq(&config, DREQ_ADC);
    channel_config_set_chain_to(&config, channels[other]);
    dma_channel_configure(channels[half], &config, ring + half * HALF, &adc_hw->fifo, HALF, false);
}

void microphone_start(void)
{
    adc_init();
    adc_gpio_init(26);
    adc_select_input(0);
    adc_fifo_setup(true, true, 1, false, false);
    adc_set_clkdiv(ADC_HZ / RATE_HZ - 1);
    channels[0] = (unsigned)dma_claim_unused_channel(true);
    channels[1] = (unsigned)dma_claim_unused_channel(true);
    configure(0, 1);
    configure(1, 0);
    dma_channel_start(channels[0]);
    adc_run(true);
}

/* Where the next sample will be written. A channel that is idle has come back to where its half begins. */
static uint32_t written(void)
{
    const unsigned half = dma_channel_is_busy(channels[0]) ? 0 : 1;
    return (uint32_t)(dma_channel_hw_addr(channels[half])->write_addr - (uintptr_t)ring) / sizeof *ring;
}

bool microphone_read(int16_t samples[MICROPHONE_BLOCK])
{
    if ((written() - next) % (2 * HALF) < MICROPHONE_BLOCK) {
        return false;
    }
    for (uint32_t i = 0; i < MICROPHONE_BLOCK; i++) {
        samples[i] = (int16_t)((ring[next] - MIDDLE) * GAIN);
        next = (next + 1) % (2 * HALF);
    }
    return true;
}
