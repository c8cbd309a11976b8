"""Operators that only move elements, and variables: op_shape.c and op_variable.c of the node's engine."""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import TYPE_CHECKING

from gatewayd.nn.graph import ITEM_BYTES, RESOURCE, Move, Overlap, Record, need

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gatewayd.nn.graph import Operator, Tensor

_SLICE = struct.Struct("<2I4I4i")  # slice_t of kernels.h


def _view(source: Tensor, offset: int, target: Tensor) -> Record:
    return Record(moves=(Move(source, target, offset, 0, row_bytes=target.size),))


def reshape(op: Operator) -> Record:
    source, out = op.input(0), op.outputs[0]
    need(source.type == out.type != RESOURCE and source.elements == out.elements, "output unlike input")
    return _view(source, 0, out)


def _pieces(whole: Tensor, pieces: Iterable[Tensor], axis: int) -> Iterator[tuple[Tensor, int, int]]:
    """Each piece along the axis, where it begins in a row of the whole, and the rows."""
    axis = range(len(whole.shape))[axis]
    rows, at = math.prod(whole.shape[:axis]), 0
    for piece in pieces:
        same = (piece.type, piece.scale, piece.zero_point) == (whole.type, whole.scale, whole.zero_point)
        need(same and whole.type != RESOURCE, "a piece of another type or quantisation")
        need(whole.shape == (*piece.shape[:axis], whole.shape[axis], *piece.shape[axis + 1 :]), "a piece does not fit")
        yield piece, at, rows
        at += piece.size // rows
    need(at * rows == whole.size, "the pieces are not the whole")


def _join(whole: Tensor, pieces: Iterable[Tensor], axis: int) -> Record:
    return Record(
        moves=tuple(
            Move(piece, whole, 0, at, rows, piece.size // rows, piece.size // rows, whole.size // rows)
            for piece, at, rows in _pieces(whole, pieces, axis)
        )
    )


def concatenation(op: Operator) -> Record:
    need(op.option("fusedActivationFunction") == 0, "a fused activation is not supported")
    return _join(op.outputs[0], map(op.input, range(len(op.inputs))), op.option("axis"))


def pack(op: Operator) -> Record:
    need(op.option("valuesCount") == len(op.inputs), "not as many values as inputs")
    axis = range(len(op.outputs[0].shape))[op.option("axis")]
    inputs = [op.input(i) for i in range(len(op.inputs))]
    pieces = (dataclasses.replace(piece, shape=(*piece.shape[:axis], 1, *piece.shape[axis:])) for piece in inputs)
    return _join(op.outputs[0], pieces, axis)


def split_v(op: Operator) -> Record:
    whole, (axis,) = op.input(0), op.input(2).ints()
    return Record(
        moves=tuple(
            Move(whole, piece, at, 0, 1, piece.size)
            if rows == 1
            else Move(whole, piece, at, 0, rows, piece.size // rows, whole.size // rows, piece.size // rows)
            for piece, at, rows in _pieces(whole, op.outputs, axis)
        )
    )


def _slices(op: Operator, shape: Sequence[int]) -> Iterator[range]:
    """The indices that a slice takes of each axis."""
    need(not any(map(op.option, ("ellipsisMask", "newAxisMask", "offset"))), "ellipsis, new axis or offset are not supported")
    masks = op.option("beginMask"), op.option("endMask"), op.option("shrinkAxisMask")
    parts = (op.input(i).ints() for i in (1, 2, 3))
    for axis, (size, begin, end, stride) in enumerate(zip(shape, *parts, strict=True)):
        from_edge, to_edge, shrink = (mask >> axis & 1 for mask in masks)
        whole = range(size)
        taken = whole[begin:][:1] if shrink else whole[None if from_edge else begin : None if to_edge else end : stride]
        need(len(taken) > 0 and not (shrink and (from_edge or stride < 0)), "a slice that takes nothing, or two things")
        yield taken


def strided_slice(op: Operator) -> Record:
    source, out = op.input(0), op.outputs[0]
    need(source.type == out.type != RESOURCE and len(source.shape) <= 4, "output unlike input")  # noqa: PLR2004
    first, steps = 0, [(1, 0)] * (4 - len(source.shape))
    for axis, taken in enumerate(_slices(op, source.shape)):
        step = math.prod(source.shape[axis + 1 :])
        first += taken.start * step
        steps.append((len(taken), taken.step * step if len(taken) > 1 else 1))
    need(math.prod(count for count, _ in steps) == out.elements, "the output's size does not fit")
    return _put_slice(source, out, first, steps)


def transpose(op: Operator) -> Record:
    source, out, axes = op.input(0), op.outputs[0], op.input(1).ints()
    rank = len(source.shape)
    need(source.type == out.type != RESOURCE and rank <= 4, "output unlike input")  # noqa: PLR2004
    axes = [range(rank)[axis] for axis in axes]
    need(sorted(axes) == [*range(rank)] and out.shape == tuple(source.shape[axis] for axis in axes), "shapes do not fit")
    steps = [(source.shape[axis], math.prod(source.shape[axis + 1 :])) for axis in axes]
    return _put_slice(source, out, 0, [(1, 1)] * (4 - rank) + steps)


def _put_slice(source: Tensor, out: Tensor, first: int, steps: Sequence[tuple[int, int]]) -> Record:
    """`steps`: of each of four axes, how many elements, and from one to the next."""
    counts, strides = zip(*steps, strict=True)
    if all(count == 1 or stride == math.prod(counts[axis + 1 :]) for axis, (count, stride) in enumerate(steps)):
        return _view(source, first * ITEM_BYTES[source.type], out)
    return Record((source, out), parameters=_SLICE.pack(ITEM_BYTES[source.type], first, *counts, *strides))


def nothing(_op: Operator) -> Record:
    return Record()


def read_variable(op: Operator) -> Record:
    return _view(op.input(0), 0, op.outputs[0])


def assign_variable(op: Operator) -> Record:
    variable, source = op.input(0), op.input(1)
    overlaps = () if source.data else (Overlap(source, 0, 0),)
    return Record(moves=(Move(source, variable, row_bytes=source.size),), overlaps=overlaps)
