/* See microphone.h. */
#include "microphone.h"

#include "driver/i2s_std.h"
#include "sdkconfig.h"

#define RATE_HZ    16000
#define BLOCKS     10 /* in DMA's ring: 200 ms, the time in which a sector is erased */
#define GAIN_SHIFT 14 /* of 16: speech is 12 dB louder than the microphone has it, and what is too loud is cut */

static i2s_chan_handle_t channel;

void microphone_start(void)
{
    i2s_chan_config_t where = I2S_CHANNEL_DEFAULT_CONFIG(I2S_NUM_0, I2S_ROLE_MASTER);
    where.dma_desc_num = BLOCKS;
    where.dma_frame_num = MICROPHONE_BLOCK;
    i2s_std_config_t how = {.clk_cfg = I2S_STD_CLK_DEFAULT_CONFIG(RATE_HZ),
                            .slot_cfg =
                                I2S_STD_PHILIPS_SLOT_DEFAULT_CONFIG(I2S_DATA_BIT_WIDTH_32BIT, I2S_SLOT_MODE_MONO),
                            .gpio_cfg = {.mclk = I2S_GPIO_UNUSED,
                                         .bclk = CONFIG_NODE_I2S_CLOCK_GPIO,
                                         .ws = CONFIG_NODE_I2S_WORD_GPIO,
                                         .dout = I2S_GPIO_UNUSED,
                                         .din = CONFIG_NODE_I2S_DATA_GPIO}};
    how.slot_cfg.slot_mask = I2S_STD_SLOT_LEFT;
    ESP_ERROR_CHECK(i2s_new_channel(&where, NULL, &channel));
    ESP_ERROR_CHECK(i2s_channel_init_std_mode(channel, &how));
    ESP_ERROR_CHECK(i2s_channel_enable(channel));
}

size_t microphone_read(int16_t samples[MICROPHONE_BLOCK], uint32_t wait_ms)
{
    static int32_t raw[MICROPHONE_BLOCK];
    size_t bytes = 0;
    (void)i2s_channel_read(channel, raw, sizeof raw, &bytes,
                           wait_ms); /* late is no error: `bytes` says what there is */
    const size_t count = bytes / sizeof *raw;
    for (size_t i = 0; i < count; i++) {
        const int32_t value = raw[i] >> GAIN_SHIFT;
        samples[i] = (int16_t)(value > INT16_MAX ? INT16_MAX : value < INT16_MIN ? INT16_MIN : value);
    }
    return count;
}
