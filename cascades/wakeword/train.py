"""Makes the wake word's head: speech on the spot -> the node's triggers -> clips through ADPCM -> embeddings -> a perceptron.

`python -m cascades.wakeword.train` takes minutes and writes `head.npz`, with the SHA-256 of the embeddings it was made of.
"""

import hashlib
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from cascades.wakeword.corpus import DEV, TRAIN, Utterance, assert_disjoint, spread
from cascades.wakeword.node_sim import Node, adpcm, clip_at, means, triggers
from gatewayd import bundle
from gatewayd.escalators.wakeword import Embedding, Head, normalise

FOLDER = Path(__file__).parent
SPAN, HIDDEN = 12, 96  # 12 embeddings see 1.66 s
EPOCHS, BATCH, RATE, DECAY, DROPOUT, NOISE = 8, 256, 1e-3, 0.3, 0.5, 1.0

Floats = NDArray[np.float32]


def cut(utterances: list[Utterance]) -> tuple[Floats, NDArray[np.bool_]]:
    """The embeddings [n, windows, 96] of the clips that the node sends or might send of `utterances`, and which hold the phrase."""
    folder = bundle.read(FOLDER)
    decision, node, embed = folder.cascade.node.decision, Node(bundle.node_model(folder)), Embedding()
    clips, phrase = [], []
    for utterance in utterances:
        rng = np.random.default_rng(crc32(repr(utterance).encode()))
        samples = utterance.record()
        trace = node.trace(samples)
        fires = triggers(trace, decision.cutoff, decision.window)[: 1 if utterance.phrase else None]
        fires = fires or [int(np.argmax(means(trace, decision.window)))]
        later = [n + int(rng.integers(1, 12)) for n in fires]  # another node, another frame: the word is never twice at the same place
        anywhere = [] if utterance.phrase else [int(rng.integers(50, len(trace)))]
        for stride in fires + later + anywhere:
            clips.append(clip_at(samples, min(stride, len(trace) - 1), decision.clip_ms))
            phrase.append(utterance.phrase)
    return np.stack([embed(clip) for clip in adpcm(np.stack(clips))[1]]), np.array(phrase)


def examples(embeddings: Floats, phrase: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Spans [n, SPAN * 96] with their truth: of a clip with the phrase the last one, of the others every one."""
    spans = np.lib.stride_tricks.sliding_window_view(normalise(embeddings), SPAN, axis=1).transpose(0, 1, 3, 2)
    x = np.concatenate([spans[phrase, -1], spans[~phrase].reshape(-1, SPAN, 96)]).reshape(-1, SPAN * 96)
    return np.ascontiguousarray(x), (np.arange(len(x)) < phrase.sum()).astype(np.float32)


def fit(x: Floats, y: Floats, seed: int = 1) -> Head:
    """AdamW on the cross-entropy, both classes of equal weight; the inputs' normalisation is folded into the weights."""
    rng = np.random.default_rng(seed)
    mean, std = x.mean(axis=0), x.std(axis=0) + np.float32(1e-3)
    z = (x - mean) / std
    weight = np.where(y == 1, 0.5 / y.mean(), 0.5 / (1 - y.mean())).astype(np.float32)
    p = [
        rng.normal(0, np.sqrt(2 / x.shape[1]), (x.shape[1], HIDDEN)).astype(np.float32),
        np.zeros(HIDDEN, np.float32),
        rng.normal(0, np.sqrt(1 / HIDDEN), HIDDEN).astype(np.float32),
        np.zeros((), np.float32),
    ]
    first, second, step, steps = [np.zeros_like(a) for a in p], [np.zeros_like(a) for a in p], 0, EPOCHS * -(-len(x) // BATCH)
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for rows in np.array_split(order, -(-len(x) // BATCH)):
            step += 1
            keep = (rng.random((len(rows), HIDDEN)) > DROPOUT).astype(np.float32) / np.float32(1 - DROPOUT)
            inputs = z[rows] + NOISE * rng.normal(size=(len(rows), z.shape[1])).astype(np.float32)
            pre = inputs @ p[0] + p[1]
            hidden = np.maximum(pre, 0) * keep
            error = (1 / (1 + np.exp(-(hidden @ p[2] + p[3]))) - y[rows]) * weight[rows] / len(rows)
            back = np.outer(error, p[2]) * keep * (pre > 0)
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for n, gradient in enumerate((inputs.T @ back, back.sum(axis=0), hidden.T @ error, error.sum())):
                first[n] = 0.9 * first[n] + 0.1 * gradient
                second[n] = 0.999 * second[n] + 0.001 * np.square(gradient)
                update = first[n] / (1 - 0.9**step) / (np.sqrt(second[n] / (1 - 0.999**step)) + 1e-8)
                p[n] = (p[n] - rate * (update + DECAY * p[n])).astype(np.float32)
    w1 = p[0] / std[:, None]
    return Head(w1, p[1] - mean @ w1, p[2], p[3])


def cut_all(utterances: list[Utterance]) -> tuple[Floats, NDArray[np.bool_]]:
    """`cut` on all cores."""
    made = spread(cut, utterances, 64)
    embeddings, phrase = zip(*made, strict=True)
    return np.concatenate(embeddings), np.concatenate(phrase)


def main() -> None:
    """Make the data, fit, write the head, and show on other voices what a threshold would do."""
    assert_disjoint()
    embeddings, phrase = cut_all(TRAIN.utterances(phrases=16, near=0.5, talk=0.2))
    x, y = examples(embeddings, phrase)
    head = fit(x, y)
    digest = hashlib.sha256(np.round(embeddings, 2).tobytes() + phrase.tobytes()).hexdigest()
    weights = {name: array.astype(np.float16) for name, array in head._asdict().items()}
    np.savez(FOLDER / "head.npz", **weights, data_sha256=np.array(digest))
    print(f"{len(phrase)} clips, {len(x)} spans, {int(y.sum())} with the phrase; {sum(w.size for w in head)} weights; data {digest}")
    embeddings, phrase = cut_all(DEV.utterances(phrases=20, near=0.8, talk=0.5))
    scores = np.array([head(clip) for clip in embeddings])
    for threshold in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98):
        kept, passed = (scores[phrase] >= threshold).mean(), (scores[~phrase] >= threshold).mean()
        print(f"dev, threshold {threshold:.2f}: {kept:.1%} of the clips with the phrase, {passed:.1%} of those without it")


if __name__ == "__main__":
    main()
