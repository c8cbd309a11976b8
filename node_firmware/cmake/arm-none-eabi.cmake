# Toolchain: a bare Cortex-M, Debian's gcc-arm-none-eabi and newlib; NODE_CPU are the compiler's flags for the core.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(NODE_CPU "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16" CACHE STRING "the processor, as the compiler's flags")
set(CMAKE_C_FLAGS_INIT "${NODE_CPU} -ffunction-sections -fdata-sections")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # nothing links without a linker script
