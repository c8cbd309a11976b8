"""Frames on the line to a radio chip: whole, in pieces, damaged."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.demo import line

frames = st.builds(
    line.Frame,
    st.integers(0, 255),
    st.integers(0, 255),
    st.one_of(st.binary(max_size=40), st.integers(0, line.MAX_PAYLOAD).map(lambda n: b"\x01" * n)),
)


@given(st.lists(frames, max_size=4), st.integers(1, 700))
def test_frames_in_pieces(sent, piece):
    stream = b"".join(map(line.encode, sent))
    reader = line.Reader()
    heard = [frame for at in range(0, len(stream), piece) for frame in reader.feed(stream[at : at + piece])]
    assert (heard, reader.dropped) == (sent, 0)


@given(frames)
def test_a_frame_has_one_zero_byte_and_that_is_its_end(frame):
    assert line.encode(frame).index(0) == len(line.encode(frame)) - 1


def test_as_the_page_says():
    crc = zlib.crc32(b"\x86\x00\x03").to_bytes(4, "little")
    assert 0 not in crc
    assert line.encode(line.Frame(0x86, 0, b"\x03")) == b"\x02\x86\x06\x03" + crc + b"\0"


@given(frames, st.integers(0), st.integers(1, 255))
def test_damage_is_dropped_and_the_next_frame_is_not(frame, where, change):
    damaged = bytearray(line.encode(frame))
    damaged[where % len(damaged)] ^= change
    reader = line.Reader()
    heard = [*reader.feed(bytes(damaged) + b"\0"), *reader.feed(line.encode(frame))]
    assert heard == [frame]
    assert reader.dropped >= 1


@given(st.binary(max_size=1_500))
def test_anything(data):
    reader = line.Reader()
    assert not [frame for frame in reader.feed(data + b"\0") if line.encode(frame) not in data + b"\0"]


def test_a_line_without_an_end_does_not_grow():
    reader = line.Reader()
    for _ in range(100):
        assert not list(reader.feed(b"\x55" * 1_000))
    assert not list(reader.feed(b"\0"))
    assert reader.dropped == 1
    frame = line.Frame(1, 2, b"3")
    assert list(reader.feed(line.encode(frame))) == [frame]
