"""Self-test vectors: inputs and the exact outputs that a node must compute from them before it takes a model.

The oracle is TensorFlow Lite Micro's own interpreter (PyPI tflite-micro), with which the node's engine agrees to the bit; where there
is no wheel of it (other machines than x86-64), the node's engine as built for this host. LiteRT rounds otherwise: docs/adr/0007.
"""

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import cbor2
import numpy as np
from numpy.typing import NDArray

from gatewayd.core.image import MAX_TLV_BYTES, SelfTest
from gatewayd.errors import CascadeError, MissingPackageError, RefusedError

MAX_INPUTS, MAX_INPUTS_BYTES = 32, 4096  # a few steps: each costs the node an inference, and flash; one input may be larger
_GUESSES, _STEPS = 60, 120
_TIMEOUT_S = 60


class Oracle(NamedTuple):
    """A model as a node computes it."""

    input_bytes: int  # of one inference
    run: Callable[[bytes], bytes]  # outputs of whole inputs, one after the other, from reset; raises ValueError, RuntimeError


def oracle(model: bytes, arena_bytes: int) -> Oracle:
    """Run `model` in this process: for trusted models, since TFLM believes what a file says. Raises CascadeError, MissingPackageError."""
    try:
        return _micro(model, arena_bytes) if importlib.util.find_spec("tflite_micro") else _engine(model, arena_bytes)
    except (ValueError, RuntimeError) as error:
        raise CascadeError(f"the model does not run: {error}") from error


@functools.lru_cache(maxsize=8)
def make(model: bytes, arena_bytes: int) -> SelfTest:
    """The self-test of `model`, the same whenever it is asked for. Raises CascadeError, MissingPackageError.

    Random inputs leave most models in saturation, where a wrong weight changes nothing. So smooth random sequences are tried and the best
    one is improved in small steps, for outputs that are many and far from their limits.
    """
    subject = oracle(model, arena_bytes)
    count = max(1, min(MAX_INPUTS, MAX_INPUTS_BYTES // subject.input_bytes))
    random = np.random.default_rng(1)
    best, best_value, outputs = np.zeros((count, subject.input_bytes)), -1.0, b""
    for trial in range(_GUESSES + _STEPS):
        change = _smooth(random, best.shape)
        tried = change if trial < _GUESSES else best + change / 4
        answers = subject.run(_quantize(tried))
        value = _liveliness(answers)
        if value > best_value:
            best, best_value, outputs = tried, value, answers
    test = SelfTest(_quantize(best), outputs)
    if len(test.inputs) + len(test.outputs) > MAX_TLV_BYTES - 4096:  # the other TLVs of the area
        raise CascadeError(f"self-test: {len(test.inputs)} + {len(test.outputs)} bytes do not fit into an image's TLVs")
    return test


def check(model: bytes, arena_bytes: int, test: SelfTest) -> None:
    """Run a self-test in a process of its own, which a lying model may bring down. Raises RefusedError, MissingPackageError."""
    if not importlib.util.find_spec("tflite_micro"):
        raise MissingPackageError("tflite-micro", "build")
    request = cbor2.dumps([model, arena_bytes, test.inputs])
    command = [sys.executable, "-m", "gatewayd.selftest"]
    try:
        done = subprocess.run(command, input=request, capture_output=True, timeout=_TIMEOUT_S, check=True)  # noqa: S603 -- our own module
    except subprocess.SubprocessError as error:
        raise RefusedError("self-test", f"the model does not run: {error}") from error
    if done.stdout != test.outputs:
        raise RefusedError("self-test", "the model's outputs are not those of its self-test")


def _smooth(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Noise with random level, amplitude and smoothness along time and along an input."""
    along_time, along_input = random.integers(1, 16), random.integers(1, 32)
    noise = random.normal(random.uniform(-64, 32), random.uniform(8, 96), (shape[0] // along_time + 1, shape[1] // along_input + 1))
    return np.repeat(np.repeat(noise, along_time, 0), along_input, 1)[: shape[0], : shape[1]]


def _quantize(values: NDArray[np.float64]) -> bytes:
    return np.clip(np.round(values), -128, 127).astype(np.int8).tobytes()


def _liveliness(outputs: bytes) -> float:
    """How far from saturation, and how many: a byte has its limits at 0 and 255 (uint8) or at 127 and 128 (int8)."""
    values = np.frombuffer(outputs, np.uint8).astype(np.float64)
    away = np.minimum(np.abs(values), np.minimum(255 - values, np.abs(values - 127.5) - 0.5))
    return float(np.mean(away)) + len(np.unique(values))


def _micro(model: bytes, arena_bytes: int) -> Oracle:
    from tflite_micro import runtime  # noqa: PLC0415 -- optional

    def interpreter() -> Any:
        return runtime.Interpreter.from_bytes(model, arena_size=4 * arena_bytes + 65_536)  # it needs more than the node's engine

    details = interpreter().get_input_details(0)
    shape, dtype = details["shape"], np.dtype(details["dtype"])

    def run(inputs: bytes) -> bytes:
        fresh, outputs = interpreter(), []
        for row in np.frombuffer(inputs, dtype).reshape(-1, *shape):
            fresh.set_input(row, 0)
            fresh.invoke()
            outputs.append(fresh.get_output(0).tobytes())
        return b"".join(outputs)

    return Oracle(int(np.prod(shape)) * dtype.itemsize, run)


def _engine(model: bytes, arena_bytes: int) -> Oracle:
    try:
        from cascades.native import Network  # noqa: PLC0415 -- part of the source tree

        input_bytes = Network(model, arena_bytes).input_bytes
    except (ImportError, OSError) as error:
        raise MissingPackageError("tflite-micro", "build") from error

    def run(inputs: bytes) -> bytes:
        return bytes(Network(model, arena_bytes)(np.frombuffer(inputs, np.int8).reshape(-1, input_bytes)).tobytes())

    return Oracle(input_bytes, run)


if __name__ == "__main__":  # check()'s process
    _model, _arena_bytes, _inputs = cbor2.load(sys.stdin.buffer)
    sys.stdout.buffer.write(oracle(_model, _arena_bytes).run(_inputs))
