/* The transform of all front ends: real, 512 points, 16-bit, equal to kissfft's to the bit, wrap-around included. */
#include "tables.h"

#define POINTS (FFT_SIZE / 2) /* complex points: even samples are real parts, odd ones imaginary parts */

typedef struct cpx {
    int32_t re, im;
} cpx_t;

static int32_t q15_round(int32_t product)
{
    return (product + (1 << 14)) >> 15;
}

/* Scales as kissfft does: by 32767 / n in Q15, which is a hair less than 1 / n. */
static cpx_t load(const int16_t *at, int32_t scale)
{
    return (cpx_t){q15_round(at[0] * scale), q15_round(at[1] * scale)};
}

/* Where kissfft's int16 wraps, so does this; results only ever meet additions before, so wrapping once is enough. */
static void store(int16_t *at, int32_t re, int32_t im)
{
    at[0] = (int16_t)re;
    at[1] = (int16_t)im;
}

/* |a| <= 2^15 * sqrt(2) and |w| < 2^15 keep the sums inside int32. */
static cpx_t rotate(cpx_t a, const int16_t *w)
{
    return (cpx_t){q15_round(a.re * w[0] - a.im * w[1]), q15_round(a.re * w[1] + a.im * w[0])};
}

/* out[0], out[m], out[2m], out[3m] (complex) become the four-point transform of a, b, c, d. */
static void butterfly(int16_t *out, unsigned m, cpx_t a, cpx_t b, cpx_t c, cpx_t d)
{
    const cpx_t ac = {a.re + c.re, a.im + c.im}, a_c = {a.re - c.re, a.im - c.im};
    const cpx_t bd = {b.re + d.re, b.im + d.im}, b_d = {b.re - d.re, b.im - d.im};
    store(out, ac.re + bd.re, ac.im + bd.im);
    store(out + 2 * m, a_c.re + b_d.im, a_c.im - b_d.re);
    store(out + 4 * m, ac.re - bd.re, ac.im - bd.im);
    store(out + 6 * m, a_c.re - b_d.im, a_c.im + b_d.re);
}

#define QUARTER (32767 / 4)
#define HALF    (32767 / 2)

/* The first stage also sorts: group g (three base-4 digits) takes its inputs from the reversed digits. Its twiddles
 * are 1. */
static void first_stage(const int16_t *in, int16_t *out)
{
    for (unsigned g = 0; g < POINTS / 4; g++) {
        const int16_t *from = in + 2 * ((g & 3) << 4 | (g & 12) | g >> 4);
        butterfly(out + 8 * g, 1, load(from, QUARTER), load(from + POINTS / 2, QUARTER), load(from + POINTS, QUARTER),
                  load(from + POINTS * 3 / 2, QUARTER));
    }
}

/* Joins transforms of m points to transforms of 4m. */
static void stage(int16_t *x, unsigned m)
{
    const unsigned stride = 2 * (POINTS / 4) / m;
    for (unsigned k = 0; k < m; k++) {
        const int16_t *w1 = fft_twiddles + k * stride, *w2 = w1 + k * stride, *w3 = w2 + k * stride;
        for (int16_t *at = x + 2 * k; at < x + 2 * POINTS; at += 8 * m) {
            butterfly(at, m, load(at, QUARTER), rotate(load(at + 2 * m, QUARTER), w1),
                      rotate(load(at + 4 * m, QUARTER), w2), rotate(load(at + 6 * m, QUARTER), w3));
        }
    }
}

/* Takes apart what the packing of two real sequences into one complex sequence mixed, bins k and POINTS - k at a time.
 */
static void split(int16_t *x)
{
    const cpx_t dc = load(x, HALF);
    store(x, dc.re + dc.im, 0);
    store(x + 2 * POINTS, dc.re - dc.im, 0);
    for (unsigned k = 1; k <= POINTS / 2; k++) {
        int16_t *low = x + 2 * k, *high = x + 2 * (POINTS - k);
        const int16_t mirrored[2] = {high[0], (int16_t)-high[1]};
        const cpx_t a = load(low, HALF), b = load(mirrored, HALF);
        const cpx_t even = {a.re + b.re, a.im + b.im};
        const cpx_t odd = rotate((cpx_t){a.re - b.re, a.im - b.im}, fft_split_twiddles + 2 * (k - 1));
        const int32_t re = (int16_t)odd.re, im = (int16_t)odd.im;
        store(low, (even.re + re) >> 1, (even.im + im) >> 1);
        store(high, (even.re - re) >> 1, (im - even.im) >> 1);
    }
}

void fft_real(const int16_t in[FFT_SIZE], int16_t out[FFT_SIZE + 2])
{
    first_stage(in, out);
    stage(out, 4);
    stage(out, 16);
    stage(out, 64);
    split(out);
}
