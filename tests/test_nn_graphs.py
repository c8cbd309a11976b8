"""Random graphs, of one operator and of many layers: every tensor as TFLM's, in every form of the engine."""

from __future__ import annotations

import nn_campaign
import numpy as np
import pytest

OPERATORS = [draw for draw in nn_campaign.DRAWS if draw != "layers"]
PARTS = 8


@pytest.mark.parametrize("draw", OPERATORS)
def test_graphs_of_one_operator(draw: str) -> None:
    for seed in range(-(-1200 // len(OPERATORS))):
        nn_campaign.check(draw, seed)


@pytest.mark.parametrize("part", range(PARTS))
def test_networks(part: int) -> None:
    values = [number for seed in range(part, 1000, PARTS) for number in nn_campaign.check("layers", seed, prepared=seed < 150)]
    assert np.mean(np.array(values) > 4) > 0.6, "most values saturate"
