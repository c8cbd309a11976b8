"""The node's engine and front end on a Cortex-M4: instructions executed under QEMU, exactly counted, and memory; beside TFLM with CMSIS-NN."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from report import Result

from cascades.wakeword import speech
from gatewayd.prepare import prepare

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import m4
from m4 import ROOT, Job, Kind

_HOP = 160  # samples
_ROWS = 3  # of features, in an invocation of a wake-word model
_SAID = {"espeak-ng:en-us": "hey jarvis, turn on the light", "espeak-ng:en-gb": "okay nabu, hey mycroft", "espeak-ng:en": "alexa"}
_RECORDED = "Reference: TFLM with CMSIS-NN, recorded earlier under the same QEMU machine with gcc 12.2; it was not measured in this run."


class Figures(NamedTuple):
    """Goals or a reference; None: there is none."""

    instructions: float | None = None
    open_instructions: float | None = None
    arena_bytes: float | None = None


class Model(NamedTuple):
    """One to be measured. `tflm` has TFLM with CMSIS-NN, int8 registrations only, release build, whose opening is AllocateTensors()."""

    path: Path
    goal: Figures = Figures()
    tflm: Figures = Figures()


_WHEEL = importlib.util.find_spec("pymicro_wakeword")
_WORDS = Path(_WHEEL.origin).parent / "models" if _WHEEL and _WHEEL.origin else ROOT
_PUBLIC = Path(os.environ.get("TFLITE_MODELS", ROOT.parent / "shared" / "models"))
_MODELS = {
    "kws": Model(_PUBLIC / "kws_ref_model.tflite", Figures(5_000_000, None, 17_500), Figures(7_700_000, 790_000, 22_820)),
    "vww": Model(_PUBLIC / "vww_96_int8.tflite", Figures(15_000_000, None, 58_000), Figures(24_100_000, 3_520_000, 100_708)),
    "ad": Model(_PUBLIC / "ad01_int8.tflite", Figures(400_000, None, 2_200), Figures(583_000, 80_000, 2_580)),
    "hey_jarvis": Model(_WORDS / "hey_jarvis.tflite", Figures(70_000, None, 5_000), Figures(162_000, 840_000, 17_844)),
    "okay_nabu": Model(_WORDS / "okay_nabu.tflite", Figures(115_000), Figures(261_000, 1_270_000, 20_868)),
    "alexa": Model(_WORDS / "alexa.tflite"),
    "hey_mycroft": Model(_WORDS / "hey_mycroft.tflite"),
    "vibration": Model(ROOT / "cascades" / "vibration" / "node.tflite"),
}


def _as_sent(model: bytes) -> bytes:
    """What a node gets of a model's file."""
    return prepare(model)


async def engine(_folder: Path) -> dict[str, Result]:
    """Every model that is here, and the front end on speech."""
    try:
        m4.program()
    except m4.Missing as missing:
        print(f"engine: not measured, {missing}", flush=True)
        return {}
    measured, features = _frontend()
    heard = [features[at : at + _ROWS].tobytes() for at in range(0, len(features) - _ROWS + 1, _ROWS)]
    fixed = [np.random.default_rng(0).bytes(1 << 16)] * 2  # more than one of these models takes
    for name, model in _MODELS.items():
        if model.path.is_file():
            measured |= _measured(name, model, heard if model.path.parent == _WORDS else fixed)
        else:
            print(
                f"engine.{name}: not measured, {model.path.name} is not here; TFLITE_MODELS names the folder of MLPerf Tiny's", flush=True
            )
    return measured | _flash()


def _frontend() -> tuple[dict[str, Result], NDArray[np.int8]]:
    """Its figures on speech, and the features, quantised as ESPHome's nodes do it: [rows, 40]."""
    samples = np.concatenate([speech.say(text, voice) for voice, text in _SAID.items()])
    hops = [samples[at : at + _HOP].tobytes() for at in range(0, len(samples) - _HOP + 1, _HOP)]
    (outcome,), counts = m4.count([Job(Kind.AUDIO, inputs=hops)])
    with_row = [count.total for count, step in zip(counts, outcome.steps, strict=True) if step.records]
    rows = np.array([np.frombuffer(data, "<u2") for step in outcome.steps for _, data in step.records]).astype(np.int32)
    size, stack_bytes = m4.size("m4", "m4_size_frontend"), max(step.stack_bytes for step in outcome.steps)
    results = {
        "instructions_per_hop": _result(
            np.mean(with_row),
            "instructions",
            60_000,
            85_500,
            f"Mean of {len(with_row)} hops of speech, {min(with_row)} to {max(with_row)}.",
        ),
        "flash_bytes": _result(
            size.flash, "bytes", 10_000, 33_000, "A linked program that does nothing else, with what it needs of the C library."
        ),
        "ram_bytes": _result(size.ram + stack_bytes, "bytes", 6_000, 11_400, f"State {size.ram} bytes, the rest is stack at its deepest."),
    }
    features = np.clip((rows * 256 + 333) // 666 - 128, -128, 127).astype(np.int8)
    return {f"frontend.{name}": result for name, result in results.items()}, features


def _measured(name: str, model: Model, steps: list[bytes]) -> dict[str, Result]:
    file = model.path.read_bytes()
    (sent, plain), (opened, *invoked, _) = m4.count([Job(Kind.INVOKE, _as_sent(file), steps), Job(Kind.INVOKE, file)])
    if {sent.status, plain.status, *(step.status for step in sent.steps)} != {0}:
        raise RuntimeError(f"{name}: opening {sent.status} and {plain.status}")
    steady = [count.total for count in invoked[1:]]
    what = f"Mean of {len(steady)} invocations on speech" if len(steady) > 1 else "The second invocation, on fixed random input"
    stack = f"stack {max(step.stack_bytes for step in sent.steps)} bytes, {sent.stack_bytes} to open"
    results = {
        "instructions": _result(np.mean(steady), "instructions", model.goal.instructions, model.tflm.instructions, f"{what}; {stack}."),
        "open_instructions": _result(opened.total, "instructions", None, model.tflm.open_instructions, ""),
        "arena_bytes": _result(
            sent.memory_bytes,
            "bytes",
            model.goal.arena_bytes,
            model.tflm.arena_bytes,
            f"All tables; {plain.memory_bytes} bytes for the file as it is.",
        ),
    }
    return {f"engine.{name}.{figure}": result for figure, result in results.items()}


def _flash() -> dict[str, Result]:
    note = "A linked program that opens and runs a model and does nothing else, with what it needs of libgcc and the C library."
    size, small = (m4.size(preset, "m4_size_nn").flash for preset in ("m4", "m4-fc"))
    return {
        "engine.flash_bytes": _result(size, "bytes", 22_000, 83_200, f"All operators, DSP kernels. {note}"),
        "engine.flash_fc_only_bytes": _result(
            small, "bytes", 6_000, 28_100, f"FULLY_CONNECTED, the small kernel, optimised while linking. {note}"
        ),
    }


def _result(value: float, unit: str, goal: float | None, recorded: float | None, note: str) -> Result:
    if recorded is None:
        return Result(round(value), unit, goal, note=note)
    return Result(round(value), unit, goal, recorded, round(value / recorded, 2), f"{note} {_RECORDED}".strip(), recorded=True)


SUBJECTS = {"engine": engine}
