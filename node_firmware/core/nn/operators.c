/* The operators of this build. */
#include "graph.h"
#include "schema.h"

const operator_kind_t nn_operator_table[] = {
    /* code, inputs, outputs (least, most) */
    {OPERATOR_ADD, 2, 2, 1, 1, add_prepare, add_run},
    {OPERATOR_AVERAGE_POOL_2D, 1, 1, 1, 1, pool_prepare, average_pool_run},
    {OPERATOR_CONCATENATION, 1, 255, 1, 1, concatenation_prepare, concatenation_run},
    {OPERATOR_CONV_2D, 2, 3, 1, 1, conv_prepare, conv_run},
    {OPERATOR_DEPTHWISE_CONV_2D, 2, 3, 1, 1, depthwise_prepare, depthwise_run},
    {OPERATOR_DEQUANTIZE, 1, 1, 1, 1, dequantize_prepare, dequantize_run},
    {OPERATOR_FULLY_CONNECTED, 2, 3, 1, 1, fully_connected_prepare, fully_connected_run},
    {OPERATOR_LOGISTIC, 1, 1, 1, 1, logistic_prepare, logistic_run},
    {OPERATOR_MAX_POOL_2D, 1, 1, 1, 1, pool_prepare, max_pool_run},
    {OPERATOR_MUL, 2, 2, 1, 1, mul_prepare, mul_run},
    {OPERATOR_RESHAPE, 1, 2, 1, 1, reshape_prepare, reshape_run},
    {OPERATOR_SOFTMAX, 1, 1, 1, 1, softmax_prepare, softmax_run},
    {OPERATOR_TANH, 1, 1, 1, 1, tanh_prepare, tanh_run},
    {OPERATOR_STRIDED_SLICE, 4, 4, 1, 1, strided_slice_prepare, strided_slice_run},
    {OPERATOR_SPLIT_V, 3, 3, 1, 255, split_v_prepare, split_v_run},
    {OPERATOR_QUANTIZE, 1, 1, 1, 1, quantize_prepare, quantize_run},
    {OPERATOR_CALL_ONCE, 0, 0, 0, 0, call_once_prepare, NULL},
    {OPERATOR_VAR_HANDLE, 0, 0, 1, 1, var_handle_prepare, NULL},
    {OPERATOR_READ_VARIABLE, 1, 1, 1, 1, read_variable_prepare, read_variable_run},
    {OPERATOR_ASSIGN_VARIABLE, 2, 2, 0, 0, assign_variable_prepare, assign_variable_run},
};

const uint8_t nn_operator_count = sizeof nn_operator_table / sizeof *nn_operator_table;

size_t nn_operators(uint8_t *bitmap, size_t capacity)
{
    size_t used = 0;
    for (size_t i = 0; i < capacity; i++) {
        bitmap[i] = 0;
    }
    for (uint8_t i = 0; i < nn_operator_count; i++) {
        const size_t byte = nn_operator_table[i].code / 8;
        if (byte < capacity) {
            bitmap[byte] = (uint8_t)(bitmap[byte] | 1U << nn_operator_table[i].code % 8);
            used = byte + 1 > used ? byte + 1 : used;
        }
    }
    return used;
}
