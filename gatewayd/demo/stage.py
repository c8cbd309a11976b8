"""What happens at the demo's site: eight rooms in which people talk, four motors of which one's bearing fails. Sound and vibration are
made on the spot, as WAV files that nodes take for their sensors, and so is the truth that the outcome is held against.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascades.vibration import simulator
from cascades.wakeword import speech

SECONDS = 78
_ROOMS = ("kitchen", "bedroom", "office", "hall", "bath", "attic", "garage", "studio")
_MOTORS = ("pump", "fan", "mill", "press")
_FAILING = "press"
_FAILS_AT_S = 12
_STAGGER_S = 1.5  # the rooms' scripts run side by side, each a little later than the one before
_GAP_S = 0.6  # between wake word and command
LEVEL = 5_000.0  # RMS of speech; the room's own noise is 30 dB below
VOICES = (
    *("espeak-ng:en-us+f2", "espeak-ng:en-gb+m2", "espeak-ng:en-gb-x-rp+f4", "espeak-ng:en-us+m4"),
    *("espeak-ng:en-gb+Annie", "espeak-ng:en-us+benjamin", "espeak-ng:en-gb-x-rp+m6", "espeak-ng:en-us+linda"),
)
_COMMANDS = (
    *(("lights_on", "turn on the lights"), ("music_play", "play some music"), ("blinds_up", "open the blinds")),
    *(("timer_five_minutes", "set a timer for five minutes"), ("temperature", "what is the temperature")),
    *(("lights_off", "turn off the lights"), ("music_stop", "stop the music"), ("blinds_down", "close the blinds")),
)
_NEAR = ("okay nobody", "okay neighbour", "okay noodle", "okay name you", "okay baboon", "okay nap two", "okay maybe", "okay new boots")
_TALK = ("the soup is still too hot", "who left the lights on", "we walked along the river", "read me the first page")


class Line(NamedTuple):
    """Something that happens in a room at `at_s`. `command` is what should come of it, empty for nothing."""

    at_s: float
    text: str
    command: str = ""


class Sensor(NamedTuple):
    """One node's input and what is true of it."""

    node: str
    cascade: str
    wav: Path
    lines: tuple[Line, ...] = ()
    fails: bool = False

    def now(self, seconds: float) -> str:
        """What is going on `seconds` after the start."""
        return next((line.text for line in reversed(self.lines) if line.at_s <= seconds <= line.at_s + 6), "")


def build(folder: Path) -> list[Sensor]:
    """Write the twelve inputs into `folder`. Takes some ten seconds."""
    rooms = [_room(folder, index, room) for index, room in enumerate(_ROOMS)]
    motors = [_motor(folder, index, motor) for index, motor in enumerate(_MOTORS)]
    return rooms + motors


def _room(folder: Path, index: int, room: str) -> Sensor:
    start = 3 + index * _STAGGER_S
    (first, first_phrase), (second, second_phrase) = _COMMANDS[index], _COMMANDS[(index + 3) % len(_COMMANDS)]
    lines = (
        Line(start, f"okay nabu, {first_phrase}", first),
        Line(start + 13, _NEAR[index]),
        Line(start + 20, _TALK[index % len(_TALK)]),
        Line(start + 28, f"okay nabu, {second_phrase}", second),
        Line(start + 42, "(clatter)"),
        Line(start + 50, _NEAR[(index + 4) % len(_NEAR)]),
    )
    rng = np.random.default_rng(index)
    rate = speech.RATE_HZ
    sound = speech.noise("pink", SECONDS * rate, rng) * LEVEL * 10 ** (-30 / 20)
    for number, line in enumerate(lines):
        voice = VOICES[(index + 3 * number) % len(VOICES)]
        heard = _say(line.text, voice, rng)
        at = round(line.at_s * rate)
        sound[at : at + len(heard)] += heard
    wav = folder / f"{room}.wav"
    speech.write_wav(wav, speech.to_int16(sound))
    return Sensor(room, "wakeword", wav, lines)


def _say(text: str, voice: str, rng: np.random.Generator) -> NDArray[np.float64]:
    if text == "(clatter)":
        return speech.noise("clicks", 3 * speech.RATE_HZ, rng) * LEVEL
    pieces = [speech.say(piece.strip(), voice).astype(float) for piece in text.split(",")]
    gap = np.zeros(round(_GAP_S * speech.RATE_HZ))
    whole = np.concatenate([part for piece in pieces for part in (piece, gap)])
    return np.asarray(whole * LEVEL / np.sqrt(np.mean(np.square(np.concatenate(pieces)))))


def _motor(folder: Path, index: int, motor: str) -> Sensor:
    machine = simulator.machine(kind=0, unit=200 + index)
    fails = motor == _FAILING
    if fails:
        samples = simulator.run_to_failure(machine, SECONDS, _FAILS_AT_S, seed=index)
    else:
        samples = simulator.record(machine, SECONDS, seed=index)
    wav = folder / f"{motor}.wav"
    simulator.write_wav(wav, samples)
    lines = (Line(_FAILS_AT_S, "(outer race wears)"), Line(SECONDS - 25.0, "(bearing is loud)")) if fails else ()
    return Sensor(motor, "vibration", wav, lines, fails)
