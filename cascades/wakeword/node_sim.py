"""The node in Python, from the packages that are its oracles: audio front end, quantisation, model and decision rule."""

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from pymicro_features import MicroFrontend

from cascades.wakeword.speech import RATE_HZ, Samples
from gatewayd.core.types import Event, Reason, Window, WindowKind
from gatewayd.escalators.audio import ADAPT, ADPCM_BLOCK_BYTES, ADPCM_BLOCK_SAMPLES, STEPS

STEP = 160  # samples, 10 ms


def features(samples: Samples) -> NDArray[np.int8]:
    """Feature rows [n, 40] as the node's front end makes and quantises them."""
    front_end, data = MicroFrontend(), samples.astype("<i2").tobytes()
    steps = (data[start : start + 2 * STEP] for start in range(0, len(data) - 2 * STEP + 1, 2 * STEP))
    rows = [row for step in steps if (row := front_end.process_samples(step).features)]
    raw = np.rint(np.array(rows, float).reshape(-1, 40) * 25.6).astype(np.int64)
    return np.clip((raw * 256 + 333) // 666 - 128, -128, 127).astype(np.int8)


class Node:
    """A streaming wake-word model as a node runs it."""

    def __init__(self, model: bytes) -> None:
        """`model` is a `.tflite`."""
        self._content = model

    def trace(self, samples: Samples) -> NDArray[np.uint8]:
        """The model's probability, 0 to 255, after each of its strides."""
        net = Interpreter(model_content=self._content, num_threads=1)  # a new one: its state starts at zero
        net.allocate_tensors()
        source, sink = net.get_input_details()[0], net.get_output_details()[0]["index"]
        stride = source["shape"][1]
        rows = features(samples)
        out = np.zeros(len(rows) // stride, np.uint8)
        for n in range(len(out)):
            net.set_tensor(source["index"], rows[None, n * stride : (n + 1) * stride])
            net.invoke()
            out[n] = net.get_tensor(sink).item()
        return out


def means(trace: NDArray[np.uint8], window: int) -> NDArray[np.float64]:
    """The mean of the last `window` probabilities after each stride, 0 to 1; zero until there are so many."""
    total = np.convolve(trace.astype(float), np.ones(window))[: len(trace)]
    total[: window - 1] = 0
    return total / window / 255


def triggers(trace: NDArray[np.uint8], cutoff: float, window: int, hold_off_ms: int = 2_000, stride_ms: int = 30) -> list[int]:
    """The strides at which rule `average` fires: not again before the hold-off is over and the sum has fallen to the cutoff."""
    fires, held, free_at_ms = [], False, 0
    for n, above in enumerate(means(trace, window) * 255 * window > int(cutoff * 255) * window + 0.5):
        if held:
            held = above or n * stride_ms < free_at_ms
        elif above:
            fires.append(n)
            held, free_at_ms = True, n * stride_ms + hold_off_ms
    return fires


def clip_at(samples: Samples, stride: int, clip_ms: int, stride_ms: int = 30) -> Samples:
    """The `clip_ms` before the end of a stride, in whole ADPCM blocks, as a node sends them; silence where it had not yet started."""
    end = (stride + 1) * stride_ms * 16 // ADPCM_BLOCK_SAMPLES * ADPCM_BLOCK_SAMPLES
    count = clip_ms * 16 // ADPCM_BLOCK_SAMPLES * ADPCM_BLOCK_SAMPLES
    return np.pad(samples[:end], (max(count - end, 0), 0))[-count:]


def event(blocks: NDArray[np.uint8], reason: Reason = Reason.TRIGGER) -> Event:
    """The event that carries a clip of [blocks, 256] bytes of ADPCM."""
    window = Window(WindowKind.ADPCM, RATE_HZ, 1, blocks.shape, blocks.tobytes())
    return Event(0, 1, "wakeword", bytes(8), 0.5, 0, 0, reason, window)


def adpcm(clips: Samples) -> tuple[NDArray[np.uint8], Samples]:
    """IMA ADPCM of [clips, blocks * 505] samples: [clips, blocks, 256] bytes, and the samples that a decoder gets from them."""
    count, length = clips.shape
    said = clips.reshape(count, -1, ADPCM_BLOCK_SAMPLES).astype(np.int64)
    heard, codes = np.empty_like(said), np.zeros((count, said.shape[1], ADPCM_BLOCK_SAMPLES - 1), np.uint8)
    data = np.zeros((count, said.shape[1], ADPCM_BLOCK_BYTES), np.uint8)
    index: NDArray[Any] = np.zeros(count, np.int64)
    for b in range(said.shape[1]):
        predictor = heard[:, b, 0] = said[:, b, 0]
        data[:, b, 0], data[:, b, 1], data[:, b, 2] = predictor & 255, predictor >> 8 & 255, index
        for n in range(1, ADPCM_BLOCK_SAMPLES):
            step = STEPS[index]
            difference = said[:, b, n] - predictor
            rest, delta, code = np.abs(difference), step >> 3, np.zeros(count, np.int64)
            for shift, bit in enumerate((4, 2, 1)):
                part = step >> shift
                on = rest >= part
                code, rest, delta = code + bit * on, rest - part * on, delta + part * on
            predictor = heard[:, b, n] = np.clip(predictor + np.where(difference < 0, -delta, delta), -32768, 32767)
            codes[:, b, n - 1] = code + 8 * (difference < 0)
            index = np.clip(index + ADAPT[code], 0, len(STEPS) - 1)
    data[..., 4:] = codes[..., ::2] | codes[..., 1::2] << 4
    return data, heard.reshape(count, length).astype(np.int16)
