"""How long each model has listened: the time that the inferences between two reports of a node cover. Time is an argument."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gatewayd.core.types import CascadeVitals, Vitals

_HOUR_S = 3_600
_LONGEST_INTERVALS = 2  # between two reports; what is longer is a gap, and nobody knows what a node did in it that does not say
_LONGEST_S = 86_400.0  # that a node is believed to have listened between two reports


class Listener(NamedTuple):
    """A model on a node in an hour (since the Unix epoch)."""

    node: str
    cascade: str
    model: bytes
    hour: int


class Listened(NamedTuple):
    """How long a model listened, and from and to when (Unix time): what happened before or after is not to be counted."""

    seconds: float
    first_s: float
    last_s: float


class Listening:
    """The time listened since it was last taken, of at most `max_listeners`."""

    def __init__(self, max_listeners: int = 65_536) -> None:
        self._max_listeners = max_listeners
        self._times: dict[Listener, Listened] = {}
        self._reported_s: dict[str, float] = {}  # by node, Unix time of its newest report

    def observe(self, node: str, before: Vitals, vitals: Vitals, interval_s: int, unix_s: float) -> bool:
        """Take in a report of `node`, which reports every `interval_s`, and the one before it. Returns whether there was room for all."""
        longest_s = _LONGEST_INTERVALS * interval_s
        elapsed_s = min((vitals.t_ms - before.t_ms) / 1_000, longest_s)
        start_s = self._reported_s.get(node, unix_s - elapsed_s)
        if not unix_s - longest_s <= start_s < unix_s:  # a gap, or a clock that was set
            start_s = unix_s - elapsed_s
        if node in self._reported_s or len(self._reported_s) < self._max_listeners:
            self._reported_s[node] = unix_s
        if before.session != vitals.session or elapsed_s <= 0:
            return True
        old, room = _by_name(before), True
        for name, work in _by_name(vitals).items():
            if name in old and old[name].model == work.model and old[name].invokes < work.invokes:
                heard_s = _heard_s(old[name], work)
                room = self._add(node, work, elapsed_s if heard_s is None else heard_s, start_s, unix_s) and room
        return room

    def _add(self, node: str, work: CascadeVitals, seconds: float, start_s: float, end_s: float) -> bool:
        """Share `seconds` out to the hours from `start_s` to `end_s`."""
        for hour, first_s, last_s in _hours(start_s, end_s):
            listener = Listener(node, work.cascade, work.model, hour)
            if listener not in self._times and len(self._times) >= self._max_listeners:
                return False
            share_s = seconds * (last_s - first_s) / (end_s - start_s)
            sum_s, earliest_s, _ = self._times.get(listener, Listened(0.0, first_s, last_s))
            self._times[listener] = Listened(sum_s + share_s, min(earliest_s, first_s), last_s)
        return True

    def take(self) -> Mapping[Listener, Listened]:
        """The times, which are then forgotten here."""
        taken, self._times = self._times, {}
        return taken


def _heard_s(before: CascadeVitals, work: CascadeVitals) -> float | None:
    """By the node's own account of its sensor's input; None where it gives none."""
    if before.listened_ms is None or work.listened_ms is None:
        return None
    return min(max(0.0, (work.listened_ms - before.listened_ms) / 1_000), _LONGEST_S)


def _hours(start_s: float, end_s: float) -> Iterator[tuple[int, float, float]]:
    """The hours (since the Unix epoch) from `start_s` to `end_s`, each with the part that is in it."""
    while start_s < end_s:
        hour = int(start_s // _HOUR_S)
        until_s = min(end_s, float((hour + 1) * _HOUR_S))
        yield hour, start_s, until_s
        start_s = until_s


def _by_name(vitals: Vitals) -> dict[str, CascadeVitals]:
    """A node that reports one cascade twice has it once."""
    return {work.cascade: work for work in vitals.cascades}
