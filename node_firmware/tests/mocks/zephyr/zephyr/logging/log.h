/* Mock: of Zephyr 3.7, what ports/zephyr uses of logging. */
#ifndef MOCK_ZEPHYR_LOGGING_LOG_H
#define MOCK_ZEPHYR_LOGGING_LOG_H

__attribute__((format(printf, 1, 2))) void mock_log(const char *fmt, ...);

#define LOG_LEVEL_INF                    3
#define LOG_MODULE_REGISTER(name, level) extern const int mock_log_level_##name
#define LOG_INF(...)                     mock_log(__VA_ARGS__)
#define LOG_ERR(...)                     mock_log(__VA_ARGS__)

#endif
