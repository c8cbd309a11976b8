/* SMP group 3: the names of settings, and their values as bytes: little-endian, a u32, a float32 or one byte. */
#include <string.h>

#include "settings.h"
#include "smp_parts.h"

enum {
    SETTINGS_UNKNOWN = SMP_REFUSAL(1, SMP_EUNKNOWN),
    SETTINGS_NO_KEY = SMP_REFUSAL(3, SMP_ENOENT),
    SETTINGS_NO_ROOT = SMP_REFUSAL(5, SMP_ENOENT)
};

static const struct {
    const char *name; /* behind "<cascade>/", where it is a cascade's */
    uint8_t size;
    bool of_cascade;
} known[] = {[SETTING_VITALS_S] = {"vitals_s", 4, false},
             [SETTING_TRIAL_S] = {"trial_s", 4, false},
             [SETTING_CUTOFF] = {"cutoff", 4, true},
             [SETTING_AUDIT_S] = {"audit_s", 4, true},
             [SETTING_ON] = {"on", 1, true}};

typedef struct named {
    setting_t setting;
    unsigned cascade;
} named_t;

static int find(smp_call_t *call, named_t *found)
{
    const node_t *const n = call->node;
    span_t name = smp_text(call, "name");
    if (call->malformed || name.data == NULL) {
        return SMP_EINVAL;
    }
    const uint8_t *const slash = name.size != 0 ? memchr(name.data, '/', name.size) : NULL;
    found->cascade = 0;
    if (slash != NULL) {
        const span_t root = {name.data, (uint32_t)(slash - name.data)};
        while (found->cascade < n->cascade_count && !smp_equal(root, n->cascades[found->cascade].name)) {
            found->cascade++;
        }
        if (found->cascade == n->cascade_count) {
            return SETTINGS_NO_ROOT;
        }
        name = (span_t){slash + 1, name.size - root.size - 1};
    }
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].of_cascade == (slash != NULL) && smp_equal(name, known[i].name)) {
            found->setting = (setting_t)i;
            return 0;
        }
    }
    return SETTINGS_NO_KEY;
}

static int done(smp_call_t *call, int status)
{
    cbor_put_map(&call->answer, 0);
    return status == NODE_OK ? 0 : status == NODE_E_ARGUMENT ? SMP_EINVAL : SETTINGS_UNKNOWN;
}

int smp_settings_read(smp_call_t *call)
{
    named_t named;
    const int refusal = find(call, &named);
    if (refusal != 0) {
        return refusal;
    }
    const uint32_t value = settings_get(call->node, named.setting, named.cascade);
    const uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
    cbor_put_map(&call->answer, 1);
    cbor_put_text(&call->answer, "val");
    cbor_put_bytes(&call->answer, bytes, known[named.setting].size);
    return 0;
}

int smp_settings_write(smp_call_t *call)
{
    named_t named;
    const int refusal = find(call, &named);
    if (refusal != 0) {
        return refusal;
    }
    const span_t bytes = smp_bytes(call, "val");
    if (call->malformed || bytes.size != known[named.setting].size) {
        return SMP_EINVAL;
    }
    uint32_t value = 0;
    for (uint32_t i = bytes.size; i-- != 0;) {
        value = value << 8 | bytes.data[i];
    }
    return done(call, settings_set(call->node, named.setting, named.cascade, value));
}

int smp_settings_delete(smp_call_t *call)
{
    named_t named;
    const int refusal = find(call, &named);
    if (refusal != 0) {
        return refusal;
    }
    settings_unset(call->node, named.setting, named.cascade);
    return done(call, NODE_OK);
}

int smp_settings_load(smp_call_t *call)
{
    return done(call, settings_load(call->node));
}

int smp_settings_save(smp_call_t *call)
{
    return done(call, settings_save(call->node));
}
