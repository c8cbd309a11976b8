"""Prepare and self-test: less in the file, the same computation on TFLM and on the node's engine, in a file that is well formed."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from tflite_builder import Builder

from gatewayd import selftest
from gatewayd.core import tflite
from gatewayd.core.image import SelfTest
from gatewayd.errors import CascadeError, MissingPackageError, RefusedError
from gatewayd.minify import ALIGNMENT, minify

ARENA_BYTES = 40_000
WHEEL = Path(importlib.util.find_spec("pymicro_wakeword").submodule_search_locations[0]) / "models"
MODELS = {
    path.stem: path.read_bytes()
    for path in (*sorted(WHEEL.glob("*.tflite")), Path(__file__).parent.parent / "cascades/vibration/node.tflite")
}


@pytest.fixture(params=MODELS)
def model(request) -> bytes:
    return MODELS[request.param]


def unpack(model: bytes):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))


def pack(graph) -> bytes:
    import flatbuffers  # noqa: PLC0415

    builder = flatbuffers.Builder(4096)
    builder.Finish(graph.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_it_is_smaller_and_well_formed(model):
    small = minify(model)
    assert len(small) < len(model)
    assert tflite.operators(small) == tflite.operators(model)
    assert minify(small) == small
    root = schema.Model.GetRootAsModel(small, 0)
    assert not root.MetadataLength()
    for i in range(root.BuffersLength()):
        if root.Buffers(i).DataLength():
            assert root.Buffers(i).DataAsNumpy().ctypes.data % ALIGNMENT == np.frombuffer(small, np.uint8).ctypes.data % ALIGNMENT
    assert len(small) % ALIGNMENT == 0


def test_names_ranges_and_needless_buffers_go():
    """Put into a model whatever a converter may leave in it, and get back what it was without."""
    lean = minify(MODELS["node"])
    fat = unpack(MODELS["node"])
    fat.description = "converted by somebody"
    fat.metadata = [schema.MetadataT()]
    fat.metadata[0].name, fat.metadata[0].buffer = "min_runtime_version", len(fat.buffers)
    for content in (b"1.5.0", *(bytes(buffer.data) for buffer in fat.buffers if buffer.data is not None)):
        fat.buffers.append(schema.BufferT())
        fat.buffers[-1].data = np.frombuffer(content, np.uint8)
    fat.subgraphs[0].name = "main"
    fat.operatorCodes.append(schema.OperatorCodeT())
    fat.subgraphs[0].operators[-1].opcodeIndex = len(fat.operatorCodes)
    fat.operatorCodes.append(fat.operatorCodes[0])
    for i, tensor in enumerate(fat.subgraphs[0].tensors):
        tensor.name = f"tensor {i}"
        tensor.quantization.min, tensor.quantization.max = np.array([0.0], np.float32), np.array([1.0], np.float32)
    packed = pack(fat)
    assert len(packed) > len(MODELS["node"]) + 2000
    assert minify(packed) == lean


def test_outputs_stay_the_same_on_both_engines(model, libnode):
    test = selftest.make(model, ARENA_BYTES)
    small = minify(model)
    assert selftest._micro(small, ARENA_BYTES).run(test.inputs) == test.outputs
    assert selftest._engine(small, ARENA_BYTES).run(test.inputs) == test.outputs


def test_the_self_test_sees_into_the_model(model):
    """Outputs that are not saturated: one weight that changes by much is often noticed."""
    test = selftest.make(model, ARENA_BYTES)
    assert len(set(test.outputs)) > 8
    assert len(test.inputs) <= selftest.MAX_INPUTS_BYTES
    graph = unpack(model)
    weights = [
        tensor.buffer
        for tensor in graph.subgraphs[0].tensors
        if tensor.type == schema.TensorType.INT8 and graph.buffers[tensor.buffer].data is not None
    ]
    random, unseen = np.random.default_rng(3), 0
    for _ in range(24):
        changed = unpack(model)
        buffer = changed.buffers[random.choice(weights)]
        buffer.data = buffer.data.copy()
        buffer.data[random.integers(len(buffer.data))] ^= 0x40
        unseen += selftest._micro(pack(changed), ARENA_BYTES).run(test.inputs) == test.outputs
    assert unseen <= 20  # all 24 where outputs are saturated; some weights never matter


def test_a_self_test_is_the_same_whenever_it_is_made():
    first = selftest.make(MODELS["node"], ARENA_BYTES)
    selftest.make.cache_clear()
    assert selftest.make(MODELS["node"], ARENA_BYTES) == first


def test_checking_one():
    model = MODELS["node"]
    test = selftest.make(model, ARENA_BYTES)
    selftest.check(model, ARENA_BYTES, test)
    for wrong in (SelfTest(test.inputs, test.outputs[:-1] + b"\x55"), SelfTest(test.inputs[:-1], test.outputs), SelfTest(test.inputs, b"")):
        with pytest.raises(RefusedError, match="self-test"):
            selftest.check(model, ARENA_BYTES, wrong)
    with pytest.raises(RefusedError, match="self-test"):
        selftest.check(b"TFL3" * 100, ARENA_BYTES, test)  # it may crash: not here


def test_one_large_input_is_one_step_and_too_large_a_one_is_refused():
    def reshape(size: int) -> bytes:
        b = Builder()
        source = b.tensor((1, size), np.int8, 0.1)
        target = b.tensor((1, size), np.int8, 0.1)
        shape = b.tensor((2,), np.int32, data=np.array([1, size], np.int32))
        b.op("RESHAPE", [source, shape], [target])
        return b.finish([source], [target])

    test = selftest.make(reshape(20_000), 60_000)
    assert (len(test.inputs), test.inputs) == (20_000, test.outputs)
    with pytest.raises(CascadeError, match="do not fit"):
        selftest.make(reshape(40_000), 120_000)


def test_without_an_oracle_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(selftest.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("NODE_LIBRARY", "/nowhere/libnode.so")
    from cascades import native  # noqa: PLC0415

    native.library.cache_clear()
    with pytest.raises(MissingPackageError, match=r"gatewayd\[build\]"):
        selftest.oracle(MODELS["node"], ARENA_BYTES)


def test_without_tflm_the_node_s_engine_answers(libnode, monkeypatch):
    test = selftest.make(MODELS["node"], ARENA_BYTES)
    monkeypatch.setattr(selftest.importlib.util, "find_spec", lambda _name: None)
    assert selftest.oracle(MODELS["node"], ARENA_BYTES).run(test.inputs) == test.outputs
    with pytest.raises(CascadeError, match="does not run"):
        selftest.oracle(MODELS["node"], 16)


# ---- the flatbuffer's structure


def test_operators_of_real_models():
    assert tflite.operators(MODELS["node"]) == (1 << 9).to_bytes(2, "little")  # FULLY_CONNECTED
    numbers = {code.builtinCode for code in unpack(MODELS["okay_nabu"]).operatorCodes}
    assert int.from_bytes(tflite.operators(MODELS["okay_nabu"]), "little") == sum(1 << n for n in numbers)


def test_every_cut_is_refused():
    model = MODELS["node"]
    for size in range(0, len(model), 7):
        with pytest.raises(RefusedError, match="model"):
            tflite.operators(model[:size])


@given(st.integers(0, len(MODELS["node"]) // 4 - 1), st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
def test_any_word_may_lie(word, value):
    """Either it was data, or it is refused; nothing else happens, and it does not take long."""
    broken = bytearray(MODELS["node"])
    struct.pack_into("<I", broken, 4 * word, value)
    try:
        tflite.operators(bytes(broken))
    except RefusedError as error:
        assert error.reason == "model"


@pytest.mark.parametrize("broken", [b"", b"TFL3", bytes(100), b"\x08\0\0\0TFL3" + bytes(20), b"\xff" * 3000])
def test_what_is_no_model(broken):
    for reader in (tflite.operators, minify):
        with pytest.raises(RefusedError, match="model"):
            reader(broken)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: setattr(g, "version", 2),
        lambda g: setattr(g, "subgraphs", []),
        lambda g: setattr(g, "subgraphs", g.subgraphs * 17),
        lambda g: setattr(g, "operatorCodes", []),
        lambda g: setattr(g.operatorCodes[0], "builtinCode", 512),
        lambda g: setattr(g.subgraphs[0], "outputs", [99]),
        lambda g: setattr(g.subgraphs[0].tensors[0], "buffer", 99),
        lambda g: setattr(g.subgraphs[0].operators[0], "opcodeIndex", 1),
        lambda g: setattr(g.subgraphs[0].operators[0], "inputs", [-2]),
    ],
)
def test_indices_that_lead_nowhere(change):
    graph = unpack(MODELS["node"])
    change(graph)
    with pytest.raises(RefusedError, match="model"):
        tflite.operators(pack(graph))
