"""MEAN: op_reduce.c of the node's engine."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from gatewayd.nn.graph import Overlap, Record, need
from gatewayd.nn.quantize import FACTOR, factor, int8

if TYPE_CHECKING:
    from gatewayd.nn.graph import Operator

_GROUPS = 5
_MEAN = struct.Struct(f"<{_GROUPS}I{FACTOR.size}s2h")  # mean_t of kernels.h


def _divided(multiplier: int, shift: int, count: int) -> tuple[int, int]:
    bits = min(count.bit_length() - 1, 31 + shift)
    return (multiplier << bits) // count, shift - bits


def mean(op: Operator) -> Record:
    """Axes are seen as five groups that are kept, averaged, kept, averaged, kept."""
    source, out = op.input(0), op.outputs[0]
    int8(source, out)
    rank = len(source.shape)
    averaged = {range(rank)[axis] for axis in op.input(1).ints()}
    sizes, group = [1] * _GROUPS, _GROUPS - 1
    for axis in reversed(range(rank)):
        group -= (axis in averaged) != group % 2
        need(group >= 0, "too many groups of axes")
        sizes[group] *= source.shape[axis]
    count = sizes[1] * sizes[3]
    need(source.elements == count * out.elements, "shapes do not fit")
    scale = _divided(*factor(source.scale, 1, out.scale), count)
    return Record(
        (source, out),
        parameters=_MEAN.pack(*sizes, FACTOR.pack(*scale), source.zero_point, out.zero_point),
        overlaps=(Overlap(source, 0, 1),),
        work=source.elements,
    )
