/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of the address map. */
#ifndef MOCK_PICO_SDK_HARDWARE_REGS_ADDRESSMAP_H
#define MOCK_PICO_SDK_HARDWARE_REGS_ADDRESSMAP_H

#define XIP_BASE 0x10000000u

#endif
