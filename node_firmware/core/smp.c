/* See smp.h. An answer is never answered, so that two servers cannot keep each other busy. */
#include "smp_parts.h"

#include <string.h>

enum { READ = 0, WRITE = 2 };
enum { OS, IMAGE, STATISTICS, SETTINGS };

static const struct {
    uint16_t group;
    uint8_t command, op;
    int (*handler)(smp_call_t *call);
} commands[] = {
    {OS, 0, READ, smp_os_echo},
    {OS, 0, WRITE, smp_os_echo},
    {OS, 4, READ, smp_os_datetime_read},
    {OS, 4, WRITE, smp_os_datetime_write},
    {OS, 5, WRITE, smp_os_reset},
    {OS, 6, READ, smp_os_parameters},
    {OS, 7, READ, smp_os_info},
    {IMAGE, 0, READ, smp_image_read},
    {IMAGE, 0, WRITE, smp_image_write},
    {IMAGE, 1, WRITE, smp_image_upload},
    {IMAGE, 5, WRITE, smp_image_erase},
    {STATISTICS, 0, READ, smp_stat_show},
    {STATISTICS, 1, READ, smp_stat_list},
    {SETTINGS, 0, READ, smp_settings_read},
    {SETTINGS, 0, WRITE, smp_settings_write},
    {SETTINGS, 1, WRITE, smp_settings_delete},
    {SETTINGS, 3, READ, smp_settings_load},
    {SETTINGS, 3, WRITE, smp_settings_save},
};

/* ---- the request's fields ---- */

bool smp_equal(span_t text, const char *word)
{
    return text.size == strlen(word) && (text.size == 0 || memcmp(text.data, word, text.size) == 0);
}

/* Where the first value of that name is. */
static bool find(const smp_call_t *call, const char *key, cbor_reader_t *value)
{
    cbor_reader_t r = cbor_reader(call->map.data, call->map.size);
    for (uint32_t pairs = cbor_map(&r); pairs != 0; pairs--) {
        cbor_reader_t name = r;
        cbor_skip(&r);
        if (smp_equal(cbor_text(&name), key) && !name.failed) {
            *value = r;
            return true;
        }
        cbor_skip(&r);
    }
    return false;
}

uint32_t smp_uint(smp_call_t *call, const char *key, uint32_t absent)
{
    cbor_reader_t r;
    if (!find(call, key, &r)) {
        return absent;
    }
    const uint32_t value = (uint32_t)cbor_uint(&r, UINT32_MAX);
    call->malformed |= r.failed;
    return value;
}

bool smp_bool(smp_call_t *call, const char *key)
{
    cbor_reader_t r;
    if (!find(call, key, &r)) {
        return false;
    }
    const bool value = cbor_bool(&r);
    call->malformed |= r.failed;
    return value;
}

static span_t string(smp_call_t *call, const char *key, span_t (*take)(cbor_reader_t *r))
{
    cbor_reader_t r;
    if (!find(call, key, &r)) {
        return (span_t){NULL, 0};
    }
    const span_t value = take(&r);
    call->malformed |= r.failed;
    return value;
}

span_t smp_text(smp_call_t *call, const char *key)
{
    return string(call, key, cbor_text);
}

span_t smp_bytes(smp_call_t *call, const char *key)
{
    return string(call, key, cbor_bytes);
}

/* ---- frames ---- */

static unsigned get_u16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static bool is_map(span_t body)
{
    cbor_reader_t map = cbor_reader(body.data, body.size), all = map;
    cbor_map(&map);
    cbor_skip(&all);
    return !map.failed && cbor_ended(&all);
}

static int answer_call(smp_call_t *call, const uint8_t header[SMP_HEADER_BYTES])
{
    const unsigned group = get_u16(header + 4), op = header[0] & 7;
    for (unsigned i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (commands[i].group == group && commands[i].command == header[7] && commands[i].op == op) {
            const int refusal = commands[i].handler(call);
            return refusal == 0 && cbor_written(&call->answer) == 0 ? SMP_EMSGSIZE : refusal;
        }
    }
    return SMP_ENOTSUP;
}

static void put_refusal(cbor_writer_t *w, int refusal, unsigned version, unsigned group)
{
    cbor_put_map(w, 1);
    if (version != 0 && refusal >> 8 != 0) {
        cbor_put_text(w, "err");
        cbor_put_map(w, 2);
        cbor_put_text(w, "group");
        cbor_put_uint(w, group);
        refusal >>= 8;
    }
    cbor_put_text(w, "rc");
    cbor_put_int(w, refusal & 0xff);
}

static bool answerable(const uint8_t *request, size_t size, size_t capacity)
{
    return size >= SMP_HEADER_BYTES && capacity >= SMP_HEADER_BYTES && (request[0] & 7 & ~WRITE) == 0;
}

/* Writes the header in front of the map; the size of both. */
static size_t put_header(const uint8_t request[SMP_HEADER_BYTES], uint8_t *answer, size_t written)
{
    const unsigned version = request[0] >> 3 & 3;
    answer[0] = (uint8_t)((version != 0 ? 1 << 3 : 0) | (request[0] & 7) | 1);
    answer[1] = 0; /* flags */
    answer[2] = (uint8_t)(written >> 8);
    answer[3] = (uint8_t)written;
    memcpy(answer + 4, request + 4, 4); /* group, sequence, command */
    return written != 0 ? SMP_HEADER_BYTES + written : 0;
}

size_t smp_refuse(const uint8_t request[SMP_HEADER_BYTES], int rc, uint8_t *answer, size_t capacity)
{
    if (!answerable(request, SMP_HEADER_BYTES, capacity)) {
        return 0;
    }
    cbor_writer_t w = cbor_writer(answer + SMP_HEADER_BYTES, capacity - SMP_HEADER_BYTES);
    put_refusal(&w, rc, request[0] >> 3 & 3, get_u16(request + 4));
    return put_header(request, answer, cbor_written(&w));
}

size_t smp_answer(node_t *n, const uint8_t *request, size_t size, uint8_t *answer, size_t capacity, unsigned buffers)
{
    if (!answerable(request, size, capacity)) {
        return 0;
    }
    const unsigned version = request[0] >> 3 & 3, length = get_u16(request + 2);
    smp_call_t call = {
        .node = n, .buffers = buffers, .map = {request + SMP_HEADER_BYTES, (uint32_t)(size - SMP_HEADER_BYTES)}};
    call.answer = cbor_writer(answer + SMP_HEADER_BYTES, capacity - SMP_HEADER_BYTES);
    const int refusal = version > 1                                    ? SMP_ETOONEW
                        : length != call.map.size || !is_map(call.map) ? SMP_EINVAL
                                                                       : answer_call(&call, request);
    if (refusal != 0) {
        call.answer = cbor_writer(answer + SMP_HEADER_BYTES, capacity - SMP_HEADER_BYTES);
        put_refusal(&call.answer, refusal, version, get_u16(request + 4));
    }
    return put_header(request, answer, cbor_written(&call.answer));
}
