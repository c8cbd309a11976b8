"""Kernels whose output lies in their input's memory, as kernels.h allows: the same bits as with memory of its own."""

from __future__ import annotations

import ctypes as c
import functools
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from nn_graphs import SAME, VALID, Draw, out_size
from nn_native import library

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Kernel = Callable[[c.c_void_p, c.c_void_p], None]  # input, output

DRAWS = 60
COUNT = 200  # elements of element-wise operators
BUILDS = pytest.mark.parametrize("dsp", [False, True], ids=["c99", "dsp"])
FACTOR = (1_503_238_553, -2)  # of quantize.h's factor_t: "ib3x"

# Parameters of kernels.h for COUNT elements.
UNARY = {
    "logistic": struct.pack("<Iib3xii", COUNT, 1_503_238_553, 22, 480, 3),
    "tanh": struct.pack("<Iib3xii", COUNT, 1_503_238_553, 22, 480, 3),
    "softmax": struct.pack("<IIib3xi", COUNT // 10, 10, 1_503_238_553, 22, -(31 << 4)),
    "requantize": struct.pack("<Iib3xhh", COUNT, *FACTOR, -7, 9),
    "relu": struct.pack("<Iib3xhhhh", COUNT, *FACTOR, -7, 9, 9, 100),
}
OVER = struct.pack("<12I", *(1, 1, 1, COUNT), *(0, 0, 0, 1), *(0, 0, 0, 1))
BINARY = {  # in the order of operation_t
    "add": OVER + struct.pack("<ib3xib3xib3x6h", 1 << 30, 0, *FACTOR, 1_610_612_736, -18, -128, 3, -5, -128, 120, 0),
    "sub": OVER + struct.pack("<ib3xib3xib3x6h", 1 << 30, 0, *FACTOR, 1_610_612_736, -18, -128, 3, -5, -128, 120, 0),
    "mul": OVER + struct.pack("<ib3xib3xib3x6h", 0, 0, 0, 0, 1_610_612_736, -7, -128, 3, -5, -128, 120, 0),
    "minimum": OVER + struct.pack("<ib3xib3xib3x6h", *(0, 0, 0, 0, 0, 0), *(0, 0, 0), -128, 127, 0),
    "maximum": OVER + struct.pack("<ib3xib3xib3x6h", *(0, 0, 0, 0, 0, 0), *(0, 0, 0), -128, 127, 0),
}


class Window(c.Structure):
    """window_t of kernels.h."""

    _fields_ = (
        *(
            (name, c.c_uint16)
            for name in ("batches", "in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "filter_h", "filter_w", "filter_c")
        ),
        *((name, c.c_uint16) for name in ("stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top", "pad_left")),
        *((name, c.c_int16) for name in ("in_zero", "out_zero", "low", "high")),
        *((name, c.c_uint16) for name in ("fast", "factors")),
    )


class Dense(c.Structure):
    """dense_t."""

    _fields_ = (
        ("rows", c.c_uint32),
        *((name, c.c_uint16) for name in ("depth", "units")),
        *((name, c.c_int16) for name in ("in_zero", "out_zero", "low", "high")),
        *((name, c.c_uint16) for name in ("fast", "factors")),
    )


class Factors(c.Structure):
    """factors_t."""

    _fields_ = (("multiplier", c.c_void_p), ("shift", c.c_void_p), ("step", c.c_uint32))


class Case(NamedTuple):
    """A kernel with its parameters bound, its sizes in bytes, and how far below its input the output must begin at least."""

    run: Kernel
    in_bytes: int
    out_bytes: int
    distance: int
    unit: int = 1  # distances are multiples of it


class Weights:
    """Random weights, biases and factors for so many output channels, and scratch memory; kept alive by the kernel that uses them."""

    def __init__(self, d: Draw, channels: int, depth: int, *, fast: bool) -> None:
        self.filter = d.rng.integers(-127, 128, channels * depth, np.int8)
        self.bias = d.rng.integers(-20_000, 20_000, channels, np.int32)
        self.multiplier = d.rng.integers(2**30, 2**31 - 1, channels, np.int32)
        self.shift = d.rng.integers(-10, -4 if fast else 1, channels, np.int8)
        self.factors = Factors(self.multiplier.ctypes.data, self.shift.ctypes.data, 1)
        self.scratch = np.zeros(1 << 16, np.uint8)

    def bind(self, kernel: Any, parameters: c.Structure, *, scratch: bool) -> Kernel:
        constants = [c.c_void_p(self.filter.ctypes.data), c.c_void_p(self.bias.ctypes.data)]
        more = [c.c_void_p(self.scratch.ctypes.data)] if scratch else []
        return lambda x, y: kernel(c.byref(parameters), c.byref(self.factors), x, *constants, y, *more)


def axis(d: Draw, filter_: int, stride: int, dilation: int, padding: int) -> tuple[int, int, int]:
    """Sizes of an input and its output along one axis, and the padding before the first element."""
    reach = (filter_ - 1) * dilation + 1
    size = d.number(1 if padding == SAME else reach, reach + 9)
    out = out_size(padding, size, filter_, stride, dilation)
    return size, out, max((out - 1) * stride + reach - size, 0) // 2


def window(d: Draw, filter_h: int, filter_w: int, stride: int, in_c: int, out_c: int, dilation: int = 1) -> Window:
    padding = d.pick([SAME, VALID])
    in_h, out_h, top = axis(d, filter_h, stride, dilation, padding)
    in_w, out_w, left = axis(d, filter_w, stride, dilation, padding)
    low, high = d.pick([(-128, 127), (-128, 127), (-100, 90)])
    sizes = (1, in_h, in_w, in_c, out_h, out_w, out_c)
    filters = (filter_h, filter_w, in_c, stride, stride, dilation, dilation, top, left)
    return Window(*sizes, *filters, d.number(-128, 127), d.number(-128, 127), low, high, 0, out_c)


def least_distance(w: Window) -> int:
    """No pixel of the output, in raster order, is written over what a later one reads."""
    y, x = np.divmod(np.arange(w.out_h * w.out_w), w.out_w)
    first = np.maximum(y * w.stride_h - w.pad_top, 0) * w.in_w + np.maximum(x * w.stride_w - w.pad_left, 0)
    read_later = np.minimum.accumulate(first[::-1])[::-1][1:]
    written = np.arange(1, len(first))
    return int(np.max(written * w.out_c - read_later * w.in_c, initial=0))


def of_window(w: Window, run: Kernel, unit: int = 1) -> Case:
    return Case(run, w.in_h * w.in_w * w.in_c, w.out_h * w.out_w * w.out_c, least_distance(w), unit)


def depthwise(d: Draw, lib: c.CDLL) -> Case:
    channels = d.pick([1, 3, 4, 6, 8, 13])
    filter_h, filter_w = d.pick([(3, 3), (3, 3), (d.number(1, 9), 1), (d.number(1, 5), d.number(1, 5))])
    w = window(d, filter_h, filter_w, d.pick([1, 1, 2, 3]), channels, channels, d.pick([1, 1, 2]))
    w.fast = d.pick([0, 1, 1])
    weights = Weights(d, channels, filter_h * filter_w, fast=bool(w.fast))
    return of_window(w, weights.bind(lib.kernel_depthwise, w, scratch=False), channels)


def convolution(d: Draw, lib: c.CDLL) -> Case:
    filter_h, filter_w = d.pick([(1, 1), (3, 3), (d.number(1, 4), d.number(1, 4))])
    w = window(d, filter_h, filter_w, d.pick([1, 1, 2]), d.number(1, 9), d.number(1, 9), d.pick([1, 1, 2]))
    w.fast = d.pick([0, 1, 1])
    weights = Weights(d, w.out_c, filter_h * filter_w * w.in_c, fast=bool(w.fast))
    return of_window(w, weights.bind(lib.kernel_conv, w, scratch=True))


def dense(d: Draw, lib: c.CDLL) -> Case:
    rows, depth, units, fast = d.number(1, 9), d.number(1, 40), d.number(1, 40), d.pick([0, 1, 1])
    weights = Weights(d, units, depth, fast=bool(fast))
    parameters = Dense(rows, depth, units, d.number(-128, 127), d.number(-128, 127), -128, 127, fast, units)
    return Case(weights.bind(lib.kernel_dense, parameters, scratch=True), rows * depth, rows * units, max(0, (rows - 1) * (units - depth)))


def pool(d: Draw, kernel: Any) -> Case:
    channels = d.pick([1, 3, 4, 6, 8, 13])
    w = window(d, d.number(1, 4), d.number(1, 4), d.number(1, 3), channels, channels)
    return of_window(w, lambda x, y: kernel(c.byref(w), x, y))


def average_pool(d: Draw, lib: c.CDLL) -> Case:
    return pool(d, lib.kernel_average_pool)


def max_pool(d: Draw, lib: c.CDLL) -> Case:
    return pool(d, lib.kernel_max_pool)


@BUILDS
@pytest.mark.parametrize("draw", [depthwise, convolution, dense, average_pool, max_pool])
def test_output_in_the_memory_of_the_input(draw: Callable[[Draw, c.CDLL], Case], dsp: bool) -> None:
    shared = 0
    for seed in range(DRAWS):
        d = Draw(seed)
        case = draw(d, library(dsp=dsp))
        values = d.rng.integers(-128, 128, case.in_bytes, np.int8)
        expected = np.zeros(case.out_bytes, np.int8)
        case.run(address(values), address(expected))
        plain = np.zeros(case.out_bytes, np.int8)
        draw(Draw(seed), library()).run(address(values), address(plain))
        assert np.array_equal(plain, expected), seed
        distance = (-(-case.distance // case.unit) + d.pick([0, 0, 1])) * case.unit
        memory = np.zeros(distance + max(case.in_bytes, case.out_bytes), np.int8)
        memory[distance : distance + case.in_bytes] = values
        case.run(address(memory[distance:]), address(memory))
        assert np.array_equal(memory[: case.out_bytes], expected), seed
        shared += distance < case.out_bytes
    assert shared > DRAWS / 2, "the two seldom met"


@BUILDS
@pytest.mark.parametrize("name", UNARY)
def test_unary_in_place(name: str, dsp: bool) -> None:
    run = library(dsp=dsp)[f"kernel_{name}"]
    values = np.random.default_rng(1).integers(-128, 128, COUNT, np.int8)
    expected = np.zeros(COUNT, np.int8)
    flips = (0, 0) if name == "requantize" else ()
    run(UNARY[name], address(values), address(expected), *flips)
    assert len(set(expected.tolist())) > 2
    run(UNARY[name], address(values), address(values), *flips)
    assert np.array_equal(values, expected)


@BUILDS
@pytest.mark.parametrize("name", BINARY)
def test_binary_in_place_of_either_operand(name: str, dsp: bool) -> None:
    run = functools.partial(library(dsp=dsp).kernel_arithmetic, list(BINARY).index(name))
    operands = np.random.default_rng(1).integers(-128, 128, (2, COUNT), np.int8)
    expected = np.zeros(COUNT, np.int8)
    run(BINARY[name], address(operands[0]), address(operands[1]), address(expected))
    assert len(set(expected.tolist())) > 20
    for out in range(2):
        a, b = operands.copy()
        run(BINARY[name], address(a), address(b), address((a, b)[out]))
        assert np.array_equal((a, b)[out], expected)


def address(memory: npt.NDArray[np.int8]) -> c.c_void_p:
    return c.c_void_p(memory.ctypes.data)
