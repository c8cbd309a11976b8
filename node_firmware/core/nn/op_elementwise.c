/* ADD, SUB, MUL, MINIMUM, MAXIMUM, RELU, RELU6, SOFTMAX, LOGISTIC, TANH, QUANTIZE and DEQUANTIZE: checks what a file
 * asks for, then calls kernels. */
#include <string.h>

#include "graph.h"
#include "kernels.h"
#include "op_common.h"
#include "schema.h"

#define FUNCTION_WORK 32 /* multiplications in exp() and a division, about */

/* Where `real` is, from the zero point, which is no further than 255 from any int8. */
static int32_t steps_to(const tensor_t *t, float real)
{
    const float steps = real / t->scale;
    if (steps > UINT8_MAX) {
        return UINT8_MAX;
    }
    const int32_t whole = (int32_t)steps;
    return whole + (steps - (float)whole >= 0.5F);
}

/* Of ReLU -1..1, ReLU6, ReLU or none, in a tensor's quantisation. */
static void limits(const tensor_t *t, uint8_t activation, int16_t *low, int16_t *high)
{
    const int32_t above =
        activation <= ACTIVATION_RELU ? UINT8_MAX : steps_to(t, activation == ACTIVATION_RELU6 ? 6 : 1);
    const int32_t below = activation == ACTIVATION_RELU_N1_TO_1 ? above : activation == ACTIVATION_NONE ? UINT8_MAX : 0;
    *low = (int16_t)clamp(t->zero_point - below, INT8_MIN, INT8_MAX);
    *high = (int16_t)clamp(t->zero_point + above, INT8_MIN, INT8_MAX);
}

nn_status_t activation_range(build_t *b, unsigned field, const tensor_t *out, int16_t *low, int16_t *high)
{
    const uint8_t activation = fb_u8(&b->fb, b->options, field, ACTIVATION_NONE);
    NEED(activation <= ACTIVATION_RELU6, NN_E_OPERATOR);
    limits(out, activation, low, high);
    return NN_OK;
}

/* Dimension i of a shape that is right-aligned in four. */
static uint32_t aligned_dim(const tensor_t *t, int i)
{
    const int own = i - (4 - t->rank);
    return own < 0 ? 1 : (uint32_t)t->dims[own];
}

static nn_status_t load_broadcast(const tensor_t in[2], const tensor_t *out, broadcast_t *over)
{
    if (same_shape(&in[0], &in[1]) && same_shape(&in[0], out)) {
        *over = (broadcast_t){.dims = {1, 1, 1, out->elements}, .stride = {{0, 0, 0, 1}, {0, 0, 0, 1}}};
        return NN_OK;
    }
    NEED(in[0].rank <= 4 && in[1].rank <= 4 && out->rank <= 4, NN_E_LIMIT);
    uint32_t step[2] = {1, 1};
    for (int i = 3; i >= 0; i--) {
        const uint32_t dims[2] = {aligned_dim(&in[0], i), aligned_dim(&in[1], i)};
        over->dims[i] = dims[0] > dims[1] ? dims[0] : dims[1];
        NEED(over->dims[i] == aligned_dim(out, i), NN_E_SHAPE);
        for (int k = 0; k < 2; k++) {
            NEED(dims[k] == 1 || dims[k] == over->dims[i], NN_E_SHAPE);
            over->stride[k][i] = dims[k] == 1 ? 0 : (int32_t)step[k];
            step[k] *= dims[k];
        }
    }
    return NN_OK;
}

static nn_status_t load_arithmetic(build_t *b, tensor_t in[2], tensor_t *out, arithmetic_t *p)
{
    TRY(build_in_out(b, &in[0], out));
    TRY(build_input(b, 1, &in[1]));
    NEED(is_quantized_int8(&in[0]) && is_quantized_int8(&in[1]) && is_quantized_int8(out), NN_E_TYPE);
    memset(p, 0, sizeof *p);
    TRY(load_broadcast(in, out, &p->over));
    p->in_zero[0] = (int16_t)in[0].zero_point;
    p->in_zero[1] = (int16_t)in[1].zero_point;
    p->out_zero = (int16_t)out->zero_point;
    return activation_range(b, ARITHMETIC_ACTIVATION, out, &p->low, &p->high);
}

