/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of the ADC. */
#ifndef MOCK_PICO_SDK_HARDWARE_ADC_H
#define MOCK_PICO_SDK_HARDWARE_ADC_H

#include "pico/types.h"

typedef struct {
    io_rw_32 cs, result, fcs;
    io_ro_32 fifo;
} adc_hw_t;
#define adc_hw ((adc_hw_t *)0x4004c000u)

void adc_init(void);
void adc_gpio_init(uint gpio);
void adc_select_input(uint input);
void adc_run(bool run);
void adc_set_clkdiv(float clkdiv);
void adc_fifo_setup(bool en, bool dreq_en, uint16_t dreq_thresh, bool err_in_fifo, bool byte_shift);

#endif
