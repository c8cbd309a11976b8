"""Fits the last layer of the node's model to the voices of corpus.toml's table train: `python -m cascades.wakeword.refit`, some minutes.

The model that ships is for everybody. What is minimised here is the error of what this cascade's node makes of it: in each
utterance the highest mean of `window` probabilities, against the cutoff. The bias is then chosen so that the node both hears more
wake words and takes less else for one. Written is `refit.npz`, which `make demo` rolls out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from cascades.wakeword.corpus import DEV, TRAIN, Utterance, spread
from cascades.wakeword.evaluate import FOLDER
from cascades.wakeword.last_layer import Layer, Model
from cascades.wakeword.node_sim import features, triggers
from gatewayd import bundle

STEPS, BATCH, RATE, DECAY = 400, 512, 0.02, 3e-4  # DECAY pulls towards the weights that ship
SPENT = 0.25  # of what is won, on hearing more phrases; the rest on taking less else for one

Floats = NDArray[np.float32]


class Heard(NamedTuple):
    """Utterances as the layer gets them."""

    inputs: Floats  # [utterances, strides, 64]
    strides: NDArray[np.int64]  # [utterances]; what follows them is padding
    phrase: NDArray[np.bool_]


def hear(utterances: Sequence[Utterance]) -> list[Floats]:
    """The layer's inputs [strides, 64] of each utterance."""
    model, scale, zero = Model(bundle.node_model(bundle.read(FOLDER))).activations()
    out = []
    for utterance in utterances:
        net = Interpreter(model_content=model, num_threads=1)  # a new one: its state starts at zero
        net.allocate_tensors()
        source, sink = net.get_input_details()[0], net.get_output_details()[0]["index"]
        stride, rows, inputs = source["shape"][1], features(utterance.record()), []
        for n in range(len(rows) // stride):
            net.set_tensor(source["index"], rows[None, n * stride : (n + 1) * stride])
            net.invoke()
            inputs.append(net.get_tensor(sink).ravel())
        out.append((np.array(inputs, np.float32) - zero) * np.float32(scale))
    return out


def hear_all(utterances: Sequence[Utterance]) -> Heard:
    """`hear` on all cores."""
    rows = [row for part in spread(hear, utterances) for row in part]
    strides = np.array([len(row) for row in rows])
    inputs = np.zeros((len(rows), strides.max(), rows[0].shape[1]), np.float32)
    for into, row in zip(inputs, rows, strict=True):
        into[: len(row)] = row
    return Heard(inputs, strides, np.array([utterance.phrase for utterance in utterances]))


def fit(heard: Heard, start: Layer, cutoff: float, window: int) -> Layer:
    """Adam on the cross-entropy of how far the highest mean is above the cutoff, both classes of equal weight."""
    rng = np.random.default_rng(0)
    first = np.append(start.weights, start.bias)
    p, moment, second = first.copy(), np.zeros_like(first), np.zeros_like(first)
    share = heard.phrase.mean()
    importance = np.where(heard.phrase, 0.5 / share, 0.5 / (1 - share))
    pull = np.append(np.full(len(first) - 1, DECAY), 0)
    for step in range(STEPS):
        rows = rng.choice(len(heard.phrase), BATCH)
        inputs, each = heard.inputs[rows], np.arange(BATCH)[:, None]
        probability = 1 / (1 + np.exp(-(inputs @ p[:-1].astype(np.float32) + np.float32(p[-1]))))
        probability[np.arange(inputs.shape[1]) >= heard.strides[rows, None]] = 0
        sums = np.cumsum(np.pad(probability, ((0, 0), (1, 0))), axis=1)
        means = (sums[:, window:] - sums[:, :-window]) / window
        at = means.argmax(axis=1)[:, None]
        top = np.clip(means[each, at][:, 0], 1e-4, 1 - 1e-4)
        odds = np.log(top / (1 - top)) - np.log(cutoff / (1 - cutoff))
        error = (1 / (1 + np.exp(-odds)) - heard.phrase[rows]) * importance[rows] / BATCH / (top * (1 - top))
        span = at + np.arange(window)
        back = error[:, None] * probability[each, span] * (1 - probability[each, span]) / window
        gradient = np.append(np.einsum("ij,ijk->k", back, inputs[each, span]), back.sum()) + pull * (p - first)
        moment, second = 0.9 * moment + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        rate = RATE * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        p -= rate * moment / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.99 ** (step + 1))) + 1e-9)
    return Layer(p[:-1], float(p[-1]))


def fires(heard: Heard, layer: Layer, cutoff: float, window: int) -> NDArray[np.bool_]:
    """Which utterances a node fires on."""
    logits = heard.inputs @ layer.weights.astype(np.float32) + np.float32(layer.bias)
    traces = np.rint(255 / (1 + np.exp(-logits))).astype(np.uint8)
    return np.array([bool(triggers(trace[:n], cutoff, window)) for trace, n in zip(traces, heard.strides, strict=True)])


def better(layer: Layer, old: Layer, heard: Heard, cutoff: float, window: int) -> Layer:
    """`layer` with a bias between that with which it hears as many phrases as `old`, and that with which it takes as much else for one."""
    before, biases = fires(heard, old, cutoff, window), []
    for kind in (heard.phrase, ~heard.phrase):
        low, high = layer.bias - 6, layer.bias + 6
        while high - low > 0.01:
            middle = (low + high) / 2
            enough = fires(heard, layer._replace(bias=middle), cutoff, window)[kind].sum() >= before[kind].sum()
            low, high = (low, middle) if enough else (middle, high)
        biases.append(high)
    return layer._replace(bias=float(np.interp(SPENT, (0, 1), biases)))


def main() -> None:
    """Hear, fit, write, and show what changed on voices and words that the fit did not hear."""
    folder = bundle.read(FOLDER)
    decision = folder.cascade.node.decision
    rule = decision.cutoff, decision.window
    old = Model(bundle.node_model(folder)).layer()
    train = hear_all(TRAIN.utterances(phrases=12, near=0.2, talk=0.15, seed=7))
    new = better(fit(train, old, *rule), old, train, *rule)
    np.savez(FOLDER / "refit.npz", weights=new.weights.astype(np.float16), bias=np.float16(new.bias))
    dev = hear_all([row for seed in (12, 13, 14) for row in DEV.utterances(phrases=40, near=1.0, talk=0.5, seed=seed)])
    for table, heard in (("train", train), ("dev", dev)):
        for name, layer in (("ships", old), ("fitted", new)):
            fired = fires(heard, layer, *rule)
            true, false = fired[heard.phrase], fired[~heard.phrase]
            print(f"{table}, {name}: fires on {true.sum()} of {len(true)} with the phrase, {false.sum()} of {len(false)} without")


if __name__ == "__main__":
    main()
