"""Prepare: the node's engine takes the plan for its own, computes the same in less memory, and takes no other plan."""

from __future__ import annotations

import importlib.util
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nn_graphs
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from nn_native import FIRMWARE, Model, Status
from tflite_builder import Builder

from gatewayd.core import tflite
from gatewayd.nn import memory
from gatewayd.nn.operators import OPERATORS
from gatewayd.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Trace = dict[int, npt.NDArray[Any]]

ROOT = Path(__file__).parents[1]
WHEEL = importlib.util.find_spec("pymicro_wakeword")
PUBLIC = Path(os.environ.get("TFLITE_MODELS", ROOT.parent / "shared" / "models"))  # MLPerf Tiny's, not in the project
FILES = [
    *(sorted(Path(WHEEL.origin).parent.glob("models/*.tflite")) if WHEEL and WHEEL.origin else []),
    *sorted(PUBLIC.glob("*.tflite")),
    ROOT / "cascades" / "vibration" / "node.tflite",
]
ARENA_BYTES = {  # at most, all in all
    "okay_nabu": 4_700,
    "hey_jarvis": 3_800,
    "alexa": 4_000,
    "hey_mycroft": 5_900,
    "kws_ref_model": 9_600,
    "vww_96_int8": 37_000,
    "ad01_int8": 1_920,
    "node": 208,
}
E_MODEL, E_ARENA, E_PLAN = -1, -6, -9
HEADER = tflite.PLAN_HEADER.size

pytestmark = pytest.mark.filterwarnings("error")
files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
graphs = pytest.mark.parametrize("draw", nn_graphs.GRAPHS, ids=lambda function: function.__name__)


def draws(draw: Callable[[nn_graphs.Draw], bytes], count: int) -> Iterator[bytes]:
    return (draw(nn_graphs.Draw(seed)) for seed in range(count))


