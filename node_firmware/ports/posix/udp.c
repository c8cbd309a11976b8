/* See udp.h. */
#define _GNU_SOURCE
#include "udp.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "posix.h"

int udp_open(const char *address)
{
    char local[64];
    snprintf(local, sizeof local, "127.0.0.1:%s", address);
    const struct sockaddr_in at = resolve(strchr(address, ':') != NULL ? address : local);
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&at, sizeof at) != 0) {
        die("SMP on %s: %s", address, strerror(errno));
    }
    return fd;
}

void udp_serve(int fd, node_t *node, uint32_t now_ms)
{
    static uint8_t request[NODE_RECEIVE_BYTES + 1], answer[NODE_RECEIVE_BYTES];
    struct sockaddr_in from;
    socklen_t from_size = sizeof from;
    const ssize_t got = recvfrom(fd, request, sizeof request, 0, (struct sockaddr *)&from, &from_size);
    if (got <= 0) {
        return;
    }
    const size_t size = node_manage(node, request, (size_t)got, answer, sizeof answer, now_ms);
    if (size != 0) {
        (void)!sendto(fd, answer, size, 0, (const struct sockaddr *)&from, from_size); /* lost: it is asked for again */
    }
}
