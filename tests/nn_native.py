"""The engine of node_firmware/core/nn for tests: built with the host's compiler, called through ctypes."""

from __future__ import annotations

import ctypes as c
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

FIRMWARE = Path(__file__).parent.parent / "node_firmware"
SOURCES = sorted((FIRMWARE / "core" / "nn").glob("*.c"))
DTYPES: dict[int, npt.DTypeLike] = {0: np.float32, 2: np.int32, 3: np.uint8, 6: np.bool_, 7: np.int16, 9: np.int8}
ALIGNMENT = 16


class Status(Exception):  # noqa: N818
    """A negative nn_status_t."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{code}: {library().nn_status_name(code).decode()}")
        self.code = code


class _Tensor(c.Structure):
    _fields_ = [
        ("data", c.c_void_p),
        ("size", c.c_size_t),
        ("dims", c.c_int32 * 6),
        ("rank", c.c_uint8),
        ("type", c.c_int),
        ("scale", c.c_float),
        ("zero_point", c.c_int32),
    ]

    def array(self) -> npt.NDArray[np.generic]:
        """The tensor's memory itself, not a copy."""
        dtype = np.dtype(DTYPES[self.type])
        shape = tuple(self.dims[: self.rank])
        assert int(np.prod(shape, dtype=np.int64)) * dtype.itemsize == self.size
        return np.ctypeslib.as_array(c.cast(self.data, c.POINTER(c.c_uint8)), (self.size,)).view(dtype).reshape(shape)


class _Nn(c.Structure):
    _fields_ = [
        ("model", c.c_void_p),
        ("model_size", c.c_size_t),
        ("arena", c.c_void_p),
        ("arena_size", c.c_size_t),
        ("arena_used", c.c_size_t),
        ("plan", c.c_void_p),
        ("data", c.c_void_p),
    ]


_TRACE = c.CFUNCTYPE(None, c.c_void_p, c.c_uint, c.c_uint, c.POINTER(_Tensor), c.c_uint)


def compile_c(output: Path, sources: Sequence[Path], *options: str, compiler: str = "gcc") -> None:
    """Build C99 with the project's warnings as errors."""
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", f"-I{FIRMWARE / 'include'}", f"-I{FIRMWARE / 'core' / 'nn'}"]
    done = subprocess.run([compiler, *flags, *options, "-o", output, *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@functools.cache
def library(*, dsp: bool = False, small: bool = False) -> c.CDLL:
    """The engine as a shared library, built once a process; `dsp`: the kernels for DSP instructions, which C stands in for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "libnn.so"
        compile_c(path, SOURCES, f"-DNN_DSP={int(dsp)}", *["-DNN_SMALL"] * small, "-O2", "-shared", "-fPIC")
        lib = c.CDLL(str(path))
    lib.nn_status_name.restype = c.c_char_p
    lib.nn_operators.restype = c.c_size_t
    lib.nn_open.argtypes = [c.POINTER(_Nn), c.c_void_p, c.c_size_t, c.c_void_p, c.c_size_t]
    return lib


def aligned(data: bytes | int, offset: int = 0) -> npt.NDArray[np.uint8]:
    """Memory of a size or with a content, `offset` bytes beyond an aligned address."""
    size = data if isinstance(data, int) else len(data)
    memory = np.full(size + 2 * ALIGNMENT, 0xA5, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT + offset
    view = memory[start : start + size]
    if not isinstance(data, int):
        view[:] = np.frombuffer(data, np.uint8)
    return view


def _check(status: int) -> None:
    if status != 0:
        raise Status(status)


class Model:
    """One open model with an arena of its own."""

    def __init__(
        self,
        model: bytes,
        arena_bytes: int = 1 << 20,
        *,
        model_offset: int = 0,
        arena_offset: int = 0,
        dsp: bool = False,
        small: bool = False,
    ) -> None:
        self._lib = library(dsp=dsp, small=small)
        self._model = aligned(model, model_offset)
        self._arena = aligned(arena_bytes, arena_offset)
        self._nn = _Nn()
        _check(self._lib.nn_open(c.byref(self._nn), self._model.ctypes.data, len(model), self._arena.ctypes.data, arena_bytes))

    def close(self) -> None:
        """Try to open nothing, which leaves nothing open."""
        assert self._lib.nn_open(c.byref(self._nn), None, 0, None, 0) != 0

    @property
    def arena_used(self) -> int:
        """Bytes that would have been enough."""
        return int(self._nn.arena_used)

    @property
    def plan(self) -> bytes:
        """The plan that it runs by."""
        return c.string_at(self._nn.plan, int.from_bytes(c.string_at(self._nn.plan + 4, 4), "little"))

    @property
    def prepared(self) -> bool:
        """Whether that is the model's own plan, in place."""
        return self._model.ctypes.data <= self._nn.plan < self._model.ctypes.data + len(self._model)

    @property
    def data(self) -> npt.NDArray[np.uint8]:
        """The memory that the plan's places are in."""
        size = int.from_bytes(self.plan[8:12], "little")
        return np.ctypeslib.as_array(c.cast(self._nn.data, c.POINTER(c.c_uint8)), (size,))

    def tensor(self, which: str, index: int = 0) -> _Tensor:
        """An "input" or an "output"."""
        tensor = _Tensor()
        _check(self._lib[f"nn_{which}"](c.byref(self._nn), c.c_uint(index), c.byref(tensor)))
        return tensor

    def input(self, index: int = 0) -> npt.NDArray[np.generic]:
        """An input's memory, to be written."""
        return self.tensor("input", index).array()

    def output(self, index: int = 0) -> npt.NDArray[np.generic]:
        """A copy of an output."""
        return self.tensor("output", index).array().copy()

    def invoke(self) -> None:
        """Run once."""
        _check(self._lib.nn_invoke(c.byref(self._nn)))

    def trace(self, between: Callable[[int], None] = lambda _op: None) -> list[tuple[int, npt.NDArray[np.generic]]]:
        """Run once; the index and the content of every tensor that an operator made, in their order. `between` is called after each."""
        made: list[tuple[int, npt.NDArray[np.generic]]] = []

        def called(_context: int, op: int, _output: int, tensor: Any, index: int) -> None:
            made.append((index, tensor.contents.array().copy()))
            between(op)

        _check(self._lib.nn_invoke_traced(c.byref(self._nn), _TRACE(called), None))
        return made

    def reset(self) -> None:
        """Streaming state back to the start."""
        _check(self._lib.nn_reset(c.byref(self._nn)))
