"""The network cable is pulled and plugged in again."""

import asyncio
import contextlib

import pytest

from gatewayd.core.types import NodeState, State

pytestmark = pytest.mark.slow


async def test_cuts_in_an_upload(site):
    """It goes on where it was, in the same life of the board."""
    place = site("kitchen")
    image, offsets, cuts = place.models.new, [], [0.75, 0.5, 0.25]
    async with place.broker(), place.hearing(), place.board("kitchen") as board:

        async def cut(offset):
            offsets.append(offset)
            if cuts and offset > cuts[-1] * len(image):
                cuts.pop()
                await board.link(up=False)
                asyncio.get_running_loop().call_later(1, plugged.set)
                ...

        await place.ready("kitchen", 1)
        await place.update("kitchen", image, cut)
    assert offsets == sorted(set(offsets))
    assert cuts == []


async def test_a_connection_that_died_in_a_cut(site):
    """The broker drops the board, which learns of it when it has its cable back; then it goes on with the upload."""
    place = site("kitchen")
    image, half = place.models.new, asyncio.Event()
    async with place.broker() as broker, place.hearing(), place.board("kitchen") as board:

        async def cut(offset):
            if offset > len(image) // 2:
                await board.link(up=False)
                half.set()

        await place.ready("kitchen", 1)
        update = asyncio.create_task(place.update("kitchen", image, cut))
        await half.wait()
        update.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await update
        usurper = broker.node("kitchen", place.keys["kitchen"])
        assert await broker.client("mosquitto_pub", "-t", "nodelink/1/up/kitchen/x", "-n", login=usurper) == (0, "")
        await place.hears("kitchen", State, lambda state: state.state is NodeState.LOST)
        await board.link(up=True)
        await place.ready("kitchen", 1)
        offsets = []

        async def note(offset):
            offsets.append(offset)

        await place.update("kitchen", image, note)
        assert offsets[0] > len(image) // 2
