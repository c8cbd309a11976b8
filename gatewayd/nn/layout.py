"""The memory of a subgraph: what its operators need, when, and where that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gatewayd.nn import memory
from gatewayd.nn.graph import ITEM_BYTES, RESOURCE, need
from gatewayd.nn.operators import ASSIGN_VARIABLE, READ_VARIABLE, VAR_HANDLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gatewayd.nn.graph import Move, Operator, Subgraph, Tensor

NOWHERE = 0xFFFFFFFF  # what no operator makes


class Variable(NamedTuple):
    """The state behind all handles of a name."""

    size: int = 0  # 0: nobody has read or assigned it
    fill: int = 0  # of each byte, before the first assignment


def _name(op: Operator) -> tuple[bytes, bytes]:
    container, name = (getattr(op.options, field, None) or b"" for field in ("container", "sharedName"))
    return bytes(container), bytes(name)


def variables(main: Subgraph) -> dict[tuple[bytes, bytes], Variable]:
    """Those of the main subgraph by their names, in the order of their handles; sizes are those of the first values."""
    found = {_name(op): Variable() for op in main.operators if op.code == VAR_HANDLE}
    names = {op.outputs[0].index: _name(op) for op in main.operators if op.code == VAR_HANDLE}
    for op in main.operators:
        if op.code in {READ_VARIABLE, ASSIGN_VARIABLE}:
            need(op.input(0).index in names, "a variable without a handle")
            name, value = names[op.input(0).index], op.outputs[0] if op.code == READ_VARIABLE else op.input(1)
            if not found[name].size:
                found[name] = Variable(value.size, (value.zero_point + 128) % 256 - 128)
            need(value.size == found[name].size, "a variable has two sizes")
    return found


class Layout(NamedTuple):
    """Where everything of a subgraph is."""

    tensors: list[int]  # a RESOURCE is where its variable's state is
    scratch: list[int]  # of operators
    states: list[int]  # of variables
    size: int


class Demands:
    """The blocks of all tensors, then of all variables, then of each operator's scratch memory, and what writes there.

    Times are positions of operators + 1; 0 is before the first.
    """

    def __init__(self, part: Subgraph, known: dict[tuple[bytes, bytes], Variable], states: Sequence[int] = ()) -> None:
        """`states`: where variables are, in a subgraph that cannot choose."""
        names = list(known)
        self.handles = {op.outputs[0].index: names.index(_name(op)) for op in part.operators if op.code == VAR_HANDLE}
        self.first_state, self.first_scratch = len(part.tensors), len(part.tensors) + len(known)
        self._fixed = bool(states)
        self._made: dict[int, memory.Block] = {}
        self.writes: list[memory.Write] = []
        self._make(part.inputs, 0)
        scratch = [self._walk(part, time) for time in range(1, len(part.operators) + 1)]
        self._use(part.outputs, len(part.operators) + 1)
        unmade = memory.Block(0, 0, 0)
        self.blocks = [self._made.get(tensor.index, unmade) for tensor in part.tensors]
        for number, variable in enumerate(known.values()):
            self.blocks.append(memory.Block(variable.size, 0, len(part.operators) + 1, place=states[number] if states else None))
            self.writes.append(memory.Write(0, self.first_state + number, 0, variable.size))  # a reset
        self.blocks += scratch

    def _walk(self, part: Subgraph, time: int) -> memory.Block:
        """Notes what an operator uses, makes and writes; returns its scratch memory."""
        op, record = part.operators[time - 1], part.records[time - 1]
        self._use(op.inputs, time)
        over = tuple(memory.Over(o.input.index, o.distance, o.unit) for o in record.overlaps)
        self._make(op.outputs, time, over, written=record.moves is None or record.fill is not None)
        self.writes += [self._move(move, time, over) for move in record.moves or ()]
        if record.scratch:
            self.writes.append(memory.Write(time, self.first_scratch + time - 1, 0, record.scratch))
        return memory.Block(record.scratch or 0, time, time)

    def _make(self, tensors: Sequence[Tensor], time: int, over: tuple[memory.Over, ...] = (), *, written: bool = True) -> None:
        for tensor in tensors:
            need(tensor.index not in self._made and not tensor.data, f"tensor {tensor.index} is made twice")
            self._made[tensor.index] = memory.Block(tensor.size, time, time, ITEM_BYTES[tensor.type] or 1)
            if written and tensor.size:
                self.writes.append(memory.Write(time, tensor.index, 0, tensor.size, over=over))

    def _use(self, tensors: Sequence[Tensor | None], time: int) -> None:
        for tensor in tensors:
            if tensor is not None and not tensor.data:
                need(tensor.index in self._made, f"tensor {tensor.index} is used before it is made")
                self._made[tensor.index] = self._made[tensor.index]._replace(last=time)

    def block(self, tensor: Tensor) -> int:
        return self.first_state + self.handles[tensor.index] if tensor.type == RESOURCE else tensor.index

    def _move(self, move: Move, time: int, over: tuple[memory.Over, ...]) -> memory.Write:
        stays = not move.is_run or bool(move.source.data) or self._fixed
        source = None if stays else (self.block(move.source), move.source_offset)
        return memory.Write(time, self.block(move.target), move.target_offset, move.extent, source, over)

    def place(self) -> Layout:
        """Choose places."""
        places, size = memory.places(self.blocks, self.writes)
        states = places[self.first_state : self.first_scratch]
        tensors = [place if self.blocks[i].size else NOWHERE for i, place in enumerate(places[: self.first_state])]
        for tensor, number in self.handles.items():
            tensors[tensor] = states[number]
        return Layout(tensors, places[self.first_scratch :], states, size)
