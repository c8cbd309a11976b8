"""Chooses `threshold` and `doubt` of cascade.toml on the voices and texts of corpus.toml's table dev: `python -m cascades.wakeword.choose`.

Printed are, alone and with Whisper, the settings with the most true accepts among those with at most a fifth of the node's false accepts.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from cascades.wakeword.corpus import DEV, Utterance, spread
from cascades.wakeword.evaluate import FOLDER, load
from cascades.wakeword.node_sim import Node, adpcm, clip_at, triggers
from gatewayd import bundle
from gatewayd.escalators.wakeword import SAME

GRID = np.arange(0.4, 1.0, 0.025)


class Heard(NamedTuple):
    """One utterance: for each time that the node fired on it, the head's score and Whisper's likeness to the phrase."""

    phrase: bool
    fired: list[tuple[float, float]]

    def accepted(self, low: float, high: float) -> bool:
        """Whether a score from `high` on, or from `low` on with Whisper's consent, is among them."""
        return any(score >= high or (score >= low and likeness >= SAME) for score, likeness in self.fired)


def hear(utterances: Sequence[Utterance]) -> list[Heard]:
    """What head and Whisper say of the clips that the node sends."""
    folder, model = bundle.read(FOLDER), load()
    decision, node = folder.cascade.node.decision, Node(bundle.node_model(folder))
    assert model.commands is not None
    out, clips = [Heard(utterance.phrase, []) for utterance in utterances], []
    for utterance, heard in zip(utterances, out, strict=True):
        samples = utterance.record()
        fires = triggers(node.trace(samples), decision.cutoff, decision.window, decision.hold_off_ms)
        clips += [(heard, clip_at(samples, n, decision.clip_ms)) for n in fires]
    decoded = adpcm(np.stack([clip for _, clip in clips]))[1] if clips else ()
    for (heard, _), clip in zip(clips, decoded, strict=True):
        heard.fired.append((model.head(model.embed(clip)), model.commands.wake(clip)[0]))
    return out


def main() -> None:
    """Hear the utterances, then try every pair of scores."""
    utterances = DEV.utterances(phrases=30, near=1.0, talk=0.5, seed=2)
    for seed in (1, 3, 4):
        utterances += DEV.utterances(phrases=0, near=1.0, talk=0.5, seed=seed)
    heard = [row for part in spread(hear, utterances) for row in part]
    limit = sum(bool(row.fired) for row in heard if not row.phrase) / 5
    found = []
    for low, high in product(GRID, GRID):
        true, false = (sum(row.accepted(low, high) for row in heard if row.phrase == phrase) for phrase in (True, False))
        if low <= high and false <= limit:
            found.append((true, -false, float(low), float(high)))
    for name, best in (("alone", max(row for row in found if row[2] == row[3])), ("with Whisper", max(found))):
        print(f"{name}: from {best[2]:.3f}, certain from {best[3]:.3f}: {best[0]} true and {-best[1]} false accepts (at most {limit:.1f})")


if __name__ == "__main__":
    main()
