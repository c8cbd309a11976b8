"""The node's own C code for training and evaluation, by ctypes: what a model learns from is to the bit what a node computes."""

import ctypes
import os
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LIBRARY = Path(__file__).resolve().parents[1] / "build" / "host" / "libnode.so"
FFT_SIZE = 512
MAX_BANDS = 64
MAX_RANK = 6
ALIGNMENT = 16


class VibrationConfig(ctypes.Structure):
    """vibration_config_t of node/frontend.h."""

    _fields_ = (
        ("rate_hz", ctypes.c_uint32),
        ("frames", ctypes.c_uint16),
        ("bands", ctypes.c_uint16),
        ("low_hz", ctypes.c_uint16),
        ("high_hz", ctypes.c_uint16),
        ("offset", ctypes.c_int16 * MAX_BANDS),
        ("gain", ctypes.c_int16 * MAX_BANDS),
    )


class VibrationState(ctypes.Structure):
    """vibration_frontend_t of node/frontend.h."""

    _fields_ = (
        ("config", VibrationConfig),
        ("samples", ctypes.c_int16 * FFT_SIZE),
        ("filled", ctypes.c_uint16),
        ("frames_done", ctypes.c_uint16),
        ("power", ctypes.c_uint64 * MAX_BANDS),
        ("first_bin", ctypes.c_uint16 * (MAX_BANDS + 1)),
    )


class Tensor(ctypes.Structure):
    """nn_tensor_t of node/nn.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("dims", ctypes.c_int32 * MAX_RANK),
        ("rank", ctypes.c_uint8),
        ("type", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("zero_point", ctypes.c_int32),
    )


class Engine(ctypes.Structure):
    """nn_t of node/nn.h."""

    _fields_ = (
        ("model", ctypes.c_void_p),
        ("model_size", ctypes.c_size_t),
        ("arena", ctypes.c_void_p),
        ("arena_size", ctypes.c_size_t),
        ("arena_used", ctypes.c_size_t),
        ("plan", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
    )


@cache
def library() -> ctypes.CDLL:
    """The host build of the node's core; `$NODE_LIBRARY` names another one. Raises FileNotFoundError."""
    path = Path(os.environ.get("NODE_LIBRARY", LIBRARY))
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run `make build/host/libnode.so`")
    lib = ctypes.CDLL(str(path))
    lib.vibration_frontend_feed.restype = ctypes.c_size_t
    if hasattr(lib, "nn_status_name"):
        lib.nn_status_name.restype = ctypes.c_char_p
        lib.nn_open.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t]
    return lib


class VibrationFrontEnd:
    """One sensor's front end; keeps its state from call to call."""

    def __init__(self, config: VibrationConfig) -> None:
        """Raises ValueError where the node would refuse the configuration."""
        self._state = VibrationState()
        if library().vibration_frontend_init(ctypes.byref(self._state), ctypes.byref(config)):
            raise ValueError("the node refuses this vibration configuration")

    @property
    def first_bin(self) -> list[int]:
        """Where each band begins; one more than there are bands."""
        return list(self._state.first_bin[: self._state.config.bands + 1])

    def feed(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """Rows of features that these samples complete: [rows, bands], log2 of power in 1/256."""
        data = np.ascontiguousarray(samples, np.int16)
        bands, row, ready, rows, at = self._state.config.bands, np.zeros(MAX_BANDS, np.int16), ctypes.c_bool(), [], 0
        while at < len(data):
            at += library().vibration_frontend_feed(
                ctypes.byref(self._state),
                ctypes.c_void_p(data.ctypes.data + 2 * at),
                ctypes.c_size_t(len(data) - at),
                ctypes.c_void_p(row.ctypes.data),
                ctypes.byref(ready),
            )
            if ready:
                rows.append(row[:bands].copy())
        return np.array(rows, np.int16).reshape(-1, bands)

    def quantize(self, features: NDArray[np.int16]) -> NDArray[np.int8]:
        """What the model is given: [rows, bands]."""
        bands = self._state.config.bands
        padded = np.zeros((len(features), MAX_BANDS), np.int16)
        padded[:, :bands] = features
        out = np.zeros((len(features), MAX_BANDS), np.int8)
        for source, target in zip(padded, out, strict=True):
            library().vibration_frontend_quantize(
                ctypes.byref(self._state), ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(target.ctypes.data)
            )
        return out[:, :bands]


def _aligned(size_bytes: int) -> NDArray[np.uint8]:
    buffer = np.zeros(size_bytes + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size_bytes]


class Network:
    """A .tflite with one int8 input and one int8 output, as the node runs it."""

    def __init__(self, model: bytes, arena_bytes: int = 65536) -> None:
        """Raises ValueError with the engine's status where it refuses the model."""
        self._model, self._arena, self._nn = _aligned(len(model)), _aligned(arena_bytes), Engine()
        self._model[:] = np.frombuffer(model, np.uint8)
        self._check(library().nn_open(ctypes.byref(self._nn), self._model.ctypes.data, len(model), self._arena.ctypes.data, arena_bytes))
        self._input, self._output = Tensor(), Tensor()
        self._check(library().nn_input(ctypes.byref(self._nn), 0, ctypes.byref(self._input)))
        self._check(library().nn_output(ctypes.byref(self._nn), 0, ctypes.byref(self._output)))
        self.output_scale, self.output_zero_point = float(self._output.scale), int(self._output.zero_point)
        self.input_scale, self.input_zero_point = float(self._input.scale), int(self._input.zero_point)
        self.input_bytes = int(self._input.size)
        self.arena_used_bytes = int(self._nn.arena_used)

    def _check(self, status: int) -> None:
        if status:
            raise ValueError(f"nn: {library().nn_status_name(status).decode()}")

    def __call__(self, rows: NDArray[np.int8]) -> NDArray[np.int8]:
        """[rows, inputs] to [rows, outputs]."""
        return np.array([self._one(row) for row in rows], np.int8).reshape(len(rows), -1)

    def _one(self, row: NDArray[np.int8]) -> NDArray[np.int8]:
        data = np.ascontiguousarray(row, np.int8)
        if data.nbytes != self._input.size:
            raise ValueError(f"{data.nbytes} bytes for an input of {self._input.size}")
        ctypes.memmove(self._input.data, data.ctypes.data, data.nbytes)
        self._check(library().nn_invoke(ctypes.byref(self._nn)))
        return np.frombuffer(ctypes.string_at(self._output.data, self._output.size), np.int8)
