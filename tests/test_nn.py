"""The node's .tflite engine against TFLM's interpreter, tensor by tensor and bit by bit; and against files that lie."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nn_campaign
import nn_graphs
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from nn_native import FIRMWARE, SOURCES, Model, Status, compile_c, library
from nn_tflm import Oracle, compare, some_inputs
from tflite_builder import Builder

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[Any]

WHEEL = importlib.util.find_spec("pymicro_wakeword")
WAKE_WORDS = sorted(Path(WHEEL.origin).parent.glob("models/*.tflite")) if WHEEL and WHEEL.origin else []
PUBLIC = Path(os.environ.get("TFLITE_MODELS", Path(__file__).parents[2] / "shared" / "models"))  # MLPerf Tiny's, not in the project
both_kernels = pytest.mark.parametrize("dsp", [False, True], ids=["c99", "dsp"])
E_MODEL, E_VERSION, E_OPERATOR, E_TYPE, E_SHAPE, E_ARENA, E_LIMIT, E_STATE = range(-1, -9, -1)


@pytest.fixture(scope="module")
def speech_features(tmp_path_factory: pytest.TempPathFactory) -> Array:
    """int8 feature rows of a few spoken phrases, quantised as ESPHome's nodes do it: [rows, 40]."""
    features = pytest.importorskip("pymicro_features")
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    speech = importlib.import_module("cascades.wakeword.speech")
    phrases = {"espeak-ng:en-us": "hey jarvis. turn on the light", "espeak-ng:en-gb": "okay nabu, hey mycroft", "espeak-ng:en": "alexa"}
    audio = np.concatenate([speech.say(text, voice) for voice, text in phrases.items()])
    front_end, rows = features.MicroFrontend(), []
    for at in range(0, len(audio) - 160, 160):
        row = front_end.process_samples(audio[at : at + 160].tobytes()).features
        if row:
            rows.append(row)
    # The front end gives uint16 / 25.6 as floats.
    raw = np.rint(np.array(rows) * 25.6).astype(np.int32)
    return np.clip((raw * 256 + 333) // 666 - 128, -128, 127).astype(np.int8)


@both_kernels
@pytest.mark.parametrize("path", WAKE_WORDS, ids=lambda path: path.stem)
def test_every_layer_of_the_wake_word_models_on_speech(path: Path, speech_features: Array, *, dsp: bool) -> None:
    data = path.read_bytes()
    oracle, model = Oracle(data), Model(data, dsp=dsp)
    rows_a_step = model.input().shape[1]
    logits = set()
    for at in range(0, len(speech_features) - rows_a_step, rows_a_step):
        *_, logit, _probability, _output = compare(oracle, model, [speech_features[at : at + rows_a_step][None]])
        logits.add(int(logit[0, 0]))
    assert len(logits) > 20, "the speech is too dull to tell anything"


@pytest.mark.parametrize("path", WAKE_WORDS, ids=lambda path: path.stem)
def test_reset_forgets_what_was_heard(path: Path, speech_features: Array) -> None:
    fresh, used = Model(path.read_bytes()), Model(path.read_bytes())
    rows = used.input().shape[1]
    steps = [speech_features[at : at + rows][None] for at in range(0, 60 * rows, rows)]
    for step in steps:
        used.input()[...] = step
        used.invoke()
    states = []
    used.reset()
    for model in (fresh, used):
        model.input()[...] = steps[7]
        states.append(model.trace())
    for (_, a), (_, b) in zip(*states, strict=True):
        assert np.array_equal(a, b)


@both_kernels
@pytest.mark.parametrize("name", ["kws_ref_model", "vww_96_int8", "ad01_int8"])
def test_every_layer_of_the_public_models(name: str, *, dsp: bool) -> None:
    path = PUBLIC / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"{path.name} of MLPerf Tiny is not here; TFLITE_MODELS names its folder")
    data = path.read_bytes()
    oracle, model = Oracle(data), Model(data, dsp=dsp)
    for inputs in some_inputs(data, np.random.default_rng(3), 5):
        compare(oracle, model, inputs)


@pytest.mark.parametrize("draw", [nn_graphs.conv, nn_graphs.fully_connected], ids=lambda function: function.__name__)
def test_the_small_kernels(draw: Callable[[nn_graphs.Draw], bytes]) -> None:
    for seed in range(30):
        data = draw(nn_graphs.Draw(seed))
        oracle, model = Oracle(data), Model(data, small=True)
        for inputs in some_inputs(data, np.random.default_rng(seed), 3):
            assert compare(oracle, model, inputs)


