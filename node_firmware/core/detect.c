/* Turns a stream of model outputs into triggers, audit samples and score statistics. */
#include "node/detect.h"

#include <string.h>

#define LARGEST_ERROR 1e30f /* keeps sums and quotients finite, whatever a model puts out */

bool detect_accepts(const detect_config_t *config)
{
    const float largest = config->rule == DETECT_AVERAGE ? 1.0f : LARGEST_ERROR;
    return (config->rule == DETECT_AVERAGE || config->rule == DETECT_ERROR) && config->cutoff > 0 &&
           config->cutoff <= largest && config->window != 0 && config->window <= DETECT_MAX_WINDOW &&
           config->audit_mean_s <= UINT32_MAX / 1000;
}

int detect_init(detect_t *d, const detect_config_t *config)
{
    if (!detect_accepts(config)) {
        return -1;
    }
    memset(d, 0, sizeof *d);
    d->config = *config;
    return 0;
}

/* Updates the score; true where it is above the cutoff. */
static bool judge(detect_t *d)
{
    const float cutoff = d->config.cutoff;
    float sum = 0;
    for (unsigned i = 0; i < d->count; i++) {
        sum += d->values[i];
    }
    const float mean = sum / (float)d->count;
    if (d->config.rule == DETECT_AVERAGE) {
        d->score = mean / 255;
        return sum > (float)((unsigned)(cutoff * 255) * d->count); /* ESPHome's rule, in integers as there */
    }
    d->score = mean / (mean + cutoff);
    return mean > cutoff;
}

static void add_score(score_stats_t *stats, float score)
{
    const unsigned bin = (unsigned)(score * SCORE_BINS);
    const float delta = score - stats->mean;
    stats->count++;
    stats->mean += delta / (float)stats->count;
    stats->m2 += delta * (score - stats->mean);
    stats->histogram[bin < SCORE_BINS ? bin : SCORE_BINS - 1]++;
}

/* True with the probability (time since the last inference) / (mean time between samples): that makes the times between
 * samples exponential, and dropping those that fall into a hold-off does not favour what comes after it. */
static bool audit_due(detect_t *d, uint32_t now_ms, uint32_t random)
{
    const uint32_t elapsed_ms = d->timed ? now_ms - d->last_ms : 0;
    d->last_ms = now_ms;
    d->timed = true;
    return (uint64_t)random * (d->config.audit_mean_s * 1000) < (uint64_t)elapsed_ms << 32 &&
           d->config.audit_mean_s != 0;
}

detect_outcome_t detect_push(detect_t *d, float value, uint32_t now_ms, uint32_t random)
{
    const float largest = d->config.rule == DETECT_AVERAGE ? 255.0f : LARGEST_ERROR;
    const bool audit = audit_due(d, now_ms, random);
    d->values[d->next] = value <= largest ? (value > 0 ? value : 0) : largest; /* NaN: the worst */
    d->next = (uint16_t)((d->next + 1) % d->config.window);
    d->count = (uint16_t)(d->count + (d->count < d->config.window));
    const bool above = judge(d);
    if (d->count < d->config.window) {
        return DETECT_NOTHING;
    }
    add_score(&d->stats, d->score);
    d->above = d->above && above;
    d->held = d->held && (d->above || now_ms - d->triggered_ms < d->config.hold_off_ms);
    if (d->held) {
        return DETECT_NOTHING;
    }
    if (above) {
        d->held = d->above = true;
        d->triggered_ms = now_ms;
        return DETECT_TRIGGER;
    }
    return audit ? DETECT_AUDIT : DETECT_NOTHING;
}

void detect_reset(detect_t *d)
{
    d->count = d->next = 0;
    d->above = false;
}
