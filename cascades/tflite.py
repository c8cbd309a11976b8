"""Writes a small int8 fully-connected network as a .tflite, and quantises one, with nothing but the schema's own classes.

Arithmetic as TFLite's quantisation specification says: activations int8 with a zero point, weights int8 symmetric per tensor,
biases int32 at scale input x weight.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Dense(NamedTuple):
    """y = weights @ x + bias, then ReLU or nothing; the output's real value is scale * (q - zero_point)."""

    weights: Floats  # [outputs, inputs]
    bias: Floats  # [outputs]
    relu: bool
    scale: float
    zero_point: int


class _Writer:
    """Collects buffers and tensors, in the order in which the model names them."""

    def __init__(self) -> None:
        self.buffers: list[Any] = [schema.BufferT()]  # buffer 0 is empty by convention
        self.tensors: list[Any] = []

    def tensor(self, shape: Sequence[int], kind: int, scale: float, zero_point: int = 0, data: bytes = b"") -> int:
        """Add a tensor; returns its index."""
        t = schema.TensorT()
        t.shape, t.type, t.name = list(shape), kind, b""
        t.quantization = schema.QuantizationParametersT()
        t.quantization.scale = np.array([scale], np.float32)
        t.quantization.zeroPoint = np.array([zero_point], np.int64)
        if data:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data, np.uint8)
            self.buffers.append(buffer)
            t.buffer = len(self.buffers) - 1
        self.tensors.append(t)
        return len(self.tensors) - 1


def fully_connected(layers: Sequence[Dense], input_scale: float, input_zero_point: int) -> bytes:
    """The .tflite of `layers`, one after the other: int8 [1, inputs] to int8 [1, outputs]."""
    writer, operators = _Writer(), []
    scale = float(np.float32(input_scale))
    first = at = writer.tensor([1, layers[0].weights.shape[1]], schema.TensorType.INT8, scale, input_zero_point)
    for layer in layers:
        weight_scale = float(np.float32(max(np.abs(layer.weights).max(), 1e-9) / 127))
        weights = np.clip(np.round(layer.weights / weight_scale), -127, 127).astype(np.int8)
        bias = np.round(layer.bias / (scale * weight_scale)).astype("<i4")
        op = schema.OperatorT()
        op.opcodeIndex = 0
        op.inputs = [
            at,
            writer.tensor(weights.shape, schema.TensorType.INT8, weight_scale, 0, weights.tobytes()),
            writer.tensor(bias.shape, schema.TensorType.INT32, scale * weight_scale, 0, bias.tobytes()),
        ]
        scale = float(np.float32(layer.scale))
        at = writer.tensor([1, len(bias)], schema.TensorType.INT8, scale, layer.zero_point)
        op.outputs = [at]
        op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        op.builtinOptions = schema.FullyConnectedOptionsT()
        relu = schema.ActivationFunctionType.RELU if layer.relu else schema.ActivationFunctionType.NONE
        op.builtinOptions.fusedActivationFunction = relu
        operators.append(op)
    return _pack(writer, operators, first, at)


def _pack(writer: _Writer, operators: list[Any], first: int, last: int) -> bytes:
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = writer.tensors, operators, [first], [last]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4  # the first with int8
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], writer.buffers
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def calibrate(weights: Sequence[tuple[Floats, Floats]], inputs: Floats, output_scale: float) -> list[Dense]:
    """Dense layers with ReLU between them and none at the end; hidden ranges from `inputs` ([n, inputs], real values)."""
    layers, x = [], inputs
    for w, b in weights[:-1]:
        x = np.maximum(x @ w.T + b, 0)
        layers.append(Dense(w, b, True, float(max(np.quantile(x, 0.9999), 1e-6)) / 255, -128))
    w, b = weights[-1]
    return [*layers, Dense(w, b, False, output_scale, 0)]
