/* Detection: a stream of model outputs in, decisions and score statistics out. */
#ifndef NODE_DETECT_H
#define NODE_DETECT_H

#include <stdbool.h>
#include <stdint.h>

#define DETECT_MAX_WINDOW 32
#define SCORE_BINS        8

typedef enum detect_rule { DETECT_AVERAGE, DETECT_ERROR } detect_rule_t;

typedef struct detect_config {
    detect_rule_t rule;
    float cutoff;    /* AVERAGE: above 0, at most 1; ERROR: above 0 */
    uint16_t window; /* inferences, 1..DETECT_MAX_WINDOW */
    uint32_t hold_off_ms;
    uint32_t audit_mean_s; /* mean time between audit samples, at most 4,294,967; 0: none */
} detect_config_t;

/* Of full sliding windows since the last report, which zeroes it. Welford: variance = m2 / count. */
typedef struct score_stats {
    uint32_t count;
    float mean, m2;
    uint32_t histogram[SCORE_BINS];
} score_stats_t;

typedef enum detect_outcome { DETECT_NOTHING, DETECT_TRIGGER, DETECT_AUDIT } detect_outcome_t;

typedef struct detect {
    detect_config_t config;
    float values[DETECT_MAX_WINDOW];
    uint16_t count, next;
    bool held;  /* a trigger's hold-off, or its high scores, are not over */
    bool above; /* it has not been at or below the cutoff since the trigger */
    bool timed; /* last_ms holds */
    uint32_t triggered_ms, last_ms;
    float score; /* of the last push, 0..1 */
    score_stats_t stats;
} detect_t;

bool detect_accepts(const detect_config_t *config); /* it is in range */
/* 0, or -1 where the configuration is out of range. */
__attribute__((warn_unused_result)) int detect_init(detect_t *d, const detect_config_t *config);
/* `value`: AVERAGE: the uint8 probability, 0..255; ERROR: the mean squared reconstruction error. `random`: 32 fresh
 * bits. An inference is an audit sample with the probability (time since the last push) / audit_mean_s. */
detect_outcome_t detect_push(detect_t *d, float value, uint32_t now_ms, uint32_t random);
void detect_reset(detect_t *d); /* forgets the sliding window, keeps the hold-off and the statistics */

#endif
