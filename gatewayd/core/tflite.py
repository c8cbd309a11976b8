"""The structure of a `.tflite` flatbuffer, trusting nothing in it: every offset that a reader follows leads inside the file.

Field numbers are those of the public TFLite schema, version 3. Shapes and parameters are for whoever runs the model.
"""

from __future__ import annotations

import functools
import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from gatewayd.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SUBGRAPHS, MAX_ITEMS = 16, 4096  # bound the work: a table may be named more than once
PLAN_NAME, PLAN_VERSION = "nn_plan", 1
_MAX_METADATA = 16  # entries in which a node looks for a plan
_RESOURCE = 13  # TensorType: a variable's handle
_U8, _U16, _U32, _I32 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<i")
PLAN_HEADER = struct.Struct("<4s4I2H")  # the engine's plan_t: its magic, bytes, data bytes, work, reset, tensors of both subgraphs
PLAN_MAGIC = b"nnp%d" % PLAN_VERSION


class Plan(NamedTuple):
    """What a model's plan says of itself, in its header; whether it is right, a node finds out."""

    version: int
    size_bytes: int
    data_bytes: int
    work: int  # an invocation's multiply-accumulates, and other elements
    reset: int  # offset of its first record for a reset
    main_tensors: int
    init_tensors: int
    variables: int  # whose handles the model has

    @property
    def arena_bytes(self) -> int:
        """What a node needs that reads it: to run, or before that to open it, 16 bytes for each variable and tensor."""
        return max(self.data_bytes, 16 * (self.variables + self.main_tensors + self.init_tensors))


class Needs(NamedTuple):
    """What a model asks of an engine; tensors and operators are those of its largest subgraph."""

    operator_set: bytes  # its BuiltinOperators, as nodelink/1's bitmap
    tensors: int
    operators: int
    rank: int
    plan: Plan | None  # None: it brings none of PLAN_VERSION


def operators(model: bytes) -> bytes:
    """The BuiltinOperators that `model` uses, as nodelink/1's bitmap. Raises RefusedError, as needs()."""
    return needs(model).operator_set


def plan_of(model: bytes) -> Plan | None:
    """The plan that `model` brings. Raises RefusedError, as needs()."""
    return needs(model).plan


