"""TFLM's interpreter, which the node's engine is compared with tensor by tensor and bit by bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from nn_native import Model

    Array = npt.NDArray[Any]


class Oracle:
    """TFLM's own interpreter, which keeps every tensor."""

    def __init__(self, model: bytes) -> None:
        runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite-micro has wheels for x86-64 only")
        keep = runtime.InterpreterConfig.kPreserveAllTensors
        self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=4 << 20, intrepreter_config=keep)

    def invoke(self, inputs: list[Array]) -> None:
        for index, value in enumerate(inputs):
            self._interpreter.set_input(value, index)
        self._interpreter.invoke()

    def tensor(self, index: int) -> Array:
        return np.asarray(self._interpreter.GetTensor(index, 0)["tensor_data"])


def input_kinds(model: bytes) -> list[tuple[tuple[int, ...], Any]]:
    """Shape and type of every input."""
    graph = schema.Model.GetRootAs(model, 0).Subgraphs(0)
    types = {
        getattr(schema.TensorType, np.dtype(dtype).name.upper()): dtype for dtype in (np.int8, np.uint8, np.int16, np.int32, np.float32)
    }
    tensors = (graph.Tensors(graph.Inputs(i)) for i in range(graph.InputsLength()))
    return [(tuple(int(d) for d in tensor.ShapeAsNumpy()), types[tensor.Type()]) for tensor in tensors]


def some_inputs(model: bytes, rng: np.random.Generator, steps: int) -> Iterator[list[Array]]:
    """The edges of the range first, then anything."""
    for step in range(steps):
        values: list[Array] = []
        for shape, dtype in input_kinds(model):
            if dtype is np.float32:
                values.append(rng.normal(0, [1e-3, 3.0, 1e6][step % 3], shape).astype(np.float32))
                continue
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            edges = [(low, low), (high, high), (low, high)]
            values.append(rng.integers(*edges[min(step, 2)], shape, dtype, endpoint=True))
        yield values


def compare(oracle: Oracle, model: Model, inputs: list[Array]) -> list[Array]:
    """One step of both; returns the tensors that were compared."""
    oracle.invoke(inputs)
    return compare_invoked(oracle, model, inputs)


def compare_invoked(oracle: Oracle, model: Model, inputs: list[Array]) -> list[Array]:
    """The same, where the oracle has done it already."""
    for index, value in enumerate(inputs):
        model.input(index)[...] = value
    made = model.trace()
    for index, tensor in made:
        expected = oracle.tensor(index)
        assert expected.dtype == tensor.dtype
        assert np.array_equal(expected.ravel(), tensor.ravel()), f"tensor {index}"
    return [tensor for _, tensor in made]
