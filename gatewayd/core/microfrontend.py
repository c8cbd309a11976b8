"""The parameters of the TensorFlow Lite Micro audio front end as a node takes them: what is not integer arithmetic is done here.

Every value is computed as the reference does at start-up, with its roundings to single precision. It needs the standard library
alone, for the node's firmware is built with it too: it has the standard parameters. docs/nodelink.md has the format.
"""

import math
import struct
from itertools import pairwise
from typing import NamedTuple

RATE_HZ = 16_000
FFT_SIZE = 512  # the node's only one; the reference takes it for windows of 257 to 512 samples
MAX_CHANNELS = 64
_BIN_HZ = RATE_HZ / FFT_SIZE
_CORRECTION_BITS = 3  # log2(FFT_SIZE) - half of the weights' 12 bits
_SNR_BITS = 12
_GAINS = 3 * 33  # a parabola for each bit length of the noise
_NO_GAIN = 255
_MAX_SHIFT = 31
_MAX_SCALE_SHIFT = 11  # 2^11 ln(2^32) has 16 bits
_ONE_Q14 = 1 << 14
_HEADER = struct.Struct("<2H4B3H2B2H")


class Tuning(NamedTuple):
    """What follows the filter bank, by the reference's names; and of a feature f the model gets f * multiplier / divisor - 128."""

    smoothing_bits: int = 10
    even_smoothing: float = 0.025
    odd_smoothing: float = 0.06
    min_signal_remaining: float = 0.05
    enable_pcan: bool = True
    strength: float = 0.95
    offset: float = 80.0
    gain_bits: int = 21
    scale_shift: int = 6
    multiplier: int = 256
    divisor: int = 666


class Parameters(NamedTuple):
    """By default the standard ones: those of micro_wake_word and of pymicro-features."""

    window_ms: int = 30
    step_ms: int = 10
    channels: int = 40
    low_hz: int = 125
    high_hz: int = 7_500
    tuning: Tuning = Tuning()


class Layout(NamedTuple):
    """How samples become rows."""

    window: int  # samples
    step: int
    channels: int


