"""supervise: what breaks is run again after growing pauses, a bug is not."""

import asyncio

import pytest

from gatewayd import supervise as module
from gatewayd.errors import TransportError
from gatewayd.supervise import FIRST_PAUSE_S, LONGEST_PAUSE_S, supervise


class Clock:
    """Stands in for time.monotonic and asyncio.sleep: time passes only where somebody says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.pauses = []
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.asyncio, "sleep", self.sleep)
        monkeypatch.setattr(module.random, "uniform", lambda _low, high: high)

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


async def test_a_broken_link_is_run_again_after_growing_pauses_until_a_bug_ends_it(monkeypatch):
    clock = Clock(monkeypatch)
    restarts = []
    runs = 0

    async def run():
        nonlocal runs
        runs += 1
        if runs == 10:
            clock.now += 60  # stood for a while: the next pause is short again
        if runs == 12:
            raise ZeroDivisionError
        if runs % 2:
            raise TransportError("link is down")

    with pytest.raises(ZeroDivisionError):
        await supervise("link", run, lambda: restarts.append(runs))
    assert restarts == list(range(1, 12))
    doubled = [min(FIRST_PAUSE_S * 2**n, LONGEST_PAUSE_S) for n in range(9)]
    assert clock.pauses == [*doubled, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]


def test_pauses_are_spread(monkeypatch):
    low, high = [], []
    monkeypatch.setattr(module.random, "uniform", lambda a, b: low.append(a) or high.append(b) or b)

    async def sleep(_seconds):
        raise asyncio.CancelledError

    async def run():
        raise TransportError("down")

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(supervise("link", run))
    assert (low, high) == ([0.5], [1.0])


async def test_it_ends_when_cancelled():
    started = asyncio.Event()

    async def run():
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(supervise("link", run))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
