/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of DMA. */
#ifndef MOCK_PICO_SDK_HARDWARE_DMA_H
#define MOCK_PICO_SDK_HARDWARE_DMA_H

#include "pico/types.h"

enum dma_channel_transfer_size { DMA_SIZE_8 = 0, DMA_SIZE_16 = 1, DMA_SIZE_32 = 2 };
#define DREQ_ADC 36

typedef struct {
    uint32_t ctrl;
} dma_channel_config;

typedef struct {
    io_rw_32 read_addr, write_addr, transfer_count, ctrl_trig;
} dma_channel_hw_t;

int dma_claim_unused_channel(bool required);
dma_channel_config dma_channel_get_default_config(uint channel);
void channel_config_set_transfer_data_size(dma_channel_config *c, enum dma_channel_transfer_size size);
void channel_config_set_read_increment(dma_channel_config *c, bool incr);
void channel_config_set_write_increment(dma_channel_config *c, bool incr);
void channel_config_set_ring(dma_channel_config *c, bool write, uint size_bits);
void channel_config_set_dreq(dma_channel_config *c, uint dreq);
void channel_config_set_chain_to(dma_channel_config *c, uint chain_to);
void dma_channel_configure(uint channel, const dma_channel_config *config, volatile void *write_addr,
                           const volatile void *read_addr, uint32_t encoded_transfer_count, bool trigger);
void dma_channel_start(uint channel);
bool dma_channel_is_busy(uint channel);
dma_channel_hw_t *dma_channel_hw_addr(uint channel);

#endif