/* An operand that is not repeated may be overwritten, element by element. */
static nn_status_t put_arithmetic(build_t *b, const tensor_t in[2], const tensor_t *out, const arithmetic_t *p)
{
    for (int k = 0; k < 2; k++) {
        if (in[k].elements == out->elements) {
            build_overlap(b, &in[k], 0, 1);
        }
        TRY(build_operand(b, &in[k]));
    }
    TRY(build_operand(b, out));
    return build_put(b, p, sizeof *p);
}

/* The factor of a / b * 2^exponent. TFLM divides the scales of some operators in single precision. */
static bool factor_from_quotient(float a, float b, int exponent, bool single, factor_t *factor)
{
    if (!single) {
        return factor_from_ratio(a, 1, b, exponent, factor);
    }
    const float quotient = a / b;
    return is_normal(quotient) && factor_from_ratio(quotient, 1, 1, exponent, factor);
}

static void arithmetic_run(const run_t *run, operation_t operation)
{
    kernel_arithmetic(operation, run->parameters, run->operands[0], run->operands[1], run->operands[2]);
}

/* Both operands are brought to twice the larger scale, with ADD_HEADROOM more bits, before they are added. */
static nn_status_t sum_prepare(build_t *b, bool single)
{
    tensor_t in[2], out;
    arithmetic_t p;
    TRY(load_arithmetic(b, in, &out, &p));
    const float larger = in[0].scale > in[1].scale ? in[0].scale : in[1].scale;
    for (int k = 0; k < 2; k++) {
        NEED(factor_from_quotient(in[k].scale, larger, -1, single, &p.in[k]), NN_E_TYPE);
    }
    NEED(factor_from_quotient(larger, out.scale, 1 - ADD_HEADROOM, single, &p.out), NN_E_TYPE);
    NEED(p.out.shift <= 0, NN_E_TYPE);
    return put_arithmetic(b, in, &out, &p);
}

nn_status_t add_prepare(build_t *b)
{
    return sum_prepare(b, false);
}

nn_status_t sub_prepare(build_t *b)
{
    return sum_prepare(b, true);
}

void add_run(const run_t *run)
{
    arithmetic_run(run, ADD);
}

void sub_run(const run_t *run)
{
    arithmetic_run(run, SUB);
}

nn_status_t mul_prepare(build_t *b)
{
    tensor_t in[2], out;
    arithmetic_t p;
    TRY(load_arithmetic(b, in, &out, &p));
    NEED(factor_from_ratio(in[0].scale, in[1].scale, out.scale, 0, &p.out), NN_E_TYPE);
    return put_arithmetic(b, in, &out, &p);
}

void mul_run(const run_t *run)
{
    arithmetic_run(run, MUL);
}

/* MINIMUM and MAXIMUM compare what is there, whatever it stands for. */
nn_status_t extremum_prepare(build_t *b)
{
    tensor_t in[2], out;
    arithmetic_t p;
    TRY(load_arithmetic(b, in, &out, &p));
    p.in_zero[0] = p.in_zero[1] = p.out_zero = 0;
    p.low = INT8_MIN;
    p.high = INT8_MAX;
    return put_arithmetic(b, in, &out, &p);
}

void minimum_run(const run_t *run)
{
    arithmetic_run(run, MINIMUM);
}

void maximum_run(const run_t *run)
{
    arithmetic_run(run, MAXIMUM);
}

/* An int8 operator of one input and one output of the same shape. */
static nn_status_t load_int8(build_t *b, tensor_t *in, tensor_t *out)
{
    TRY(build_in_out(b, in, out));
    NEED(is_quantized_int8(in) && is_quantized_int8(out), NN_E_TYPE);
    NEED(same_shape(in, out), NN_E_SHAPE);
    return NN_OK;
}