def test_the_bitmap_of_operators() -> None:
    bitmap = ctypes.create_string_buffer(b"\xff" * 32, 32)
    used = library().nn_operators(bitmap, ctypes.c_size_t(32))
    have = {n for n in range(8 * used) if bitmap.raw[n // 8] >> n % 8 & 1}
    names = (
        "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED AVERAGE_POOL_2D MAX_POOL_2D ADD MUL SOFTMAX LOGISTIC TANH RESHAPE CONCATENATION "
        "STRIDED_SLICE SPLIT_V QUANTIZE DEQUANTIZE CALL_ONCE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE "
        "SUB MINIMUM MAXIMUM RELU RELU6 MEAN EXPAND_DIMS SQUEEZE PACK TRANSPOSE PAD RESIZE_NEAREST_NEIGHBOR"
    )
    assert have == {getattr(schema.BuiltinOperator, name) for name in names.split()}
    assert library().nn_operators(bitmap, ctypes.c_size_t(1)) == 1


class Factor(ctypes.Structure):
    """factor_t of quantize.h."""

    _fields_ = (("multiplier", ctypes.c_int32), ("shift", ctypes.c_int8))


def expected_factor(a: float, b: float, c: float, exponent: int) -> tuple[int, int]:
    """The reference's way: a product and a quotient in double precision, rounded to 31 bits."""
    mantissa, shift = math.frexp(float(np.float64(a) * np.float64(b) / np.float64(c)))
    multiplier = math.floor(math.ldexp(mantissa, 31) + 0.5)
    shift += exponent + (multiplier == 2**31)
    return (0, -1) if shift < -31 else (2**30 if multiplier == 2**31 else multiplier, shift)


def check_factor(a: float, b: float, c: float, exponent: int = 0) -> None:
    make, factor = library().factor_from_ratio, Factor()
    make.restype = ctypes.c_bool
    expected = expected_factor(a, b, c, exponent)
    assert make(*map(ctypes.c_float, (a, b, c)), exponent, ctypes.byref(factor)) == (expected[1] <= 30)
    if expected[1] <= 30:
        assert (factor.multiplier, factor.shift) == expected


@pytest.mark.parametrize("exponent", range(-34, 33))
def test_factors_are_rounded_to_31_bits(exponent: int) -> None:
    for mantissa in (0.5, 0.7071, 0.75 + 2**-24, 1 - 2**-24):
        check_factor(float(np.float32(mantissa)), 1, 1, exponent)


def test_factors_are_what_double_precision_gives() -> None:
    rng = np.random.default_rng(7)
    for a, b, c in np.exp2(rng.uniform(-12, 4, (20_000, 3))).astype(np.float32):
        check_factor(float(a), float(b), float(c))
    for c in (3.0, 5.0, 7.0, float(np.float32(2**-126)), 3.4e38):
        check_factor(1, 1, float(np.float32(c)))


def test_factors_that_a_double_rounds_up_to_a_half() -> None:
    """Quotients so little below a half of the last bit that a double cannot tell: a * b * 2^k = -1 (mod c)."""
    rng, found = np.random.default_rng(8), 0
    for k in np.repeat((6, 7, 8), 100):
        a, c = (int(rng.integers(2**23, 2**24)) | 1 for _ in range(2))
        if math.gcd(a, c) == 1 and (b := -pow(a << int(k), -1, c) % c) >= 2**23:
            check_factor(float(a), float(b), float(c))
            whole = Fraction(a * b, c) * 2 ** (31 - (a * b // c).bit_length())
            found += math.floor(whole + Fraction(1, 2)) != expected_factor(a, b, c, 0)[0]
    assert found > 5, "rounding only once would have done"


@pytest.mark.parametrize(
    ("real", "rounded"),
    [(0.5, 1), (-0.5, -1), (0.49999997, 0), (2.5, 3), (-2.5, -3), (8388607.5, 8388608), (3e9, 2**31 - 1), (-3e9, -(2**31)), (math.nan, 0)],
)
def test_rounding_saturates(real: float, rounded: int) -> None:
    assert library().round_saturate(ctypes.c_float(real)) == rounded


# ---- memory ----


def any_models() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in WAKE_WORDS} | {f.__name__: f(nn_graphs.Draw(5)) for f in nn_graphs.GRAPHS}


def test_arena_used_is_enough_and_less_is_an_error() -> None:
    for name, data in any_models().items():
        used = Model(data).arena_used
        assert Model(data, used).arena_used == used, name
        for too_small in {0, 4, used // 2, used - 4}:
            with pytest.raises(Status) as error:
                Model(data, too_small)
            assert error.value.code == E_ARENA, name


def test_misaligned_pointers_are_refused() -> None:
    data = nn_graphs.add(nn_graphs.Draw(1))
    with pytest.raises(Status) as error:
        Model(data, model_offset=4)
    assert error.value.code == E_MODEL
    with pytest.raises(Status) as error:
        Model(data, arena_offset=8)
    assert error.value.code == E_ARENA


def test_a_model_that_did_not_open_does_nothing() -> None:
    model = Model(nn_graphs.add(nn_graphs.Draw(1)))
    model.close()
    for call in (model.invoke, model.reset, model.input):
        with pytest.raises(Status) as error:
            call()
        assert error.value.code == E_STATE


def test_there_is_no_second_input() -> None:
    model = Model(nn_graphs.softmax(nn_graphs.Draw(1)))
    for which in ("input", "output"):
        with pytest.raises(Status) as error:
            model.tensor(which, 1)
        assert error.value.code == E_SHAPE


# ---- files that lie ----


def two_layers() -> Builder:
    """int8 [1, 4] -> FULLY_CONNECTED -> RESHAPE -> [3, 1]; tensors: 0 in, 1 weights, 2 bias, 3 sum, 4 shape, 5 out."""
    b = Builder()
    b.tensor([1, 4], np.int8, 0.5, 3)
    b.tensor([3, 4], np.int8, 0.1, data=np.ones((3, 4)))
    b.tensor([3], np.int32, 0.05, data=[1, 2, 3])
    b.tensor([1, 3], np.int8, 0.7)
    b.tensor([2], np.int32, data=[3, 1])
    b.tensor([3, 1], np.int8, 0.7)
    b.op("FULLY_CONNECTED", [0, 1, 2], [3])
    b.op("RESHAPE", [3, 4], [5])
    return b


def lie(code: int) -> Callable[[Callable[[Any, Any], None]], Any]:
    return lambda function: pytest.param(function, code, id=function.__name__)


@lie(E_VERSION)
def another_version(model: Any, _graph: Any) -> None:
    model.version = 4


@lie(E_OPERATOR)
def an_unknown_operator(model: Any, _graph: Any) -> None:
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.CUSTOM


@lie(E_OPERATOR)
def an_unknown_activation(_model: Any, graph: Any) -> None:
    graph.operators[0].builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.SIGN_BIT


@lie(E_MODEL)
def an_operator_code_that_is_not_there(_model: Any, graph: Any) -> None:
    graph.operators[0].opcodeIndex = 7


@lie(E_MODEL)
def a_tensor_that_is_not_there(_model: Any, graph: Any) -> None:
    graph.operators[0].inputs = [6, 1, 2]


@lie(E_MODEL)
def a_buffer_that_is_not_there(_model: Any, graph: Any) -> None:
    graph.tensors[1].buffer = 99


@lie(E_MODEL)
def an_input_before_it_is_made(_model: Any, graph: Any) -> None:
    graph.operators.reverse()


@lie(E_MODEL)
def a_result_that_is_its_own_input(_model: Any, graph: Any) -> None:
    graph.operators[1].inputs = [5, 4]


@lie(E_MODEL)
def a_result_made_twice(_model: Any, graph: Any) -> None:
    graph.operators[1].outputs = [3]


@lie(E_MODEL)
def a_constant_as_a_result(_model: Any, graph: Any) -> None:
    graph.operators[1].outputs = [1]


@lie(E_TYPE)
def a_constant_as_the_output(_model: Any, graph: Any) -> None:
    graph.outputs = [1]


@lie(E_TYPE)
def an_unknown_type(_model: Any, graph: Any) -> None:
    graph.tensors[3].type = schema.TensorType.COMPLEX64


@lie(E_TYPE)
def a_float_input(_model: Any, graph: Any) -> None:
    graph.tensors[0].type = schema.TensorType.FLOAT32


@lie(E_TYPE)
def no_scale(_model: Any, graph: Any) -> None:
    graph.tensors[3].quantization = None


@lie(E_TYPE)
def a_scale_of_nan(_model: Any, graph: Any) -> None:
    graph.tensors[3].quantization.scale = [float("nan")]


@lie(E_TYPE)
def a_zero_point_beyond_int8(_model: Any, graph: Any) -> None:
    graph.tensors[0].quantization.zeroPoint = [128]


@lie(E_TYPE)
def too_few_scales(_model: Any, graph: Any) -> None:
    graph.tensors[1].quantization.scale = [0.1, 0.2]


@lie(E_SHAPE)
def too_few_weights(_model: Any, graph: Any) -> None:
    graph.tensors[1].shape = [3, 5]


@lie(E_SHAPE)
def a_shape_that_does_not_fit(_model: Any, graph: Any) -> None:
    graph.tensors[5].shape = [4, 1]


@lie(E_SHAPE)
def a_negative_dimension(_model: Any, graph: Any) -> None:
    graph.tensors[0].shape = [-1, -4]


@lie(E_SHAPE)
def no_inputs(_model: Any, graph: Any) -> None:
    graph.operators[0].inputs = []


@lie(E_LIMIT)
def seven_dimensions(_model: Any, graph: Any) -> None:
    graph.tensors[5].shape = [1, 1, 1, 1, 1, 1, 3]


@lie(E_LIMIT)
def more_elements_than_32_bits_count(_model: Any, graph: Any) -> None:
    graph.tensors[0].shape = [65536, 65536, 65536]


@lie(E_LIMIT)
def too_many_tensors(_model: Any, graph: Any) -> None:
    graph.tensors += [graph.tensors[0]] * 2000


@pytest.mark.parametrize(("change", "code"), [value for value in list(globals().values()) if isinstance(value, type(pytest.param(0)))])
def test_what_does_not_hold_together_is_refused(change: Callable[[Any, Any], None], code: int) -> None:
    b = two_layers()
    Model(b.finish([0], [5]))  # as it is, it opens
    change(b.model, b.model.subgraphs[0])
    with pytest.raises(Status) as error:
        Model(b.pack())
    assert error.value.code == code


def test_a_concatenation_cannot_contain_itself() -> None:
    b = Builder()
    a, y = b.tensor([1, 4], np.int8, 0.5), b.tensor([2, 4], np.int8, 0.5)
    b.op("CONCATENATION", [a, y], [y], axis=0)
    with pytest.raises(Status) as error:
        Model(b.finish([a], [y]))
    assert error.value.code == E_MODEL


def test_an_initialising_subgraph_cannot_call_itself() -> None:
    d = nn_graphs.Draw(1)
    data = nn_graphs.variables(d)
    Model(data)
    main, init = d.b.model.subgraphs
    init.operators.insert(0, main.operators[0])
    with pytest.raises(Status) as error:
        Model(d.b.pack())
    assert error.value.code == E_SHAPE


def unassigned() -> bytes:
    """Two variables that only nn_reset() writes; TFLM does not take it."""
    b = Builder()
    x, handles, states = b.tensor([1, 4], np.int8, 0.5), [b.tensor([], None) for _ in range(2)], []
    for i, handle in enumerate(handles):
        states.append(b.tensor([1, 8], np.int8, 0.5, i))
        b.op("VAR_HANDLE", [], [handle], container="", sharedName=f"state{i}")
        b.op("READ_VARIABLE", [handle], [states[i]])
    return b.finish([x], states)


@both_kernels
def test_no_byte_of_a_file_is_trusted(tmp_path: Path, *, dsp: bool) -> None:
    """Truncations at every length, random changes and lies in plans, under the address and undefined-behaviour sanitizers."""
    driver = tmp_path / "mutate"
    tests = FIRMWARE / "tests"
    sanitize = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DNN_MAX_WORK=200000", f"-DNN_DSP={int(dsp)}")
    between = [f"-Wl,--wrap={name}" for name in ("fb_vector", "plan_places", "build_scratch", "plan_check_write")]
    compile_c(driver, [tests / "fuzz_nn.c", tests / "mutate.c", *SOURCES], *sanitize, *between)
    nn_campaign.write(tmp_path / "seeds")
    (tmp_path / "seeds" / "unassigned.tflite").write_bytes(nn_campaign.with_room(unassigned()))
    plain = [path for path in tmp_path.glob("seeds/*-plain.tflite") if not path.name.startswith("layers")]
    others = sorted({*tmp_path.glob("seeds/*")} - {*plain})
    accepted = refused = 0
    for step, changes, models in ((1, 1000, plain), (50, 500, others), (1, 300, WAKE_WORDS)):
        done = subprocess.run([driver, str(step), str(changes), *models], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        plans = [int(number) for number in re.findall(r"plans accepted: (\d+), refused: (\d+)", done.stderr)[0]]
        accepted, refused = accepted + plans[0], refused + plans[1]
    assert min(accepted, refused) > 10_000, "the lies are too bold, or too timid"
