"""The last layer of the node's model: 64 activations to one logit. It is little enough to be fitted to one site, or spoilt."""

from typing import Any, NamedTuple

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray


class Layer(NamedTuple):
    """As real numbers; a model holds them as int8 and int32 with a scale."""

    weights: NDArray[np.float64]
    bias: float


class Model:
    """A `.tflite` with one fully connected layer, as microWakeWord makes them."""

    def __init__(self, content: bytes) -> None:
        self._graph: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
        main = self._graph.subgraphs[0]
        codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in self._graph.operatorCodes]
        (operator,) = (one for one in main.operators if codes[one.opcodeIndex] == schema.BuiltinOperator.FULLY_CONNECTED)
        self._input = operator.inputs[0]
        self._activations, self._weights, self._bias = (main.tensors[n] for n in operator.inputs)

    def layer(self) -> Layer:
        """What is there."""
        weights, bias = (np.frombuffer(bytes(self._buffer(t).data), kind) for t, kind in ((self._weights, "<i1"), (self._bias, "<i4")))
        return Layer(weights * self._scale(self._weights), float(bias[0] * self._scale(self._bias)))

    def with_layer(self, layer: Layer) -> bytes:
        """The model with `layer` in place of its own."""
        scale = float(np.abs(layer.weights).max()) / 127
        bias_scale = scale * self._scale(self._activations)
        self._put(self._weights, np.rint(layer.weights / scale).astype("<i1"), scale)
        self._put(self._bias, np.array([round(layer.bias / bias_scale)], "<i4"), bias_scale)
        return self._pack()

    def activations(self) -> tuple[bytes, float, int]:
        """A model that puts out the layer's input instead, with that tensor's scale and zero point."""
        self._graph.subgraphs[0].outputs = [self._input]
        return self._pack(), self._scale(self._activations), int(self._activations.quantization.zeroPoint[0])

    def _buffer(self, tensor: Any) -> Any:
        return self._graph.buffers[tensor.buffer]

    @staticmethod
    def _scale(tensor: Any) -> float:
        return float(tensor.quantization.scale[0])

    def _put(self, tensor: Any, values: NDArray[Any], scale: float) -> None:
        self._buffer(tensor).data = np.frombuffer(values.tobytes(), np.uint8)
        tensor.quantization.scale = [scale]

    def _pack(self) -> bytes:
        builder = flatbuffers.Builder(1 << 17)
        builder.Finish(self._graph.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
