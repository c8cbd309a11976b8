"""Larger models that are `.tflite` files: how every escalator opens one, and a classifier that needs nothing else.

The classifier takes a window of any kind whose elements are what the model's input wants: features, images, rows of a table.
"""

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewayd.core.types import Event, Opinion, Window
from gatewayd.errors import CascadeError, EscalationError, MissingPackageError

_ELEMENT = {"image_gray8": "u1", "image_rgb8": "u1", "pcm16": "<i2", "vibration": "<i2", "ecg": "<i2"}  # the others say by their size
_BY_SIZE = {1: "i1", 2: "<i2", 4: "<f4"}


class Network:
    """One `.tflite` model with one input and one output, in this process, on one thread."""

    def __init__(self, content: bytes) -> None:
        """Raise MissingPackageError, or CascadeError where `content` is not such a model."""
        interpreter = _interpreter_class()
        try:
            self._net = interpreter(model_content=content, num_threads=1)
            (self.input,), (self.output,) = self._net.get_input_details(), self._net.get_output_details()
            self._shape: tuple[int, ...] = ()
            if -1 not in self.input["shape_signature"]:
                self._fit(tuple(self.input["shape"]))
        except (ValueError, RuntimeError) as exc:
            raise CascadeError(f"not a .tflite model that runs here: {exc}") from exc

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Run on `x`, whose shape the model takes on. The result has the output tensor's type."""
        if x.shape != self._shape:
            self._fit(x.shape)
        self._net.set_tensor(self.input["index"], x)
        self._net.invoke()
        return np.asarray(self._net.get_tensor(self.output["index"]))

    def _fit(self, shape: tuple[int, ...]) -> None:
        self._net.resize_tensor_input(self.input["index"], shape)
        self._net.allocate_tensors()
        self._shape = shape


def _interpreter_class() -> Any:
    for module in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        try:
            return import_module(module).Interpreter
        except ImportError:
            continue
    raise MissingPackageError("ai-edge-litert", "litert")


def elements(window: Window) -> NDArray[np.float32]:
    """The window's numbers in its shape; quantised ones as `scale * (q - zero_point)`, image bytes as 0 to 1. Raises EscalationError."""
    count = math.prod(window.shape)
    size = len(window.data) // count if count else 0
    element = _ELEMENT.get(window.kind) or _BY_SIZE.get(size)
    if window.kind == "adpcm" or element is None or np.dtype(element).itemsize * count != len(window.data):
        raise EscalationError(f"{len(window.data)} bytes are not {window.shape} elements of {window.kind}")
    raw = np.frombuffer(window.data, element).astype(np.float32).reshape(window.shape)
    if window.scale is not None:
        return np.float32(window.scale) * (raw - np.float32(window.zero_point or 0))
    return raw / np.float32(255) if element == "u1" else raw


class Classifier:
    """A network whose outputs are the probabilities of `labels`; it accepts what is one of `accept` and sure enough."""

    def __init__(self, network: Network, labels: Sequence[str], accept: Sequence[str], threshold: float, name: str) -> None:
        self._network, self._labels, self._accept, self._threshold, self._name = network, labels, set(accept), threshold, name

    def classify(self, event: Event) -> Opinion:
        """Judge an event's window. Raises EscalationError where the model cannot take it."""
        if event.window is None:
            raise EscalationError("the event has no window")
        start = time.perf_counter()
        spec = self._network.input
        x = elements(event.window)
        if x.size != math.prod(spec["shape"]):
            raise EscalationError(f"{self._name} takes {tuple(spec['shape'])}, the window is {event.window.shape}")
        raw = self._network(_quantise(x.reshape(spec["shape"]), spec)).ravel()
        probabilities = _dequantise(raw, self._network.output)
        if len(probabilities) != len(self._labels):
            raise EscalationError(f"{self._name} has {len(probabilities)} outputs for {len(self._labels)} labels")
        best = int(np.argmax(probabilities))
        accepted = self._labels[best] in self._accept and probabilities[best] >= self._threshold
        right = sum(p for label, p in zip(self._labels, probabilities, strict=True) if label in self._accept)
        score = float(np.clip(right, 0, 1))
        return Opinion(bool(accepted), self._labels[best], score, self._name, stages=(("model", time.perf_counter() - start),))


def _quantise(x: NDArray[np.float32], spec: Mapping[str, Any]) -> NDArray[Any]:
    scale, zero_point = spec["quantization"]
    if not scale:
        return x.astype(spec["dtype"])
    info = np.iinfo(spec["dtype"])
    return np.asarray(np.clip(np.rint(x / scale) + zero_point, info.min, info.max), spec["dtype"])


def _dequantise(q: NDArray[Any], spec: Mapping[str, Any]) -> NDArray[np.float32]:
    scale, zero_point = spec["quantization"]
    return np.asarray((q.astype(np.float32) - zero_point) * scale if scale else q, np.float32)


def load(settings: Mapping[str, Any]) -> Classifier:
    """`folder` and `model`: a `.tflite` file; `labels` of its outputs; `accept`: those that prove the node right; `threshold` (0.5)."""
    try:
        path = Path(settings["folder"]) / settings["model"]
        labels, accept = list(settings["labels"]), list(settings["accept"])
        content, threshold = path.read_bytes(), float(settings.get("threshold", 0.5))
    except (OSError, KeyError, TypeError, ValueError) as exc:
        raise CascadeError(f"litert: the settings cannot be used: {exc!r}") from exc
    if unknown := set(accept) - set(labels):
        raise CascadeError(f"litert: accept names {sorted(unknown)}, which labels does not")
    return Classifier(Network(content), labels, accept, threshold, f"{path.stem} {hashlib.sha256(content).hexdigest()[:8]}")
