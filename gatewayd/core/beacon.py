"""What a node advertises over Bluetooth LE (docs/nodelink.md, "Advertising"), and when its silence means that it is gone."""

import struct
import zlib
from collections import deque
from typing import NamedTuple

from gatewayd.errors import DecodeError

SERVICE_UUID = "10c492ca-9dfe-4994-9520-c4e06db04166"
_VERSION = 1
_BYTES = struct.Struct("<BBBB2sI")
_WANTS, _UNPROVISIONED, _MQTT = 1, 2, 4
_UNKNOWN_BATTERY, _MOST_BATTERY = 255, 100
_GAPS = 16
_GRACE_MS = 5_000
_SLOWEST_MS = 8_000  # that a beacon may take to change; a passive scanner hears nothing else
_FRESH_MS = 30_000


class Beacon(NamedTuple):
    """The service data of one advertisement."""

    session_low: int  # the low byte
    crc: int  # of the node's id
    wants: bool = False  # something waits to be said
    provisioned: bool = True
    mqtt: bool = False  # it is connected to a broker as well
    counter: int = 0
    battery: float | None = None  # 0 to 1
    model: bytes = bytes(2)  # of the newest confirmed one: the beginning of its SHA-256


def parse(data: bytes) -> Beacon:
    """Read service data. Raises DecodeError."""
    if len(data) != _BYTES.size:
        raise DecodeError("beacon", f"{len(data)} bytes")
    head, session_low, counter, battery, model, crc = _BYTES.unpack(data)
    if head >> 4 != _VERSION:
        raise DecodeError("beacon", f"version {head >> 4}")
    if _MOST_BATTERY < battery < _UNKNOWN_BATTERY:
        raise DecodeError("beacon", f"battery {battery} %")
    return Beacon(
        session_low=session_low,
        crc=crc,
        wants=bool(head & _WANTS),
        provisioned=not head & _UNPROVISIONED,
        mqtt=bool(head & _MQTT),
        counter=counter,
        battery=None if battery == _UNKNOWN_BATTERY else battery / 100,
        model=model,
    )


def build(beacon: Beacon) -> bytes:
    """The service data of `beacon`."""
    flags = _WANTS * beacon.wants | _UNPROVISIONED * (not beacon.provisioned) | _MQTT * beacon.mqtt
    battery = _UNKNOWN_BATTERY if beacon.battery is None else round(beacon.battery * 100)
    return _BYTES.pack(_VERSION << 4 | flags, beacon.session_low, beacon.counter, battery, beacon.model, beacon.crc)


def crc_of(node: str) -> int:
    """By which a beacon tells whose it is."""
    return zlib.crc32(node.encode())


class ScanClock:
    """How long a scanner has been at work, in ms. It stands while the scanner is off, and from the last that was heard: a scanner that
    hears nothing at all may be dead without a word. One that has just begun is believed for a while.
    """

    def __init__(self) -> None:
        self._before_ms = 0
        self._since_ms: int | None = None
        self._heard_ms = 0

    def start(self, now_ms: int) -> None:
        """The scanner begins."""
        self._since_ms = self._heard_ms = now_ms

    def hear(self, now_ms: int) -> None:
        """It has heard something, whoever it was."""
        self._heard_ms = now_ms

    def stop(self, now_ms: int) -> None:
        """It pauses, or is found dead."""
        self._before_ms, self._since_ms = self.read(now_ms), None

    def read(self, now_ms: int) -> int:
        """The time at work."""
        if self._since_ms is None:
            return self._before_ms
        return self._before_ms + max(self._heard_ms, min(now_ms, self._since_ms + _FRESH_MS)) - self._since_ms


class Sightings:
    """When a node was heard, on a ScanClock: its own longest gaps tell how long it may be silent."""

    def __init__(self, clock_ms: int) -> None:
        self._last_ms = clock_ms
        self._gaps_ms: deque[int] = deque(maxlen=_GAPS)

    def hear(self, clock_ms: int) -> None:
        """It was heard."""
        self._gaps_ms.append(clock_ms - self._last_ms)
        self._last_ms = clock_ms

    def rest(self, clock_ms: int) -> None:
        """It is there but need not advertise: a connection has ended."""
        self._last_ms = clock_ms

    def silent(self, clock_ms: int) -> bool:
        """Whether it has been silent for too long."""
        longest_ms = max(self._gaps_ms, default=0)
        if len(self._gaps_ms) < _GAPS:
            longest_ms = max(longest_ms, _SLOWEST_MS)
        return clock_ms - self._last_ms > longest_ms + _GRACE_MS
