"""Random small .tflite graphs: for each operator of the engine a function that draws one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tflite_builder import Builder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

SAME, VALID = 0, 1
ACTIVATIONS = (0, 1, 2, 3)  # none, ReLU, ReLU -1..1, ReLU6


class Quantization(NamedTuple):
    scale: float
    zero_point: int


class Draw:
    """A random source with the draws that graphs are made of, and the graph in the making."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = Builder()
        self.inputs: list[int] = []

    def number(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(self.rng.integers(low, high + 1))

    def pick(self, values: Sequence[Any]) -> Any:
        return values[self.number(0, len(values) - 1)]

    def scales(self, low: float, high: float, count: int | None = None) -> Any:
        """One or `count` scales; sometimes powers of two, because only these make products that lie halfway between integers."""
        exponents = self.rng.uniform(np.log2(low), np.log2(high), count)
        return np.exp2(np.rint(exponents) if self.number(0, 2) == 0 else exponents)

    def quantization(self) -> Quantization:
        return Quantization(float(self.scales(0.002, 2)), self.number(-128, 127))

    def shape(self, rank: int) -> list[int]:
        return [self.number(1, 5) for _ in range(rank)]

    def image(self) -> list[int]:
        """Height and width, sometimes of a row or a column."""
        sides = [self.number(1, 7), self.number(1, 7)]
        if self.number(0, 3) == 0:
            sides[self.number(0, 1)] = 1
        return sides

    def input(self, shape: Sequence[int], q: Quantization | tuple[()], dtype: npt.DTypeLike = np.int8) -> int:
        self.inputs.append(self.b.tensor(shape, dtype, *q))
        return self.inputs[-1]

    def constant(self, shape: Sequence[int], q: Quantization | tuple[()], dtype: npt.DTypeLike = np.int8) -> int:
        scale, zero_point = q or ((), 0)
        return self.b.tensor(shape, dtype, scale, zero_point, self.rng.integers(-128, 128, shape))

    def movable(self, *dtypes: npt.DTypeLike) -> tuple[npt.DTypeLike, Quantization | tuple[()]]:
        """A type and its quantisation for an operator that only moves elements: int8 half of the time."""
        dtype = np.int8 if self.number(0, 1) else self.pick(dtypes)
        return dtype, self.quantization() if dtype is np.int8 else ()

    def ints(self, values: Sequence[int]) -> int:
        return self.b.tensor([len(values)], np.int32, data=values)

    def weights(self, shape: Sequence[int], dimension: int, in_scale: float, *, per_channel: bool, bias: bool) -> tuple[int, int, int]:
        """A filter, its bias, which may be absent (-1), and the number of output channels."""
        channels = shape[dimension]
        scale = self.scales(1e-4, 0.1, channels if per_channel else 1)
        if self.number(0, 7) == 0:
            scale[self.number(0, len(scale) - 1)] = 1e-12  # its requantisation factor rounds to 0
        bound = self.pick([100, 100_000, 2**31 - 1])
        values = self.rng.integers(-bound, bound + 1, channels)
        data = self.rng.integers(-127, 128, shape)
        if self.number(0, 7) == 0:  # a channel without weights, with the bias that converters give it
            dead = self.number(0, channels - 1)
            np.moveaxis(data, dimension, 0)[dead] = 0
            values[dead] = self.pick([2**30 - 1, 2**30, 2**30 + 128, -(2**30), -(2**30) - 128])
        filter_ = self.b.tensor(shape, np.int8, scale, data=data, dimension=dimension)
        if not bias:
            return filter_, -1, channels
        return filter_, self.b.tensor([channels], np.int32, np.float32(in_scale) * np.float32(scale), data=values), channels

    def finish(self, *outputs: int) -> bytes:
        return self.b.finish(self.inputs, outputs)


def out_size(padding: int, size: int, filter_: int, stride: int, dilation: int = 1) -> int:
    reach = (filter_ - 1) * dilation + 1
    return -(-size // stride) if padding == SAME else (size - reach) // stride + 1


def convolution(d: Draw, *, depthwise: bool) -> bytes:
    kh, kw, dh, dw, padding = d.number(1, 4), d.number(1, 4), d.pick([1, 1, 2, 3, 9]), d.pick([1, 1, 2, 8]), d.pick([SAME, VALID])
    (h, w), sh, sw = d.image(), d.pick([1, 1, 2, 3, 6]), d.pick([1, 1, 2, 3, 6])
    if padding == VALID:
        h, w = h + (kh - 1) * dh, w + (kw - 1) * dw
    batches, groups, per_group, multiplier = d.number(1, 2), d.pick([1, 1, 2, 3]), d.number(1, 9), d.number(1, 3)
    channels = groups * per_group
    q = d.quantization()
    x = d.input([batches, h, w, channels], q)
    if depthwise:
        shape, dimension = [1, kh, kw, channels * multiplier], 3
    else:
        shape, dimension = [groups * d.number(1, 6), kh, kw, per_group], 0
    has_bias = depthwise or d.number(0, 4) > 0  # TFLM crashes on a depthwise convolution without
    filter_, bias, out_c = d.weights(shape, dimension, q.scale, per_channel=d.number(0, 3) > 0, bias=has_bias)
    y_shape = [batches, out_size(padding, h, kh, sh, dh), out_size(padding, w, kw, sw, dw), out_c]
    y = d.b.tensor(y_shape, np.int8, *d.quantization())
    options = {"padding": padding, "strideH": sh, "strideW": sw, "dilationHFactor": dh, "dilationWFactor": dw}
    options["fusedActivationFunction"] = d.pick(ACTIVATIONS)
    if depthwise:
        options["depthMultiplier"] = multiplier
    d.b.op("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [x, filter_, bias], [y], **options)
    return d.finish(y)


def conv(d: Draw) -> bytes:
    return convolution(d, depthwise=False)


def depthwise_conv(d: Draw) -> bytes:
    return convolution(d, depthwise=True)


def fully_connected(d: Draw) -> bytes:
    depth, units, shape = d.number(1, 70), d.number(1, 12), d.pick([[], [1], [3], [6], [2, 2], [1, 2, 2]])
    q = d.quantization()
    x = d.input([*shape, depth], q)
    filter_, bias, _ = d.weights([units, depth], 0, q.scale, per_channel=d.number(0, 2) == 0, bias=d.number(0, 4) > 0)
    y = d.b.tensor([*shape, units], np.int8, *d.quantization())
    d.b.op("FULLY_CONNECTED", [x, filter_, bias], [y], fusedActivationFunction=d.pick(ACTIVATIONS), keepNumDims=len(shape) > 1)
    return d.finish(y)


def pool(d: Draw, name: str) -> bytes:
    kh, kw, sh, sw, padding = d.number(1, 4), d.number(1, 4), d.number(1, 6), d.number(1, 6), d.pick([SAME, VALID])
    n, (h, w), channels, q = d.number(1, 2), d.image(), d.number(1, 7), d.quantization()
    if padding == VALID:
        h, w = h + kh - 1, w + kw - 1
    x = d.input([n, h, w, channels], q)
    y = d.b.tensor([n, out_size(padding, h, kh, sh), out_size(padding, w, kw, sw), channels], np.int8, *q)
    options = {"padding": padding, "strideH": sh, "strideW": sw, "filterHeight": kh, "filterWidth": kw}
    d.b.op(name, [x], [y], fusedActivationFunction=d.pick(ACTIVATIONS), **options)
    return d.finish(y)


def average_pool(d: Draw) -> bytes:
    return pool(d, "AVERAGE_POOL_2D")


def max_pool(d: Draw) -> bytes:
    return pool(d, "MAX_POOL_2D")


def arithmetic(d: Draw, name: str) -> bytes:
    shape = d.shape(d.number(1, 4))
    shapes = [shape, shape]
    if d.number(0, 1):  # broadcast
        shapes = [[1 if d.number(0, 2) == 0 else size for size in shape] for _ in range(2)]
        shapes[0] = shapes[0][d.number(0, len(shape) - 1) if d.number(0, 1) else 0 :]
        shape = list(np.broadcast_shapes(*map(tuple, shapes)))
    quantizations = [d.quantization(), d.quantization()]
    a = d.input(shapes[0], quantizations[0])
    b = d.input(shapes[1], quantizations[1]) if d.number(0, 3) else d.constant(shapes[1], quantizations[1])
    y = d.b.tensor(shape, np.int8, *d.quantization())
    operands = [a, b] if d.number(0, 1) else [b, a]
    options = {} if name in {"MINIMUM", "MAXIMUM"} else {"fusedActivationFunction": d.pick(ACTIVATIONS)}
    d.b.op(name, operands, [y], **options)
    return d.finish(y)


def add(d: Draw) -> bytes:
    return arithmetic(d, "ADD")


def sub(d: Draw) -> bytes:
    return arithmetic(d, "SUB")


def minimum(d: Draw) -> bytes:
    return arithmetic(d, "MINIMUM")


def maximum(d: Draw) -> bytes:
    return arithmetic(d, "MAXIMUM")


def mul(d: Draw) -> bytes:
    return arithmetic(d, "MUL")


def unary(d: Draw, name: str, shape: Sequence[int], q: Quantization, **options: float) -> bytes:
    x = d.input(shape, d.quantization())
    y = d.b.tensor(shape, np.int8, *q)
    d.b.op(name, [x], [y], **options)
    return d.finish(y)


def softmax(d: Draw) -> bytes:
    shape = [*d.shape(d.number(0, 3)), d.pick([1, 2, 12, 100])]
    return unary(d, "SOFTMAX", shape, Quantization(1 / 256, -128), beta=d.pick([1.0, 1.0, 0.5, 3.0, 100.0]))


def logistic(d: Draw) -> bytes:
    return unary(d, "LOGISTIC", [4, 64], Quantization(1 / 256, -128))


def tanh(d: Draw) -> bytes:
    return unary(d, "TANH", [4, 64], Quantization(1 / 128, 0))


def relu(d: Draw) -> bytes:
    return unary(d, "RELU", [4, 64], d.quantization())


def relu6(d: Draw) -> bytes:
    return unary(d, "RELU6", [4, 64], d.quantization())


def mean(d: Draw) -> bytes:
    """Over any axes of a tensor, in any order, some twice, some counted from the end; often over an image."""
    image = d.number(0, 2) == 0
    shape = [d.number(1, 2), d.number(1, 9), d.number(1, 9), d.number(1, 9)] if image else d.shape(d.number(1, 4))
    rank = len(shape)
    axes = d.pick([[1, 2], [2, 1]]) if image else [d.number(-rank, rank - 1) for _ in range(d.number(1, rank))]
    reduced = {axis % rank for axis in axes}
    keep = bool(d.number(0, 1))
    kept = [1 if axis in reduced else size for axis, size in enumerate(shape) if keep or axis not in reduced]
    q = d.quantization()
    x = d.input(shape, q)
    y = d.b.tensor(kept, np.int8, *(q if d.number(0, 2) == 0 else d.quantization()))
    d.b.op("MEAN", [x, d.ints(axes)], [y], keepDims=keep)
    return d.finish(y)


def quantize(d: Draw) -> bytes:
    kinds: list[tuple[npt.DTypeLike, npt.DTypeLike]] = [
        (np.int8, np.uint8),
        (np.uint8, np.int8),
        (np.int8, np.int8),
        (np.float32, np.int8),
    ]
    source, target = d.pick(kinds)
    x = d.input([2, 60], shifted(d.quantization(), source), source)
    y = d.b.tensor([2, 60], target, *shifted(d.quantization(), target))
    d.b.op("QUANTIZE", [x], [y])
    return d.finish(y)


def dequantize(d: Draw) -> bytes:
    source = d.pick([np.int8, np.uint8])
    x = d.input([2, 60], shifted(d.quantization(), source), source)
    y = d.b.tensor([2, 60], np.float32)
    d.b.op("DEQUANTIZE", [x], [y])
    return d.finish(y)


def shifted(q: Quantization, dtype: npt.DTypeLike) -> Quantization | tuple[()]:
    """`q` for a type: none for floats, a zero point of 0..255 for uint8."""
    if dtype is np.float32:
        return ()
    return Quantization(q.scale, q.zero_point + 128) if dtype is np.uint8 else q


def reshape(d: Draw) -> bytes:
    (dtype, q), shape = d.movable(np.float32, np.int16, np.int32), d.shape(4)
    new = d.pick([[int(np.prod(shape))], [shape[0], -1], [shape[0] * shape[1], shape[2], shape[3]]])
    real = list(np.zeros(shape, np.int8).reshape(new).shape)
    constant = d.number(0, 3) == 0
    x = d.constant(shape, q, dtype) if constant else d.input(shape, q, dtype)
    y = d.b.tensor(real, dtype, *q)
    d.b.op("RESHAPE", [x, d.ints(new)], [y])
    return d.finish(y)


def expand_dims(d: Draw) -> bytes:
    (dtype, q), shape = d.movable(np.float32, np.int16), d.shape(d.number(1, 4))
    axis = d.number(0, len(shape))
    x = d.input(shape, q, dtype)
    y = d.b.tensor([*shape[:axis], 1, *shape[axis:]], dtype, *q)
    signed_axis = d.b.tensor(d.pick([[], [1]]), np.int32, data=axis - (len(shape) + 1 if d.number(0, 1) else 0))
    d.b.op("EXPAND_DIMS", [x, signed_axis], [y])
    return d.finish(y)


def squeeze(d: Draw) -> bytes:
    (dtype, q), shape = d.movable(np.float32, np.int16, np.int32), [d.pick([1, 1, 2, 3]) for _ in range(d.number(1, 5))]
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    named = [axis - (len(shape) if d.number(0, 1) else 0) for axis in ones if d.number(0, 1)]
    gone = {axis % len(shape) for axis in named or ones}
    x = d.input(shape, q, dtype)
    y = d.b.tensor([size for axis, size in enumerate(shape) if axis not in gone], dtype, *q)
    d.b.op("SQUEEZE", [x], [y], squeezeDims=named)
    return d.finish(y)


def transpose(d: Draw) -> bytes:
    (dtype, q), shape = d.movable(np.float32, np.int16), d.shape(d.number(1, 4))
    axes = [int(axis) for axis in d.rng.permutation(len(shape))]
    x = d.input(shape, q, dtype)
    y = d.b.tensor([shape[axis] for axis in axes], dtype, *q)
    d.b.op("TRANSPOSE", [x, d.ints(axes)], [y])
    return d.finish(y)


def pack(d: Draw) -> bytes:
    (dtype, q), shape, count = d.movable(np.float32, np.int16, np.int32), d.shape(d.number(1, 3)), d.number(1, 4)
    axis = d.number(0, len(shape))
    inputs = [d.input(shape, q, dtype) for _ in range(count)]
    y = d.b.tensor([*shape[:axis], count, *shape[axis:]], dtype, *q)
    d.b.op("PACK", inputs, [y], valuesCount=count, axis=axis - (len(shape) + 1 if d.number(0, 1) else 0))
    return d.finish(y)


def pad(d: Draw) -> bytes:
    (dtype, q), shape = d.movable(np.float32, np.int16, np.int32), d.shape(d.number(1, 4))
    paddings = np.array([[d.pick([0, 0, 1, 3]), d.pick([0, 0, 1, 2])] for _ in shape])
    x = d.input(shape, q, dtype)
    y = d.b.tensor(np.add(shape, paddings.sum(axis=1)).tolist(), dtype, *q)
    d.b.op("PAD", [x, d.b.tensor(paddings.shape, np.int32, data=paddings)], [y])
    return d.finish(y)


def resize_nearest_neighbor(d: Draw) -> bytes:
    """Small images of some channels, or long rows, where single precision rounds."""
    (dtype, q), long = d.movable(np.float32, np.int16), d.number(0, 1)
    n, c = (1, 1) if long else (d.number(1, 2), d.number(1, 5))
    h, w, new_h, new_w = (d.number(1, size) for size in ((2, 700, 2, 700) if long else (7, 7, 15, 15)))
    if d.number(0, 3) == 0:
        new_h, new_w = h * d.number(1, 3), w * d.number(1, 3)
    x = d.input([n, h, w, c], q, dtype)
    y = d.b.tensor([n, new_h, new_w, c], dtype, *q)
    options = {"alignCorners": bool(d.number(0, 1)), "halfPixelCenters": bool(d.number(0, 1))}
    d.b.op("RESIZE_NEAREST_NEIGHBOR", [x, d.ints([new_h, new_w])], [y], **options)
    return d.finish(y)


def cut(d: Draw) -> tuple[list[int], int, list[list[int]]]:
    """A shape, an axis of it and the shapes of the pieces along the axis."""
    shape = d.shape(d.number(1, 4))
    axis, sizes = d.number(0, len(shape) - 1), [d.number(1, 4) for _ in range(d.number(1, 4))]
    shape[axis] = sum(sizes)
    return shape, axis, [[*shape[:axis], size, *shape[axis + 1 :]] for size in sizes]


def concatenation(d: Draw) -> bytes:
    (dtype, q), (shape, axis, pieces) = d.movable(np.float32, np.int16, np.int32), cut(d)
    inputs = [d.input(piece, q, dtype) for piece in pieces]
    y = d.b.tensor(shape, dtype, *q)
    d.b.op("CONCATENATION", inputs, [y], axis=axis - (len(shape) if d.number(0, 1) else 0))
    return d.finish(y)


def split_v(d: Draw) -> bytes:
    (dtype, q), (shape, axis, pieces) = d.movable(np.float32, np.int16, np.int32), cut(d)
    x = d.input(shape, q, dtype)
    outputs = [d.b.tensor(piece, dtype, *q) for piece in pieces]
    sizes = [piece[axis] for piece in pieces]
    if d.number(0, 1):
        sizes[d.number(0, len(sizes) - 1)] = -1
    signed_axis = d.b.tensor([], np.int32, data=axis - (len(shape) if d.number(0, 1) else 0))
    d.b.op("SPLIT_V", [x, d.ints(sizes), signed_axis], outputs, numSplits=len(outputs))
    return d.finish(*outputs)


def strided_slice(d: Draw) -> bytes:
    dtype, q = d.movable(np.float32, np.int16, np.int32)
    while True:
        shape = [d.number(1, 6) for _ in range(d.number(1, 4))]
        begin = [d.number(-size, size - 1) for size in shape]
        end = [d.number(-size - 1, size + 1) for size in shape]
        strides = [d.pick([1, 1, 2, 3, -1, -2]) for _ in shape]
        masks = [d.number(0, 2 ** len(shape) - 1) & d.number(0, 15) for _ in range(3)]
        masks[2] &= ~masks[0]
        index: list[int | slice] = []
        for axis, (b, e, s) in enumerate(zip(begin, end, strides, strict=True)):
            from_edge, to_edge, shrink = ((mask >> axis) & 1 for mask in masks)
            if shrink:
                strides[axis] = 1
            index.append(b if shrink else slice(None if from_edge else b, None if to_edge else e, s))
        result = np.zeros(shape, np.int8)[tuple(index)]
        if result.size:
            break
    x = d.input(shape, q, dtype)
    y = d.b.tensor(result.shape, dtype, *q)
    options = dict(zip(("beginMask", "endMask", "shrinkAxisMask"), masks, strict=True))
    d.b.op("STRIDED_SLICE", [x, d.ints(begin), d.ints(end), d.ints(strides)], [y], **options)
    return d.finish(y)


def variables(d: Draw, *, initialised: bool = True) -> bytes:
    """A delay line: the state and the input in, the input into the state. Zero points fill what nobody has set."""
    q, shape, count = d.quantization(), [1, d.number(1, 3), 1, d.number(1, 5)], d.number(1, 3)
    handles = [d.b.tensor([], None) for _ in range(count)]
    if initialised:
        d.b.op("CALL_ONCE", [], [], initSubgraphIndex=1)
    at = d.input(shape, q)
    for i, handle in enumerate(handles):
        d.b.op("VAR_HANDLE", [], [handle], container="", sharedName=f"state{i}")
    for handle in handles:
        state = d.b.tensor(shape, np.int8, *q)
        d.b.op("READ_VARIABLE", [handle], [state])
        d.b.op("ASSIGN_VARIABLE", [handle, at], [])
        at = state
    if initialised:
        d.b.subgraph()
        for i in reversed(range(count)):
            handle = d.b.tensor([], None)
            value = d.b.tensor(shape, np.int8, *q, data=d.rng.integers(-128, 128, shape))
            d.b.op("VAR_HANDLE", [], [handle], container="", sharedName=f"state{i}")
            d.b.op("ASSIGN_VARIABLE", [handle, value], [])
    return d.finish(at)


def unset_variables(d: Draw) -> bytes:
    return variables(d, initialised=False)


def network(d: Draw) -> bytes:
    """A dozen operators on anything made before, so that lifetimes cross and memory is shared; sometimes early results are outputs."""
    q = d.quantization()
    made = [(d.input([1, size], q), size) for size in (d.number(1, 40) for _ in range(d.number(1, 3)))]
    for _ in range(12):
        (a, size_a), (b, size_b) = d.pick(made), d.pick(made)
        kind = d.number(0, 2)
        if kind == 0 and size_a + size_b < 300:
            y, size = d.b.tensor([1, size_a + size_b], np.int8, *q), size_a + size_b
            d.b.op("CONCATENATION", [a, b], [y], axis=1)
        elif kind == 1:
            row = d.b.tensor([size_a, 1], np.int8, *q)
            y, size = d.b.tensor([1, size_a], np.int8, *q), size_a
            d.b.op("RESHAPE", [a, d.ints([size_a, 1])], [row])
            d.b.op("RESHAPE", [row, d.ints([1, size_a])], [y])
        else:
            y, size = d.b.tensor([1, size_a], np.int8, *q), size_a
            d.b.op("ADD", [a, a if size_a != size_b else b], [y])
        made.append((y, size))
    return d.finish(made[-1][0], *(index for index, _ in made[len(d.inputs) : -1] if d.number(0, 5) == 0))


def tower(d: Draw) -> bytes:
    """Layers on an image, one after the other: what a plan lets overlap, each a little further down."""
    q, (h, w, c) = d.quantization(), (d.number(3, 9), d.number(3, 9), d.number(1, 6))
    x = d.input([1, h, w, c], q)
    for _ in range(d.number(2, 6)):
        kind, size, stride, padding = d.pick(["CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D"]), d.pick([1, 2, 3]), d.pick([1, 1, 2]), SAME
        size = min(size, h, w)
        if d.number(0, 2) == 0:
            padding = VALID
        in_q, in_c = q, c
        options = {"padding": padding, "strideH": stride, "strideW": stride}
        if kind == "MAX_POOL_2D":
            operands = [x]
            options |= {"filterHeight": size, "filterWidth": size}
        else:
            q, shape = d.quantization(), [1, size, size, c]
            if kind == "CONV_2D":
                shape[0] = c = d.pick([c, d.number(1, 9)])
            else:
                options["depthMultiplier"] = 1
            filter_, bias, _ = d.weights(shape, 0 if kind == "CONV_2D" else 3, in_q.scale, per_channel=True, bias=True)
            operands = [x, filter_, bias]
        h, w = out_size(padding, h, size, stride), out_size(padding, w, size, stride)
        x = d.b.tensor([1, h, w, c], np.int8, *q)
        assert kind == "CONV_2D" or in_c == c
        d.b.op(kind, operands, [x], **options)
    return d.finish(x)


def stream(d: Draw) -> bytes:
    """Convolutions over a window of rows, of which the newest come in: the state of each is the window's older part."""
    q, rows, c = d.quantization(), d.number(1, 3), d.number(1, 9)
    x, count = d.input([1, rows, 1, c], q), d.number(1, 3)
    handles = [d.b.tensor([], None) for _ in range(count)]
    for i, handle in enumerate(handles):
        d.b.op("VAR_HANDLE", [], [handle], container="", sharedName=f"state{i}")
    for handle in handles:
        kept = d.number(1, 4)
        old, whole, new = (d.b.tensor([1, size, 1, c], np.int8, *q) for size in (kept, kept + rows, kept))
        d.b.op("READ_VARIABLE", [handle], [old])
        d.b.op("CONCATENATION", [old, x], [whole], axis=1)
        d.b.op("STRIDED_SLICE", [whole, *map(d.ints, ([0, rows, 0, 0], [0] * 4, [1] * 4))], [new], beginMask=13, endMask=15)
        d.b.op("ASSIGN_VARIABLE", [handle, new], [])
        in_scale, q, units = q.scale, d.quantization(), d.number(1, 9)
        filter_, bias, _ = d.weights([units, kept + rows, 1, c], 0, in_scale, per_channel=True, bias=True)
        rows, c = 1, units
        x = d.b.tensor([1, rows, 1, c], np.int8, *q)
        d.b.op("CONV_2D", [whole, filter_, bias], [x], padding=VALID, strideH=1, strideW=1)
    return d.finish(x)


GRAPHS: list[Callable[[Draw], bytes]] = [
    conv, depthwise_conv, fully_connected, average_pool, max_pool, add, mul, softmax, logistic, tanh, quantize, dequantize,
    reshape, concatenation, split_v, strided_slice, variables, unset_variables, network,
    sub, minimum, maximum, relu, relu6, mean, expand_dims, squeeze, transpose, pack, pad, resize_nearest_neighbor,
    tower, stream,
]  # fmt: skip
