"""The engine and the front ends on a Cortex-M4, with its DSP kernels and without: what the host computes, to the bit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import m4
import nn_graphs
import nn_networks
import numpy as np
import pytest
from m4 import Job, Kind
from nn_native import FIRMWARE, SOURCES, Model
from nn_tflm import some_inputs
from test_frontend import OTHERS, STEP, FrontEnd, reference_signal, signal
from test_nn import PUBLIC, WAKE_WORDS, speech_features
from test_vibration_frontend import front_end, machine_like

from gatewayd.core.microfrontend import encode
from gatewayd.prepare import prepare

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["speech_features"]  # a fixture
VIBRATION = Path(__file__).parents[1] / "cascades" / "vibration" / "node.tflite"


@pytest.fixture(scope="module", params=["m4", "m4-c99"])
def preset(request: pytest.FixtureRequest) -> str:
    try:
        m4.program(request.param)
    except m4.Missing as missing:
        pytest.skip(str(missing))
    return str(request.param)


def traced(data: bytes, steps: Sequence[Sequence[Array]]) -> list[list[tuple[int, bytes]]]:
    """What the host's engine makes of them."""
    model, made = Model(data), []
    for inputs in steps:
        for index, value in enumerate(inputs):
            model.input(index)[...] = value
        made.append([(index, tensor.tobytes()) for index, tensor in model.trace()])
    return made


def compare(models: dict[str, tuple[bytes, list[list[Array]]]], preset: str) -> None:
    """All of them in one QEMU."""
    jobs = [Job(Kind.TRACE, data, [b"".join(value.tobytes() for value in inputs) for inputs in steps]) for data, steps in models.values()]
    for (name, (data, steps)), outcome in zip(models.items(), m4.run(jobs, preset), strict=True):
        assert outcome.status == 0, name
        for step, expected in zip(outcome.steps, traced(data, steps), strict=True):
            assert step.status == 0, name
            assert [index for index, _ in step.records] == [index for index, _ in expected], name
            for (index, tensor), (_, wanted) in zip(step.records, expected, strict=True):
                assert tensor == wanted, f"{name}, tensor {index}"


def test_random_graphs_of_one_operator(preset: str) -> None:
    models = {}
    for draw in nn_graphs.GRAPHS:
        for seed in range(10):
            data = draw(nn_graphs.Draw(seed))
            models[f"{draw.__name__} {seed}"] = data, [*some_inputs(data, np.random.default_rng(seed), 3)]
    compare(models, preset)


def test_random_networks(preset: str) -> None:
    models = {}
    for seed in range(200):
        data = nn_networks.layers(seed)
        steps = [*some_inputs(data, np.random.default_rng(seed), 3)]
        models[f"layers {seed}"] = data, steps
        if seed < 50:
            models[f"layers {seed}, prepared"] = prepare(data), steps
    compare(models, preset)


def test_the_wake_word_models_on_speech(preset: str, speech_features: Array) -> None:
    models = {}
    for path in WAKE_WORDS:
        data = path.read_bytes()
        rows = Model(data).input().shape[1]
        starts = range(0, len(speech_features) - rows, rows)
        models[path.stem] = data, [[speech_features[at : at + rows][None]] for at in starts]
    compare(models, preset)


@pytest.mark.parametrize("path", [VIBRATION, *(PUBLIC / f"{name}.tflite" for name in ("kws_ref_model", "vww_96_int8", "ad01_int8"))])
def test_other_models(preset: str, path: Path) -> None:
    if not path.is_file():
        pytest.skip(f"{path.name} of MLPerf Tiny is not here; TFLITE_MODELS names its folder")
    data = path.read_bytes()
    compare({path.stem: (data, [*some_inputs(data, np.random.default_rng(3), 3)])}, preset)


def test_a_build_of_one_operator_runs_that_and_refuses_the_others() -> None:
    try:
        m4.program("m4-fc")
    except m4.Missing as missing:
        pytest.skip(str(missing))
    models = {}
    for seed in range(20):
        data = nn_graphs.fully_connected(nn_graphs.Draw(seed))
        models[f"{seed}"] = data, [*some_inputs(data, np.random.default_rng(seed), 3)]
    compare(models, "m4-fc")
    others = [Job(Kind.TRACE, draw(nn_graphs.Draw(1))) for draw in nn_graphs.GRAPHS if draw is not nn_graphs.fully_connected]
    assert {outcome.status for outcome in m4.run(others, "m4-fc")} == {-3}


