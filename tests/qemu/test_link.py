"""The network fails: at the board, which sees it, and behind, where it does not."""

import asyncio
import contextlib
import random

import pytest
import test_deploy

from gatewayd.core.types import NodeState, State

pytestmark = pytest.mark.slow
CUTS = 4
CUT_S = 0.5


async def test_the_cable_is_pulled_in_an_upload(site):
    """The board drops the connection; over the next one the upload goes on where it was."""
    place, rng = site("kitchen"), random.Random(4)
    size, reached = len(place.models.new), 0
    async with place.broker(), place.hearing(), place.board("kitchen") as board:
        await board.until_said("] online")
        for cut, part in enumerate(sorted(rng.random() for _ in range(CUTS)), 1):
            there, offsets = asyncio.Event(), []

            async def note(offset, there=there, offsets=offsets, limit=part * size):
                offsets.append(offset)
                if offset >= limit:
                    there.set()

            update = asyncio.create_task(place.update("kitchen", place.models.new, note))
            await there.wait()
            await board.cable(plugged=False)
            update.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await update
            assert reached <= offsets[0]
            assert offsets == sorted(offsets)
            reached = offsets[-1]
            await board.until_said("offline: no network", cut)
            await board.cable(plugged=True)
            await board.until_said("] online", cut + 1)
        await place.update("kitchen", place.models.new)
        assert board.lives() == 1


async def test_the_way_to_the_broker_fails_for_a_moment_in_an_upload(site):
    """TCP sends again what was lost, and the upload does not even notice."""
    place = site("kitchen")
    offsets, repairs = [], []
    async with place.broker(), place.hearing(), place.board("kitchen") as board, asyncio.TaskGroup() as tasks:

        async def repair():
            await asyncio.sleep(CUT_S)
            await board.switch(works=True)

        async def note(offset):
            offsets.append(offset)
            if len(offsets) == 3:
                await board.switch(works=False)
                repairs.append(tasks.create_task(repair()))

        await place.ready("kitchen", 1)
        await place.update("kitchen", place.models.new, note)
        assert offsets == sorted(set(offsets))
        assert len(repairs) == 1
        assert "offline" not in board.said()


async def test_the_broker_drops_a_board_that_cannot_know(site):
    """When it hears of it, it comes back."""
    place = site("kitchen")
    async with place.broker() as broker, place.hearing(), place.board("kitchen") as board:
        await place.ready("kitchen", 1)
        await board.switch(works=False)
        usurper = broker.node("kitchen", place.keys["kitchen"])
        status, said = await broker.client("mosquitto_sub", "-t", "nodelink/1/down/kitchen/#", "-E", login=usurper)
        assert status == 0, said
        await place.hears("kitchen", State, lambda state: state.state is NodeState.LOST)
        await board.switch(works=True)
        await place.ready("kitchen", 1)
        assert board.lives() == 1


async def test_the_broker_is_away(site):
    """The board tries again until it is there."""
    place = site("kitchen")
    async with contextlib.AsyncExitStack() as power:
        async with place.broker() as broker:
            config = (place.folder / "mosquitto.conf").read_text()
            board = await power.enter_async_context(place.board("kitchen"))
            await board.until_said("] online")
        await board.until_said("offline: refused by ")
        async with test_deploy.running(place.folder, config, broker.port, broker.tls_port):
            await board.until_said("] online", 2)
        assert board.lives() == 1
