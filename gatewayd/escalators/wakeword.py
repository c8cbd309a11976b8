"""The gateway's judge of a wake word, and of the command after it.

A clip goes through the frozen speech embedding that openWakeWord is built on (Google's `speech_embedding`: 96 numbers for every 80 ms) and
a small head of our own that knows one phrase; what that takes for the phrase has to be speech for a voice activity detector, too. The
clip of a `follow` event goes to `speech`.
"""

import hashlib
import io
import logging
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewayd.core.types import Event, Opinion, Reason
from gatewayd.errors import CascadeError, MissingPackageError
from gatewayd.escalators import speech
from gatewayd.escalators.litert import Network
from gatewayd.escalators.speech import LEAST_VOICED, VOICED, Clock, Speech, Vad, clip_of

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

# The wheel also holds openWakeWord's own heads, whose licence is non-commercial: nothing here opens them.
PACKAGE = "pyopen_wakeword"
SHA256 = {
    "melspectrogram.tflite": "96fa0adccb6e8cf95cb14465409a1a2898ee4a96a85bb9ed3c7eb0e68bf163e8",
    "embedding_model.tflite": "c0aea21eb84a4ce90a08c870da41b7a7173b45269e6a3207c71d67c40f3a59d8",
}
MEL_WINDOW, MEL_STEP = 76, 8  # mel frames of 10 ms
SAME = 0.95  # likeness of the wake phrase and what Whisper hears, from which on it is the phrase


class Embedding:
    """Sound to vectors that say how it is pronounced, whoever speaks."""

    def __init__(self) -> None:
        """Raise MissingPackageError, or CascadeError where the package's files are not the ones we know."""
        self._mel, self._embed = (Network(_file(name)) for name in SHA256)

    def __call__(self, clip: NDArray[np.int16]) -> Floats:
        """[n, 96] for n windows of 0.775 s, 80 ms apart; the last one ends where the clip ends."""
        mel = self._mel(clip[None].astype(np.float32))[0, 0] / np.float32(10) + np.float32(2)
        if len(mel) < MEL_WINDOW:
            return np.zeros((0, 96), np.float32)
        first = (len(mel) - MEL_WINDOW) % MEL_STEP
        windows = np.lib.stride_tricks.sliding_window_view(mel, MEL_WINDOW, axis=0)[first::MEL_STEP]
        return self._embed(np.ascontiguousarray(windows.transpose(0, 2, 1)[..., None])).reshape(-1, 96)


def _file(name: str) -> bytes:
    try:
        content = files(PACKAGE).joinpath("models", name).read_bytes()
    except ModuleNotFoundError as exc:
        raise MissingPackageError("pyopen-wakeword", "wakeword") from exc
    except OSError as exc:
        raise CascadeError(f"{PACKAGE} has no {name}") from exc
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise CascadeError(f"{PACKAGE}: {name} is not the file that the head was trained on")
    return content


def normalise(embeddings: Floats) -> Floats:
    """Take a clip's mean, which is its speaker and room, from its embeddings [..., n, 96], and make each of them as long as the others."""
    rest = embeddings - embeddings.mean(axis=-2, keepdims=True)
    return np.asarray(rest / (np.linalg.norm(rest, axis=-1, keepdims=True) + 1e-6), np.float32)


class Head(NamedTuple):
    """A two-layer perceptron over `span` successive normalised embeddings; its weights are made by a cascade's train.py."""

    w1: Floats  # [span * 96, hidden]
    b1: Floats  # [hidden]
    w2: Floats  # [hidden]
    b2: Floats  # scalar

    def __call__(self, embeddings: Floats) -> float:
        """How surely the phrase is somewhere in a clip's `embeddings`, 0 to 1."""
        span = self.w1.shape[0] // 96
        if len(embeddings) < span:
            return 0.0
        x = np.lib.stride_tricks.sliding_window_view(normalise(embeddings), span, axis=0).transpose(0, 2, 1).reshape(-1, span * 96)
        logits = np.maximum(x @ self.w1 + self.b1, 0) @ self.w2 + self.b2
        return float(1 / (1 + np.exp(-logits.max())))


class WakeWord(NamedTuple):
    """Judges wake words and, where it can, the commands after them."""

    embed: Embedding
    head: Head
    vad: Vad | None
    commands: Speech | None
    label: str
    threshold: float  # of the head's score
    doubt: tuple[float, float]  # scores between these are Whisper's to decide, where there is one
    name: str

    def classify(self, event: Event) -> Opinion:
        """Judge an event's clip. Raises EscalationError, DecodeError where it holds no sound."""
        if event.reason == Reason.FOLLOW:
            if self.commands is not None:
                return self.commands.classify(event)
            return Opinion(False, "unheard", 0.0, "none", "no speech recogniser is installed: pip install 'gatewayd[speech]'")
        clip, clock = clip_of(event), Clock()
        embeddings = self.embed(clip)
        clock.stage("embedding")
        score = self.head(embeddings)
        clock.stage("head")
        label, score, text = self._judge(clip, score, clock)
        return Opinion(label == self.label, label, score, self.name, text, stages=clock.stages)

    def _judge(self, clip: NDArray[np.int16], score: float, clock: Clock) -> tuple[str, float, str]:
        """Label, confidence and what was heard, from the head's score and, as far as that needs them, the slower judges."""
        ask = self.commands if self.doubt[0] <= score < self.doubt[1] else None
        if ask is None and score < self.threshold:
            return "other", score, ""
        if self.vad is not None:
            voiced = int((self.vad(clip) >= VOICED).sum())
            clock.stage("vad")
            if voiced < LEAST_VOICED:
                return "no_speech", score, ""
        if ask is None:
            return self.label, score, ""
        likeness, text = ask.wake(clip)
        clock.stage("whisper")
        return self.label if likeness >= SAME else "other", (score + likeness) / 2, text


def load(settings: Mapping[str, Any]) -> WakeWord:
    """`folder` and `head`: an .npz of Head's fields; `label` of what it knows; `threshold` of its score (0.5); `doubt`: two
    scores between which Whisper is asked for the `phrase`; and the settings of `speech`.

    Without the packages of `speech` commands are not understood, and without its detector noise is not told from speech: both are
    logged, and every opinion names what judged. Raises MissingPackageError, CascadeError.
    """
    try:
        content = Path(settings["folder"], settings["head"]).read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            head = Head(*(arrays[name].astype(np.float32) for name in Head._fields))
        label, threshold = str(settings["label"]), float(settings.get("threshold", 0.5))
        low, high = (float(score) for score in settings.get("doubt", (threshold, threshold)))
    except (OSError, KeyError, TypeError, ValueError) as exc:
        raise CascadeError(f"wakeword: the settings or the head cannot be used: {exc!r}") from exc
    commands: Speech | None = None
    try:
        commands = speech.load(settings)
    except MissingPackageError as exc:
        log.warning("commands after the wake word are not understood: %s", exc)
    vad = speech.vad_or_none()
    name = f"{label} {hashlib.sha256(content).hexdigest()[:8]} on speech_embedding{' + silero-vad' if vad else ''}"
    return WakeWord(Embedding(), head, vad, commands, label, threshold, (low, high), name)
