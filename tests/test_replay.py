"""transports/replay: what was recorded comes back, whole, cut and damaged."""

import asyncio
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.errors import TransportError
from gatewayd.transports import replay
from gatewayd.transports.replay import ReplayTransport, read_frames, write_frame

FRAMES = [(0, "n1", "state", b"a"), (5, "n2", "event", bytes(70_000)), (5, "n1", "event", b"")]


def recording(frames=FRAMES):
    file = io.BytesIO()
    for frame in frames:
        write_frame(file, *frame)
    return file.getvalue()


@given(st.lists(st.tuples(st.integers(0, 2**40), st.text(max_size=9), st.text(max_size=9), st.binary(max_size=300)), max_size=9))
def test_a_recording_comes_back(frames):
    assert list(read_frames(recording(frames))) == frames


def test_a_recording_that_was_cut_gives_what_is_whole_and_says_where_it_ends():
    whole = recording(FRAMES[:1])
    for cut in range(1, len(whole)):
        frames = read_frames(whole + whole[:cut])
        assert next(frames) == FRAMES[0]
        with pytest.raises(TransportError, match=f"damaged at byte {len(whole)}"):
            next(frames)


@given(st.binary(max_size=60))
def test_whatever_a_file_holds_is_frames_or_an_error(data):
    try:
        for at_ms, node, tail, payload in read_frames(data):
            assert (type(at_ms), type(node), type(tail), type(payload)) == (int, str, str, bytes)
    except TransportError:
        pass


async def test_frames_come_in_order_and_in_bounded_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "_BATCH", 2)
    file = tmp_path / "day.cbor"
    file.write_bytes(recording())
    transport = ReplayTransport(file, speed=0)
    batches = [batch async for batch in transport.frames()]
    assert [len(batch) for batch in batches] == [2, 1]
    frames = [frame for batch in batches for frame in batch]
    assert [(frame.node, frame.tail, frame.payload) for frame in frames] == [frame[1:] for frame in FRAMES]
    for frame in frames:
        frame.done()
    assert transport.acknowledged == 3
    transport.send("n1", "verdict", b"x")
    assert transport.sent == [("n1", "verdict", b"x")]


async def test_it_keeps_the_recordings_pace(tmp_path, monkeypatch):
    file = tmp_path / "day.cbor"
    file.write_bytes(recording([(at_ms, "n1", "state", b"") for at_ms in (0, 10_000, 10_000, 30_000)]))
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: sum(slept))
    monkeypatch.setattr(replay.asyncio, "sleep", sleep)
    batches = [len(batch) async for batch in ReplayTransport(file, speed=10.0).frames()]
    assert batches == [1, 2, 1]
    assert slept == pytest.approx([1.0, 2.0])


async def test_it_runs_until_it_is_cancelled(tmp_path):
    task = asyncio.create_task(ReplayTransport(tmp_path / "none").run())
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
