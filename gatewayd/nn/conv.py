"""CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, AVERAGE_POOL_2D and MAX_POOL_2D: op_conv.c of the node's engine."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

from gatewayd.nn.graph import INT32, Overlap, Record, need
from gatewayd.nn.quantize import activation, factor, int8, scale, shift_right_round

if TYPE_CHECKING:
    from gatewayd.nn.graph import Operator, Tensor

_WINDOW = struct.Struct("<16H4h2H")  # window_t and dense_t of kernels.h
_DENSE = struct.Struct("<I2H4h2H")
_BLOCK = 4
_SAME, _VALID = 0, 1


class _Window(NamedTuple):
    """window_t, in its order."""

    batches: int
    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    out_c: int
    filter_h: int
    filter_w: int
    filter_c: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    pad_top: int
    pad_left: int
    in_zero: int
    out_zero: int
    low: int
    high: int
    fast: int = 0
    factors: int = 0


def _pad(padding: int, size: int, out: int, reach: int, stride: int) -> int:
    """Before the first element, where `reach` is the dilated filter's extent."""
    need(padding in {_SAME, _VALID}, "unknown padding")
    fits = -(-size // stride) if padding == _SAME else (size - reach + stride) // stride
    need(out == fits, "the output's size does not fit")
    return max(0, (out - 1) * stride + reach - size) // 2


def _window(op: Operator, filter_h: int, filter_w: int, filter_c: int) -> _Window:
    """Of an operator on images; pools have no dilation."""
    source, out = op.input(0), op.outputs[0]
    int8(source, out)
    need(len(source.shape) == len(out.shape) == 4 and source.shape[0] == out.shape[0], "not images")  # noqa: PLR2004
    (batches, in_h, in_w, in_c), (_, out_h, out_w, out_c) = source.shape, out.shape
    stride_h, stride_w, padding = op.option("strideH"), op.option("strideW"), op.option("padding")
    dilation_h, dilation_w = op.option("dilationHFactor") or 1, op.option("dilationWFactor") or 1
    return _Window(
        *(batches, in_h, in_w, in_c, out_h, out_w, out_c, filter_h, filter_w, filter_c, stride_h, stride_w, dilation_h, dilation_w),
        _pad(padding, in_h, out_h, (filter_h - 1) * dilation_h + 1, stride_h),
        _pad(padding, in_w, out_w, (filter_w - 1) * dilation_w + 1, stride_w),
        *(source.zero_point, out.zero_point, *activation(op)),
    )


def _reach(w: _Window) -> int:
    """How far the output must begin before the input so that none is written over what a later one reads: reach() of op_conv.c."""
    row, left_edge, top_edge, most = w.in_w * w.in_c, w.pad_left // w.stride_w, w.pad_top // w.stride_h, 0
    rows, columns = (top_edge - 1, top_edge, top_edge + 1, w.out_h - 2, w.out_h - 1), (left_edge, left_edge + 1, w.out_w - 1, w.out_w)
    for y, x in itertools.product(rows, columns):
        wraps = x == w.out_w
        if y < 0 or not 1 <= x <= w.out_w or y + wraps >= w.out_h:
            continue
        top = (y + wraps) * w.stride_h - w.pad_top
        left = 0 if wraps else x * w.stride_w - w.pad_left
        most = max(most, (y * w.out_w + x) * w.out_c - max(0, top) * row - max(0, left) * w.in_c)
    return most


class _Weights(NamedTuple):
    filter: Tensor
    bias: Tensor | None
    channels: int
    depth: int  # products in a sum
    depthwise: bool

    @property
    def is_constant(self) -> bool:
        return bool(self.filter.data) and (self.bias is None or bool(self.bias.data))


def _weights(op: Operator, dimension: int, channels: int) -> _Weights:
    weights, bias = op.input(1), op.inputs[2] if len(op.inputs) > 2 else None  # noqa: PLR2004
    int8(weights)
    need(weights.zero_point == 0, "weights are not symmetric")
    need(len(weights.scales) == 1 or (len(weights.scales) == channels and weights.dimension == dimension), "scales do not fit the weights")
    need(bias is None or (bias.type == INT32 and bias.elements == channels), "the bias does not fit")
    return _Weights(weights, bias, channels, weights.elements // channels, dimension > 0)


def _room(w: _Weights) -> int:
    """How large a bias may be if no sum is to reach 2^30."""
    return (1 << 30) - w.depth * 255 * 128


def _beyond(w: _Weights) -> list[tuple[int, int]]:
    """Channels and their biases that are larger."""
    biases = [] if w.bias is None else w.bias.ints() if w.bias.data else [-(2**31)]
    return [(channel, bias) for channel, bias in enumerate(biases) if abs(bias) >= _room(w)]


def _is_harmless(w: _Weights, factors: list[tuple[int, int]], channel: int, bias: int) -> bool:
    """Whether requantisation that saturates gives the same for a channel without weights: is_harmless() of op_conv.c."""
    weights = w.filter.data[channel :: w.channels] if w.depthwise else w.filter.data[channel * w.depth :][: w.depth]
    if not w.is_constant or any(weights):
        return False
    multiplier, shift = factors[channel if len(factors) > 1 else 0]
    doubled = max(-(1 << 31), min((1 << 31) - 1, 2 * bias))
    return shift_right_round((doubled * multiplier + (1 << 31)) >> 32, -shift) == scale(bias, multiplier, shift)


def _factors(op: Operator, w: _Weights) -> tuple[bool, bytes]:
    """Whether the short way of requantisation is exact (`fast` of window_t), and the multipliers and shifts of all channels."""
    made = [factor(op.input(0).scale, scale, op.outputs[0].scale) for scale in w.filter.scales]
    largest = made[w.filter.scales.index(max(w.filter.scales))]
    fast = largest[1] < 0 and all(_is_harmless(w, made, *each) for each in _beyond(w))
    multipliers, shifts = zip(*made, strict=True)
    return fast, struct.pack(f"<{len(made)}i{len(made)}b{-len(made) % 4}x", *multipliers, *shifts)


def _patch_scratch(pixels: int, depth: int) -> int:
    """kernels.h: bytes of scratch memory."""
    return (2 if pixels < _BLOCK else 2 * _BLOCK + 1) * (depth + 3 & ~3)


def _convolution(op: Operator, *, depthwise: bool) -> Record:
    source, out = op.input(0), op.outputs[0]
    first, filter_h, filter_w, filter_c = op.input(1).shape
    window = _window(op, filter_h, filter_w, filter_c)
    if depthwise:
        need(first == 1 and filter_c == window.out_c and op.option("depthMultiplier") * window.in_c == window.out_c, "shapes do not fit")
    else:
        need(first == window.out_c and window.in_c % filter_c == 0 == window.out_c % (window.in_c // filter_c), "shapes do not fit")
    weights = _weights(op, 3 if depthwise else 0, window.out_c)
    fast, factors = _factors(op, weights)
    window = window._replace(fast=fast, factors=len(weights.filter.scales))
    may = window.batches == 1 and weights.is_constant and window.in_c == (window.out_c if depthwise else filter_c)
    return Record(
        (source, weights.filter, weights.bias, out),
        None if depthwise else _patch_scratch(out.elements // window.out_c, weights.depth),
        _WINDOW.pack(*window) + factors,
        overlaps=(Overlap(source, _reach(window), window.in_c if depthwise else 1),) if may else (),
        work=out.elements * weights.depth,
    )


def conv_2d(op: Operator) -> Record:
    return _convolution(op, depthwise=False)


def depthwise_conv_2d(op: Operator) -> Record:
    return _convolution(op, depthwise=True)


def fully_connected(op: Operator) -> Record:
    source, out = op.input(0), op.outputs[0]
    int8(source, out)
    need(op.option("weightsFormat") == 0, "the weights' format is not supported")
    units, depth = op.input(1).shape
    rows = source.elements // depth
    need(source.elements == rows * depth and out.elements == rows * units and out.shape[-1:] == (units,), "shapes do not fit")
    weights = _weights(op, 0, units)
    fast, factors = _factors(op, weights)
    numbers = (rows, depth, units, source.zero_point, out.zero_point, *activation(op), fast, len(weights.filter.scales))
    return Record(
        (source, weights.filter, weights.bias, out),
        _patch_scratch(rows, depth),
        _DENSE.pack(*numbers) + factors,
        overlaps=(Overlap(source, max(0, (rows - 1) * (units - depth)), 1),) if weights.is_constant else (),
        work=out.elements * depth,
    )


def pool(op: Operator) -> Record:
    source, out = op.input(0), op.outputs[0]
    window = _window(op, op.option("filterHeight"), op.option("filterWidth"), 0)
    need(window.in_c == window.out_c and source.scale == out.scale and source.zero_point == out.zero_point, "output unlike input")
    return Record(
        (source, out),
        parameters=_WINDOW.pack(*window),
        overlaps=(Overlap(source, _reach(window), 1),) if window.batches == 1 else (),
        work=out.elements * min(window.filter_h, window.in_h) * min(window.filter_w, window.in_w),
    )
