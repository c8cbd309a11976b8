"""The order of operators: any does that keeps what they depend on, so the file's or a thriftier one.

ASSIGN_VARIABLE waits until all have read what lies in the variable's memory: the old state, and what that has become a part of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatewayd.nn import memory
from gatewayd.nn.layout import Demands, variables
from gatewayd.nn.operators import ASSIGN_VARIABLE, CALL_ONCE, READ_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gatewayd.nn.graph import Subgraph
    from gatewayd.nn.layout import Layout

    Waits = list[set[int]]  # for each operator, on which others


def ordered(main: Subgraph) -> tuple[list[int], Layout]:
    """The old positions of operators in their new order, and the memory that they take then. Ordered again, all stays as it is."""
    order = _sorted(_waits(main), _free)
    layout = _layout(main, order)
    while True:
        now = main.in_order(order)
        tried = [order[i] for i in _sorted(_waits(now), _growth(now))]
        other = layout if tried == order else _layout(main, tried)
        if other.size >= layout.size:
            return order, layout
        order, layout = tried, other


def _layout(main: Subgraph, order: Sequence[int]) -> Layout:
    now = main.in_order(order)
    return Demands(now, variables(now)).place()


def _sorted(waits: Waits, cost: Callable[[int, set[int]], int]) -> list[int]:
    """Always the cheapest of the operators that wait for nothing, the first of them; without those that wait for each other."""
    done: set[int] = set()
    order: list[int] = []
    left = dict(enumerate(waits))
    while ready := [i for i, others in left.items() if others <= done]:
        best = min(ready, key=lambda i: (cost(i, done), i))
        del left[best]
        done.add(best)
        order.append(best)
    return order


def _growth(part: Subgraph) -> Callable[[int, set[int]], int]:
    """How much more memory is needed after an operator than before it."""
    users: dict[int, set[int]] = {tensor.index: {-1} for tensor in part.outputs}
    for i, op in enumerate(part.operators):
        for tensor in op.inputs:
            if tensor is not None and not tensor.data:
                users.setdefault(tensor.index, set()).add(i)

    def growth(i: int, done: set[int]) -> int:
        op = part.operators[i]
        dying = {tensor for tensor in op.inputs if tensor is not None and not tensor.data and users[tensor.index] <= done | {i}}
        return sum(tensor.size for tensor in op.outputs) - sum(tensor.size for tensor in dying)

    return growth


def _waits(part: Subgraph) -> Waits:
    makers = {tensor.index: i for i, op in enumerate(part.operators) for tensor in op.outputs}
    waits = [{makers[tensor.index] for tensor in op.inputs if tensor and tensor.index in makers} for op in part.operators]
    demands = Demands(part, variables(part))
    groups = memory.Groups(demands.blocks, demands.writes)
    groups.join(legally=False)
    for state in range(demands.first_state, demands.first_scratch):
        reads, assigns = (
            {i for i, op in enumerate(part.operators) if op.code == code and demands.block(op.input(0)) == state}
            for code in (READ_VARIABLE, ASSIGN_VARIABLE)
        )
        for i in reads | assigns:  # in turn; CALL_ONCE comes before all
            waits[i] |= {other for other in (reads | assigns if i in assigns else assigns) if other < i}
            waits[i] |= {other for other, op in enumerate(part.operators) if op.code == CALL_ONCE}
        later = list(waits)
        for i in assigns:
            later[i] = waits[i] | (_readers(part, groups, state) - {i})
        if len(_sorted(later, _free)) == len(later):
            waits = later
    return waits


def _readers(part: Subgraph, groups: memory.Groups, state: int) -> set[int]:
    """Operators that read what lies in a state's memory, if all goes well."""
    begin, end = groups.offsets[state], groups.offsets[state] + groups.blocks[state].size
    there = {i for i in groups.members[groups.of[state]] if groups.offsets[i] < end and groups.offsets[i] + groups.blocks[i].size > begin}
    return {i for i, op in enumerate(part.operators) if any(tensor and tensor.index in there for tensor in op.inputs)}


def _free(_operator: int, _done: set[int]) -> int:
    return 0
