/* See line.h. */
#define _GNU_SOURCE
#include "line.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RETRY_US 250000

static uint32_t now_ms(void)
{
    return (uint32_t)(clock_us() / 1000);
}

void line_init(line_t *line, const char *path, node_t *node)
{
    *line = (line_t){.path = path, .fd = -1};
    radio_init(&line->radio, node);
    if (strlen(path) >= sizeof((struct sockaddr_un *)NULL)->sun_path) {
        die("%s: too long for a socket", path);
    }
}

static void open_line(line_t *line)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, line->path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0) {
        line->fd = fd;
        line->full = false;
        radio_start(&line->radio, now_ms());
        return;
    }
    if (fd >= 0) {
        close(fd);
    }
    line->retry_us = clock_us() + RETRY_US;
}

static void close_line(line_t *line)
{
    close(line->fd);
    line->fd = -1;
    line->retry_us = clock_us() + RETRY_US;
    radio_start(&line->radio, now_ms());
}

bool line_step(line_t *line)
{
    bool said = false;
    if (line->fd < 0 && clock_us() >= line->retry_us) {
        open_line(line);
    }
    line->full = false;
    const uint8_t *data;
    for (size_t size; line->fd >= 0 && (size = radio_transmit(&line->radio, &data, now_ms())) != 0;) {
        const ssize_t sent = send(line->fd, data, size, MSG_NOSIGNAL);
        if (sent >= 0) {
            radio_transmitted(&line->radio, (size_t)sent);
            said = true;
        } else if (errno == EAGAIN) {
            line->full = true;
            break;
        } else {
            close_line(line);
        }
    }
    return said;
}

void line_receive(line_t *line)
{
    uint8_t bytes[4096];
    const ssize_t got = recv(line->fd, bytes, sizeof bytes, 0);
    if (got > 0) {
        radio_receive(&line->radio, bytes, (size_t)got, now_ms());
    } else if (got == 0 || errno != EAGAIN) {
        close_line(line);
    }
}
