"""Requantisation factors and quantised limits, the bytes of node_firmware/core/nn/quantize.c and op_common.h."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from gatewayd.nn.graph import INT8, need

if TYPE_CHECKING:
    from gatewayd.nn.graph import Operator, Tensor

FACTOR = struct.Struct("<ib3x")  # factor_t
_NONE, _RELU, _RELU_N1_TO_1, _RELU6 = range(4)


def ratio_factor(a: float, b: float, c: float, exponent: int) -> tuple[int, int]:
    """quantize.h: multiplier and shift of a * b / c * 2^exponent, a quotient in double precision rounded to 31 bits."""
    mantissa, shift = math.frexp(a * b / c)
    multiplier = math.floor(math.ldexp(mantissa, 31) + 0.5)
    shift += exponent
    return (multiplier, shift) if multiplier < 1 << 31 else (multiplier >> 1, shift + 1)


def single(x: float) -> float:
    """Rounded to a float32."""
    return float(struct.unpack("<f", struct.pack("<f", x))[0])


def rounded(x: float) -> int:
    """round_saturate(): halves away from zero."""
    whole = math.trunc(x)
    return whole + (x - whole >= 0.5) - (x - whole <= -0.5)  # noqa: PLR2004


def factor(a: float, b: float, c: float, exponent: int = 0) -> tuple[int, int]:
    need(min(a, b, c) > 0, "a scale is missing")
    multiplier, shift = ratio_factor(a, b, c, exponent)
    need(shift <= 30, "scales are too far apart")  # noqa: PLR2004 -- factor_t
    return (multiplier, shift) if shift >= -31 else (0, -1)  # noqa: PLR2004


def shift_right_round(x: int, exponent: int) -> int:
    """Divide by 2^exponent, halves away from zero."""
    half = (1 << exponent) >> 1
    return x + half >> exponent if x >= 0 else -(-x + half >> exponent)


def scale(x: int, multiplier: int, shift: int) -> int:
    """quantize.h, for shifts to the right: requantisation with its two roundings."""
    return shift_right_round((x * multiplier + (1 << 30)) >> 31, -shift)


def fixed_point(a: float, b: float, exponent: int) -> tuple[int, int]:
    multiplier, shift = ratio_factor(a, b, 1, exponent)
    need(shift > 0, "the scale is too small")
    return (multiplier, shift) if shift <= 30 else (0, 0)  # noqa: PLR2004


def int8(*tensors: Tensor) -> None:
    need(all(t.type == INT8 and t.scale > 0 for t in tensors), "only quantised int8 is supported")


def quantized(out: Tensor, real: float) -> int:
    quotient = single(max(-(2.0**31), min(2.0**31, real / out.scale)))
    return max(-128, min(127, rounded(quotient) + out.zero_point))


def activation(op: Operator) -> tuple[int, int]:
    """The quantised limits of a fused activation."""
    out, function = op.outputs[0], op.option("fusedActivationFunction")
    need(_NONE <= function <= _RELU6, f"fused activation {function} is not supported")
    if function == _NONE:
        return -128, 127
    low, high = {_RELU: (0.0, math.inf), _RELU_N1_TO_1: (-1.0, 1.0), _RELU6: (0.0, 6.0)}[function]
    return quantized(out, low), 127 if high == math.inf else quantized(out, high)
