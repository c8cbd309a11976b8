# Toolchain: a bare RV32, Debian's gcc-riscv64-unknown-elf (which makes 32-bit code too) and picolibc; NODE_CPU are the compiler's flags for the core.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR riscv32)
set(CMAKE_C_COMPILER riscv64-unknown-elf-gcc)
set(NODE_CPU "-march=rv32imac -mabi=ilp32" CACHE STRING "the processor, as the compiler's flags")
set(CMAKE_C_FLAGS_INIT "${NODE_CPU} --specs=picolibc.specs -ffunction-sections -fdata-sections")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # nothing links without a linker script