def layout(parameters: Parameters) -> Layout:
    """What `check()` finds in these when they are encoded."""
    return Layout(parameters.window_ms * RATE_HZ // 1000, parameters.step_ms * RATE_HZ // 1000, parameters.channels)


def encode(parameters: Parameters) -> bytes:
    """The parameters with their tables. Raises ValueError where a node could not do them."""
    tuning = parameters.tuning
    window, step, channels = layout(parameters)
    if window > FFT_SIZE or not 1 <= channels <= MAX_CHANNELS or not 0 <= parameters.low_hz < parameters.high_hz <= RATE_HZ // 2:
        raise ValueError("window, channels or frequencies")
    least_gain_bits = _CORRECTION_BITS + _SNR_BITS
    if tuning.enable_pcan and not (
        _CORRECTION_BITS <= tuning.smoothing_bits <= _MAX_SHIFT and least_gain_bits <= tuning.gain_bits <= _MAX_SHIFT and tuning.offset > 0
    ):
        raise ValueError("PCAN's smoothing bits, gain bits or offset")
    try:
        shares = (int(f32(share) * _ONE_Q14) for share in (tuning.even_smoothing, tuning.odd_smoothing, tuning.min_signal_remaining))
        gain_shift = tuning.gain_bits - least_gain_bits if tuning.enable_pcan else _NO_GAIN
        gains = _gains(tuning) if tuning.enable_pcan else []
        first_bin, widths, weights = _filter_bank(parameters)
        rest = (tuning.scale_shift, 0, tuning.multiplier, tuning.divisor)
        header = _HEADER.pack(window, step, channels, first_bin, tuning.smoothing_bits, gain_shift, *shares, *rest)
        tables = struct.pack(f"<{window}H{len(gains)}h{len(weights)}H", *_window(window), *gains, *weights)
    except (struct.error, OverflowError) as error:
        raise ValueError(str(error)) from error
    data = header + tables + bytes(widths)
    check(data)
    return data


def check(data: bytes) -> Layout:
    """Raises ValueError for what a node's audio_parameters_read() refuses."""
    if len(data) < _HEADER.size:
        raise ValueError("too short")
    window, step, channels, first_bin, smoothing_bits, gain_shift, even, odd, _, scale_shift, zero, _, divisor = _HEADER.unpack_from(data)
    widths = data[-channels - 1 :]
    gains = 0 if gain_shift == _NO_GAIN else _GAINS
    fits = {
        "window": FFT_SIZE // 2 < window <= FFT_SIZE and window % 2 == 0,
        "step": 0 < step <= window and step % 2 == 0,
        "channels": 1 <= channels <= MAX_CHANNELS,
        "bands": first_bin >= 1 and first_bin + sum(widths) <= FFT_SIZE // 2,
        "smoothing": smoothing_bits <= _MAX_SHIFT and max(even, odd) <= _ONE_Q14,
        "gain": gain_shift <= _MAX_SHIFT or gain_shift == _NO_GAIN,
        "scale": scale_shift <= _MAX_SCALE_SHIFT and zero == 0 and divisor > 0,
        "size": len(data) == _HEADER.size + 2 * (window + gains) + 4 * sum(widths) + channels + 1,
    }
    for name, fit in fits.items():
        if not fit:
            raise ValueError(name)
    return Layout(window, step, channels)


def f32(x: float) -> float:
    """Round to IEEE 754 single precision."""
    return float(struct.unpack("f", struct.pack("f", x))[0])


def _window(size: int) -> list[int]:
    """Hann, 12 bits. Single precision leaves it not quite symmetric."""
    step = f32(f32(f32(math.pi) * 2) / size)
    cosines = [f32(math.cos(f32(step * (i + 0.5)))) for i in range(size)]
    return [math.floor(f32(f32(f32(0.5 - f32(0.5 * c)) * 4096) + 0.5)) for c in cosines]


def _filter_bank(parameters: Parameters) -> tuple[int, list[int], list[int]]:
    """Triangular mel filters: their first bin, how many lie between neighbouring centres, and each bin's shares, 12 bits.

    The first share is the filter's below the bin, the second one that above it.
    """
    low = _mel(parameters.low_hz)
    spacing = f32(f32(_mel(parameters.high_hz) - low) / (parameters.channels + 1))
    centres = [low, *(f32(low + f32(spacing * (i + 1))) for i in range(parameters.channels + 1))]
    index = first_bin = int(1.5 + parameters.low_hz / _BIN_HZ)
    widths, weights = [], []
    for below, centre in pairwise(centres):
        first = index
        while (at := _mel(index * _BIN_HZ)) <= centre:
            share = f32(f32(centre - at) / f32(centre - below))
            weights += [_q12(share), _q12(f32(1 - share))]
            index += 1
        widths.append(index - first)
    return first_bin, widths, weights


def _q12(share: float) -> int:
    return math.floor(f32(f32(share * 4096) + 0.5))


def _mel(hz: float) -> float:
    return f32(1127 * _log1p(f32(hz / f32(700))))


def _log1p(x: float) -> float:
    """For x >= 0 as fdlibm's log1pf, which C libraries of microcontrollers have: not always the nearest single."""
    k, f, c = 0, x, 0.0
    if x >= f32(0.41421357):
        u = f32(1 + x)
        k = math.frexp(u)[1] - 1
        c = f32(f32(1 - f32(u - x) if k > 0 else x - f32(u - 1)) / u)
        u = math.ldexp(u, -k)
        if u >= f32(1.4142135):
            u, k = u / 2, k + 1
        f = u - 1
    half_square = f32(f32(0.5 * f) * f)
    s = f32(f / f32(2 + f))
    z = f32(s * s)
    series = 0.0
    for coefficient in (0.14798198640, 0.15313838422, 0.18183572590, 0.22222198546, 0.28571429849, 0.40000000596, 0.66666668653):
        series = f32(z * f32(f32(coefficient) + series))
    series = f32(s * f32(half_square + series))
    if k == 0:
        return f32(f - f32(half_square - series))
    c = f32(f32(k * f32(9.0580006145e-06)) + c)
    return f32(f32(k * f32(0.69313812256)) - f32(f32(half_square - f32(series + c)) - f))


def _gains(tuning: Tuning) -> list[int]:
    """A parabola through three points of each octave of the noise estimate: value, linear and square term."""
    rows = [[_gain(tuning, 0), 0, 0], [_gain(tuning, 1), 0, 0]]
    for bits in range(2, 33):
        start = 1 << (bits - 1)
        y0, y1, y2 = (_gain(tuning, x) for x in (start, start + start // 2, min(2 * start, 2**32 - 1)))
        linear = 4 * (y1 - y0) - (y2 - y0)
        rows.append([y0, _int16(linear), _int16(y2 - y0 - linear)])
    return [value for row in rows for value in row]


def _gain(tuning: Tuning, noise: int) -> int:
    base = f32(f32(f32(noise) / (1 << (tuning.smoothing_bits - _CORRECTION_BITS))) + f32(tuning.offset))
    gain = f32((1 << tuning.gain_bits) * f32(base ** -f32(tuning.strength)))
    return min(int(f32(gain + 0.5)), 32767)


def _int16(x: int) -> int:
    return (x + 0x8000 & 0xFFFF) - 0x8000
