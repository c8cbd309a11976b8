"""Power that fails at any moment of an update, and the button that resets: a board comes back with a model that was verified.

`QEMU_KILLS` is how often it fails, `QEMU_SEED` when.
"""

import asyncio
import contextlib
import os
import random
import re
import time
from collections import Counter

import pytest

from gatewayd.core import image as images
from gatewayd.core.types import Info, SlotState, Vitals
from gatewayd.errors import GatewaydError

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("QEMU_KILLS", "20"))
SEED = int(os.environ.get("QEMU_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)


async def test_the_power_fails_at_random_moments_of_updates(site):
    place = site("kitchen")
    print(f"{KILLS} kills, QEMU_SEED={SEED}")
    async with place.broker(), place.hearing(), place.board("kitchen") as board:
        print(await Campaign(place, board, random.Random(SEED)).run(KILLS))


class Campaign:
    """Two images take turns on one board, whose power fails while one comes. Session numbers count the board's lives."""

    def __init__(self, place, board, rng):
        self.place, self.board, self.rng = place, board, rng
        self.files = {images.parse(data).sha256: data for data in (place.models.old, place.models.new)}
        self.runs, self.comes = self.files
        self.session, self.seen = 1, Counter()

    async def run(self, kills):
        await self.back()
        seconds = min([await self.whole() for _ in range(4)])
        print(f"an update takes {seconds:.3f} s")
        for _ in range(kills):
            update = asyncio.create_task(self.place.update("kitchen", self.files[self.comes]))
            await asyncio.wait((update,), timeout=self.rng.uniform(0, seconds))
            await self.board.kill()
            await self.board.start()
            update.cancel()
            with contextlib.suppress(asyncio.CancelledError, GatewaydError):
                await update
            self.session += 1
            await self.back()
            self.seen[self.state] += 1
        await self.whole()
        return dict(self.seen)

    async def whole(self):
        """An update that nothing disturbs; the seconds that it takes."""
        began = time.monotonic()
        await self.place.update("kitchen", self.files[self.comes])
        seconds = time.monotonic() - began
        await self.place.hears("kitchen", Info, lambda info: self.confirmed(info) == [self.comes])
        self.runs, self.comes = self.comes, self.runs
        return seconds

    async def back(self):
        """It is online, what it runs is whole in its flash, and it says so."""
        info = await self.place.ready("kitchen", self.session)
        (runs,) = self.confirmed(info)
        assert runs in self.files, info
        assert self.files[runs] in self.board.flash.read_bytes()
        vitals = await self.place.hears("kitchen", Vitals, lambda vitals: vitals.session == self.session)
        assert [work.model for work in vitals.cascades] == [runs[:8]], info
        other = next(slot for slot in info.slots if slot.sha256 != runs)
        self.seen[f"{other.state.value} {other.rejected or ''}".strip()] += 1
        if runs == self.comes:
            self.runs, self.comes = self.comes, self.runs
            self.seen["done"] += 1

    @staticmethod
    def confirmed(info):
        return [slot.sha256 for slot in info.slots if slot.state is SlotState.CONFIRMED]


async def test_a_reset_takes_less_than_a_second(site):
    """By the board's own clock, from its start to its birth at the broker; a busy machine makes some slow, and none fast."""
    place = site("kitchen")
    times_ms = []
    async with place.broker(), place.hearing(), place.board("kitchen") as board:
        await board.until_said("] online")
        for session in range(2, 12):
            began = time.monotonic()
            await board.reset()
            await place.ready("kitchen", session)
            await board.until_said("] online")
            times_ms.append(int(re.search(r"\[(\d+)\] online", board.said())[1]))
            print(f"online {times_ms[-1]} ms after the reset; {time.monotonic() - began:.2f} s on the wall")
    assert min(times_ms) < 1_000