@functools.lru_cache(maxsize=4)  # a fleet is asked about one image, node by node
def needs(model: bytes) -> Needs:
    """What `model` needs. Raises RefusedError: "model" where an offset or an index lies, "plan" where its plan is shorter than it says."""
    if model[4:8] != b"TFL3":
        _refuse("not a .tflite")
    root = _Table(model, _at(model, _U32, 0))
    if root.number(0, _U32) != 3:  # noqa: PLR2004 -- the schema's version
        _refuse("schema version is not 3")
    codes = [_code(code) for code in root.tables(1)]
    buffers = list(root.tables(4))
    for buffer in buffers:
        buffer.vector(0, 1)
    graphs = list(root.tables(2, MAX_SUBGRAPHS))
    if not graphs or not codes:
        _refuse("no graph")
    sizes = (_check_graph(graph, len(codes), len(buffers)) for graph in graphs)
    tensors, nodes, rank = map(max, zip(*sizes, strict=True))
    bitmap: int = sum(1 << number for number in set(codes))
    operator_set = bitmap.to_bytes(bitmap.bit_length() // 8 + 1, "little")
    return Needs(operator_set, tensors, nodes, rank, _plan(root, graphs[0], buffers))


def buffer_offsets(model: bytes) -> list[int]:
    """Where the content of each buffer begins in the file; 0: it is empty. Raises RefusedError ("model")."""
    return [buffer.start(0) for buffer in _Table(model, _at(model, _U32, 0)).tables(4)]


def _code(table: _Table) -> int:
    old, new = table.number(0, struct.Struct("<b")), table.number(3, _I32)
    number = max(old, new)
    if not 0 <= number < 512:  # noqa: PLR2004 -- Info.operators has 64 bytes
        _refuse(f"operator {number}")
    return number


def _check_graph(graph: _Table, codes: int, buffers: int) -> tuple[int, int, int]:
    """How many tensors and operators it has, and its highest rank."""
    tensors, nodes = list(graph.tables(0)), list(graph.tables(3))
    rank = max((_check_tensor(tensor, buffers) for tensor in tensors), default=0)
    lists = [graph.vector(1, 4), graph.vector(2, 4)]
    for operator in nodes:
        if not 0 <= operator.number(0, _U32) < codes:
            _refuse("an operator's code is not there")
        lists += [operator.vector(1, 4), operator.vector(2, 4)]
        list(operator.table(4))  # its options
    for (index,) in itertools.chain.from_iterable(map(_I32.iter_unpack, lists)):
        if not -1 <= index < len(tensors):  # -1: an optional input that is absent
            _refuse("a tensor is not there")
    return len(tensors), len(nodes), rank


def _check_tensor(tensor: _Table, buffers: int) -> int:
    """Its rank."""
    if not 0 <= tensor.number(2, _U32) < max(buffers, 1):
        _refuse("a tensor's buffer is not there")
    for quantization in tensor.table(4):
        for field, item_bytes in enumerate((4, 4, 4, 8)):  # min, max, scale, zero point
            quantization.vector(field, item_bytes)
    return len(tensor.vector(0, 4)) // 4


def _plan(root: _Table, main: _Table, buffers: list[_Table]) -> Plan | None:
    """Of several the last one, as the engine has it."""
    found = None
    variables = sum(tensor.number(1, _U8) == _RESOURCE for tensor in main.tables(0))
    for entry in itertools.islice(root.tables(6), _MAX_METADATA):
        if entry.vector(0, 1) != PLAN_NAME.encode():
            continue
        number = entry.number(1, _U32)
        if number >= len(buffers):
            _refuse("a plan's buffer is not there")
        data = buffers[number].vector(0, 1)
        if len(data) < PLAN_HEADER.size:
            _refuse("a plan is cut short", "plan")
        magic, *numbers = PLAN_HEADER.unpack_from(data)
        if magic == PLAN_MAGIC:
            found = Plan._make((PLAN_VERSION, *numbers, variables))
            if found.size_bytes > len(data):
                _refuse("a plan is cut short", "plan")
    return found


class _Table:
    """One table: its vtable says where its fields are."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._vtable = at - _at(data, _I32, at)
        self._vtable_bytes = _at(data, _U16, self._vtable)
        if self._vtable_bytes < 4 or self._vtable_bytes % 2:  # noqa: PLR2004
            _refuse("a vtable is too short")
        _at(data, _U16, self._vtable + self._vtable_bytes - 2)

    def _field(self, number: int) -> int:
        """Where the field is, or 0."""
        entry = 4 + 2 * number
        offset = _at(self._data, _U16, self._vtable + entry) if entry < self._vtable_bytes else 0
        return self._at + offset if offset else 0

    def number(self, field: int, kind: struct.Struct) -> int:
        at = self._field(field)
        return _at(self._data, kind, at) if at else 0

    def start(self, field: int) -> int:
        """Where the vector's first item is, or 0."""
        at = self._field(field)
        return at + _at(self._data, _U32, at) + 4 if at else 0

    def vector(self, field: int, item_bytes: int) -> bytes:
        start = self.start(field)
        if not start:
            return b""
        size = _at(self._data, _U32, start - 4) * item_bytes
        if start + size > len(self._data):
            _refuse("a vector is longer than the file")
        return self._data[start : start + size]

    def table(self, field: int) -> Iterator[_Table]:
        """The table there, or nothing."""
        at = self._field(field)
        if at:
            yield _Table(self._data, at + _at(self._data, _U32, at))

    def tables(self, field: int, most: int = MAX_ITEMS) -> Iterator[_Table]:
        items = self.vector(field, 4)
        if len(items) > 4 * most:
            _refuse("too many parts")
        start = self.start(field)
        for i, (offset,) in enumerate(_U32.iter_unpack(items)):
            yield _Table(self._data, start + 4 * i + offset)


def _at(data: bytes, kind: struct.Struct, at: int) -> int:
    if not 0 <= at <= len(data) - kind.size:
        _refuse("an offset leads outside")
    return int(kind.unpack_from(data, at)[0])


def _refuse(detail: str, reason: str = "model") -> NoReturn:
    raise RefusedError(reason, detail)