def graph_of(data: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(data, 0).subgraphs[0]


def steps(data: bytes, *models: Model, count: int = 3, between: Callable[[int], None] = lambda _op: None) -> Iterator[list[Trace]]:
    """What each model makes of the same random inputs, by tensor; the last one calls `between` before it begins and after each operator."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        for index in range(len(graph_of(data).inputs)):
            value = rng.integers(-128, 128, models[0].input(index).shape)
            for model in models:
                model.input(index)[...] = value.astype(model.input(index).dtype)
        between(-1)
        *traces, last = [model.trace for model in models]
        yield [dict(trace()) for trace in traces] + [dict(last(between))]


def same(one: Trace, other: Trace) -> bool:
    return one.keys() == other.keys() and all(one[i].tobytes() == other[i].tobytes() for i in one)


def check(data: bytes) -> None:
    prepared = prepare(data)
    plain, model = Model(data), Model(prepared)
    assert model.prepared
    assert not plain.prepared
    assert model.arena_used == tflite.plan_of(prepared).arena_bytes <= plain.arena_used
    assert Model(prepared, model.arena_used).arena_used == model.arena_used
    assert all(same(*traces) for traces in steps(data, plain, model))
    assert prepare(prepared) == prepared


@graphs
def test_small_graphs_run_by_their_plan(draw: Callable[[nn_graphs.Draw], bytes]) -> None:
    for data in draws(draw, 30):
        check(data)


@files
def test_real_models_run_by_their_plan_and_in_little_memory(path: Path) -> None:
    data = path.read_bytes()
    check(data)
    used = Model(prepare(data)).arena_used
    print(f"{path.stem}: {Model(data).arena_used} bytes, prepared {used}")
    assert used <= ARENA_BYTES[path.stem]


# ---- nothing that is needed is overwritten


class Needed:
    """Which bytes hold something at a time: worked out from the file's operators and the plan's places, as little as there is."""

    def __init__(self, data: bytes, model: Model) -> None:
        graph = graph_of(data)
        places = struct.unpack_from(f"<{len(graph.tensors)}I", model.plan, HEADER)
        made, used = dict.fromkeys(graph.inputs, -1), dict.fromkeys(graph.outputs, len(graph.operators))
        self._spans: list[tuple[int, int, int, int]] = []  # times of making and of last use, place, bytes
        self._size = len(model.data)
        for time, op in enumerate(graph.operators):
            made |= dict.fromkeys(op.outputs if op.outputs is not None else (), time)
            used |= {i: max(time, used.get(i, 0)) for i in (op.inputs if op.inputs is not None else ()) if i != -1}
        resources = {i: places[i] for i in made if graph.tensors[i].type == schema.TensorType.RESOURCE}
        for i in made.keys() - resources:
            self._spans.append((made[i], max(made[i], used.get(i, -1)), places[i], self._bytes(graph.tensors[i])))
        for op in graph.operators:  # whoever reads or assigns a variable, tells its size
            if op.inputs is not None and len(op.inputs) and op.inputs[0] in resources:
                value = op.outputs[0] if op.outputs is not None and len(op.outputs) else op.inputs[1]
                self._spans.append((-1, len(graph.operators), resources[op.inputs[0]], self._bytes(graph.tensors[value])))

    @staticmethod
    def _bytes(tensor: Any) -> int:
        size = {schema.TensorType.FLOAT32: 4, schema.TensorType.INT32: 4, schema.TensorType.INT16: 2}.get(tensor.type, 1)
        return size * int(np.prod(tensor.shape if tensor.shape is not None else ()))

    def after(self, time: int) -> npt.NDArray[np.bool_]:
        """What an operator has just made, and what is read later."""
        needed = np.zeros(self._size, np.bool_)
        for made, used, place, size in self._spans:
            if made == time or made < time < used:
                needed[place : place + size] = True
        return needed


def check_poisoned(data: bytes, *, dsp: bool) -> int:
    """How many bytes were spoilt, all without consequence."""
    prepared, rng, spoilt = prepare(data), np.random.default_rng(2), 0
    plain, model = Model(data), Model(prepared, dsp=dsp)
    needed = Needed(prepared, model)

    def spoil(op: int) -> None:
        nonlocal spoilt
        free = ~needed.after(op)
        model.data[free] = rng.integers(0, 256, np.count_nonzero(free))
        spoilt += np.count_nonzero(free)

    assert all(same(*traces) for traces in steps(data, plain, model, between=spoil))
    return spoilt


@graphs
def test_whatever_else_is_in_memory_does_not_matter_to_small_graphs(draw: Callable[[nn_graphs.Draw], bytes]) -> None:
    for seed, data in enumerate(draws(draw, 20)):
        check_poisoned(data, dsp=seed % 2 == 1)


@pytest.mark.parametrize("dsp", [False, True])
@files
def test_whatever_else_is_in_memory_does_not_matter(path: Path, dsp: bool) -> None:
    assert check_poisoned(path.read_bytes(), dsp=dsp) > 100


# ---- another plan than the right one


def check_changed(data: bytes, changes: int) -> tuple[int, int]:
    """Changes every word of the plan: how many changes were refused, and how many made no difference."""
    prepared, plain, rng = prepare(data), Model(data), np.random.default_rng(3)
    at, size = tflite.buffer_offsets(prepared)[-1], tflite.plan_of(prepared).size_bytes
    expected = [trace for (trace,) in steps(data, plain, count=2)]
    refused, harmless = 0, 0
    for where in range(at, at + size, 4):
        for mask in (
            int(rng.integers(1, 2**32)),
            1 << int(rng.integers(0, 32)),
            *(1 << int(rng.integers(2, 8)) for _ in range(changes - 2)),
        ):
            (word,) = struct.unpack_from("<I", prepared, where)
            changed = prepared[:where] + struct.pack("<I", word ^ mask) + prepared[where + 4 :]
            try:
                model = Model(changed)
            except Status as error:
                assert error.code in {E_PLAN, E_ARENA, E_MODEL}, (where - at, mask)
                refused += 1
                continue
            assert all(same(*pair) for pair in zip(expected, (trace for (trace,) in steps(data, model, count=2)), strict=True)), (
                where - at,
                mask,
            )
            harmless += 1
    return refused, harmless


@graphs
def test_a_changed_plan_is_refused_or_as_good(draw: Callable[[nn_graphs.Draw], bytes]) -> None:
    results = [check_changed(data, 3) for data in draws(draw, 4)]
    assert all(refused > harmless for refused, harmless in results)


@pytest.mark.parametrize("name", ["hey_jarvis", "kws_ref_model"])
def test_a_changed_plan_of_a_real_model_is_refused_or_as_good(name: str) -> None:
    path = next((path for path in FILES if path.stem == name), None)
    if path is None:
        pytest.skip(f"{name} is not here")
    refused, harmless = check_changed(path.read_bytes(), 2)
    assert refused > 20 * harmless


def moved(blocks: list[memory.Block], places: list[int], size: int, rng: np.random.Generator) -> list[int]:
    """Other places for some blocks: anywhere, or near those of others."""
    free = [i for i, block in enumerate(blocks) if block.size and block.place is None]
    places = list(places)
    for i in rng.choice(free, rng.integers(1, 4)) if free else []:
        near = places[rng.choice(free)] + rng.integers(-2, 3) * rng.choice([1, 4, blocks[i].size])
        place = int(rng.choice([near, rng.integers(0, size)])) // blocks[i].alignment * blocks[i].alignment
        if 0 <= place <= size - blocks[i].size:
            places[i] = place
    return places


def test_other_places_are_refused_or_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a plan is consistent: nothing but the rules of places is left to refuse it."""
    choose, rng = memory.places, np.random.default_rng(4)

    def elsewhere(blocks: list[memory.Block], writes: list[memory.Write]) -> tuple[list[int], int]:
        places, size = choose(blocks, writes)
        return moved(blocks, places, size, rng), size

    monkeypatch.setattr(memory, "places", elsewhere)
    outcomes = {E_PLAN: 0, 0: 0}
    for data in (data for draw in nn_graphs.GRAPHS for data in draws(draw, 4) for _ in range(10)):
        try:
            model = Model(prepare(data))
        except Status as error:
            outcomes[error.code] += 1
            continue
        outcomes[0] += 1
        assert model.prepared
        assert all(same(*traces) for traces in steps(data, Model(data), model))
    assert min(outcomes.values()) > 200


def test_two_variables_that_nobody_assigns_cannot_share_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """No operator writes there, so only nn_reset() would destroy one with the other."""
    b = Builder()
    x, handles = b.tensor([1, 4], np.int8, 0.5), [b.tensor([], None) for _ in range(2)]
    states = [b.tensor([1, 8], np.int8, 0.5, zero_point) for zero_point in range(2)]
    for i in range(2):
        b.op("VAR_HANDLE", [], [handles[i]], container="", sharedName=f"state{i}")
        b.op("READ_VARIABLE", [handles[i]], [states[i]])
    data, choose = b.finish([x], states), memory.places
    assert Model(prepare(data)).prepared

    def together(blocks: list[memory.Block], writes: list[memory.Write]) -> tuple[list[int], int]:
        places, size = choose(blocks, writes)
        one, other = (i for i, block in enumerate(blocks) if block.size == 8 and block.first == 0)
        return [places[one] if i == other else place for i, place in enumerate(places)], size

    monkeypatch.setattr(memory, "places", together)
    with pytest.raises(Status) as error:
        Model(prepare(data))
    assert error.value.code == E_PLAN


# ---- what it cannot do


def test_the_table_of_operators_is_the_engine_s() -> None:
    lines = re.findall(r"^(OPERATOR|RECORD)\((\w+),", (FIRMWARE / "core" / "nn" / "operators.def").read_text(), re.MULTILINE)
    assert [kind.name for kind in OPERATORS] == [name for _, name in lines]
    assert all(
        kind.code == getattr(schema.BuiltinOperator, kind.name)
        for kind, (what, _) in zip(OPERATORS, lines, strict=True)
        if what == "OPERATOR"
    )
