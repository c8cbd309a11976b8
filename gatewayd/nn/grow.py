"""PAD and RESIZE_NEAREST_NEIGHBOR: op_grow.c of the node's engine."""

from __future__ import annotations

import itertools
import math
import struct
from typing import TYPE_CHECKING

from gatewayd.nn.graph import INT8, ITEM_BYTES, RESOURCE, Move, Record, need
from gatewayd.nn.quantize import rounded, single

if TYPE_CHECKING:
    from gatewayd.nn.graph import Operator

_RESIZE = struct.Struct("<4I2H")  # resize_t of kernels.h
_PIECES = 0xFFFF // 6  # what a record holds


def pad(op: Operator) -> Record:
    """Input and output are seen as four axes: those that are not padded are one with the axis outside them."""
    source, out, paddings = op.input(0), op.outputs[0], op.input(1).ints()
    need(source.type == out.type != RESOURCE, "output unlike input")
    size = ITEM_BYTES[source.type]
    axes = [(size, 0, size)]  # the innermost first: of the input, before it, of the output; bytes
    for inner, outer, before, after in zip(reversed(source.shape), reversed(out.shape), paddings[-2::-2], paddings[-1::-2], strict=True):
        need(min(before, after) >= 0 and inner + before + after == outer, "shapes do not fit")
        within, _, whole = axes.pop() if axes[-1][0] == axes[-1][2] else (1, 0, 1)
        axes.append((within * inner, before * within, whole * outer))
    need(len(axes) <= 4, "too many padded axes")  # noqa: PLR2004
    axes += [(1, 0, 1)] * (4 - len(axes))
    (row, left, out_row), (rows, top, out_rows), *images = axes
    need(images[0][0] * images[1][0] < _PIECES, "too many images")
    moves = []
    for i, (y, x) in enumerate(itertools.product(range(images[1][0]), range(images[0][0]))):
        image = (y + images[1][1]) * images[0][2] + x + images[0][1]
        to = (image * out_rows + top) * out_row + left
        moves.append(Move(source, out, i * rows * row, to, rows, row, row, out_row))
    return Record(moves=tuple(moves), fill=out.zero_point if out.type == INT8 else 0)


def _nearest(i: int, size: int, out: int, *, align_corners: bool, half_pixel_centers: bool) -> int:
    step = single((size - 1) / (out - 1)) if align_corners and out > 1 else single(size / out)
    position = single((i + half_pixel_centers / 2) * step)
    return min(rounded(position) if align_corners else math.floor(position), size - 1)


def resize(op: Operator) -> Record:
    source, out = op.input(0), op.outputs[0]
    need(source.type == out.type != RESOURCE, "output unlike input")
    (batches, height, width, channels), (_, new_height, new_width, _) = source.shape, out.shape
    need(out.shape == (batches, new_height, new_width, channels), "shapes do not fit")
    align, half = (bool(op.option(name)) for name in ("alignCorners", "halfPixelCenters"))
    pixel = ITEM_BYTES[source.type] * channels
    numbers = (batches, pixel * width * height, pixel * width, pixel, new_height, new_width)
    taken = [
        _nearest(i, size, new, align_corners=align, half_pixel_centers=half)
        for size, new in ((height, new_height), (width, new_width))
        for i in range(new)
    ]
    return Record((source, out), parameters=_RESIZE.pack(*numbers) + struct.pack(f"<{len(taken)}H{len(taken) % 2 * 2}x", *taken))
