"""Samples from a window, as the larger models take them."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from gatewayd.core.types import Window
from gatewayd.errors import DecodeError

ADPCM_BLOCK_BYTES: Final = 256
ADPCM_BLOCK_SAMPLES: Final = 505

_HEADER_BYTES: Final = 4
STEPS: Final = np.array(
    [
        *(7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19, 21, 23, 25, 28, 31, 34, 37, 41, 45, 50, 55, 60, 66, 73, 80, 88, 97, 107, 118),
        *(130, 143, 157, 173, 190, 209, 230, 253, 279, 307, 337, 371, 408, 449, 494, 544, 598, 658, 724, 796, 876, 963, 1060, 1166),
        *(1282, 1411, 1552, 1707, 1878, 2066, 2272, 2499, 2749, 3024, 3327, 3660, 4026, 4428, 4871, 5358, 5894, 6484, 7132, 7845),
        *(8630, 9493, 10442, 11487, 12635, 13899, 15289, 16818, 18500, 20350, 22385, 24623, 27086, 29794, 32767),
    ]
)
_LAST_STEP: Final = len(STEPS) - 1
ADAPT: Final = np.array([-1, -1, -1, -1, 2, 4, 6, 8] * 2)
_CODES: Final = np.arange(16)
# What a code adds to the prediction at each step, [step, code]: the sum of the shifted steps that its bits name.
_DELTAS: Final = np.where(_CODES & 8, -1, 1) * sum(
    (STEPS[:, None] >> shift) * (_CODES >> (2 - shift) & 1 if shift < 3 else 1)  # noqa: PLR2004 - the last shift rounds
    for shift in range(4)
)


def samples(window: Window) -> npt.NDArray[np.int16]:
    """Decode kinds `pcm16`, `vibration` and `adpcm` to int16 of shape [samples], or [samples, channels].

    Raises DecodeError where the shape is not what the data holds.
    """
    if window.kind == "adpcm":
        if window.channels != 1 or window.shape[1:] != (ADPCM_BLOCK_BYTES,) or len(window.data) != window.shape[0] * ADPCM_BLOCK_BYTES:
            raise _lie(window)
        return _adpcm(np.frombuffer(window.data, np.uint8).reshape(-1, ADPCM_BLOCK_BYTES))
    if window.kind not in {"pcm16", "vibration"}:
        raise DecodeError("window", f"no samples in a window of kind {window.kind}")
    frames = (window.shape[0],) if window.channels == 1 else (window.shape[0], window.channels)
    if window.shape not in {frames, (window.shape[0], window.channels)} or len(window.data) != 2 * math.prod(frames):
        raise _lie(window)
    return np.frombuffer(window.data, "<i2").astype(np.int16, copy=False).reshape(frames)


def _lie(window: Window) -> DecodeError:
    return DecodeError("window", f"{window.kind} of {window.channels} channels: {len(window.data)} bytes are not {list(window.shape)}")


def _adpcm(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """All blocks at once, one code of each at a time."""
    predictor = blocks[:, :2].copy().view("<i2")[:, 0].astype(np.int64)
    index = blocks[:, 2].astype(np.int64)
    if (index > _LAST_STEP).any():
        raise DecodeError("window", f"ADPCM step index {index.max()} is over {_LAST_STEP}")
    codes = np.stack([blocks[:, _HEADER_BYTES:] & 15, blocks[:, _HEADER_BYTES:] >> 4], axis=2).reshape(len(blocks), ADPCM_BLOCK_SAMPLES - 1)
    out = np.empty((len(blocks), ADPCM_BLOCK_SAMPLES), np.int16)
    out[:, 0] = predictor
    for at, code in enumerate(codes.T, start=1):
        predictor = np.clip(predictor + _DELTAS[index, code], -32768, 32767)
        index = np.clip(index + ADAPT[code], 0, _LAST_STEP)
        out[:, at] = predictor
    return out.reshape(-1)
