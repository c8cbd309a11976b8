"""Prepare: makes of a `.tflite` what a node's flash holds: minified, its operators in a better order, with the plan that the engine runs from.

The plan (docs/plan.md) is what the engine's own preparation gives, so that a node can compare the two, but for places in memory: those are
chosen here (nn/memory.py). A variable's state gets the place where the operators want it: READ_VARIABLE and CONCATENATION then find all in
its place, and what ASSIGN_VARIABLE moves, it moves last, when nobody reads the old state any more.
"""

from __future__ import annotations

import heapq
import struct
from typing import TYPE_CHECKING, NamedTuple

from gatewayd.core import tflite
from gatewayd.errors import CascadeError
from gatewayd.minify import add_metadata, pack, stripped
from gatewayd.nn import graph, memory
from gatewayd.nn.graph import RESOURCE
from gatewayd.nn.operators import ASSIGN_VARIABLE, CALL_ONCE, KINDS, OPERATORS, READ_VARIABLE, VAR_HANDLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gatewayd.nn.graph import Operator, Record, Subgraph, Tensor

_IN_MODEL, _NOWHERE = 1 << 31, 0xFFFFFFFF  # places of constants, of what no operator makes
_OP, _FILL, _PIECE, _PLACE = struct.Struct("<2HI"), struct.Struct("<2Ii"), struct.Struct("<6I"), struct.Struct("<I")
_END_KIND, _FILL_KIND, _COPY_KIND = 0xFF, 0xFE, 0xFD


def prepare(model: bytes) -> bytes:
    """The same computation, minified and with a plan; prepared again it stays the same. Raises CascadeError, MissingPackageError."""
    parsed = stripped(model)
    try:
        main = graph.read(parsed, 0)
        order, plan = _best(main, [graph.read(parsed, number) for number in _reset_graphs(main)])
        size = len(_encode(plan, [0] * len(parsed.buffers)))
    except (ValueError, ArithmeticError, LookupError, TypeError, struct.error) as error:
        raise CascadeError(f"the model cannot be prepared: {error}") from error
    parsed.subgraphs[0].operators = [parsed.subgraphs[0].operators[i] for i in order]
    add_metadata(parsed, tflite.PLAN_NAME, bytes(size))
    packed = pack(parsed)
    offsets = tflite.buffer_offsets(packed)
    return packed[: offsets[-1]] + _encode(plan, offsets) + packed[offsets[-1] + size :]


def _reset_graphs(main: Subgraph) -> list[int]:
    """What the main subgraph calls once: not at all, or one."""
    calls = [int(op.options.initSubgraphIndex) for op in main.operators if op.code == CALL_ONCE]
    graph.need(len(calls) <= 1, "CALL_ONCE comes twice")
    return calls


# ---- variables


class _Variables(NamedTuple):
    """Those of the main subgraph, in the order of their handles."""

    names: tuple[tuple[bytes, bytes], ...]
    sizes: list[int]
    fills: list[int]  # before the first assignment

    def handles(self, part: Subgraph) -> dict[int, int]:
        """Which variable a tensor is the handle of."""
        return {op.outputs[0].index: self.names.index(_name(op)) for op in part.operators if op.code == VAR_HANDLE}


def _name(op: Operator) -> tuple[bytes, bytes]:
    return bytes(op.options.container or b""), bytes(op.options.sharedName or b"")


def _variables(main: Subgraph) -> _Variables:
    names = tuple(dict.fromkeys(_name(op) for op in main.operators if op.code == VAR_HANDLE))
    made = _Variables(names, [0] * len(names), [0] * len(names))
    handles = made.handles(main)
    for op in main.operators:
        if op.code in {READ_VARIABLE, ASSIGN_VARIABLE}:
            number, value = handles[op.input(0).index], op.outputs[0] if op.code == READ_VARIABLE else op.input(1)
            if not made.sizes[number]:
                made.sizes[number], made.fills[number] = value.size, (value.zero_point + 128) % 256 - 128
            graph.need(value.size == made.sizes[number], "a variable of two sizes")
    return made


# ---- order


def _records(part: Subgraph) -> list[Record]:
    records = []
    for i, op in enumerate(part.operators):
        graph.need(op.code in KINDS, f"operator {i}: BuiltinOperator {op.code} is none that the node's engine has")
        kind = OPERATORS[KINDS[op.code]]
        try:
            records.append(kind.record(op))
        except (ValueError, ArithmeticError, LookupError, TypeError, struct.error) as error:
            raise ValueError(f"operator {i}, {kind.name}: {error}") from error
    return records


def _best(main: Subgraph, resets: Sequence[Subgraph]) -> tuple[list[int], _Plan]:
    order = list(range(len(main.operators)))
    return order, _plan(main, resets)


# ---- places


class _Part(NamedTuple):
    """A subgraph with the place of everything."""

    graph: Subgraph
    records: list[Record]
    places: list[int]  # of tensors
    scratch: list[int]  # of operators
    states: list[int]  # of variables
    size: int


def _place(part: Subgraph, variables: _Variables, states: Sequence[int] = ()) -> _Part:
    """`states`: where variables are already."""
    records = _records(part)
    handles = variables.handles(part)
    blocks, writes = _demands(part, records, variables, handles, states)
    placed, size = memory.places(blocks, writes)
    end = len(part.tensors) + len(variables.sizes)
    found = placed[len(part.tensors) : end]
    places = [
        found[handles[t.index]] if t.index in handles else placed[t.index] if blocks[t.index].size else _NOWHERE for t in part.tensors
    ]
    return _Part(part, records, places, placed[end:], found, size)


