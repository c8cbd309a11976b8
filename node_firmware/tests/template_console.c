/* The console of ports/template where nothing else of a board is finished (-Wl,--wrap=board_log). */
#include <stdio.h>

void __wrap_board_log(const char *line);

void __wrap_board_log(const char *line)
{
    fprintf(stderr, "%s\n", line);
}
