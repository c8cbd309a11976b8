/* Detection: a stream of model outputs in, decisions and score statistics out. */
#ifndef NODE_DETECT_H
#define NODE_DETECT_H

#include <stdbool.h>
#include <stdint.h>

#define DETECT_MAX_WINDOW 32

typedef enum detect_rule { DETECT_AVERAGE, DETECT_ERROR } detect_rule_t;

typedef struct detect_config {
    detect_rule_t rule;
    float cutoff;
    uint16_t window;       /* inferences, 1..DETECT_MAX_WINDOW */
    uint32_t hold_off_ms;
    uint32_t audit_mean_s; /* mean time between audit samples; 0: none */
} detect_config_t;

typedef struct score_stats { /* since the last report; Welford */
    uint32_t count;
    float mean, m2;
    uint32_t histogram[8];
} score_stats_t;

typedef enum detect_outcome { DETECT_NOTHING, DETECT_TRIGGER, DETECT_AUDIT } detect_outcome_t;

typedef struct detect {
    detect_config_t config;
    float values[DETECT_MAX_WINDOW];
    uint16_t count, next;
    bool held, above;
    uint32_t held_since_ms, audit_at_ms;
    bool audit_armed;
    float score; /* of the last push, 0..1 */
    score_stats_t stats;
} detect_t;

__attribute__((warn_unused_result)) int detect_init(detect_t *d, const detect_config_t *config);
/* `value`: AVERAGE: the uint8 probability, 0..255; ERROR: the mean squared reconstruction error. `random`: 32 fresh bits. */
detect_outcome_t detect_push(detect_t *d, float value, uint32_t now_ms, uint32_t random);
void detect_reset(detect_t *d); /* forgets the sliding window, keeps the statistics */

#endif
