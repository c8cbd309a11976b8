"""Arithmetic, activations and conversions, element by element: op_elementwise.c of the node's engine."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from gatewayd.nn.graph import FLOAT32, INT8, UINT8, Overlap, Record, need
from gatewayd.nn.quantize import FACTOR, activation, factor, fixed_point, int8, quantized, single

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatewayd.nn.graph import Operator, Tensor

# Structs of kernels.h, by their names; `conversion` is op_elementwise.c's.
_BROADCAST = struct.Struct("<4I8I")
_ARITHMETIC = struct.Struct(f"<{_BROADCAST.size}s{3 * FACTOR.size}s6h")
_SOFTMAX = struct.Struct("<2I8si")
_SIGMOID = struct.Struct("<I8s2i")
_REQUANTIZE = struct.Struct("<I8s2h")
_RELU = struct.Struct(f"<{_REQUANTIZE.size}s2h")
_AFFINE = struct.Struct("<Ifi")
_CONVERSION = struct.Struct(f"<2I{_REQUANTIZE.size}s{_AFFINE.size}s")
_ADD_HEADROOM = 20
_FUNCTION_WORK = 32


def _broadcast(a: Tensor, b: Tensor, out: Tensor) -> bytes:
    if a.shape == b.shape == out.shape:
        return _BROADCAST.pack(1, 1, 1, out.elements, *(0, 0, 0, 1) * 2)
    need(max(len(t.shape) for t in (a, b, out)) <= 4, "too many dimensions")  # noqa: PLR2004
    dims, *operands = ([1] * (4 - len(t.shape)) + [*t.shape] for t in (out, a, b))
    need(all(size in {1, dim} for shape in operands for size, dim in zip(shape, dims, strict=True)), "shapes do not fit")
    need(dims == [max(sizes) for sizes in zip(*operands, strict=True)], "shapes do not fit")
    strides = [0 if shape[i] == 1 else math.prod(shape[i + 1 :]) for shape in operands for i in range(4)]
    return _BROADCAST.pack(*dims, *strides)


def _binary(op: Operator, packed_factors: bytes, numbers: tuple[int, ...]) -> Record:
    a, b, out = op.input(0), op.input(1), op.outputs[0]
    return Record(
        (a, b, out),
        parameters=_ARITHMETIC.pack(_broadcast(a, b, out), packed_factors, *numbers, 0),
        overlaps=tuple(Overlap(operand, 0, 1) for operand in (a, b) if operand.elements == out.elements),
    )


def _arithmetic(op: Operator, *factors: tuple[int, int]) -> Record:
    """`factors`: of both operands and of the output."""
    packed = b"".join(FACTOR.pack(*factor) for factor in factors)
    return _binary(op, packed, (op.input(0).zero_point, op.input(1).zero_point, op.outputs[0].zero_point, *activation(op)))


def _quotient(a: float, b: float, exponent: int = 0) -> tuple[int, int]:
    """A factor of scales that TFLM divides in single precision."""
    return factor(single(a / b), 1, 1, exponent)


def _double_quotient(a: float, b: float, exponent: int) -> tuple[int, int]:
    return factor(a, 1, b, exponent)


def _sum(op: Operator, quotient: Callable[[float, float, int], tuple[int, int]]) -> Record:
    a, b, out = op.input(0), op.input(1), op.outputs[0]
    int8(a, b, out)
    larger = max(a.scale, b.scale)
    result = quotient(larger, out.scale, 1 - _ADD_HEADROOM)
    need(result[1] <= 0, "the output's scale is too small")
    return _arithmetic(op, quotient(a.scale, larger, -1), quotient(b.scale, larger, -1), result)


def add(op: Operator) -> Record:
    return _sum(op, _double_quotient)


def sub(op: Operator) -> Record:
    return _sum(op, _quotient)


def extremum(op: Operator) -> Record:
    int8(op.input(0), op.input(1), op.outputs[0])
    return _binary(op, b"", (0, 0, 0, -128, 127))


def mul(op: Operator) -> Record:
    a, b, out = op.input(0), op.input(1), op.outputs[0]
    int8(a, b, out)
    return _arithmetic(op, (0, 0), (0, 0), factor(a.scale, b.scale, out.scale))


def _unary(op: Operator, parameters: bytes, work: int = 0) -> Record:
    source, out = op.input(0), op.outputs[0]
    need(source.shape == out.shape, "output unlike input")
    overlaps = (Overlap(source, 0, 1),) if out.size <= source.size else ()
    return Record((source, out), parameters=parameters, overlaps=overlaps, work=work * source.elements)


def _relu(op: Operator, scale: tuple[int, int], zero_point: int, high: int) -> Record:
    source = op.input(0)
    int8(source, op.outputs[0])
    to = _REQUANTIZE.pack(source.elements, FACTOR.pack(*scale), source.zero_point, zero_point)
    return _unary(op, _RELU.pack(to, zero_point, high))


def relu(op: Operator) -> Record:
    source, out = op.input(0), op.outputs[0]
    return _relu(op, _quotient(source.scale, out.scale), out.zero_point, 127)


def relu6(op: Operator) -> Record:
    source = op.input(0)
    return _relu(op, (1 << 30, 1), source.zero_point, quantized(source, 6.0))


def softmax(op: Operator) -> Record:
    source, out = op.input(0), op.outputs[0]
    int8(source, out)
    need((out.scale, out.zero_point) == (1 / 256, -128), "the output's quantisation is not softmax's")
    multiplier, shift = fixed_point(float(op.options.beta), source.scale, 26)
    depth, diff_min = source.shape[-1], -((31 << 26) >> shift) if multiplier else 0
    return _unary(op, _SOFTMAX.pack(source.elements // depth, depth, FACTOR.pack(multiplier, shift), diff_min), _FUNCTION_WORK)


def _sigmoid(op: Operator, scale: float, zero_point: int) -> Record:
    source, out = op.input(0), op.outputs[0]
    int8(source, out)
    need((out.scale, out.zero_point) == (scale, zero_point), "the output's quantisation is not this function's")
    multiplier, shift = fixed_point(source.scale, 1, 27)
    radius = (15 << 27) >> shift if multiplier else 0
    return _unary(op, _SIGMOID.pack(source.elements, FACTOR.pack(multiplier, shift), radius, source.zero_point), _FUNCTION_WORK)


def logistic(op: Operator) -> Record:
    return _sigmoid(op, 1 / 256, -128)


def tanh(op: Operator) -> Record:
    return _sigmoid(op, 1 / 128, 0)


def _conversion(op: Operator, integer: bytes, real: bytes) -> Record:
    return _unary(op, _CONVERSION.pack(op.input(0).type, op.outputs[0].type, integer, real))


def quantize(op: Operator) -> Record:
    source, out = op.input(0), op.outputs[0]
    need((source.type, out.type) in {(FLOAT32, INT8), (INT8, INT8), (INT8, UINT8), (UINT8, INT8)}, "these types are not supported")
    if source.type == FLOAT32:
        need(out.scale > 0, "the output is not quantised")
        return _conversion(op, b"", _AFFINE.pack(source.elements, out.scale, out.zero_point))
    scale = FACTOR.pack(*factor(source.scale, 1, out.scale))
    return _conversion(op, _REQUANTIZE.pack(source.elements, scale, source.zero_point, out.zero_point), b"")


def dequantize(op: Operator) -> Record:
    source, out = op.input(0), op.outputs[0]
    need(source.type in {INT8, UINT8} and source.scale > 0 and out.type == FLOAT32, "these types are not supported")
    return _conversion(op, b"", _AFFINE.pack(source.elements, source.scale, source.zero_point))
