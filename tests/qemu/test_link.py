"""The network cable is pulled and plugged in again."""

import asyncio
import contextlib
import random

import pytest
from live import until

from gatewayd.core.types import NodeState, State
from gatewayd.errors import TransportError

pytestmark = pytest.mark.slow
CUTS = 4
ATTEMPTS = 10  # of what a rollout would try again for ever


async def test_cuts_in_an_upload(site):
    """Each time it goes on where it was, in the same life of the board."""
    place, rng = site("kitchen"), random.Random(4)
    image = place.models.new
    async with place.broker(), place.hearing(), place.board("kitchen") as board:
        await place.ready("kitchen", 1)
        reached = 0
        for part in sorted(rng.random() for _ in range(CUTS)):
            cut, offsets = asyncio.Event(), []

            async def note(offset, limit=part * len(image), cut=cut, offsets=offsets):
                offsets.append(offset)
                if offset >= limit:
                    cut.set()

            update = asyncio.create_task(insist(lambda note=note: place.update("kitchen", image, note)))
            await cut.wait()
            await board.link(up=False)
            await abandon(update)
            assert offsets[0] >= reached
            assert offsets == sorted(offsets)
            reached = offsets[-1]
            await board.link(up=True)
        await insist(lambda: place.update("kitchen", image))
        assert board.lives() == 1


async def test_a_connection_that_dies_in_a_cut(site):
    """The broker drops the board, which cannot know; when it has its cable back it comes back."""
    place = site("kitchen")
    async with place.broker() as broker, place.hearing(), place.board("kitchen") as board:
        for _ in range(2):
            await place.ready("kitchen", 1)
            await board.link(up=False)
            usurper = broker.node("kitchen", place.keys["kitchen"])
            assert await broker.client("mosquitto_pub", "-t", "nodelink/1/up/kitchen/x", "-n", login=usurper) == (0, "")
            await place.hears("kitchen", State, lambda state: state.state is NodeState.LOST)
            await board.link(up=True)
        await place.ready("kitchen", 1)
        assert board.lives() == 1


async def test_a_broker_that_is_away(site):
    place = site("kitchen")
    async with place.broker():
        board = place.board("kitchen")
    async with board:
        await board.until_said("offline: refused by ")
        ...


async def insist(update):
    for attempt in range(ATTEMPTS):
        with contextlib.suppress(TimeoutError, TransportError):
            return await update()
    raise AssertionError(f"in vain, {ATTEMPTS} times")


async def abandon(task):
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
