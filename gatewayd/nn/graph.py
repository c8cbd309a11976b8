"""A subgraph as the node's engine reads it, and what its operators record of themselves (node_firmware/core/nn/graph.h, plan.h)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

FLOAT32, INT32, UINT8, BOOL, INT16, INT8, RESOURCE = 0, 2, 3, 6, 7, 9, 13  # TensorType
ITEM_BYTES = {FLOAT32: 4, INT32: 4, UINT8: 1, BOOL: 1, INT16: 2, INT8: 1, RESOURCE: 0}


@dataclass(frozen=True)
class Tensor:
    """A tensor as the engine reads it."""

    index: int
    type: int
    shape: tuple[int, ...]
    scales: tuple[float, ...]
    zero_point: int
    dimension: int  # along which `scales` lie
    data: bytes  # of a constant, or empty
    buffer: int  # where that is in the model

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes; 0 of a RESOURCE."""
        return self.elements * ITEM_BYTES[self.type]

    @property
    def scale(self) -> float:
        """Of channel 0; 0: not quantised."""
        return self.scales[0] if self.scales else 0.0

    def ints(self) -> list[int]:
        """The elements of a constant int32 tensor."""
        need(self.type == INT32 and len(self.data) == self.size, "a constant of another type was expected")
        return [value for (value,) in struct.iter_unpack("<i", self.data)]


class Operator(NamedTuple):
    """One of a subgraph; absent inputs are None."""

    code: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any  # of the schema's object API, or None

    def input(self, position: int) -> Tensor:
        """An operand that must be there."""
        tensor = self.inputs[position]
        need(tensor is not None, f"input {position} is absent")
        assert tensor is not None
        return tensor

    def option(self, name: str) -> int:
        return int(getattr(self.options, name, 0))


class Overlap(NamedTuple):
    """The output may be written over `input`, if that dies here and begins at least `distance` bytes, and a multiple of `unit`, behind it.

    `unit` 0: anyhow.
    """

    input: Tensor
    distance: int
    unit: int


class Move(NamedTuple):
    """Rows of bytes from one tensor to another; a RESOURCE stands for its variable's state."""

    source: Tensor
    target: Tensor
    source_offset: int = 0
    target_offset: int = 0
    rows: int = 1
    row_bytes: int = 0
    source_step: int = 0
    target_step: int = 0

    @property
    def is_run(self) -> bool:
        return self.rows == 1 or self.source_step == self.target_step

    @property
    def extent(self) -> int:
        return (self.rows - 1) * self.target_step + self.row_bytes


class Record(NamedTuple):
    """An operator in a plan: operands, then the place of `scratch` bytes (None: it has none), then parameters; or only moves."""

    operands: tuple[Tensor | None, ...] = ()
    scratch: int | None = None
    parameters: bytes = b""
    moves: tuple[Move, ...] | None = None
    overlaps: tuple[Overlap, ...] = ()
    work: int = 0  # beside one for each element of the outputs


def need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


class Subgraph(NamedTuple):
    """A subgraph, and what its operators record."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def read(model: Any, number: int) -> Subgraph:
    """A subgraph of the schema's ModelT."""
    graph = model.subgraphs[number]
    tensors = tuple(_tensor(tensor, i, model.buffers) for i, tensor in enumerate(graph.tensors))

    def named(indices: Any) -> tuple[Tensor, ...]:
        return tuple(tensors[i] for i in _ints(indices))

    def operator(op: Any) -> Operator:
        code = model.operatorCodes[op.opcodeIndex]
        inputs = tuple(None if i == -1 else tensors[i] for i in _ints(op.inputs))
        return Operator(max(int(code.builtinCode), int(code.deprecatedBuiltinCode)), inputs, named(op.outputs), op.builtinOptions)

    return Subgraph(tensors, tuple(map(operator, graph.operators or ())), named(graph.inputs), named(graph.outputs))


def _tensor(tensor: Any, index: int, buffers: Any) -> Tensor:
    quantization, data = tensor.quantization, buffers[tensor.buffer].data
    scales = () if quantization is None or quantization.scale is None else tuple(map(float, quantization.scale))
    zero_points = _ints(quantization.zeroPoint) if scales else ()
    dimension = int(quantization.quantizedDimension) if scales else 0
    content = b"" if data is None else bytes(data)
    return Tensor(index, int(tensor.type), _ints(tensor.shape), scales, (*zero_points, 0)[0], dimension, content, int(tensor.buffer))


def _ints(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(map(int, values))
