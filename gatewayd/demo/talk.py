"""What the demo's nodes hear in the second act: talk, with a wake word or a word like it every few seconds, as a WAV that a node repeats.

The voices and words are none that a model was fitted to: corpus.toml's tables train and test have no part in it.
"""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascades.wakeword import speech
from cascades.wakeword.corpus import DEV, PHRASE
from gatewayd.demo.stage import LEVEL, VOICES

_SECONDS = 120  # before a WAV begins anew
_BUSY_S, _CALM_S = 3.0, 24.0  # from line to line
_KINDS = ("phrase", "near", "phrase", "near", "talk")
_TEXTS = {"phrase": [f"{PHRASE}, {after}" for after in DEV.after], "near": DEV.near, "talk": DEV.talk}


def build(folder: Path, nodes: Sequence[str], busy: Collection[str]) -> dict[str, Path]:
    """Write what each node hears into `folder`; where it is `busy` there are eight times as many lines. Takes some ten seconds."""
    every_s = [_BUSY_S if node in busy else _CALM_S for node in nodes]
    wavs = {node: folder / f"{node}-talk.wav" for node in nodes}
    with ThreadPoolExecutor() as pool:
        for wav, sound in zip(wavs.values(), pool.map(_place, range(len(nodes)), every_s), strict=True):
            speech.write_wav(wav, sound)
    return wavs


def _place(index: int, every_s: float) -> speech.Samples:
    rng = np.random.default_rng(index)
    talk = np.zeros(_SECONDS * speech.RATE_HZ)
    for number, line in enumerate(_lines(index, round(_SECONDS / every_s), rng)):
        at = round((number * every_s + rng.uniform(0.0, 0.4)) * speech.RATE_HZ)
        heard = line[: len(talk) - at]
        talk[at : at + len(heard)] += heard
    return speech.in_room(speech.to_int16(talk), rng)


def _lines(index: int, count: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Three people live in each place."""
    voices = [VOICES[(index + n) % len(VOICES)] for n in (0, 3, 5)]
    for number in range(count):
        kind = _KINDS[number % len(_KINDS)]
        text = str(rng.choice(_TEXTS[kind]))
        yield _say(text, str(rng.choice(voices)), float(rng.choice([0.85, 1.0, 1.15])))


@cache
def _say(text: str, voice: str, speed: float) -> NDArray[np.float64]:
    said = speech.say(text, voice, speed).astype(float)
    return np.asarray(said * LEVEL / np.sqrt(np.mean(np.square(said))))
