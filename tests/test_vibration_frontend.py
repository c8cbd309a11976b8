"""The vibration front end against the same spectrum in floating point, and what it must not depend on."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cascades.native import VibrationConfig, VibrationFrontEnd

RATE_HZ, FRAMES, BANDS, LOW_HZ, HIGH_HZ = 8000, 4, 32, 10, 3900
SIZE, HOP = 512, 256

pytestmark = pytest.mark.usefixtures("host_build")


def front_end(**changes: int) -> VibrationFrontEnd:
    fields = {"rate_hz": RATE_HZ, "frames": FRAMES, "bands": BANDS, "low_hz": LOW_HZ, "high_hz": HIGH_HZ} | changes
    return VibrationFrontEnd(VibrationConfig(*fields.values()))


def reference(samples: NDArray[np.int16], first_bin: list[int], frames: int = FRAMES) -> NDArray[np.float64]:
    """Rows in log2 of the mean power of 4 x windowed spectrum / SIZE, with the front end's 16 fractional bits."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SIZE) / SIZE)
    cut = np.lib.stride_tricks.sliding_window_view(samples.astype(float), SIZE)[::HOP]
    power = np.abs(np.fft.rfft((cut - cut.mean(axis=1, keepdims=True)) * window, axis=1) * 4 / SIZE) ** 2
    rows = len(cut) // frames
    mean = power[: rows * frames].reshape(rows, frames, -1).mean(axis=1)
    return np.stack([np.log2(mean[:, a:b].mean(axis=1)) + 16 for a, b in pairwise(first_bin)], axis=1)


def machine_like(seed: int, scale: float) -> NDArray[np.int16]:
    """Broadband noise with a hum and gravity."""
    rng = np.random.default_rng(seed)
    t = np.arange(8 * RATE_HZ) / RATE_HZ
    x = rng.normal(0, 1, len(t)) + np.sin(2 * np.pi * 49 * t) + 0.5 * np.sin(2 * np.pi * 1234 * t)
    return np.clip(np.round(x * scale + 2000), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("scale", [10, 300, 6000])
def test_equals_the_spectrum_in_floating_point(scale: float) -> None:
    samples, fe = machine_like(1, scale), front_end()
    rows = fe.feed(samples)
    wanted = reference(samples, fe.first_bin)[: len(rows)]
    assert rows.shape == wanted.shape
    # A quarter of a decibel: the 16-bit transform's rounding, 50 dB below a frame's peak, is what is left.
    assert np.abs(rows / 256 - wanted).max() < 0.25 / 3.01


def test_a_steady_tone_has_its_power_at_full_scale_and_at_a_few_counts() -> None:
    t = np.arange(RATE_HZ) / RATE_HZ
    band = 10
    for amplitude in (32767, 8):
        fe = front_end()
        hz = fe.first_bin[band] * RATE_HZ / SIZE  # a single bin
        row = fe.feed(np.round(amplitude * np.sin(2 * np.pi * hz * t)).astype(np.int16))[0]
        assert row.argmax() == band
        assert row[band] / 256 - 16 == pytest.approx(2 * np.log2(amplitude), abs=0.1)  # |4 * (amplitude / 2) / 2| ** 2


def test_the_largest_swing_does_not_overflow() -> None:
    fe = front_end(frames=1024, bands=1, low_hz=10, high_hz=4000)
    square = np.where(np.arange(SIZE + 1023 * HOP) // 128 % 2, 32767, -32768).astype(np.int16)
    row = fe.feed(square)
    assert row.shape == (1, 1)
    assert row[0, 0] / 256 == pytest.approx(reference(square, fe.first_bin, 1024)[0, 0], abs=0.05)


def test_gravity_is_ignored() -> None:
    samples = machine_like(2, 300)
    assert np.abs(front_end().feed(samples).astype(int) - front_end().feed(samples + np.int16(-7000))).max() <= 1


def test_a_dead_sensor_is_far_below_any_living_one() -> None:
    rows = front_end().feed(np.full(RATE_HZ, 2047, np.int16))
    assert len(rows)
    assert rows.max() <= 0
    assert front_end().feed(machine_like(3, 1)).min() > 4 * 256


def test_feeding_piece_by_piece_changes_nothing() -> None:
    samples = machine_like(4, 300)[:9000]
    whole, rng, fe, at, rows = front_end().feed(samples), np.random.default_rng(0), front_end(), 0, []
    while at < len(samples):
        size = int(rng.choice([1, 2, 255, 256, 257, 700]))
        rows.append(fe.feed(samples[at : at + size]))
        at += size
    np.testing.assert_array_equal(np.concatenate(rows), whole)


def test_rows_come_once_for_every_frames_hops() -> None:
    samples = machine_like(5, 300)
    for frames in (1, 3, 16):
        assert len(front_end(frames=frames).feed(samples)) == ((len(samples) - SIZE) // HOP + 1) // frames


@pytest.mark.parametrize(("bands", "low_hz", "high_hz"), [(1, 10, 4000), (32, 10, 3900), (64, 1, 4000), (64, 500, 3900)])
def test_every_band_has_a_bin_and_they_follow_each_other(bands: int, low_hz: int, high_hz: int) -> None:
    edges = np.array(front_end(bands=bands, low_hz=low_hz, high_hz=high_hz).first_bin)
    assert len(edges) == bands + 1
    assert edges[0] >= max(1, low_hz * SIZE // RATE_HZ)
    assert edges[-1] <= SIZE // 2
    widths = np.diff(edges)
    assert widths.min() >= 1
    wide = edges[:-1][widths > 8]  # where rounding to whole bins does not matter, edges are a constant ratio apart
    ratio = (high_hz / low_hz) ** (1 / bands)
    np.testing.assert_allclose(wide[1:] / wide[:-1], ratio, rtol=0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"rate_hz": 0},
        {"rate_hz": 2_000_000},
        {"frames": 0},
        {"frames": 1025},
        {"bands": 0},
        {"bands": 65},
        {"low_hz": 0},
        {"low_hz": 3900},
        {"high_hz": 4001},
        {"bands": 64, "low_hz": 3800},  # fewer bins than bands
    ],
)
def test_refuses_what_it_cannot_do(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="refuses"):
        front_end(**change)


def test_normalisation_floors_and_saturates() -> None:
    rng = np.random.default_rng(6)
    rows = rng.integers(-32768, 32768, (200, BANDS)).astype(np.int16)
    rows[:100] = rng.integers(-300, 300, (100, BANDS))
    config = VibrationConfig(RATE_HZ, FRAMES, BANDS, LOW_HZ, HIGH_HZ)
    offset, gain = rng.integers(-32768, 32768, BANDS), rng.integers(-32768, 32768, BANDS)
    offset[:16], gain[:16] = 7, 19
    config.offset[:BANDS], config.gain[:BANDS] = offset.tolist(), gain.tolist()
    wanted = np.clip(((rows.astype(np.int64) - offset) * gain) >> 8, -128, 127)
    np.testing.assert_array_equal(VibrationFrontEnd(config).quantize(rows), wanted)


def test_the_shipped_cascade_is_one_that_the_node_takes() -> None:
    from cascades.vibration import commission  # noqa: PLC0415 -- its constants are the cascade's

    raw = np.frombuffer((Path(commission.__file__).parent / "normalisation.bin").read_bytes(), "<i2").reshape(commission.BANDS, 2)
    fe = commission.front_end(raw[:, 0].tolist(), raw[:, 1].tolist())
    assert len(fe.first_bin) == commission.BANDS + 1
