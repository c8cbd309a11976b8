/* See settings.h. */
#include "settings.h"

#include <string.h>

#include "crc32.h"
#include "node_parts.h"
#include "session.h"

#define MAGIC        UINT32_C(0x31544553)
#define MOST_TRIAL_S (30U * 24 * 60 * 60)

static float to_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static unsigned place(setting_t setting)
{
    return (unsigned)(setting - SETTING_CUTOFF);
}

/* The settings of a cascade, or a free place; NULL where there is neither. */
static cascade_settings_t *find(const node_t *n, unsigned cascade)
{
    const char *const name = n->cascades[cascade].name;
    const uint32_t key = node_crc32(0, name, strlen(name));
    cascade_settings_t *free_place = NULL;
    for (unsigned i = 0; i < NODE_MAX_CASCADES; i++) {
        cascade_settings_t *const c = (cascade_settings_t *)&n->settings.cascades[i];
        if (c->set != 0 && c->cascade == key) {
            return c;
        }
        free_place = c->set == 0 ? c : free_place;
    }
    return free_place;
}

static bool in_range(const node_t *n, setting_t setting, unsigned cascade, uint32_t value)
{
    switch (setting) {
    case SETTING_VITALS_S:
        return value >= 1 && value <= UINT16_MAX;
    case SETTING_TRIAL_S:
        return value >= 1 && value <= MOST_TRIAL_S;
    case SETTING_CUTOFF:
        return detect_accepts(&(detect_config_t){n->cascades[cascade].detect.rule, to_float(value), 1, 0, 0});
    case SETTING_AUDIT_S:
        return detect_accepts(&(detect_config_t){DETECT_ERROR, 1, 1, 0, value});
    default:
        return value <= 1;
    }
}

uint32_t settings_get(const node_t *n, setting_t setting, unsigned cascade)
{
    if (setting == SETTING_VITALS_S) {
        return n->settings.vitals_s != 0 ? n->settings.vitals_s : n->config->vitals_s;
    }
    if (setting == SETTING_TRIAL_S) {
        return n->settings.trial_s != 0 ? n->settings.trial_s : n->config->trial_s;
    }
    const cascade_settings_t *const c = find(n, cascade);
    if (c != NULL && (c->set & 1U << place(setting)) != 0 && in_range(n, setting, cascade, c->value[place(setting)])) {
        return c->value[place(setting)]; /* a cutoff may have been set for a model with another rule */
    }
    const detect_config_t *const detect = &n->cascades[cascade].detect;
    return setting == SETTING_CUTOFF ? to_bits(detect->cutoff) : setting == SETTING_AUDIT_S ? detect->audit_mean_s : 1;
}

void settings_apply(node_t *n, unsigned cascade)
{
    node_cascade_t *const c = &n->cascades[cascade];
    c->on = settings_get(n, SETTING_ON, cascade) != 0;
    if (c->sense != NULL && c->runs) {
        c->sense->detect.config.cutoff = to_float(settings_get(n, SETTING_CUTOFF, cascade));
        c->sense->detect.config.audit_mean_s = settings_get(n, SETTING_AUDIT_S, cascade);
    }
}

/* After any change: cascades, the interval of vitals (the next ones are due now), and what `info` says of it. */
static void apply_all(node_t *n)
{
    for (unsigned i = 0; i < n->cascade_count; i++) {
        settings_apply(n, i);
    }
    n->vitals_due_ms = n->clock_ms;
    n->info_changed = true;
}

static int put(node_t *n, setting_t setting, unsigned cascade, const uint32_t *value)
{
    if (setting == SETTING_VITALS_S || setting == SETTING_TRIAL_S) {
        *(setting == SETTING_VITALS_S ? &n->settings.vitals_s : &n->settings.trial_s) = value != NULL ? *value : 0;
        return NODE_OK;
    }
    cascade_settings_t *const c = find(n, cascade);
    if (c == NULL) {
        return NODE_E_FULL;
    }
    const char *const name = n->cascades[cascade].name;
    c->cascade = node_crc32(0, name, strlen(name));
    c->value[place(setting)] = value != NULL ? *value : 0;
    c->set = value != NULL ? c->set | 1U << place(setting) : c->set & ~(1U << place(setting));
    return NODE_OK;
}

int settings_set(node_t *n, setting_t setting, unsigned cascade, uint32_t value)
{
    const int status = in_range(n, setting, cascade, value) ? put(n, setting, cascade, &value) : NODE_E_ARGUMENT;
    apply_all(n);
    return status;
}

void settings_unset(node_t *n, setting_t setting, unsigned cascade)
{
    (void)put(n, setting, cascade, NULL); /* no place: nothing was set */
    apply_all(n);
}

int settings_load(node_t *n)
{
    const node_flash_t *const flash = &n->port->flash;
    memset(&n->settings, 0, sizeof n->settings);
    const int status = journal_open(&n->settings_journal, flash, SESSION_SECTORS * flash->sector_size, MAGIC,
                                    &n->settings, sizeof n->settings);
    apply_all(n);
    return status;
}

int settings_save(node_t *n)
{
    return journal_append(&n->settings_journal, &n->settings);
}
