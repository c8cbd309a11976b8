/* See random.h. These boards have no generator, and under QEMU there is nothing to gather noise from: it is the host's.
 */
#include "random.h"

#include "console.h"
#include "crash.h"
#include "semihosting.h"

#define WORDS 64 /* at a time: a call of the host is slow */

uint32_t random_u32(void)
{
    static uint32_t words[WORDS];
    static unsigned left;
    static int file = -1;
    if (left == 0) {
        if (file < 0) {
            file = semihosting_open("/dev/urandom");
        }
        if (file < 0 || semihosting_read(file, words, sizeof words) != sizeof words) {
            console_say("no entropy", NULL);
            crash_reset(RESET_UNKNOWN); /* keys that can be guessed are worse than none */
        }
        left = WORDS;
    }
    const uint32_t word = words[--left];
    words[left] = 0;
    return word;
}