/* One whose output's quantisation is fixed. */
static nn_status_t load_unary(build_t *b, tensor_t *in, tensor_t *out, float scale, int32_t zero_point)
{
    TRY(load_int8(b, in, out));
    NEED(out->scale == scale && out->zero_point == zero_point, NN_E_TYPE);
    return build_work(b, (uint64_t)FUNCTION_WORK * in->elements);
}

/* An operator's record with its one input, which may be overwritten where elements do not grow, and its one output. */
static nn_status_t put_unary(build_t *b, const tensor_t *in, const tensor_t *out, const void *parameters,
                             uint32_t bytes)
{
    if (out->bytes <= in->bytes) {
        build_overlap(b, in, 0, 1);
    }
    return build_put_in_out(b, in, out, parameters, bytes);
}

/* `as` has the quantisation that the output is computed in. */
static nn_status_t put_relu(build_t *b, const tensor_t *in, const tensor_t *out, const tensor_t *as, uint8_t activation,
                            const factor_t *scale)
{
    relu_t p = {.to = {.count = in->elements,
                       .scale = *scale,
                       .in_zero = (int16_t)in->zero_point,
                       .out_zero = (int16_t)as->zero_point}};
    limits(as, activation, &p.low, &p.high);
    return put_unary(b, in, out, &p, sizeof p);
}

nn_status_t relu_prepare(build_t *b)
{
    tensor_t in, out;
    factor_t scale = {0};
    TRY(load_int8(b, &in, &out));
    NEED(factor_from_quotient(in.scale, out.scale, 0, true, &scale), NN_E_TYPE);
    return put_relu(b, &in, &out, &out, ACTIVATION_RELU, &scale);
}

/* TFLM only clamps, whatever the output's quantisation. */
nn_status_t relu6_prepare(build_t *b)
{
    static const factor_t one = {INT32_C(1) << 30, 1, {0}};
    tensor_t in, out;
    TRY(load_int8(b, &in, &out));
    return put_relu(b, &in, &out, &in, ACTIVATION_RELU6, &one);
}

void relu_run(const run_t *run)
{
    kernel_relu(run->parameters, run->operands[0], run->operands[1]);
}

/* The factor that takes `a` * `b` * 2^exponent inputs to fixed point; 0 where it is 2^30 and more: then all inputs but
 * 0 saturate. It must be `above_one`, or 1 at least. */
static nn_status_t fixed_point(float a, float b, int exponent, bool above_one, factor_t *factor)
{
    const int shift = ratio_factor(a, b, 1, exponent, &factor->multiplier);
    NEED(shift > 1 || (shift == 1 && (!above_one || factor->multiplier > INT32_C(1) << 30)), NN_E_TYPE);
    factor->shift = (int8_t)(shift <= 30 ? shift : 0);
    factor->multiplier = shift <= 30 ? factor->multiplier : 0;
    return NN_OK;
}

/* Inputs of exp() are in Q5. */
nn_status_t softmax_prepare(build_t *b)
{
    tensor_t in, out;
    softmax_t p = {0};
    TRY(load_unary(b, &in, &out, 1.0F / 256, INT8_MIN));
    NEED(in.rank > 0, NN_E_SHAPE);
    p.depth = (uint32_t)in.dims[in.rank - 1];
    p.rows = in.elements / p.depth;
    NEED(p.depth < 4096, NN_E_LIMIT); /* the sum of exp() fits Q12 */
    const float beta = fb_f32(&b->fb, b->options, SOFTMAX_BETA);
    NEED(is_normal(beta), NN_E_TYPE);
    TRY(fixed_point(beta, in.scale, 26, true, &p.scale));
    if (p.scale.multiplier != 0) {
        p.diff_min = -((INT32_C(31) << 26) >> p.scale.shift);
    }
    return put_unary(b, &in, &out, &p, sizeof p);
}

void softmax_run(const run_t *run)
{
    kernel_softmax(run->parameters, run->operands[0], run->operands[1]);
}

