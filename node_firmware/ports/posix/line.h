/* The line to a radio chip (docs/radio.md): here a unix stream socket, at which the chip listens. */
#ifndef LINE_H
#define LINE_H

#include "posix.h"
#include "radio.h"

typedef struct line {
    radio_t radio;
    const char *path;
    int fd;    /* -1: none; it is tried again and again */
    bool full; /* the socket takes no more now */
    uint64_t retry_us;
} line_t;

void line_init(line_t *line, const char *path, node_t *node);
/* Connects where there is no connection; sends what there is to say. Call it whenever time has passed. Whether it said
 * anything: then node_step() is due. */
bool line_step(line_t *line);
/* The socket is readable. */
void line_receive(line_t *line);

#endif
