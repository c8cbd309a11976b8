/* SMP group 2: counters since the boot. */
#include <string.h>

#include "smp_parts.h"

#define NO_SUCH_GROUP SMP_REFUSAL(2, SMP_ENOENT)

typedef struct counter {
    const char *name;
    size_t offset; /* of a uint32_t in node_t */
} counter_t;

#define COUNTER(name)                                                                                                  \
    {                                                                                                                  \
#name, offsetof(node_t, counts.name)                                                                           \
    }

static const counter_t of_node[] = {COUNTER(events),
                                    COUNTER(acknowledged),
                                    COUNTER(verdicts),
                                    COUNTER(late),
                                    COUNTER(refused),
                                    COUNTER(lost),
                                    {"waiting", offsetof(node_t, queue.waiting)},
                                    {"dropped", offsetof(node_t, queue.dropped)}};
static const counter_t of_update[] = {COUNTER(uploads),  COUNTER(resumed),  COUNTER(verified),
                                      COUNTER(rejected), COUNTER(tests),    COUNTER(confirms),
                                      COUNTER(reverts),  COUNTER(repeated), COUNTER(unanswered)};

static const struct {
    const char *name;
    const counter_t *counters;
    uint32_t count;
} groups[] = {{"node", of_node, sizeof of_node / sizeof *of_node},
              {"update", of_update, sizeof of_update / sizeof *of_update}};

#define GROUPS (sizeof groups / sizeof *groups)

int smp_stat_list(smp_call_t *call)
{
    cbor_put_map(&call->answer, 1);
    cbor_put_text(&call->answer, "stat_list");
    cbor_put_array(&call->answer, GROUPS);
    for (unsigned i = 0; i < GROUPS; i++) {
        cbor_put_text(&call->answer, groups[i].name);
    }
    return 0;
}

int smp_stat_show(smp_call_t *call)
{
    const span_t name = smp_text(call, "name");
    if (call->malformed || name.data == NULL) {
        return SMP_EINVAL;
    }
    unsigned g = 0;
    while (g < GROUPS && !smp_equal(name, groups[g].name)) {
        g++;
    }
    if (g == GROUPS) {
        return NO_SUCH_GROUP;
    }
    cbor_put_map(&call->answer, 2);
    cbor_put_text(&call->answer, "name");
    cbor_put_span(&call->answer, name);
    cbor_put_text(&call->answer, "fields");
    cbor_put_map(&call->answer, groups[g].count);
    for (uint32_t i = 0; i < groups[g].count; i++) {
        uint32_t value;
        memcpy(&value, (const uint8_t *)call->node + groups[g].counters[i].offset, sizeof value);
        cbor_put_text(&call->answer, groups[g].counters[i].name);
        cbor_put_uint(&call->answer, value);
    }
    return 0;
}
