"""Random graphs on every form of the engine, against TFLM.

`python tests/nn_campaign.py DRAW SEED` compares one, `python tests/nn_campaign.py --seconds N` new ones until the first difference.
"""

from __future__ import annotations

import argparse
import itertools
import secrets
import time
from typing import TYPE_CHECKING

import nn_graphs
import nn_networks
import numpy as np
from nn_native import Model
from nn_tflm import Oracle, compare_invoked, some_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 4
DRAWS: dict[str, Callable[[int], bytes]] = {
    draw.__name__: lambda seed, draw=draw: draw(nn_graphs.Draw(seed)) for draw in nn_graphs.GRAPHS
} | {"layers": nn_networks.layers}


def check(draw: str, seed: int) -> list[int]:
    """Compare all tensors; returns how many values each one of 16 elements and more had in the last step."""
    data = DRAWS[draw](seed)
    oracle, forms, values = Oracle(data), {"portable": Model(data)}, []
    for step, inputs in enumerate(some_inputs(data, np.random.default_rng(seed), STEPS)):
        oracle.invoke(inputs)
        for form, model in forms.items():
            try:
                made = compare_invoked(oracle, model, inputs)
            except AssertionError as error:
                raise AssertionError(f"{draw} {seed}, {form}, step {step}: {error}") from error
        values = [len(np.unique(tensor)) for tensor in made if tensor.size >= 16]
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draw", nargs="?", choices=DRAWS)
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--seconds", type=float, default=0)
    arguments = parser.parse_args()
    if arguments.draw:
        check(arguments.draw, arguments.seed)
    count, end = 0, time.monotonic() + arguments.seconds
    for seed in itertools.count(secrets.randbits(40)):
        if time.monotonic() >= end:
            break
        for draw in ("layers", [*DRAWS][seed % len(DRAWS)]):
            check(draw, seed)
            count += 1
    print(f"{count} graphs")


if __name__ == "__main__":
    main()
