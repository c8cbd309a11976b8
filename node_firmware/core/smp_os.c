/* SMP group 0: the node as a machine. */
#include <string.h>

#include "smp_parts.h"

#define RESET_AFTER_MS 500 /* the answer goes first */

enum { OS_INVALID_FORMAT = SMP_REFUSAL(2, SMP_EINVAL), OS_NO_TIME = SMP_REFUSAL(4, SMP_ENOENT) };

int smp_os_echo(smp_call_t *call)
{
    const span_t text = smp_text(call, "d");
    if (call->malformed || text.data == NULL) {
        return SMP_EINVAL;
    }
    cbor_put_map(&call->answer, 1);
    cbor_put_text(&call->answer, "r");
    cbor_put_span(&call->answer, text);
    return 0;
}

/* ---- date and time: nothing on the node needs them, but an operator may set and read its clock ---- */

static const char pattern[] = "0000-00-00T00:00:00"; /* a digit for a 0 */

enum { YEAR, MONTH, DAY, HOUR, MINUTE, SECOND, FIELDS };

static uint32_t days_in_month(uint32_t year, uint32_t month)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && leap ? 1U : 0U);
}

/* Unix time is 32 bits here: up to 2105. */
static bool to_unix(const uint32_t f[FIELDS], uint32_t *unix_s)
{
    if (f[YEAR] < 1970 || f[YEAR] > 2105 || f[MONTH] < 1 || f[MONTH] > 12 || f[DAY] < 1 ||
        f[DAY] > days_in_month(f[YEAR], f[MONTH]) || f[HOUR] > 23 || f[MINUTE] > 59 || f[SECOND] > 59) {
        return false;
    }
    uint32_t days = f[DAY] - 1;
    for (uint32_t year = 1970; year <= f[YEAR]; year++) {
        for (uint32_t month = 1; month <= 12 && (year < f[YEAR] || month < f[MONTH]); month++) {
            days += days_in_month(year, month);
        }
    }
    *unix_s = ((days * 24 + f[HOUR]) * 60 + f[MINUTE]) * 60 + f[SECOND];
    return true;
}

static void from_unix(uint32_t unix_s, uint32_t f[FIELDS])
{
    f[SECOND] = unix_s % 60;
    f[MINUTE] = unix_s / 60 % 60;
    f[HOUR] = unix_s / 3600 % 24;
    f[YEAR] = 1970;
    f[MONTH] = 1;
    uint32_t days = unix_s / 86400;
    for (uint32_t month; days >= (month = days_in_month(f[YEAR], f[MONTH]));) {
        days -= month;
        f[YEAR] += f[MONTH] / 12;
        f[MONTH] = f[MONTH] % 12 + 1;
    }
    f[DAY] = days + 1;
}

static bool parse_time(span_t text, uint32_t *unix_s)
{
    uint32_t f[FIELDS] = {0};
    unsigned field = 0;
    if (text.size < sizeof pattern - 1) {
        return false;
    }
    for (uint32_t i = 0; i < sizeof pattern - 1; i++) {
        const uint8_t c = text.data[i];
        if (pattern[i] != '0') {
            field++;
        }
        if (pattern[i] != '0' ? c != (uint8_t)pattern[i] : c < '0' || c > '9') {
            return false;
        }
        if (pattern[i] == '0') {
            f[field] = f[field] * 10 + c - '0';
        }
    }
    for (uint32_t i = sizeof pattern - 1; i < text.size; i++) { /* a fraction is left out, another zone is refused */
        if (memchr(".0123456789Z", text.data[i], 12) == NULL) {
            return false;
        }
    }
    return to_unix(f, unix_s);
}

int smp_os_datetime_write(smp_call_t *call)
{
    node_t *const n = call->node;
    const span_t text = smp_text(call, "datetime");
    uint32_t unix_s;
    if (call->malformed || text.data == NULL || !parse_time(text, &unix_s)) {
        return SMP_EINVAL;
    }
    n->unix_ms = (int64_t)unix_s * 1000 - (int64_t)n->clock_ms;
    n->unix_known = true;
    cbor_put_map(&call->answer, 0);
    return 0;
}

int smp_os_datetime_read(smp_call_t *call)
{
    const node_t *const n = call->node;
    if (!n->unix_known) {
        return OS_NO_TIME;
    }
    uint32_t f[FIELDS];
    char text[sizeof pattern];
    from_unix((uint32_t)((n->unix_ms + (int64_t)n->clock_ms) / 1000), f);
    memcpy(text, pattern, sizeof pattern);
    unsigned field = FIELDS - 1;
    for (unsigned i = sizeof pattern - 1; i-- != 0;) {
        if (pattern[i] != '0') {
            field--;
            continue;
        }
        text[i] = (char)('0' + f[field] % 10);
        f[field] /= 10;
    }
    cbor_put_map(&call->answer, 1);
    cbor_put_text(&call->answer, "datetime");
    cbor_put_text(&call->answer, text);
    return 0;
}

int smp_os_reset(smp_call_t *call)
{
    node_t *const n = call->node;
    if (n->port->reset == NULL) {
        return SMP_ENOTSUP;
    }
    n->reset_due_ms = n->clock_ms + RESET_AFTER_MS;
    cbor_put_map(&call->answer, 0);
    return 0;
}

int smp_os_parameters(smp_call_t *call)
{
    cbor_put_map(&call->answer, 2);
    cbor_put_text(&call->answer, "buf_size");
    cbor_put_uint(&call->answer, NODE_RECEIVE_BYTES);
    cbor_put_text(&call->answer, "buf_count");
    cbor_put_uint(&call->answer, call->buffers);
    return 0;
}

/* As `uname`: `format` chooses by letter, "a" is all, absent is "s"; always in this order. */
int smp_os_info(smp_call_t *call)
{
    const node_config_t *const config = call->node->config;
    const struct {
        char letter;
        const char *text;
    } fields[] = {{'s', "nodelink"},       {'n', config->id},       {'r', config->firmware}, {'v', config->firmware},
                  {'m', config->hardware}, {'p', config->hardware}, {'i', config->board},    {'o', "nodelink"}};
    const unsigned count = sizeof fields / sizeof *fields;
    span_t format = smp_text(call, "format");
    if (call->malformed) {
        return SMP_EINVAL;
    }
    if (format.data == NULL) {
        format = (span_t){(const uint8_t *)"s", 1};
    }
    for (uint32_t i = 0; i < format.size; i++) {
        if (memchr("snrvmpioa", format.data[i], 9) == NULL) {
            return OS_INVALID_FORMAT;
        }
    }
    char text[256];
    size_t size = 0;
    const bool all = format.size != 0 && memchr(format.data, 'a', format.size) != NULL;
    for (unsigned i = 0; i < count; i++) {
        const size_t length = strlen(fields[i].text);
        const bool chosen = all || (format.size != 0 && memchr(format.data, fields[i].letter, format.size) != NULL);
        if (!chosen || size + length + 1 > sizeof text) {
            continue;
        }
        memcpy(text + size, fields[i].text, length);
        size += length;
        text[size++] = ' ';
    }
    cbor_put_map(&call->answer, 1);
    cbor_put_text(&call->answer, "output");
    cbor_put_span(&call->answer, (span_t){(const uint8_t *)text, (uint32_t)(size != 0 ? size - 1 : 0)});
    return 0;
}