def test_an_arena_that_is_too_small_is_refused_there_as_well(preset: str) -> None:
    data = VIBRATION.read_bytes()
    (large,) = m4.run([Job(Kind.TRACE, data)], preset)
    exact, less = m4.run([Job(Kind.TRACE, data, arena_bytes=large.memory_bytes - short) for short in (0, 4)], preset)
    assert (large.status, exact.status, less.status) == (0, 0, -6)


def test_audio_features(preset: str, libnode: ctypes.CDLL) -> None:
    samples = np.concatenate([signal(name)[: STEP * 60] for name in ("chirp", "burst", "noise 1000", "white", "square", "impulses")])
    pieces = [samples[at : at + 500].tobytes() for at in range(0, len(samples) - 500, 500)]
    (outcome,) = m4.run([Job(Kind.AUDIO, inputs=pieces)], preset)
    rows = [np.frombuffer(row, "<u2") for step in outcome.steps for _, row in step.records]
    assert np.array_equal(rows, FrontEnd(libnode).rows(samples[: 500 * len(pieces)], np.array([500])))


def test_audio_features_of_other_parameters(preset: str, libnode: ctypes.CDLL) -> None:
    samples, given = reference_signal()[::5], [encode(parameters) for parameters, _ in OTHERS.values()]
    outcomes = m4.run([Job(Kind.AUDIO, data, [samples.tobytes()]) for data in given], preset)
    for data, outcome in zip(given, outcomes, strict=True):
        rows = [np.frombuffer(row, "<u2") for _, row in outcome.steps[0].records]
        assert np.array_equal(rows, FrontEnd(libnode, data).rows(samples, np.array([500])))


def test_vibration_features(preset: str, host_build: Path) -> None:
    samples, host = machine_like(1, 300), front_end()
    pieces = [samples[at : at + 1000].tobytes() for at in range(0, len(samples), 1000)]
    (outcome,) = m4.run([Job(Kind.VIBRATION, bytes(host._state.config), pieces)], preset)
    assert outcome.status == 0
    rows = [np.frombuffer(row, "<i2") for step in outcome.steps for _, row in step.records]
    assert len(rows) > 10
    assert np.array_equal(rows, host.feed(samples))


def test_instructions_are_counted_exactly(preset: str) -> None:
    turns = [1, 2, 7, 1000, 1_000_000]
    _, counts = m4.count([Job(Kind.SPIN, inputs=[b"", b""], arena_bytes=n) for n in turns], preset)
    spins = [one.by_function() for one in counts]
    assert [spin["spin"] for spin in spins] == [2 * n + 1 for n in turns for _ in range(2)]
    calling = {one.total - spin["spin"] for one, spin in zip(counts, spins, strict=True)}
    assert len(calling) == 1
    assert calling.pop() <= 5


def test_what_is_counted_is_an_opening_and_the_invocations(preset: str) -> None:
    data, steps = VIBRATION.read_bytes(), [bytes([n]) * 64 for n in range(3)]
    outcomes, counts = m4.count([Job(Kind.INVOKE, data, steps), Job(Kind.SPIN, inputs=[b""], arena_bytes=5)], preset)
    assert [outcome.status for outcome in outcomes] == [0, 0]
    opened, *invoked, spun = counts
    assert "nn_open" in opened.by_function()
    assert all("nn_invoke" in one.by_function() and "nn_open" not in one.by_function() for one in invoked)
    assert len(invoked) == 3
    assert spun.by_function()["spin"] == 11


def test_a_model_that_hangs_the_machine_does_not_hang_the_test(preset: str) -> None:
    with pytest.raises(m4.subprocess.TimeoutExpired):
        m4.run([Job(Kind.SPIN, inputs=[b""], arena_bytes=0)], preset, timeout_s=1)  # 2^32 turns


@pytest.mark.parametrize("cpu", ["cortex-m0plus", "cortex-m7", "cortex-m33"])
def test_the_engine_is_compiled_for_other_cores(cpu: str, tmp_path: Path) -> None:
    """With DSP instructions and without; only the M4 runs here."""
    if not shutil.which("arm-none-eabi-gcc"):
        pytest.skip("arm-none-eabi-gcc is not installed")
    flags = [f"-mcpu={cpu}", "-mthumb", "-std=c99", "-Os", "-Wall", "-Wextra", "-Wconversion", "-Werror", f"-I{FIRMWARE / 'include'}"]
    command = ["arm-none-eabi-gcc", *flags, "-c", *map(str, SOURCES)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len([*tmp_path.glob("*.o")]) == len(SOURCES)
