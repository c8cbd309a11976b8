"""Prepare: makes of a `.tflite` what a node's flash holds: minified, with the plan that the engine runs, and operators in its order.

The plan (docs/plan.md) is what the engine's own preparation gives, so that a node can compare the two, but for places in memory: those are
chosen here (nn/memory.py). A variable's state gets the place where its readers want it: READ_VARIABLE and CONCATENATION then find all where
it belongs, and ASSIGN_VARIABLE moves it once, when nobody reads the old state any more (nn/order.py).
"""

import struct

from gatewayd.core import tflite
from gatewayd.errors import CascadeError
from gatewayd.minify import add_metadata, pack, stripped
from gatewayd.nn.graph import need
from gatewayd.nn.layout import Demands, variables
from gatewayd.nn.operators import CALL_ONCE, read
from gatewayd.nn.order import ordered
from gatewayd.nn.plan import Part, encode


def prepare(model: bytes) -> bytes:
    """The same computation, minified and with a plan; prepared again it stays the same. Raises CascadeError, MissingPackageError."""
    parsed = stripped(model)
    try:
        graph = read(parsed, 0)
        order, layout = ordered(graph)
        main = Part(graph.in_order(order), layout)
        known = variables(main.graph)
        calls = [op.option("initSubgraphIndex") for op in graph.operators if op.code == CALL_ONCE]
        need(len(calls) <= 1 and 0 not in calls, "CALL_ONCE comes twice, or calls the main subgraph")
        resets = [read(parsed, number) for number in calls]
        reset = next((Part(part, Demands(part, known, layout.states).place()) for part in resets), None)
        size = len(encode(main, reset, [*known.values()], [0] * len(parsed.buffers)))
    except (ValueError, ArithmeticError, LookupError, TypeError, struct.error) as error:
        raise CascadeError(f"the model cannot be prepared: {error}") from error
    parsed.subgraphs[0].operators = [parsed.subgraphs[0].operators[i] for i in order]
    add_metadata(parsed, tflite.PLAN_NAME, bytes(size))
    packed = pack(parsed)
    offsets = tflite.buffer_offsets(packed)
    plan = encode(main, reset, [*known.values()], offsets)
    return packed[: offsets[-1]] + plan + packed[offsets[-1] + size :]
