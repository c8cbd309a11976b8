"""What a model needs, as the gateway reads it: counts and what its plan says. That offsets may lie is in test_minify."""

import importlib.util
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from nn_native import Model
from tflite_builder import Builder, with_metadata

from gatewayd.core.tflite import Plan, needs, plan_of
from gatewayd.errors import RefusedError
from gatewayd.prepare import prepare

WHEEL = Path(importlib.util.find_spec("pymicro_wakeword").submodule_search_locations[0]) / "models"
OKAY_NABU = (WHEEL / "okay_nabu.tflite").read_bytes()
NODE = (Path(__file__).parent.parent / "cascades/vibration/node.tflite").read_bytes()
PLAN = Plan(1, 64, 1_000, 20_000, 56, 13, 2, 0)


def plan(*, magic=b"nnp1", **changed):
    return struct.pack("<4s4I2H", magic, *PLAN._replace(**changed)[1:-1]).ljust(64, b"?")


def test_counts_are_those_of_the_largest_subgraph():
    b = Builder()
    deep = [b.tensor(shape, np.int8, 0.1) for shape in ((1, 1, 1, 1, 1, 4), (4,))]
    b.subgraph()
    flat = [b.tensor((4,), np.int8, 0.1) for _ in range(4)]
    for source, target in itertools.pairwise(flat):
        b.op("ADD", [source, source], [target])
    found = needs(b.finish(deep[:1], deep[1:]))
    assert (found.tensors, found.operators, found.rank, found.plan) == (4, 3, 6, None)


def test_a_real_model():
    found = needs(NODE)
    assert (found.operator_set, found.tensors, found.operators, found.rank) == (b"\0\2", 13, 4, 2)


def test_the_newest_plan_that_is_understood():
    assert plan_of(with_metadata(NODE, ("nn_plan", plan()))) == PLAN
    assert plan_of(with_metadata(NODE, ("other", b"?"), ("nn_plan", plan()), ("nn_plan", plan(magic=b"nnp2")))) == PLAN
    assert plan_of(with_metadata(NODE, ("nn_plan", plan(work=1)), ("nn_plan", plan()))) == PLAN
    assert plan_of(with_metadata(NODE, ("nn_plan", plan(magic=b"nnp2")), ("nn_plans", plan()))) is None


def test_a_node_looks_at_so_many_entries():
    others = [("other", b"?")] * 15
    assert plan_of(with_metadata(NODE, *others, ("nn_plan", plan()))) == PLAN
    assert plan_of(with_metadata(NODE, *others, ("other", b"?"), ("nn_plan", plan()))) is None


@pytest.mark.parametrize("data", [b"", plan()[:23], plan(size_bytes=65)])
def test_a_plan_that_is_cut_short_is_refused(data):
    with pytest.raises(RefusedError, match=r"^plan"):
        needs(with_metadata(NODE, ("nn_plan", data)))


def test_a_plan_that_is_not_there_is_a_lie_of_the_model():
    b = Builder()
    b.model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(with_metadata(NODE, ("nn_plan", plan())), 0))
    b.model.metadata[0].buffer = 99
    with pytest.raises(RefusedError, match=r"^model"):
        needs(b.pack())


def test_a_plan_needs_the_memory_that_the_engine_then_uses():
    """To open the small model takes more than to run it; the streaming one is the other way round, and has variables."""
    small, streaming = (prepare(model) for model in (NODE, OKAY_NABU))
    for model in (small, streaming):
        assert plan_of(model).arena_bytes == Model(model).arena_used
    assert plan_of(small).arena_bytes > plan_of(small).data_bytes
    assert plan_of(streaming).arena_bytes == plan_of(streaming).data_bytes
    assert plan_of(streaming).variables == 6
