/* See input.h. */
#define _GNU_SOURCE
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint32_t get_u16(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8;
}

static uint32_t get_u32(const uint8_t *at)
{
    return get_u16(at) | get_u16(at + 2) << 16;
}

/* Reads the chunks of a WAV file up to its samples. */
static void open_wav(input_t *input, const char *path)
{
    uint8_t chunk[8], format[16] = {0};
    if (lseek(input->fd, 12, SEEK_SET) != 12) {
        die("%s: %s", path, strerror(errno));
    }
    while (read(input->fd, chunk, sizeof chunk) == sizeof chunk) {
        const uint32_t size = get_u32(chunk + 4);
        off_t skip = size + (size & 1);
        if (memcmp(chunk, "data", 4) == 0) {
            input->bytes = input->bytes_left = size;
            input->start = lseek(input->fd, 0, SEEK_CUR);
            input->channels = get_u16(format + 2);
            input->rate_hz = get_u32(format + 4);
            if (get_u16(format + 14) != 16 || input->channels < 1 || 2 * input->channels > sizeof input->partial) {
                die("%s: not 16-bit PCM", path);
            }
            return;
        }
        if (memcmp(chunk, "fmt ", 4) == 0 && size >= sizeof format) {
            if (read(input->fd, format, sizeof format) != sizeof format) {
                break;
            }
            skip -= (off_t)sizeof format;
        }
        if (lseek(input->fd, skip, SEEK_CUR) < 0) {
            break;
        }
    }
    die("%s: a WAV file without samples", path);
}

void input_open(input_t *input, const char *spec)
{
    static const char audio[] = "audio:", vibration[] = "vibration:";
    *input = (input_t){.channels = 1, .bytes_left = UINT64_MAX};
    const char *path;
    if (strncmp(spec, audio, sizeof audio - 1) == 0) {
        input->sensor = FRONT_END_AUDIO;
        path = spec + sizeof audio - 1;
    } else if (strncmp(spec, vibration, sizeof vibration - 1) == 0) {
        input->sensor = FRONT_END_VIBRATION;
        path = spec + sizeof vibration - 1;
    } else {
        die("%s is not audio:PATH or vibration:PATH", spec);
    }
    struct stat status;
    const bool is_stdin = strcmp(path, "-") == 0;
    if ((is_stdin ? fstat(STDIN_FILENO, &status) : stat(path, &status)) != 0) {
        die("%s: %s", path, strerror(errno));
    }
    /* A FIFO opened for writing as well does not end when its writer goes. */
    const int mode = S_ISFIFO(status.st_mode) ? O_RDWR : O_RDONLY;
    input->fd = is_stdin ? STDIN_FILENO : open(path, mode | O_NONBLOCK | O_CLOEXEC);
    if (input->fd < 0) {
        die("%s: %s", path, strerror(errno));
    }
    if (is_stdin) {
        fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
    }
    input->paced = S_ISREG(status.st_mode);
    uint8_t magic[4];
    if (input->paced && pread(input->fd, magic, sizeof magic, 0) == sizeof magic && memcmp(magic, "RIFF", 4) == 0) {
        open_wav(input, path);
    }
}

static void rewind_wav(input_t *input)
{
    if (input->loops && input->bytes_left == 0 && lseek(input->fd, input->start, SEEK_SET) == input->start) {
        input->bytes_left = input->bytes;
        input->partial_bytes = 0;
    }
}

size_t input_read(input_t *input, int16_t *samples, size_t count)
{
    rewind_wav(input);
    uint8_t bytes[INPUT_MAX_SAMPLES * sizeof(int16_t)];
    const size_t frame = input->channels * sizeof(int16_t);
    size_t wanted = count < INPUT_MAX_SAMPLES ? count * frame : sizeof bytes;
    wanted = (wanted < sizeof bytes ? wanted : sizeof bytes) / frame * frame - input->partial_bytes;
    wanted = wanted < input->bytes_left ? wanted : (size_t)input->bytes_left;
    memcpy(bytes, input->partial, input->partial_bytes);
    const ssize_t got = wanted != 0 ? read(input->fd, bytes + input->partial_bytes, wanted) : 0;
    if (got <= 0) {
        input->ended = got == 0 || (errno != EAGAIN && errno != EINTR);
        return 0;
    }
    input->bytes_left -= (uint64_t)got;
    const size_t there = input->partial_bytes + (size_t)got, frames = there / frame;
    for (size_t i = 0; i < frames; i++) {
        samples[i] = (int16_t)get_u16(bytes + i * frame);
    }
    input->partial_bytes = (unsigned)(there - frames * frame);
    memcpy(input->partial, bytes + frames * frame, input->partial_bytes);
    input->fed += frames;
    return frames;
}
