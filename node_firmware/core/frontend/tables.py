"""Writes the front ends' constant tables as C, so that a node needs no floating point to start.

Every value is computed as the reference implementation does at start-up, with its roundings to single precision.
"""

import math
import struct
import sys
from pathlib import Path

FFT_SIZE = 512
AUDIO_WINDOW = 480
AUDIO_CHANNELS = 40
AUDIO_BIN_HZ = 31.25  # 16 kHz / FFT_SIZE
AUDIO_LOW_HZ = 125.0
AUDIO_HIGH_MEL = 1127 * 2.4608092308044434  # 7,500 Hz by fdlibm's log1pf (newlib, glibc to 2.40): one ulp high, and two weights hang on it
PCAN_STRENGTH = 0.95
PCAN_OFFSET = 80.0
PCAN_GAIN = 1 << 21
PCAN_INPUT_SCALE = 1 << 7  # the noise estimate's fractional bits
LOG_SEGMENTS = 128


def f32(x: float) -> float:
    """Round to IEEE 754 single precision."""
    return float(struct.unpack("f", struct.pack("f", x))[0])


def q15(x: float) -> int:
    """Fixed point as kissfft rounds it."""
    return math.floor(0.5 + 32767 * x)


def pair(low: int, high: int) -> int:
    """Two int16 as a word."""
    return low & 0xFFFF | (high & 0xFFFF) << 16


def rotation(phase: float) -> int:
    """e^(i phase)."""
    return pair(q15(math.cos(phase)), q15(math.sin(phase)))


def fft_twiddles() -> list[int]:
    """w, w^2, w^3 for w = e^(-2 pi i k / 256), k < 64: what the last stage of a radix-4 transform asks for, in its order."""
    return [rotation(-2 * math.pi * k * power / (FFT_SIZE // 2)) for k in range(FFT_SIZE // 8) for power in (1, 2, 3)]


def fft_split_twiddles() -> list[int]:
    """-i e^(-2 pi i k / 512) for 1 <= k <= 128: they take the two interleaved real transforms apart."""
    return [rotation(-math.pi * (k / (FFT_SIZE // 2) + 0.5)) for k in range(1, FFT_SIZE // 4 + 1)]


def audio_window() -> list[int]:
    """Hann window, 12 bits. Single precision leaves it not quite symmetric."""
    step = f32(f32(f32(math.pi) * 2) / AUDIO_WINDOW)
    cosines = [f32(math.cos(f32(step * (i + 0.5)))) for i in range(AUDIO_WINDOW)]
    values = [math.floor(f32(f32(f32(0.5 - f32(0.5 * c)) * 4096) + 0.5)) for c in cosines]
    return [pair(low, high) for low, high in zip(values[::2], values[1::2], strict=True)]


def mel(hz: float) -> float:
    """Mel scale in single precision."""
    return f32(1127 * f32(math.log1p(f32(hz / f32(700)))))


def audio_filter_bank() -> tuple[list[int], list[int]]:
    """Triangular mel filters: the number of bins between neighbouring centres, and each bin's share, 12 bits, for the filter below it.

    The rest of the bin goes to the filter above it.
    """
    low = mel(AUDIO_LOW_HZ)
    spacing = f32(f32(f32(AUDIO_HIGH_MEL) - low) / (AUDIO_CHANNELS + 1))
    centres = [f32(low + f32(spacing * (i + 1))) for i in range(AUDIO_CHANNELS + 1)]
    widths, weights = [], []
    index = int(1.5 + AUDIO_LOW_HZ / AUDIO_BIN_HZ)
    for below, centre in zip([low, *centres], centres, strict=False):
        first = index
        while (at := mel(index * AUDIO_BIN_HZ)) <= centre:
            share = f32(f32(centre - at) / f32(centre - below))
            weights.append(math.floor(f32(f32(share * 4096) + 0.5)))
            assert math.floor(f32(f32(f32(1 - share) * 4096) + 0.5)) == 4096 - weights[-1]
            index += 1
        widths.append(index - first)
    return widths, weights


def pcan_gain(noise: int) -> int:
    """Gain at a noise estimate."""
    gain = PCAN_GAIN * f32(f32(f32(f32(noise) / PCAN_INPUT_SCALE) + PCAN_OFFSET) ** -f32(PCAN_STRENGTH))
    return int(f32(gain + 0.5))


def audio_gain() -> list[int]:
    """A parabola through three points of each octave of the noise estimate: value, linear and square term."""
    rows = [[pcan_gain(0), 0, 0], [pcan_gain(1), 0, 0]]
    for bits in range(2, 33):
        start = 1 << (bits - 1)
        end = min(2 * start, 2**32 - 1)
        y0, y1, y2 = (pcan_gain(x) for x in (start, start + start // 2, end))
        linear = 4 * (y1 - y0) - (y2 - y0)
        rows.append([y0, linear, y2 - y0 - linear])
    return [value for row in rows for value in row]


def audio_log() -> list[int]:
    """log2(1 + x) - x over 0..1 in equal segments, 16 bits."""
    return [round((math.log2(1 + x / LOG_SEGMENTS) - x / LOG_SEGMENTS) * 65536) for x in range(LOG_SEGMENTS + 1)]


def c_array(declaration: str, values: list[int]) -> str:
    """One definition; the declaration's types and sizes are the header's, so the compiler checks them."""
    return f"const {declaration} = {{{', '.join(map(str, values))}}};\n"


def main() -> None:
    """Write the tables to the file named on the command line."""
    widths, weights = audio_filter_bank()
    tables = [
        ("uint32_t fft_twiddles[]", fft_twiddles()),
        ("uint32_t fft_split_twiddles[]", fft_split_twiddles()),
        ("uint32_t audio_window[]", audio_window()),
        ("uint8_t audio_band_widths[]", widths),
        ("uint16_t audio_band_weights[]", weights),
        ("int16_t audio_gain[]", audio_gain()),
        ("uint16_t audio_log[]", audio_log()),
    ]
    text = "".join(c_array(declaration, values) for declaration, values in tables)
    Path(sys.argv[1]).write_text('/* Made by tables.py. */\n#include "tables.h"\n\n' + text, encoding="ascii")


if __name__ == "__main__":
    main()
