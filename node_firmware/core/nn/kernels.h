/* The arithmetic: plain functions on checked parameters, which know nothing of graphs, arenas or files. Images are
 * NHWC; every result is that of TFLM's reference kernels to the bit. No sum of products overflows: filters have at most
 * NN_MAX_DEPTH weights for each output.
 *
 * Parameters are part of the plan's format (plan.h): little-endian, no padding, a multiple of 4 bytes.
 *
 * Input and output may overlap where the operators say so (build_overlap()), which rests on the order in which a kernel
 * works. Dense and convolution: pixels in raster order, up to BLOCK at a time; all that a block needs is in `scratch`
 * before the block's first output is written. Depthwise with as many outputs as inputs: an output reads its own
 * channel only, and within each channel pixels come in raster order. Element-wise kernels and pools: raster order. */
#ifndef NN_KERNELS_H
#define NN_KERNELS_H

#include <stdint.h>

#include "quantize.h"

#define BLOCK 4 /* pixels (rows of a dense layer) that share a pass over the weights */

static inline uint32_t padded_depth(uint32_t depth)
{
    return (depth + 3) & ~UINT32_C(3);
}

/* Bytes of scratch, 4-aligned: the block's patches as int16, and one as the bytes that it was; a single one is expanded
 * in its place. Fewer pixels than a block are taken one by one. */
static inline uint32_t patch_scratch(uint64_t pixels, uint32_t depth)
{
    return (pixels < BLOCK ? 2 : 2 * BLOCK + 1) * padded_depth(depth);
}

/* A filter that moves over images. `fast`: all shifts are below 0, and no sum, bias included, reaches
 * 2^30 where it matters: requantize_fast() is exact. */
typedef struct window {
    uint16_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
    uint16_t filter_h, filter_w, filter_c; /* filter_c < in_c: grouped convolution */
    uint16_t stride_h, stride_w, dilation_h, dilation_w;
    uint16_t pad_top, pad_left;
    int16_t in_zero, out_zero;
    int16_t low, high; /* fused activation */
    uint16_t fast;
    uint16_t factors; /* 1, or one for each output channel; 0: none */
} window_t;

typedef struct dense {
    uint32_t rows;
    uint16_t depth, units;
    int16_t in_zero, out_zero;
    int16_t low, high;
    uint16_t fast, factors; /* as of window_t */
} dense_t;

/* Requantisation of output channel c: element c * step of both. */
typedef struct factors {
    const int32_t *multiplier;
    const int8_t *shift;
    uint32_t step;
} factors_t;

/* Two operands laid over the output; a stride of 0 repeats. */
typedef struct broadcast {
    uint32_t dims[4];
    int32_t stride[2][4];
} broadcast_t;

#define UINT8_FLIP   0x80
#define ADD_HEADROOM 20 /* bits that both operands of ADD and SUB are shifted left before they are scaled */

typedef enum operation { ADD, SUB, MUL, MINIMUM, MAXIMUM } operation_t;

typedef struct arithmetic {
    broadcast_t over;
    factor_t in[2]; /* ADD and SUB only */
    factor_t out;
    int16_t in_zero[2], out_zero;
    int16_t low, high, unused;
} arithmetic_t;

typedef struct softmax {
    uint32_t rows, depth;
    factor_t scale;
    int32_t diff_min; /* below it exp() is 0 */
} softmax_t;

typedef struct sigmoid { /* LOGISTIC and TANH */
    uint32_t count;
    factor_t scale;
    int32_t radius; /* of the inputs that do not saturate */
    int32_t in_zero;
} sigmoid_t;

typedef struct requantize {
    uint32_t count;
    factor_t scale;
    int16_t in_zero, out_zero;
} requantize_t;

typedef struct relu {
    requantize_t to;
    int16_t low, high;
} relu_t;

#define MEAN_GROUPS 5
typedef struct mean {
    uint32_t size[MEAN_GROUPS]; /* of the input: axes that are kept, averaged, kept, averaged, kept */
    factor_t scale;
    int16_t in_zero, out_zero;
} mean_t;

typedef struct affine { /* real = scale * (q - zero) */
    uint32_t count;
    float scale;
    int32_t zero;
} affine_t;

typedef struct slice { /* of a tensor of rank 4 */
    uint32_t element_bytes, first;
    uint32_t count[4];
    int32_t stride[4]; /* elements */
} slice_t;

typedef struct resize {
    uint32_t images, image_bytes, row_bytes, pixel_bytes; /* of the input */
    uint16_t rows, columns;                               /* of the output */
} resize_t;

/* `bias` may be NULL. `scratch`: patch_scratch(); grouped convolutions use it for a group at a time. */
void kernel_conv(const window_t *w, const factors_t *factors, const int8_t *in, const int8_t *filter,
                 const int32_t *bias, int8_t *out, void *scratch);
void kernel_depthwise(const window_t *w, const factors_t *factors, const int8_t *in, const int8_t *filter,
                      const int32_t *bias, int8_t *out);
void kernel_dense(const dense_t *d, const factors_t *factors, const int8_t *in, const int8_t *filter,
                  const int32_t *bias, int8_t *out, void *scratch);
void kernel_average_pool(const window_t *w, const int8_t *in, int8_t *out);
void kernel_max_pool(const window_t *w, const int8_t *in, int8_t *out);
void kernel_arithmetic(operation_t operation, const arithmetic_t *p, const int8_t *a, const int8_t *b, int8_t *out);
void kernel_relu(const relu_t *p, const int8_t *in, int8_t *out);
void kernel_mean(const mean_t *p, const int8_t *in, int8_t *out);
void kernel_softmax(const softmax_t *p, const int8_t *in, int8_t *out);
void kernel_logistic(const sigmoid_t *p, const int8_t *in, int8_t *out);
void kernel_tanh(const sigmoid_t *p, const int8_t *in, int8_t *out);
/* A uint8 is an int8 with its highest bit flipped: `flip` is 0 for int8, UINT8_FLIP for uint8. */
void kernel_requantize(const requantize_t *p, const uint8_t *in, uint8_t *out, uint8_t in_flip, uint8_t out_flip);
void kernel_float_to_int8(const affine_t *p, const float *in, int8_t *out);
void kernel_to_float(const affine_t *p, const uint8_t *in, float *out, uint8_t flip);
void kernel_slice(const slice_t *p, const uint8_t *in, uint8_t *out);
/* `from`: which row of the input each row of the output repeats, then which column each column. */
void kernel_resize(const resize_t *p, const uint16_t *from, const uint8_t *in, uint8_t *out);

#endif
