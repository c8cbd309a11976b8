"""Writes the front ends' constant tables as C, so that a node needs no floating point to start."""

import math
import sys
from pathlib import Path

from gatewayd.core import microfrontend

FFT_SIZE = microfrontend.FFT_SIZE
LOG_SEGMENTS = 128


def rotation(phase: float) -> int:
    """e^(i phase) as a pair of int16 in a word, each part as kissfft rounds it."""
    re, im = (math.floor(0.5 + 32767 * part) & 0xFFFF for part in (math.cos(phase), math.sin(phase)))
    return re | im << 16


def fft_twiddles() -> list[int]:
    """w, w^2, w^3 for w = e^(-2 pi i k / 256), k < 64: what the last stage of a radix-4 transform asks for, in its order."""
    return [rotation(-2 * math.pi * k * power / (FFT_SIZE // 2)) for k in range(FFT_SIZE // 8) for power in (1, 2, 3)]


def fft_split_twiddles() -> list[int]:
    """-i e^(-2 pi i k / 512) for 1 <= k <= 128: they take the two interleaved real transforms apart."""
    return [rotation(-math.pi * (k / (FFT_SIZE // 2) + 0.5)) for k in range(1, FFT_SIZE // 4 + 1)]


def audio_log() -> list[int]:
    """log2(1 + x) - x over 0..1 in equal segments, 16 bits."""
    return [round((math.log2(1 + x / LOG_SEGMENTS) - x / LOG_SEGMENTS) * 65536) for x in range(LOG_SEGMENTS + 1)]


def c_array(declaration: str, values: list[int]) -> str:
    """One definition; the declaration's types and sizes are the header's, so the compiler checks them."""
    return f"const {declaration} = {{{', '.join(map(str, values))}}};\n"


def main() -> None:
    """Write the tables to the file named on the command line."""
    tables = [
        ("uint32_t fft_twiddles[]", fft_twiddles()),
        ("uint32_t fft_split_twiddles[]", fft_split_twiddles()),
        ("uint8_t audio_standard[]", list(microfrontend.encode(microfrontend.Parameters()))),
        ("uint16_t audio_log[]", audio_log()),
    ]
    text = "".join(c_array(declaration, values) for declaration, values in tables)
    Path(sys.argv[1]).write_text('/* Made by tables.py. */\n#include "tables.h"\n\n' + text, encoding="ascii")


if __name__ == "__main__":
    main()
