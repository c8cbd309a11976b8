/* settings: what an operator changes of a running node. A change acts at once and lasts until the next boot, or, once
 * saved, until it is changed again. It belongs to the cascade, whatever model runs for it. */
#ifndef NODE_SETTINGS_H
#define NODE_SETTINGS_H

#include "journal.h"

struct node;

typedef enum setting { SETTING_VITALS_S, SETTING_TRIAL_S, SETTING_CUTOFF, SETTING_AUDIT_S, SETTING_ON } setting_t;

typedef struct cascade_settings {
    uint32_t cascade;  /* CRC-32 of its name */
    uint32_t value[3]; /* SETTING_CUTOFF (bits of a float), SETTING_AUDIT_S, SETTING_ON */
    uint32_t set;      /* bit n: value[n] was set; 0: this place is free */
} cascade_settings_t;

typedef struct settings {
    uint32_t vitals_s, trial_s; /* 0: as configured */
    cascade_settings_t cascades[NODE_MAX_CASCADES];
} settings_t;

/* What is in effect; `cascade` is an index and matters for the last three only. */
uint32_t settings_get(const struct node *n, setting_t setting, unsigned cascade);
/* NODE_E_ARGUMENT where the value is out of range, NODE_E_FULL where there is no place for one more cascade's. */
NODE_MUST_USE int settings_set(struct node *n, setting_t setting, unsigned cascade, uint32_t value);
void settings_unset(struct node *n, setting_t setting,
                    unsigned cascade); /* back to the image's or the configuration's */
/* Brings a cascade's settings to the model that has begun to run for it. */
void settings_apply(struct node *n, unsigned cascade);
/* Back to what was saved last. */
NODE_MUST_USE int settings_load(struct node *n);
NODE_MUST_USE int settings_save(struct node *n);

#endif
