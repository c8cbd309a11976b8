/* ports/template where only its console works (-Wl,--wrap). */
#include <stdio.h>

void __wrap_board_start(void);
void __wrap_board_log(const char *line);

void __wrap_board_start(void)
{
}

void __wrap_board_log(const char *line)
{
    fprintf(stderr, "%s\n", line);
}
