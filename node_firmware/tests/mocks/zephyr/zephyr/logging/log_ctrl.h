/* Mock: of Zephyr 3.7, what ports/zephyr uses of logging's control. */
#ifndef MOCK_ZEPHYR_LOGGING_LOG_CTRL_H
#define MOCK_ZEPHYR_LOGGING_LOG_CTRL_H

void log_panic(void);
#define LOG_PANIC() log_panic()

#endif
