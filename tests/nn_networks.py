"""Random small networks: what nn_graphs draws, laid upon each other, and layers as real models have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nn_graphs
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from nn_graphs import ACTIVATIONS, SAME, VALID, Draw, Quantization, out_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

TYPICAL = 40  # an int8 value's distance from its zero point
MOST = 600  # elements of a value
SCALES = 1e-3, 8.0  # of values
TFLM_PIECES, TFLM_RANK = 10, 4  # more of a concatenation, and larger ranks of a slice, it refuses
TFLM_SOFTMAX = 500  # of more values it may abort
WHOLE_GRAPHS = (nn_graphs.variables, nn_graphs.unset_variables, nn_graphs.network, nn_graphs.stream)  # with variables, or already many
OPERATORS = [draw for draw in nn_graphs.GRAPHS if draw not in WHOLE_GRAPHS]


class Network(Draw):
    """A draw whose inputs are values made before, and whose results become values.

    Scales follow what the values can be expected to be: random ones would saturate all after a few layers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.made: list[int] = []
        self.expected = 0.0  # the typical real value of the tensor that is quantised next, 0: unknown
        self.initial: dict[str, int] = {}  # variables: a tensor like the state
        self.initialised = self.number(0, 1) == 1
        if self.initialised:
            self.b.op("CALL_ONCE", [], [], initSubgraphIndex=1)
        for _ in range(self.number(1, 3)):
            image = [1, self.number(1, 9), self.number(1, 9), self.number(1, 8)]
            self.made.append(super().input(self.pick([image, [1, self.number(1, 60)]]), self.quantization()))

    def pick(self, values: Sequence[Any]) -> Any:
        return super().pick((0, 0, 0, *ACTIVATIONS) if values is ACTIVATIONS else values)

    def quantization(self) -> Quantization:
        scale = self.expected / TYPICAL * 2 ** self.rng.uniform(-0.7, 0.7) if self.expected else float(self.scales(0.01, 0.1))
        self.expected = 0.0
        zero_point = self.pick([self.number(-40, 40), self.number(-40, 40), self.number(-128, 100), -128])
        return Quantization(float(np.float32(np.clip(scale, *SCALES))), zero_point)

    def weights(self, shape: Sequence[int], dimension: int, in_scale: float, *, per_channel: bool, bias: bool) -> tuple[int, int, int]:
        """Their scale is what brings the result into a usual range."""
        channels, largest = shape[dimension], self.pick([127, 127, 127, 9, 1])
        self.expected = TYPICAL * float(self.scales(0.01, 0.1))
        typical_sum = TYPICAL * largest * 0.6 * float(np.prod(shape) / channels) ** 0.5
        scale = self.expected / (in_scale * typical_sum) * 2 ** self.rng.uniform(-1, 1, channels if per_channel else 1)
        filter_ = self.b.tensor(shape, np.int8, scale, data=self.rng.integers(-largest, largest + 1, shape), dimension=dimension)
        if not bias:
            return filter_, -1, channels
        values = self.rng.normal(0, typical_sum, channels).astype(np.int32)
        if self.number(0, 9) == 0:
            values[self.number(0, channels - 1)] = self.pick([2**30, -(2**30), 2**31 - 1])
        return filter_, self.b.tensor([channels], np.int32, np.float32(in_scale) * np.float32(scale), data=values), channels

    def input(self, shape: Sequence[int], q: Quantization | tuple[()], dtype: npt.DTypeLike = np.int8) -> int:
        """Of this kind, made out of some value where there is a way."""
        if dtype not in {np.int8, np.uint8, np.float32}:
            return super().input(shape, q, dtype)
        x = self.sized(self.value(), int(np.prod(shape)))
        if dtype is np.float32:
            x = self.put("DEQUANTIZE", [x], self.dims(x), (), dtype)
        elif dtype is np.uint8 or self.q(x) != q:
            x = self.put("QUANTIZE", [x], self.dims(x), q, dtype)
        return self.reshaped(x, shape)

    def finish(self, *outputs: int) -> bytes:
        """Keep the results; the file is written by done()."""
        for y in outputs:
            kind, x = self.tensor(y).type, y
            if kind in {schema.TensorType.UINT8, schema.TensorType.FLOAT32}:
                x = self.put("QUANTIZE", [y], self.dims(y), self.quantization())
            if kind not in {schema.TensorType.INT16, schema.TensorType.INT32, schema.TensorType.BOOL}:
                plain = 0 < len(self.dims(x)) <= TFLM_RANK
                self.made.append(x if plain else self.reshaped(x, [int(np.prod(self.dims(x)))]))
        return b""

    def done(self) -> bytes:
        """The file: some results are outputs, others nobody reads."""
        results = [x for x in self.made if x not in self.inputs]
        outputs = [results[-1], *(y for y in results[:-1] if self.number(0, 7) == 0)]
        if self.initialised:
            self.b.subgraph()
            for name, like in self.initial.items():
                handle = self.b.tensor([], None)
                value = self.b.tensor(self.dims(like), np.int8, *self.q(like), data=self.rng.integers(-128, 128, self.dims(like)))
                self.b.op("VAR_HANDLE", [], [handle], container="", sharedName=name)
                self.b.op("ASSIGN_VARIABLE", [handle, value], [])
        return self.b.finish(self.inputs, [*dict.fromkeys(outputs)])

    def tensor(self, index: int) -> Any:
        return self.b.model.subgraphs[0].tensors[index]

    def dims(self, index: int) -> list[int]:
        return [int(size) for size in self.tensor(index).shape]

    def q(self, index: int) -> Quantization:
        q = self.tensor(index).quantization
        return Quantization(float(q.scale[0]), int(q.zeroPoint[0]))

    def value(self) -> int:
        """Often a recent one."""
        return int(self.pick(self.made[-3:] if self.number(0, 2) else self.made))

    def put(
        self,
        name: str,
        inputs: list[int],
        shape: Sequence[int],
        q: Quantization | tuple[()],
        dtype: npt.DTypeLike = np.int8,
        **options: Any,
    ) -> int:
        """An operator with one output, which it returns."""
        y = self.b.tensor(shape, dtype, *q)
        self.b.op(name, inputs, [y], **options)
        return y

    def reshaped(self, x: int, shape: Sequence[int]) -> int:
        if self.dims(x) == list(shape):
            return x
        dtype = {schema.TensorType.INT8: np.int8, schema.TensorType.UINT8: np.uint8}.get(self.tensor(x).type, np.float32)
        return self.put("RESHAPE", [x, self.ints(shape)], shape, () if dtype is np.float32 else self.q(x), dtype)

    def sized(self, x: int, count: int) -> int:
        """`count` elements of x, repeated if there are not so many."""
        have = int(np.prod(self.dims(x)))
        if have == count:
            return x
        x = self.reshaped(x, [have])
        while have < count:
            repeats = min(-(-count // have), TFLM_PIECES)
            have *= repeats
            x = self.put("CONCATENATION", [x] * repeats, [have], self.q(x), axis=0)
        begin = self.number(0, have - count)
        return x if have == count else self.cut(x, [begin], [begin + count])

    def cut(self, x: int, begin: Sequence[int], end: Sequence[int]) -> int:
        shape = [b - a for a, b in zip(begin, end, strict=True)]
        return self.put("STRIDED_SLICE", [x, self.ints(begin), self.ints(end), self.ints([1] * len(shape))], shape, self.q(x))

    def picture(self) -> int:
        """A value of one image: as it is, or another one seen as an image."""
        images = [x for x in self.made[-4:] if len(self.dims(x)) == 4 and self.dims(x)[0] == 1]
        if images:
            return int(self.pick(images))
        return self.input([1, self.number(1, 8), self.number(1, 8), self.number(1, 8)], self.quantization())

    def like(self, shape: Sequence[int]) -> int:
        """A value of this shape, if need be made into it."""
        same = [x for x in self.made if self.dims(x) == list(shape)]
        return int(self.pick(same)) if same else self.reshaped(self.sized(self.value(), int(np.prod(shape))), shape)


def any_operator(d: Network) -> None:
    d.pick(OPERATORS)(d)


def window(d: Network, name: str) -> None:
    """A layer of a usual shape on an image as it is."""
    x = d.picture()
    _, h, w, channels = d.dims(x)
    side, stride, padding = d.pick([1, 1, 3, 3, 5]), d.pick([1, 1, 1, 2]), d.pick([SAME, VALID])
    if min(h, w) < side:
        padding = SAME
    options = {"padding": padding, "strideH": stride, "strideW": stride, "fusedActivationFunction": d.pick(ACTIVATIONS)}
    q, inputs, out_channels = d.q(x), [x], channels
    if name.endswith("POOL_2D"):
        side = min(side, h, w)
        options |= {"filterHeight": side, "filterWidth": side}
    else:
        if name == "CONV_2D":
            shape, dimension = [d.number(1, 8), side, side, channels], 0
        else:
            multiplier = d.pick([1, 1, 1, 2]) if channels < 9 else 1
            shape, dimension, options["depthMultiplier"] = [1, side, side, channels * multiplier], 3, multiplier
        *weights, out_channels = d.weights(shape, dimension, q.scale, per_channel=d.number(0, 3) > 0, bias=True)
        q, inputs = d.quantization(), [x, *weights]
    shape = [1, out_size(padding, h, side, stride), out_size(padding, w, side, stride), out_channels]
    d.finish(d.put(name, inputs, shape, q, **options))


def convolution(d: Network) -> None:
    window(d, "CONV_2D")


def depthwise(d: Network) -> None:
    window(d, "DEPTHWISE_CONV_2D")


def pool(d: Network) -> None:
    window(d, d.pick(["AVERAGE_POOL_2D", "MAX_POOL_2D"]))


def dense(d: Network) -> None:
    x = d.value()
    depth, units = int(np.prod(d.dims(x))), d.number(1, 24)
    filter_, bias, _ = d.weights([units, depth], 0, d.q(x).scale, per_channel=False, bias=d.number(0, 3) > 0)
    d.finish(d.put("FULLY_CONNECTED", [x, filter_, bias], [1, units], d.quantization(), fusedActivationFunction=d.pick(ACTIVATIONS)))


def skip(d: Network) -> None:
    """ADD or MUL with an earlier value of the same shape, often the input of the layer before."""
    a = d.value()
    b = d.like(d.dims(a))
    name = d.pick(["ADD", "ADD", "MUL"])
    scales = d.q(a).scale, d.q(b).scale
    d.expected = TYPICAL * max(scales) if name == "ADD" else TYPICAL**2 * scales[0] * scales[1]
    d.finish(d.put(name, d.pick([[a, b], [b, a]]), d.dims(a), d.quantization(), fusedActivationFunction=d.pick(ACTIVATIONS)))


def activation(d: Network) -> None:
    x = d.value()
    kinds = {"LOGISTIC": Quantization(1 / 256, -128), "TANH": Quantization(1 / 128, 0), "SOFTMAX": Quantization(1 / 256, -128)}
    name = d.pick([*kinds] if d.dims(x)[-1] <= TFLM_SOFTMAX else ["LOGISTIC", "TANH"])
    options: dict[str, Any] = {"beta": 1.0} if name == "SOFTMAX" else {}
    d.finish(d.put(name, [x], d.dims(x), kinds[name], **options))


def join(d: Network) -> None:
    """Pieces that differ in one axis, one of them perhaps twice."""
    x = d.value()
    axis = d.number(0, len(d.dims(x)) - 1)
    pieces = [x]
    for _ in range(d.number(1, 2)):
        shape = d.dims(x)
        shape[axis] = d.number(1, shape[axis])
        y = d.like(shape)
        pieces.append(y if d.q(y) == d.q(x) else d.put("QUANTIZE", [y], shape, d.q(x)))
    d.rng.shuffle(pieces)
    shape[axis] = sum(d.dims(piece)[axis] for piece in pieces)
    if np.prod(shape) <= MOST:
        d.finish(d.put("CONCATENATION", pieces, shape, d.q(x), axis=axis))


def split(d: Network) -> None:
    x = d.value()
    shape = d.dims(x)
    axis = d.number(0, len(shape) - 1)
    edges = [0, *sorted({d.number(1, shape[axis]) for _ in range(2)} | {shape[axis]})]
    sizes = np.diff(edges).tolist()
    pieces = [d.b.tensor([*shape[:axis], size, *shape[axis + 1 :]], np.int8, *d.q(x)) for size in sizes]
    d.b.op("SPLIT_V", [x, d.ints(sizes), d.b.tensor([], np.int32, data=axis)], pieces, numSplits=len(pieces))
    d.finish(*pieces)


def crop(d: Network) -> None:
    x = d.value()
    begin = [d.number(0, (size - 1) // 2) for size in d.dims(x)]
    d.finish(d.cut(x, begin, [d.number(a + 1, size) for a, size in zip(begin, d.dims(x), strict=True)]))


def quantize(d: Network) -> None:
    x = d.value()
    d.expected = d.q(x).scale * TYPICAL
    d.finish(d.put("QUANTIZE", [x], d.dims(x), d.quantization()))


def stream(d: Network) -> None:
    """As streaming models keep the rows that a window needs again: read, behind them the new ones, the last ones kept."""
    x = d.picture()
    _, rows, width, channels = d.dims(x)
    keep = d.number(1, 4)
    if (keep + rows) * width * channels > MOST:
        return
    name = f"state{len(d.initial)}"
    handle = d.b.tensor([], None)
    d.b.op("VAR_HANDLE", [], [handle], container="", sharedName=name)
    state = d.put("READ_VARIABLE", [handle], [1, keep, width, channels], d.q(x))
    whole = d.put("CONCATENATION", [state, x], [1, keep + rows, width, channels], d.q(x), axis=1)
    if d.number(0, 2) == 0:  # what is read and kept is used otherwise too
        d.finish(state)
    last = d.cut(whole, [0, rows, 0, 0], [1, keep + rows, width, channels])
    d.b.op("ASSIGN_VARIABLE", [handle, last], [])
    d.initial[name] = state
    d.finish(whole)


LAYERS: list[Callable[[Network], None]] = [
    *[convolution, depthwise, skip, any_operator] * 3,
    *[pool, dense, activation, join, split, crop, quantize, stream],
]  # fmt: skip


def layers(seed: int) -> bytes:
    """A network of some two dozen layers at most."""
    d = Network(seed)
    convolution(d)
    for _ in range(d.number(2, 24)):
        d.pick(LAYERS)(d)
        if np.prod(d.dims(d.made[-1])) > MOST:
            d.made.append(d.sized(d.made[-1], MOST))
    return d.done()
