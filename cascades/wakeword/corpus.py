"""Who says what: the voices and texts of training and of evaluation, which share nothing but the wake phrase."""

import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import numpy as np

from cascades.wakeword.speech import RATE_HZ, Samples, in_room, resample, say

Item = TypeVar("Item")
Result = TypeVar("Result")
_CORPUS: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
PHRASE = str(_CORPUS["phrase"])


class Utterance(NamedTuple):
    """Something said once: the same fields give the same sound."""

    text: str
    voice: str
    take: int
    phrase: bool  # whether it begins with the wake phrase
    background: str = ""  # what somebody else says meanwhile
    warp_percent: int = 0  # a higher voice in a smaller head

    def record(self) -> Samples:
        """What a node's microphone hears."""
        rng = np.random.default_rng(crc32(repr(tuple(self)).encode()))
        speech = say(self.text, self.voice, speed=rng.uniform(0.8, 1.25), pitch=int(rng.integers(25, 75)))
        speech = resample(speech, RATE_HZ * (100 + self.warp_percent) // 100)
        return in_room(speech, rng, say(self.background, self.voice) if self.background else None)


class Split(NamedTuple):
    """One table of corpus.toml."""

    accents: list[str]
    timbres: list[str]
    other_voices: list[str]
    warps_percent: list[int]
    after: list[str]
    near: list[str]
    talk: list[str]

    @property
    def voices(self) -> list[str]:
        """Each accent with every second timbre, and the voices of other synthesisers."""
        mine = [f"espeak-ng:{accent}+{timbre}" for a, accent in enumerate(self.accents) for timbre in self.timbres[a % 2 :: 2]]
        return mine + self.other_voices

    def utterances(self, phrases: int, near: float, talk: float, seed: int = 0) -> list[Utterance]:
        """`phrases` takes of the phrase by every voice, and shares of all pairs of a voice and a near miss or other talk."""
        rng = np.random.default_rng(seed)
        said = [
            (f"{PHRASE}{mark} {after}".strip(), voice, 100 * seed + take, True)
            for voice in self.voices
            for take, (mark, after) in enumerate(
                zip(rng.choice([",", "!", "?", ""], phrases), rng.choice(self.after, phrases), strict=True)
            )
        ]
        for texts, share in ((self.near, near), (self.talk, talk)):
            pairs = [(text, voice, 100 * seed, False) for text in texts for voice in self.voices]
            said += [pairs[n] for n in rng.choice(len(pairs), round(share * len(pairs)), replace=False)]
        return [Utterance(*what, self._background(rng), int(rng.choice(self.warps_percent))) for what in said]

    def _background(self, rng: np.random.Generator) -> str:
        return str(rng.choice(self.talk)) if rng.random() < 0.25 else ""


TRAIN, DEV, TEST = (Split(**_CORPUS[name]) for name in ("train", "dev", "test"))


def spread(job: Callable[[list[Item]], Result], items: Sequence[Item], part: int = 32) -> list[Result]:
    """`job` of every `part` of the items, on all cores; in new processes, because the models' threads do not survive a fork."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return list(pool.map(job, [list(items[n : n + part]) for n in range(0, len(items), part)]))


def assert_disjoint() -> None:
    """Raise AssertionError where one split hears a voice, an accent, a timbre or a text of another."""
    for one, other in combinations((TRAIN, DEV, TEST), 2):
        for field in ("accents", "timbres", "other_voices"):
            assert not set(getattr(one, field)) & set(getattr(other, field)), field
        texts = ({text.lower() for text in (*split.after, *split.near, *split.talk) if text} for split in (one, other))
        assert not set.intersection(*texts)
