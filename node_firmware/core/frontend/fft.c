/* The transform of all front ends: real, 512 points, 16-bit, equal to kissfft's to the bit, wrap-around included. A
 * complex number is a pair, its real part low; even samples are real parts, odd ones imaginary parts. */
#include "dsp.h"
#include "tables.h"

#define POINTS  (FFT_SIZE / 2)
#define HALF_Q  (1 << 14) /* of a unit in Q15: what rounds */
#define QUARTER (32767 / 4)
#define HALF    (32767 / 2)

/* The pair of two Q15 products with their roundings. */
static uint32_t from_q15(int32_t re, int32_t im)
{
    return pkhtb((uint32_t)im << 1, (uint32_t)re, 15);
}

/* As kissfft scales before it adds: by 32767 / n in Q15, which is a hair less than 1 / n. The low half of `re` and the
 * high one of `im`, whose factor is doubled where the instructions then save a shift. */
static uint32_t scale_halves(uint32_t re, uint32_t im, uint32_t factor)
{
    const uint32_t factors = factor << 17 | factor;
    return pkhtb((uint32_t)smlatt(im, factors, 2 * HALF_Q), (uint32_t)smlabb(re, factors, HALF_Q), 15);
}

static uint32_t scale(uint32_t a, uint32_t factor)
{
    return scale_halves(a, a, factor);
}

/* |a| <= 2^15 * sqrt(2) and |w| < 2^15 keep the sums inside int32. */
static uint32_t rotate(uint32_t a, uint32_t w)
{
    return from_q15(smlsd(a, w, HALF_Q), smladx(a, w, HALF_Q));
}

/* out[0], out[m], out[2m], out[3m] become the four-point transform of a, b, c, d. Wraps where kissfft's int16 does. */
static inline void butterfly(uint32_t *out, unsigned m, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    const uint32_t ac = sadd16(a, c), a_c = ssub16(a, c), bd = sadd16(b, d), b_d = ssub16(b, d);
    out[0] = sadd16(ac, bd);
    out[m] = ssax(a_c, b_d);
    out[2 * m] = ssub16(ac, bd);
    out[3 * m] = sasx(a_c, b_d);
}

/* in << shift, scaled. */
static uint32_t load_first(uint32_t a, unsigned shift)
{
    const int32_t half = HALF_Q >> shift;
    const uint32_t re = (uint32_t)smlabb(a, QUARTER, half), im = (uint32_t)smlatb(a, QUARTER, half);
    return pkhtb(im << (shift + 1), re << shift, 15);
}

/* The first stage also sorts: group g (three base-4 digits) takes its inputs from the reversed digits. Its twiddles
 * are 1. */
static void first_stage(const uint32_t *in, unsigned shift, uint32_t *out)
{
    for (unsigned g = 0; g < POINTS / 4; g++) {
        const uint32_t *from = in + ((g & 3) << 4 | (g & 12) | g >> 4);
        butterfly(out + 4 * g, 1, load_first(from[0], shift), load_first(from[POINTS / 4], shift),
                  load_first(from[POINTS / 2], shift), load_first(from[POINTS * 3 / 4], shift));
    }
}

/* Joins transforms of m points to transforms of 4m. */
static void stage(uint32_t *x, unsigned m)
{
    const unsigned stride = 3 * (POINTS / 4) / m;
    for (const uint32_t *end = x + POINTS; x < end; x += 3 * m) {
        const uint32_t *w = fft_twiddles;
        for (const uint32_t *block = x + m; x < block; x++, w += stride) {
            butterfly(x, m, scale(x[0], QUARTER), rotate(scale(x[m], QUARTER), w[0]),
                      rotate(scale(x[2 * m], QUARTER), w[1]), rotate(scale(x[3 * m], QUARTER), w[2]));
        }
    }
}

/* Takes apart what the packing of two real sequences into one complex sequence mixed, bins k and POINTS - k at a time.
 */
static void split(uint32_t *x)
{
    const uint32_t dc = scale(x[0], HALF);
    x[0] = (uint32_t)(low_half(dc) + high_half(dc)) & 0xffff;
    x[POINTS] = (uint32_t)(low_half(dc) - high_half(dc)) & 0xffff;
    const uint32_t *w = fft_split_twiddles;
    for (uint32_t *low = x + 1, *high = x + POINTS - 1; low <= high; low++, high--, w++) {
        const uint32_t a = scale(*low, HALF), b = scale_halves(*high, ssub16(0, *high), HALF);
        const uint32_t even = sadd16(a, b), odd = rotate(ssub16(a, b), *w);
        *low = shadd16(even, odd);
        *high = pkhbt(shsub16(even, odd), shsub16(odd, even));
    }
}

void fft_real(const uint32_t in[FFT_SIZE / 2], unsigned shift, uint32_t out[FFT_SIZE / 2 + 1])
{
    first_stage(in, shift, out);
    stage(out, 4);
    stage(out, 16);
    stage(out, 64);
    split(out);
}
