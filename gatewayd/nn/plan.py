"""A plan's bytes: docs/plan.md, node_firmware/core/nn/plan.h."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from gatewayd.core.tflite import PLAN_HEADER, PLAN_MAGIC
from gatewayd.nn.layout import NOWHERE
from gatewayd.nn.operators import COPY, FILL, KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gatewayd.nn.graph import Record, Subgraph, Tensor
    from gatewayd.nn.layout import Layout, Variable

_IN_MODEL = 1 << 31
_END = 0xFF  # the kind of the last record
_OP_HEADER, _FILL_BYTES, _PIECE = struct.Struct("<2HI"), struct.Struct("<2Ii"), struct.Struct("<6I")


class Part(NamedTuple):
    """A subgraph and its memory."""

    graph: Subgraph
    layout: Layout


def encode(main: Part, reset: Part | None, variables: Sequence[Variable], offsets: Sequence[int]) -> bytes:
    """The plan of a model with the subgraph that sets its variables; `offsets`: of buffers in the file."""
    count = len(main.graph.operators)
    fills = [_record(FILL, 0, _FILL_BYTES.pack(place, *variable)) for place, variable in zip(main.layout.states, variables, strict=True)]
    # Without a subgraph, the node has not come further in time when it writes the last record.
    resets = _records(reset, offsets) if reset else _record(_END, 0 if variables else count)
    places = main.layout.tensors + (reset.layout.tensors if reset else [])
    head = struct.pack(f"<{len(places)}I", *places) + _records(main, offsets)
    body = head + b"".join(fills) + resets
    size = max(main.layout.size, reset.layout.size if reset else 0)
    numbers = (PLAN_HEADER.size + len(body), size, _work(main.graph), PLAN_HEADER.size + len(head))
    return PLAN_HEADER.pack(PLAN_MAGIC, *numbers, len(main.graph.tensors), len(places) - len(main.graph.tensors)) + body


def _work(graph: Subgraph) -> int:
    made = [*graph.inputs, *(tensor for op in graph.operators for tensor in op.outputs)]
    return sum(tensor.elements for tensor in made) + sum(record.work for record in graph.records)


def _record(kind: int, index: int, content: bytes = b"") -> bytes:
    return _OP_HEADER.pack((_OP_HEADER.size + len(content)) // 4, index, kind) + content


def _records(part: Part, offsets: Sequence[int]) -> bytes:
    def place(tensor: Tensor | None) -> int:
        if tensor is None:
            return NOWHERE
        return _IN_MODEL | offsets[tensor.buffer] if tensor.data else part.layout.tensors[tensor.index]

    def pieces(record: Record) -> bytes:
        content = b""
        for move in record.moves or ():
            source, target = place(move.source) + move.source_offset, place(move.target) + move.target_offset
            if source != target or not move.is_run:
                content += _PIECE.pack(source, target, move.rows, move.row_bytes, move.source_step, move.target_step)
        return content

    def content(record: Record, scratch: int) -> bytes:
        places = [place(tensor) for tensor in record.operands] + [scratch] * (record.scratch is not None)
        return struct.pack(f"<{len(places)}I", *places) + record.parameters + pieces(record)

    packed = b""
    for index, (op, record, scratch) in enumerate(zip(part.graph.operators, part.graph.records, part.layout.scratch, strict=True)):
        if record.fill is not None:
            packed += _record(FILL, index, _FILL_BYTES.pack(place(op.outputs[0]), op.outputs[0].size, record.fill))
        if data := content(record, scratch):
            packed += _record(KINDS[op.code] if record.moves is None else COPY, index, data)
    return packed + _record(_END, len(part.graph.operators))
