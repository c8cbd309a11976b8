"""The audio front end's parameters: what they are made of, and what is refused; that they are right is test_frontend.py's."""

import math
from pathlib import Path

import numpy as np
import pytest

from gatewayd.core.microfrontend import Layout, Parameters, Tuning, check, encode

HEADER = 20


def test_the_standard_ones_are_those_of_the_reference():
    data = encode(Parameters())
    assert check(data) == Layout(480, 160, 40)
    assert np.frombuffer(data[:HEADER], "<u2").tolist() == [480, 160, 40 | 5 << 8, 10 | 6 << 8, 409, 983, 819, 6, 256, 666]


def test_the_vector_is_still_what_is_made():
    """What a fuzzer starts from: all tables, but short ones."""
    assert (Path(__file__).parent / "vectors" / "audio-parameters.bin").read_bytes() == encode(Parameters(17, 10, 8, 300, 3_400))


def test_the_window_is_hanns():
    for milliseconds in (17, 25, 32):
        size = 16 * milliseconds
        window = np.frombuffer(encode(Parameters(milliseconds, 10))[HEADER:][: 2 * size], "<u2")
        assert np.abs(window - 4096 * np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2).max() < 0.51


def test_every_bin_is_shared_between_its_neighbours():
    data = encode(Parameters(channels=20, tuning=Tuning(enable_pcan=False)))
    widths, shares = data[-21:], np.frombuffer(data[HEADER + 960 : -21], "<u2").reshape(-1, 2)
    assert sum(widths) == len(shares) == 236
    assert set(shares.sum(axis=1)) <= {4096, 4097}
    assert all(np.diff(shares[start : start + width, 0].astype(int)).max(initial=-1) < 0 for start, width in starts(widths))


def starts(widths):
    return zip(np.cumsum([0, *widths[:-1]]), widths, strict=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_ms": 16}, "window"),  # the reference would take a smaller transform
        ({"window_ms": 33}, "window"),
        ({"window_ms": 10**9}, "window"),
        ({"window_ms": -1}, "0 <= number"),
        ({"step_ms": 0}, "step"),
        ({"step_ms": 31}, "step"),
        ({"channels": 0}, "channels"),
        ({"channels": 65}, "channels"),
        ({"low_hz": 7_500}, "frequencies"),
        ({"low_hz": -1}, "frequencies"),
        ({"high_hz": 8_001}, "frequencies"),
        ({"high_hz": 8_000}, "bands"),  # the last bin is not used
        ({"smoothing_bits": 2}, "PCAN"),
        ({"smoothing_bits": 32, "enable_pcan": False}, "smoothing"),
        ({"gain_bits": 14}, "PCAN"),
        ({"gain_bits": 255 + 15}, "PCAN"),
        ({"offset": 0.0}, "PCAN"),
        ({"offset": math.nan}, "PCAN"),
        ({"strength": -40.0}, "infinity"),
        ({"even_smoothing": 1.01}, "smoothing"),
        ({"odd_smoothing": -0.01}, "0 <= number"),
        ({"min_signal_remaining": math.inf}, "infinity"),
        ({"scale_shift": 12}, "scale"),
        ({"multiplier": 65_536}, "number"),
        ({"divisor": 0}, "scale"),
    ],
)
def test_what_a_node_cannot_do_is_not_made(change, message):
    tuning = {key: value for key, value in change.items() if key in Tuning._fields}
    with pytest.raises(ValueError, match=message):
        encode(Parameters(**{key: value for key, value in change.items() if key not in tuning}, tuning=Tuning(**tuning)))


@pytest.mark.parametrize("size", [0, 19, 20, 1_000, 2_162])
def test_a_part_is_refused(size):
    with pytest.raises(ValueError):
        check(encode(Parameters())[:size])
