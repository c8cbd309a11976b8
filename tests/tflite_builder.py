"""Writes small .tflite files with the schema's own classes: tensors and operators in, bytes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_TYPES = {"float32": "FLOAT32", "int32": "INT32", "uint8": "UINT8", "int16": "INT16", "int8": "INT8", "bool": "BOOL"}
_OPTIONS = {
    "ADD": "AddOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CALL_ONCE": "CallOnceOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "EXPAND_DIMS": "ExpandDimsOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MUL": "MulOptions",
    "PACK": "PackOptions",
    "PAD": "PadOptions",
    "QUANTIZE": "QuantizeOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SPLIT_V": "SplitVOptions",
    "SQUEEZE": "SqueezeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUB": "SubOptions",
    "TRANSPOSE": "TransposeOptions",
    "VAR_HANDLE": "VarHandleOptions",
}


class Builder:
    """One model; tensors and operators go into its newest subgraph."""

    def __init__(self) -> None:
        self.model: Any = schema.ModelT()
        self.model.version = 3
        self.model.operatorCodes, self.model.subgraphs = [], []
        self.model.buffers = [schema.BufferT()]  # buffer 0 is empty by convention
        self.subgraph()

    def subgraph(self) -> None:
        """Begin the next subgraph."""
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.model.subgraphs.append(graph)

    def tensor(
        self,
        shape: Sequence[int],
        dtype: npt.DTypeLike | None,
        scale: npt.ArrayLike = (),
        zero_point: int = 0,
        data: npt.ArrayLike | None = None,
        dimension: int = 0,
    ) -> int:
        """Add a tensor, a constant if it has `data`, a RESOURCE if its type is None; several scales lie along `dimension`."""
        t: Any = schema.TensorT()
        t.shape = np.array(shape, np.int32)
        t.type = schema.TensorType.RESOURCE if dtype is None else getattr(schema.TensorType, _TYPES[np.dtype(dtype).name])
        scales = np.atleast_1d(np.array(scale, np.float32))
        if scales.size:
            t.quantization = schema.QuantizationParametersT()
            t.quantization.scale = scales
            t.quantization.zeroPoint = np.full(scales.shape, zero_point, np.int64)
            t.quantization.quantizedDimension = dimension
        if data is not None:
            buffer: Any = schema.BufferT()
            buffer.data = np.frombuffer(np.asarray(data, dtype).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            t.buffer = len(self.model.buffers) - 1
        tensors = self.model.subgraphs[-1].tensors
        tensors.append(t)
        return len(tensors) - 1

    def op(self, name: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """Add an operator; `options` are the schema's camelCase fields."""
        op: Any = schema.OperatorT()
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        op.opcodeIndex = self._code(getattr(schema.BuiltinOperator, name))
        if name in _OPTIONS:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, _OPTIONS[name])
            op.builtinOptions = getattr(schema, _OPTIONS[name] + "T")()
            for key, value in options.items():
                assert hasattr(op.builtinOptions, key), key
                setattr(op.builtinOptions, key, value)
        self.model.subgraphs[-1].operators.append(op)

    def _code(self, builtin: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == builtin:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file; `inputs` and `outputs` are subgraph 0's."""
        main = self.model.subgraphs[0]
        main.inputs, main.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        return self.pack()

    def pack(self) -> bytes:
        """`model` as it is."""
        return _packed(self.model)


def with_metadata(model: bytes, *entries: tuple[str, bytes]) -> bytes:
    """`model` with further metadata."""
    graph: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    graph.metadata = graph.metadata or []
    for name, data in entries:
        entry: Any = schema.MetadataT()
        entry.name, entry.buffer = name, len(graph.buffers)
        graph.metadata.append(entry)
        graph.buffers.append(schema.BufferT())
        graph.buffers[-1].data = np.frombuffer(data, np.uint8)
    return _packed(graph)


def _packed(graph: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(graph.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
