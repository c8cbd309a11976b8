/* Mock: of Zephyr 3.7, what ports/zephyr uses of devices and devicetree. */
#ifndef MOCK_ZEPHYR_DEVICE_H
#define MOCK_ZEPHYR_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct device {
    const char *name;
};

extern const struct device mock_device;
bool device_is_ready(const struct device *dev);

/* The devicetree: a node is a number here. */
#define DT_NODELABEL(label)         1
#define DT_ALIAS(alias)             2
#define DEVICE_DT_GET(node)         ((node) > 0 ? &mock_device : NULL)
#define DEVICE_DT_GET_OR_NULL(node) DEVICE_DT_GET(node)

#endif
