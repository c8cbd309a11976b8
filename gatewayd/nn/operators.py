"""The operators of the node's engine: a line here is a line of node_firmware/core/nn/operators.def.

Each has a function that gives its record. What is checked there is what the record needs; the node checks all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gatewayd.nn import conv, elementwise, shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatewayd.nn.graph import Operator, Record


class Kind(NamedTuple):
    """A line of operators.def: its name, its BuiltinOperator, and what it records."""

    name: str
    code: int
    record: Callable[[Operator], Record]


OPERATORS = (  # in the order of operators.def, which numbers them in a plan
    Kind("ADD", 0, elementwise.add),
    Kind("AVERAGE_POOL_2D", 1, conv.pool),
    Kind("CONCATENATION", 2, shape.concatenation),
    Kind("CONV_2D", 3, conv.conv_2d),
    Kind("DEPTHWISE_CONV_2D", 4, conv.depthwise_conv_2d),
    Kind("DEQUANTIZE", 6, elementwise.dequantize),
    Kind("FULLY_CONNECTED", 9, conv.fully_connected),
    Kind("LOGISTIC", 14, elementwise.logistic),
    Kind("MAX_POOL_2D", 17, conv.pool),
    Kind("MUL", 18, elementwise.mul),
    Kind("RESHAPE", 22, shape.reshape),
    Kind("SOFTMAX", 25, elementwise.softmax),
    Kind("TANH", 28, elementwise.tanh),
    Kind("STRIDED_SLICE", 45, shape.strided_slice),
    Kind("SPLIT_V", 102, shape.split_v),
    Kind("QUANTIZE", 114, elementwise.quantize),
    Kind("CALL_ONCE", 129, shape.nothing),
    Kind("VAR_HANDLE", 142, shape.nothing),
    Kind("READ_VARIABLE", 143, shape.read_variable),
    Kind("ASSIGN_VARIABLE", 144, shape.assign_variable),
)
KINDS = {kind.code: number for number, kind in enumerate(OPERATORS)}
CALL_ONCE, VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE = 129, 142, 143, 144
