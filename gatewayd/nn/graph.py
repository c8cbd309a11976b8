"""A subgraph as the node's engine reads it, and what its operators record of themselves (node_firmware/core/nn/graph.h, plan.h)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    fill: int | None = None  # of each byte of the output, before the moves
    overlaps: tuple[Overlap, ...] = ()
    work: int = 0  # beside one for each element of the outputs


def need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


class Subgraph(NamedTuple):
    """A subgraph, and what is recorded of each operator."""

    tensors: Sequence[Tensor]
    operators: Sequence[Operator]
    records: Sequence[Record]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    def in_order(self, order: Sequence[int]) -> Subgraph:
        """With its operators in another order, given by their positions."""
        return self._replace(operators=[self.operators[i] for i in order], records=[self.records[i] for i in order])
