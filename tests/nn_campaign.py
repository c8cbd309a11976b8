"""Random graphs on every form of the engine, against TFLM.

`python tests/nn_campaign.py DRAW SEED` compares one; `--seconds N` new ones until the first difference; `--write FOLDER` makes files for
the fuzzer.
"""

from __future__ import annotations

import argparse
import itertools
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nn_graphs
import nn_networks
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from nn_native import Model
from nn_tflm import Oracle, compare_invoked, some_inputs

from gatewayd.core.tflite import PLAN_NAME
from gatewayd.minify import add_metadata, pack

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 4
ROOM_BYTES = 4096
DRAWS: dict[str, Callable[[int], bytes]] = {
    draw.__name__: lambda seed, draw=draw: draw(nn_graphs.Draw(seed)) for draw in nn_graphs.GRAPHS
} | {"layers": nn_networks.layers}


def check(draw: str, seed: int) -> list[int]:
    """Compare all tensors; returns how many values each one of 16 elements and more had in the last step."""
    data = DRAWS[draw](seed)
    oracle, forms, values = Oracle(data), {"C99": Model(data), "DSP": Model(data, dsp=True)}, []
    for step, inputs in enumerate(some_inputs(data, np.random.default_rng(seed), STEPS)):
        oracle.invoke(inputs)
        for form, model in forms.items():
            try:
                made = compare_invoked(oracle, model, inputs)
            except AssertionError as error:
                raise AssertionError(f"{draw} {seed}, {form}, step {step}: {error}") from error
        values = [len(np.unique(tensor)) for tensor in made if tensor.size >= 16]
    return values


def with_room(model: bytes) -> bytes:
    """Metadata for a plan that is not there: the fuzzer's own are written into it."""
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    add_metadata(parsed, PLAN_NAME, bytes(ROOM_BYTES))
    return pack(parsed)


def write(folder: Path) -> None:
    """Some of each kind: as they are, with room for a plan, with a plan."""
    folder.mkdir(parents=True)
    for draw in DRAWS:
        for seed in range(30 if draw == "layers" else 3):
            model = DRAWS[draw](seed)
            for form, data in (("plain", model), ("room", with_room(model))):
                (folder / f"{draw}-{seed}-{form}.tflite").write_bytes(data)


def new_ones(seconds: float) -> int:
    """How many."""
    end = time.monotonic() + seconds
    for count, seed in enumerate(itertools.count(secrets.randbits(40))):
        if time.monotonic() >= end:
            return count
        check("layers" if seed % 2 else [*DRAWS][seed // 2 % len(DRAWS)], seed)
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draw", nargs="?", choices=DRAWS)
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write)
    elif arguments.seconds:
        print(f"stat::number_of_executed_units: {new_ones(arguments.seconds)}")
    else:
        check(arguments.draw, arguments.seed)


if __name__ == "__main__":
    main()
