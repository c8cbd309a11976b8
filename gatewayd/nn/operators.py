"""The operators of the node's engine, a line here for each of node_firmware/core/nn/operators.def, and how a subgraph of them is read.

Each has a function that gives its record. What is checked there is what the record needs; the node checks all.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from gatewayd.nn import conv, elementwise, grow, reduce, shape
from gatewayd.nn.graph import Operator, Subgraph, Tensor, need

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatewayd.nn.graph import Record


class Kind(NamedTuple):
    """A line of operators.def: its name, its BuiltinOperator, and what it records."""

    name: str
    code: int
    record: Callable[[Operator], Record]


OPERATORS = (  # in the order of operators.def, which numbers them in a plan
    Kind("FULLY_CONNECTED", 9, conv.fully_connected),
    Kind("COPY", -1, shape.nothing),  # no operators, but what several of them record
    Kind("FILL", -2, shape.nothing),
    Kind("ADD", 0, elementwise.add),
    Kind("AVERAGE_POOL_2D", 1, conv.pool),
    Kind("CONCATENATION", 2, shape.concatenation),
    Kind("CONV_2D", 3, conv.conv_2d),
    Kind("DEPTHWISE_CONV_2D", 4, conv.depthwise_conv_2d),
    Kind("DEQUANTIZE", 6, elementwise.dequantize),
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
    Kind("SUB", 41, elementwise.sub),
    Kind("MINIMUM", 57, elementwise.extremum),
    Kind("MAXIMUM", 55, elementwise.extremum),
    Kind("RELU", 19, elementwise.relu),
    Kind("RELU6", 21, elementwise.relu6),
    Kind("MEAN", 40, reduce.mean),
    Kind("EXPAND_DIMS", 70, shape.reshape),
    Kind("SQUEEZE", 43, shape.reshape),
    Kind("PACK", 83, shape.pack),
    Kind("TRANSPOSE", 39, shape.transpose),
    Kind("PAD", 34, grow.pad),
    Kind("RESIZE_NEAREST_NEIGHBOR", 97, grow.resize),
)
KINDS = {kind.code: number for number, kind in enumerate(OPERATORS)}
COPY, FILL = KINDS[-1], KINDS[-2]
CALL_ONCE, VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE = 129, 142, 143, 144


def read(model: Any, number: int) -> Subgraph:
    """A subgraph of the schema's ModelT. Raises ValueError that names the operator which cannot be run."""
    graph = model.subgraphs[number]
    tensors = [_tensor(tensor, i, model.buffers) for i, tensor in enumerate(graph.tensors)]

    def named(indices: Any) -> tuple[Tensor, ...]:
        return tuple(tensors[i] for i in _ints(indices))

    def operator(op: Any) -> Operator:
        code = model.operatorCodes[op.opcodeIndex]
        inputs = tuple(None if i == -1 else tensors[i] for i in _ints(op.inputs))
        return Operator(max(int(code.builtinCode), int(code.deprecatedBuiltinCode)), inputs, named(op.outputs), op.builtinOptions)

    operators = [operator(op) for op in graph.operators or ()]
    records = [_record(op, i) for i, op in enumerate(operators)]
    return Subgraph(tensors, operators, records, named(graph.inputs), named(graph.outputs))


def _record(op: Operator, position: int) -> Record:
    need(op.code in KINDS, f"operator {position}: BuiltinOperator {op.code} is none of the node's engine")
    kind = OPERATORS[KINDS[op.code]]
    try:
        return kind.record(op)
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"operator {position}, {kind.name}: {error}") from error


def _tensor(tensor: Any, index: int, buffers: Any) -> Tensor:
    quantization, data = tensor.quantization, buffers[tensor.buffer].data
    scales = () if quantization is None or quantization.scale is None else tuple(map(float, quantization.scale))
    zero_points = _ints(quantization.zeroPoint) if scales else ()
    dimension = int(quantization.quantizedDimension) if scales else 0
    content = b"" if data is None else bytes(data)
    return Tensor(index, int(tensor.type), _ints(tensor.shape), scales, (*zero_points, 0)[0], dimension, content, int(tensor.buffer))


def _ints(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(map(int, values))
