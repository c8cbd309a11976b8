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
from typing import TYPE_CHECKING, Any, NamedTuple

import nn_graphs
import nn_networks
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from nn_native import Model
from nn_tflm import Oracle, compare_invoked, some_inputs

from gatewayd.core.tflite import PLAN_NAME
from gatewayd.minify import add_metadata, pack
from gatewayd.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[Any]

STEPS = 4
ROOM_BYTES = 4096
DRAWS: dict[str, Callable[[int], bytes]] = {
    draw.__name__: lambda seed, draw=draw: draw(nn_graphs.Draw(seed)) for draw in nn_graphs.GRAPHS
} | {"layers": nn_networks.layers}


class Run(NamedTuple):
    """A file, and all that runs it."""

    oracle: Oracle
    models: list[Model]  # without DSP instructions, with them

    def step(self, inputs: list[Array]) -> list[Array]:
        """All tensors are the same; returns them."""
        self.oracle.invoke(inputs)
        made, *_ = [compare_invoked(self.oracle, model, inputs) for model in self.models]
        return made


def run(data: bytes) -> Run:
    return Run(Oracle(data), [Model(data), Model(data, dsp=True)])


def check(draw: str, seed: int, *, prepared: bool = True) -> list[int]:
    """Compare all tensors, and the outputs with those as prepared; returns how many values each tensor of 16 elements and more had last."""
    try:
        return compare_forms(DRAWS[draw](seed), seed, prepared=prepared)
    except Exception as error:
        error.add_note(f"again: python tests/nn_campaign.py {draw} {seed}")
        raise


def compare_forms(data: bytes, seed: int, *, prepared: bool) -> list[int]:
    plain, made = run(data), []
    other = run(prepare(data)) if prepared else None
    outputs = schema.Model.GetRootAs(data, 0).Subgraphs(0).OutputsLength()
    for inputs in some_inputs(data, np.random.default_rng(seed), STEPS):
        made = plain.step(inputs)
        if other:
            other.step(inputs)
            for index in range(outputs):
                assert np.array_equal(other.models[0].output(index), plain.models[0].output(index)), f"output {index}, prepared"
    return [len(np.unique(tensor)) for tensor in made if tensor.size >= 16]


def with_room(model: bytes) -> bytes:
    """Metadata for a plan that is not there: the fuzzer's own are written into it."""
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    add_metadata(parsed, PLAN_NAME, bytes(ROOM_BYTES))
    return pack(parsed)


def write(folder: Path) -> None:
    """Some of each kind: as they are, with room for a plan, with a plan."""
    folder.mkdir(parents=True)
    for name, draw in DRAWS.items():
        for seed in range(20 if name in {"layers", "tower"} else 2):
            model = draw(seed)
            for form, data in (("plain", model), ("room", with_room(model)), ("prepared", prepare(model))):
                (folder / f"{name}-{seed}-{form}.tflite").write_bytes(data)


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
    try:
        if arguments.write:
            write(arguments.write)
        elif arguments.seconds:
            print(f"stat::number_of_executed_units: {new_ones(arguments.seconds)}")
        else:
            check(arguments.draw, arguments.seed)
    except pytest.skip.Exception as reason:  # no TFLM for this machine
        print(reason)


if __name__ == "__main__":
    main()
