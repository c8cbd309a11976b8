"""What nodes advertise, and what their silence means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.core.beacon import Beacon, ScanClock, Sightings, build, crc_of, parse
from gatewayd.errors import DecodeError

BEACONS = st.builds(
    Beacon,
    session_low=st.integers(0, 255),
    crc=st.integers(0, 2**32 - 1),
    wants=st.booleans(),
    provisioned=st.booleans(),
    mqtt=st.booleans(),
    counter=st.integers(0, 255),
    battery=st.none() | st.integers(0, 100).map(lambda percent: percent / 100),
    model=st.binary(min_size=2, max_size=2),
)


@given(BEACONS)
def test_what_is_built_is_parsed(beacon: Beacon) -> None:
    assert parse(build(beacon)) == beacon


def test_the_bytes_are_those_of_the_contract() -> None:
    beacon = Beacon(session_low=0x34, crc=crc_of("kitchen-1"), wants=True, mqtt=True, counter=7, battery=0.5, model=b"\xab\xcd")
    assert build(beacon).hex() == "1534" + "07" + "32" + "abcd" + crc_of("kitchen-1").to_bytes(4, "little").hex()
    assert crc_of("123456789") == 0xCBF43926  # the check value of CRC-32


@given(st.binary(max_size=31))
def test_anything_at_all_is_parsed_or_refused(data: bytes) -> None:
    try:
        assert build(parse(data))[1:] == data[1:]
    except DecodeError as refused:
        assert refused.reason == "beacon"


@pytest.mark.parametrize("data", ["", "10" * 9, "10" * 11, "20" + "00" * 9, "10000065" + "00" * 6])
def test_what_is_no_beacon(data: str) -> None:
    with pytest.raises(DecodeError):
        parse(bytes.fromhex(data))


def test_the_clock_stands_while_the_scanner_does() -> None:
    clock = ScanClock()
    assert clock.read(1_000) == 0
    clock.start(1_000)
    assert clock.read(31_000) == 30_000  # it has just begun: believed
    assert clock.read(99_000) == 30_000  # it hears nothing: perhaps it is dead
    clock.hear(99_500)
    assert clock.read(100_000) == 98_500  # it was not
    clock.stop(100_000)
    assert clock.read(200_000) == 98_500
    clock.start(200_000)
    assert clock.read(201_000) == 99_500


def test_the_longest_of_the_last_gaps_and_a_grace() -> None:
    sightings = Sightings(0)
    now_ms = 0
    for gap_ms in [20_000] + [1_000] * 15:
        now_ms += gap_ms
        sightings.hear(now_ms)
    assert not sightings.silent(now_ms + 25_000)
    assert sightings.silent(now_ms + 25_001)
    now_ms += 1_000
    sightings.hear(now_ms)  # the long gap is the seventeenth by now
    assert sightings.silent(now_ms + 6_001)
    assert not sightings.silent(now_ms + 6_000)


def test_a_node_of_which_little_is_known_may_take_as_long_as_the_contract_allows() -> None:
    sightings = Sightings(0)
    sightings.hear(100)
    assert not sightings.silent(13_100)
    assert sightings.silent(13_101)


def test_a_connection_is_no_gap() -> None:
    sightings = Sightings(0)
    for at_ms in range(1_000, 17_000, 1_000):
        sightings.hear(at_ms)
    sightings.rest(500_000)
    assert not sightings.silent(506_000)
    sightings.hear(501_000)
    assert sightings.silent(507_001)