/* Inputs are brought to Q4. */
static nn_status_t sigmoid_prepare(build_t *b, float out_scale, int32_t out_zero_point)
{
    tensor_t in, out;
    sigmoid_t p = {0};
    TRY(load_unary(b, &in, &out, out_scale, out_zero_point));
    p.count = in.elements;
    p.in_zero = (int16_t)in.zero_point;
    TRY(fixed_point(in.scale, 1, 27, false, &p.scale));
    if (p.scale.multiplier != 0) {
        p.radius = (INT32_C(15) << 27) >> p.scale.shift;
    }
    return put_unary(b, &in, &out, &p, sizeof p);
}

nn_status_t logistic_prepare(build_t *b)
{
    return sigmoid_prepare(b, 1.0F / 256, INT8_MIN);
}

void logistic_run(const run_t *run)
{
    kernel_logistic(run->parameters, run->operands[0], run->operands[1]);
}

nn_status_t tanh_prepare(build_t *b)
{
    return sigmoid_prepare(b, 1.0F / 128, 0);
}

void tanh_run(const run_t *run)
{
    kernel_tanh(run->parameters, run->operands[0], run->operands[1]);
}

/* The kernel is chosen by the tensors' types, again in each run. */
typedef struct conversion {
    uint32_t in, out; /* nn_type_t */
    requantize_t integer;
    affine_t real;
} conversion_t;

static nn_status_t load_conversion(build_t *b, tensor_t *in, tensor_t *out, conversion_t *p)
{
    TRY(build_in_out(b, in, out));
    NEED(same_shape(in, out), NN_E_SHAPE);
    memset(p, 0, sizeof *p);
    p->in = (uint32_t)in->type;
    p->out = (uint32_t)out->type;
    return NN_OK;
}

nn_status_t quantize_prepare(build_t *b)
{
    tensor_t in, out;
    conversion_t p;
    TRY(load_conversion(b, &in, &out, &p));
    NEED(is_quantized(&out), NN_E_TYPE);
    if (in.type == NN_FLOAT32) {
        NEED(out.type == NN_INT8, NN_E_TYPE);
        p.real = (affine_t){.count = in.elements, .scale = out.scale, .zero = out.zero_point};
    } else {
        NEED((in.type == NN_INT8 && (out.type == NN_INT8 || out.type == NN_UINT8)) ||
                 (in.type == NN_UINT8 && out.type == NN_INT8),
             NN_E_TYPE);
        NEED(is_quantized(&in), NN_E_TYPE);
        p.integer.count = in.elements;
        p.integer.in_zero = (int16_t)in.zero_point;
        p.integer.out_zero = (int16_t)out.zero_point;
        NEED(factor_from_ratio(in.scale, 1, out.scale, 0, &p.integer.scale), NN_E_TYPE);
    }
    return put_unary(b, &in, &out, &p, sizeof p);
}

static uint8_t flip(uint32_t type)
{
    return type == NN_UINT8 ? UINT8_FLIP : 0;
}

void quantize_run(const run_t *run)
{
    const conversion_t *p = run->parameters;
    if (p->in == NN_FLOAT32) {
        kernel_float_to_int8(&p->real, run->operands[0], run->operands[1]);
    } else {
        kernel_requantize(&p->integer, run->operands[0], run->operands[1], flip(p->in), flip(p->out));
    }
}

nn_status_t dequantize_prepare(build_t *b)
{
    tensor_t in, out;
    conversion_t p;
    TRY(load_conversion(b, &in, &out, &p));
    NEED(in.type == NN_INT8 || in.type == NN_UINT8, NN_E_TYPE);
    NEED(is_quantized(&in) && out.type == NN_FLOAT32, NN_E_TYPE);
    p.real = (affine_t){.count = in.elements, .scale = in.scale, .zero = in.zero_point};
    return put_unary(b, &in, &out, &p, sizeof p);
}

void dequantize_run(const run_t *run)
{
    const conversion_t *p = run->parameters;
    kernel_to_float(&p->real, run->operands[0], run->operands[1], flip(p->in));
}
