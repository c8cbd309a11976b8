/* Mock: of Zephyr 3.7, what ports/zephyr uses of reboot. */
#ifndef MOCK_ZEPHYR_SYS_REBOOT_H
#define MOCK_ZEPHYR_SYS_REBOOT_H

#define SYS_REBOOT_COLD 1

__attribute__((noreturn)) void sys_reboot(int type);

#endif