def _demands(
    part: Subgraph, records: Sequence[Record], variables: _Variables, handles: dict[int, int], states: Sequence[int]
) -> tuple[list[memory.Block], list[memory.Write]]:
    """The memory of all tensors, all variables and each operator's scratch, in this order, and what is written there."""
    end = len(part.operators) + 1
    tensors = [memory.Block(0, 0, 0)] * len(part.tensors)
    scratch, writes = [], [memory.Write(0, tensor.index, 0, tensor.size) for tensor in part.inputs]

    def make(tensor: Tensor, time: int) -> None:
        graph.need(not tensors[tensor.index].size and not tensor.data, f"tensor {tensor.index} is made twice")
        tensors[tensor.index] = memory.Block(tensor.size, time, time, graph.ITEM_BYTES[tensor.type] or 1)

    def use(tensor: Tensor | None, time: int) -> None:
        if tensor is not None and not tensor.data and tensor.type != RESOURCE:
            graph.need(tensors[tensor.index].size > 0, f"tensor {tensor.index} is used and not made")
            tensors[tensor.index] = tensors[tensor.index]._replace(last=time)

    def block(tensor: Tensor) -> int:
        return len(tensors) + handles[tensor.index] if tensor.type == RESOURCE else tensor.index

    for tensor in part.inputs:
        make(tensor, 0)
    for time, (op, record) in enumerate(zip(part.operators, records, strict=True), 1):
        for tensor in op.inputs:
            use(tensor, time)
        for tensor in op.outputs:
            make(tensor, time)
        over = tuple(memory.Over(o.input.index, o.distance, o.unit) for o in record.overlaps)
        scratch.append(memory.Block(record.scratch or 0, time, time))
        if record.scratch:
            writes.append(memory.Write(time, len(tensors) + len(variables.sizes) + time - 1, 0, record.scratch))
        if record.moves is None:
            writes += [memory.Write(time, tensor.index, 0, tensor.size, over=over) for tensor in op.outputs if tensor.size]
        for move in record.moves or ():
            source = (block(move.source), move.source_offset) if move.is_run and not move.source.data and not states else None
            writes.append(memory.Write(time, block(move.target), move.target_offset, move.extent, source, over))
    for tensor in part.outputs:
        use(tensor, end)
    places = states or [None] * len(variables.sizes)
    states_ = [memory.Block(size, 0, end, place=place) for size, place in zip(variables.sizes, places, strict=True)]
    return [*tensors, *states_, *scratch], writes


class _Plan(NamedTuple):
    main: _Part
    reset: list[_Part]  # what sets the variables, or nothing
    variables: _Variables

    @property
    def size(self) -> int:
        return max(part.size for part in (self.main, *self.reset))


def _plan(main: Subgraph, resets: Sequence[Subgraph]) -> _Plan:
    variables = _variables(main)
    placed = _place(main, variables)
    return _Plan(placed, [_place(part, variables, placed.states) for part in resets], variables)


# ---- the bytes


def _encode(plan: _Plan, offsets: Sequence[int]) -> bytes:
    """`offsets`: of buffers in the file."""
    records = b"".join(_encode_part(plan.main, offsets))
    resets = [
        _op(_FILL_KIND, 0, _FILL.pack(*fill)) for fill in zip(plan.main.states, plan.variables.sizes, plan.variables.fills, strict=True)
    ]
    for part in plan.reset:
        resets += _encode_part(part, offsets)
    if not plan.reset:
        resets.append(_op(_END_KIND, 0 if plan.variables.sizes else len(plan.main.graph.operators)))
    places = [place for part in (plan.main, *plan.reset) for place in part.places]
    head = struct.pack(f"<{len(places)}I", *places) + records
    tensors = [len(part.places) for part in (plan.main, *plan.reset)]
    reset = tflite.PLAN_HEADER.size + len(head)
    body = head + b"".join(resets)
    size = tflite.PLAN_HEADER.size + len(body)
    return tflite.PLAN_HEADER.pack(tflite.PLAN_MAGIC, size, plan.size, _work(plan.main), reset, tensors[0], sum(tensors[1:])) + body


def _work(part: _Part) -> int:
    made = [*part.graph.inputs, *(tensor for op in part.graph.operators for tensor in op.outputs)]
    return sum(tensor.elements for tensor in made) + sum(record.work for record in part.records)


def _op(kind: int, index: int, content: bytes = b"") -> bytes:
    return _OP.pack((_OP.size + len(content)) // 4, index, kind) + content


def _encode_part(part: _Part, offsets: Sequence[int]) -> Iterator[bytes]:
    def place(tensor: Tensor | None) -> int:
        return _NOWHERE if tensor is None else _IN_MODEL | offsets[tensor.buffer] if tensor.data else part.places[tensor.index]

    for index, (op, record, scratch) in enumerate(zip(part.graph.operators, part.records, part.scratch, strict=True)):
        content = b"".join(_PLACE.pack(place(tensor)) for tensor in record.operands)
        content += (b"" if record.scratch is None else _PLACE.pack(scratch)) + record.parameters
        for move in record.moves or ():
            source, target = place(move.source) + move.source_offset, place(move.target) + move.target_offset
            if source != target or not move.is_run:
                content += _PIECE.pack(source, target, move.rows, move.row_bytes, move.source_step, move.target_step)
        if content:
            yield _op(KINDS[op.code] if record.moves is None else _COPY_KIND, index, content)
    yield _op(_END_KIND, len(part.graph.operators))
