"""How long each model has listened: the time that the inferences between two reports of a node cover. Time is an argument."""

from collections.abc import Mapping
from typing import NamedTuple

from gatewayd.core.types import CascadeVitals, Vitals

_HOUR_S = 3_600
_LONGEST_INTERVALS = 2  # between two reports; what is longer is a gap, and nobody knows what the node did in it


class Listener(NamedTuple):
    """A model on a node in an hour (since the Unix epoch)."""

    node: str
    cascade: str
    model: bytes
    hour: int


class Listening:
    """Seconds listened since they were last taken, of at most `max_listeners`."""

    def __init__(self, max_listeners: int = 65_536) -> None:
        self._max_listeners = max_listeners
        self._seconds: dict[Listener, float] = {}

    def observe(self, node: str, before: Vitals, vitals: Vitals, interval_s: int, unix_s: float) -> bool:
        """Take in a report of `node`, which reports every `interval_s`, and the one before it. Returns whether there was room for all."""
        if before.session != vitals.session:
            return True
        elapsed_s = min((vitals.t_ms - before.t_ms) / 1_000, _LONGEST_INTERVALS * interval_s)
        old, room = _by_name(before), True
        for name, work in _by_name(vitals).items():
            if name in old and old[name].model == work.model and old[name].invokes < work.invokes:
                room = self._add(node, work, unix_s - elapsed_s, unix_s) and room
        return room

    def _add(self, node: str, work: CascadeVitals, start_s: float, end_s: float) -> bool:
        """Share the time from `start_s` to `end_s` out to the hours that it touches."""
        while start_s < end_s:
            hour = int(start_s // _HOUR_S)
            until_s = min(end_s, float((hour + 1) * _HOUR_S))
            listener = Listener(node, work.cascade, work.model, hour)
            if listener not in self._seconds and len(self._seconds) >= self._max_listeners:
                return False
            self._seconds[listener] = self._seconds.get(listener, 0.0) + until_s - start_s
            start_s = until_s
        return True

    def take(self) -> Mapping[Listener, float]:
        """The seconds, which are then forgotten here."""
        taken, self._seconds = self._seconds, {}
        return taken


def _by_name(vitals: Vitals) -> dict[str, CascadeVitals]:
    """A node that reports one cascade twice has it once."""
    return {work.cascade: work for work in vitals.cascades}
