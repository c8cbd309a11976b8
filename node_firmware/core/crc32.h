/* CRC-32 (IEEE 802.3): notices torn writes; it protects from nobody. */
#ifndef NODE_CRC32_H
#define NODE_CRC32_H

#include <stddef.h>
#include <stdint.h>

uint32_t node_crc32(uint32_t crc, const void *data,
                    size_t size); /* start with 0; the result continues the next piece */

#endif
