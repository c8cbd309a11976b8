"""Measures the cascade on speech made on the spot, of voices and texts that training never saw, and writes the result into CARD.md.

`cascades/wakeword/evaluate`, or `python -m cascades.wakeword.evaluate`; some minutes.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from cascades.wakeword.corpus import TEST, Utterance, assert_disjoint, spread
from cascades.wakeword.node_sim import Node, adpcm, clip_at, event, triggers
from cascades.wakeword.speech import RATE_HZ, in_room, say
from gatewayd import bundle
from gatewayd.core.types import Reason
from gatewayd.escalators import wakeword
from gatewayd.escalators.audio import ADPCM_BLOCK_SAMPLES

FOLDER = Path(__file__).parent
SHIPPED_CUTOFF, SHIPPED_WINDOW = 0.85, 5  # okay_nabu.json in pymicro-wakeword
JUDGES = ("node, shipped cutoff", "node, sensitive", "cascade", "cascade without Whisper")
BEGIN, END = "<!-- made by evaluate: begin -->", "<!-- made by evaluate: end -->"


class Table(NamedTuple):
    """How many utterances with the phrase and without it there were, and how many of them each of JUDGES accepted."""

    with_phrase: int
    without: int
    true_accepts: tuple[int, ...]
    false_accepts: tuple[int, ...]


def load() -> wakeword.WakeWord:
    """The gateway's model, as a worker process gets it."""
    folder = bundle.read(FOLDER)
    assert folder.cascade.gateway is not None
    return wakeword.load(bundle.gateway_settings(folder, folder.cascade.gateway))


def judge(utterances: Sequence[Utterance]) -> list[tuple[bool, ...]]:
    """What each of JUDGES says of each utterance; the cascade hears what the node sends, ADPCM and all."""
    folder, model = bundle.read(FOLDER), load()
    decision, node = folder.cascade.node.decision, Node(bundle.node_model(folder))
    shipped, clips, owners = [], [], []
    for n, utterance in enumerate(utterances):
        samples = utterance.record()
        trace = node.trace(samples)
        shipped.append(bool(triggers(trace, SHIPPED_CUTOFF, SHIPPED_WINDOW)))
        for stride in triggers(trace, decision.cutoff, decision.window, decision.hold_off_ms):
            clips.append(clip_at(samples, stride, decision.clip_ms))
            owners.append(n)
    blocks = adpcm(np.stack(clips))[0] if clips else ()
    events = [(n, event(data)) for n, data in zip(owners, blocks, strict=True)]
    cascade, alone = ({n for n, e in events if m.classify(e).accepted} for m in (model, model._replace(commands=None)))
    return [(shipped[n], n in owners, n in cascade, n in alone) for n in range(len(utterances))]


def evaluate(utterances: Sequence[Utterance]) -> Table:
    """Judge all utterances on all cores."""
    assert_disjoint()
    said = [row for part in spread(judge, utterances) for row in part]
    counts = [
        [sum(row[j] for row, u in zip(said, utterances, strict=True) if u.phrase == phrase) for j in range(len(JUDGES))]
        for phrase in (True, False)
    ]
    total = sum(u.phrase for u in utterances)
    return Table(total, len(utterances) - total, tuple(counts[0]), tuple(counts[1]))


def hear_commands(commands: Sequence[tuple[str, str, str]]) -> Counter[str]:
    """Each (name or "", text, voice) said to the gateway's model: how many were heard `right`, `wrong` or `refused`."""
    model, length, out = load(), 4 * RATE_HZ // ADPCM_BLOCK_SAMPLES * ADPCM_BLOCK_SAMPLES, Counter[str]()
    clips = []
    for command in commands:
        rng = np.random.default_rng(crc32(repr(command).encode()))
        heard = in_room(say(command[1], command[2], speed=rng.uniform(0.8, 1.25)), rng)[24_000:]  # half a second before it
        clips.append(np.pad(heard, (0, length))[:length])
    for (name, *_), data in zip(commands, adpcm(np.stack(clips))[0], strict=True):
        opinion = model.classify(event(data, Reason.FOLLOW))
        out[f"{'command' if name else 'other'} {'refused' if not opinion.accepted else 'right' if opinion.label == name else 'wrong'}"] += 1
    return out


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion (Wilson, JASA 22, 1927)."""
    centre, spread = hits + z * z / 2, z * (hits * (total - hits) / total + z * z / 4) ** 0.5
    return (centre - spread) / (total + z * z), (centre + spread) / (total + z * z)


def report(table: Table, heard: Counter[str]) -> str:
    """The table for people."""

    def cell(hits: int, total: int) -> str:
        low, high = wilson(hits, total)
        return f"{hits} / {total} ({low:.1%} to {high:.1%})"

    rows = [
        f"| {name} | {cell(table.true_accepts[j], table.with_phrase)} | {cell(table.false_accepts[j], table.without)} |"
        for j, name in enumerate(JUDGES)
    ]
    said = sum(count for key, count in heard.items() if key.startswith("command"))
    other = sum(count for key, count in heard.items() if key.startswith("other"))
    return "\n".join([
        "| judge | accepted with the phrase | accepted without it |",
        "|---|---|---|",
        *rows,
        "",
        "| commands after the wake word | |",
        "|---|---|",
        f"| understood | {cell(heard['command right'], said)} |",
        f"| taken for another command | {cell(heard['command wrong'], said)} |",
        f"| other talk taken for a command | {cell(heard['other wrong'], other)} |",
    ])  # fmt: skip


def main() -> None:
    """Evaluate at full size, print, and write the card."""
    table = evaluate(TEST.utterances(phrases=15, near=1.0, talk=0.4, seed=5))
    rng = np.random.default_rng(0)
    commands = [(command.name, command.phrase) for command in bundle.read(FOLDER).cascade.policy.commands]
    tasks = [(*commands[n], voice) for voice in TEST.voices for n in rng.choice(len(commands), 3, replace=False)]
    tasks += [("", str(rng.choice(TEST.talk)), voice) for voice in TEST.voices for _ in range(2)]
    heard = sum(spread(hear_commands, tasks, 20), Counter[str]())
    text = report(table, heard)
    print(text)
    card = FOLDER / "CARD.md"
    before, rest = card.read_text().split(BEGIN)
    card.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    kept, fewer = table.true_accepts[2] >= table.true_accepts[0], 5 * table.false_accepts[2] <= table.false_accepts[1]
    print(f"at least as many true accepts as the shipped node: {kept}; at most a fifth of the sensitive node's false accepts: {fewer}")
    raise SystemExit(not (kept and fewer))


if __name__ == "__main__":
    main()
