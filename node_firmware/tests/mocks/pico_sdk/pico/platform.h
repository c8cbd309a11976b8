/* Mock: of Pico SDK 2.1, what ports/pico_sdk uses of the platform. */
#ifndef MOCK_PICO_SDK_PICO_PLATFORM_H
#define MOCK_PICO_SDK_PICO_PLATFORM_H

#define __uninitialized_ram(group) __attribute__((section(".uninitialized_data." #group))) group

#endif
