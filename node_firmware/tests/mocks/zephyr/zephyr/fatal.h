/* Mock: of Zephyr 3.7, what ports/zephyr uses of fatal errors. */
#ifndef MOCK_ZEPHYR_FATAL_H
#define MOCK_ZEPHYR_FATAL_H

/* As on Cortex-M, of the frame that an exception leaves. */
struct arch_esf {
    struct {
        unsigned int a1, a2, a3, a4, ip, lr, pc, xpsr;
    } basic;
};

void k_sys_fatal_error_handler(unsigned int reason, const struct arch_esf *esf);

#endif
