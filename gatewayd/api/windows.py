"""A window as numbers to be plotted: dequantised, and thinned so that its peaks stay."""

import math

import numpy as np
import numpy.typing as npt

from gatewayd.api.schemas import Series
from gatewayd.core.types import Window, WindowKind
from gatewayd.errors import DecodeError
from gatewayd.escalators import audio

Array = npt.NDArray[np.float64]
_SAMPLES = frozenset({WindowKind.PCM16, WindowKind.ADPCM, WindowKind.VIBRATION})
_PICTURES = frozenset({WindowKind.FEATURES, WindowKind.GRAY8, WindowKind.RGB8})
_MOST_ROWS = 512  # of a picture
_AXES = "xyz"


def series_of(window: Window, points: int) -> Series:
    """The window; signals with at most about that many values in each channel. Raises DecodeError where it is not what it says."""
    if window.kind in _SAMPLES:
        return _signal(window, audio.samples(window).astype(np.float64), points)
    values = _elements(window)
    if window.kind in _PICTURES:
        rows = values.reshape(len(values), -1)[:_MOST_ROWS] if values.ndim > 1 else values[None, :]
        return Series(kind=window.kind, rate_hz=0, names=[str(n) for n in range(len(rows))], values=rows.round(4).tolist(), every=1)
    return _signal(window, values, points)


def _signal(window: Window, values: Array, points: int) -> Series:
    channels = values.reshape(len(values), -1).T
    every = -(-channels.shape[1] // points) or 1
    thin = [_thinned(channel, every) for channel in channels]
    names = [*_AXES] if window.kind == WindowKind.VIBRATION and len(channels) == len(_AXES) else [str(n + 1) for n in range(len(channels))]
    return Series(kind=window.kind, rate_hz=window.rate_hz, names=names, values=[one.round(4).tolist() for one in thin], every=every)


def _thinned(channel: Array, every: int) -> Array:
    """A value for each so many samples: of two such pieces together the least and the greatest, in their order."""
    if every == 1:
        return channel
    pieces = np.pad(channel, (0, -len(channel) % (2 * every)), mode="edge").reshape(-1, 2 * every)
    at = np.sort(np.stack([pieces.argmin(axis=1), pieces.argmax(axis=1)], axis=1), axis=1)
    return np.take_along_axis(pieces, at, axis=1).reshape(-1)


def _elements(window: Window) -> Array:
    """The elements in the window's shape, dequantised. Their width is what the data has room for."""
    count = math.prod(window.shape)
    width = len(window.data) // count if count else 0
    dtypes = {1: "<u1" if window.kind in (WindowKind.GRAY8, WindowKind.RGB8) else "<i1", 2: "<i2", 4: "<f4"}
    if width not in dtypes or width * count != len(window.data):
        raise DecodeError("window", f"{window.kind}: {len(window.data)} bytes are not {[*window.shape]}")
    values = np.frombuffer(window.data, np.dtype(dtypes[width])).astype(np.float64).reshape(window.shape)
    if window.scale is not None:
        values = (values - (window.zero_point or 0)) * window.scale
    return np.nan_to_num(values)
