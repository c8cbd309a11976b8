"""Firmware that hangs or faults: the watchdog bites, the record of it reaches the gateway, a trial is over.

The defects are real: a debugger writes them over the program, and the reset loads it anew.
"""

import machine
import pytest

from gatewayd.core import image as images
from gatewayd.core.types import Info, SlotState
from gatewayd.courier import conversation

pytestmark = pytest.mark.slow
LOOP = "node_step"  # what the firmware's loop calls
CALLER = "link_step"


async def test_a_fault(site):
    place = site("kitchen")
    async with place.broker(), place.hearing(), place.board("kitchen") as board:
        assert (await place.ready("kitchen", 1)).crash is None
        async with board.resets():
            await board.patch(LOOP, machine.FAULT)
        info = await place.ready("kitchen", 2)
        assert info.reset_reason == "fault"
        assert info.crash.status != 0
        seen_at(info.crash, board)
        await board.reset()
        info = await place.ready("kitchen", 3)
        assert (info.reset_reason, info.crash) == ("pin", None)


async def test_a_hang_ends_a_trial(site):
    place = site("kitchen")
    old, new = (images.parse(data).sha256 for data in (place.models.old, place.models.new))
    async with place.broker(), place.hearing(), place.board("kitchen") as board:
        await place.ready("kitchen", 1)
        async with conversation(place.links, "kitchen", "mqtt", lambda _: None) as courier:
            async for _ in courier.upload(place.models.new, 1):
                pass
            assert await courier.test(new)
        await place.hears("kitchen", Info, lambda info: (SlotState.TEST, new) in [(slot.state, slot.sha256) for slot in info.slots])
        async with board.resets():
            await board.patch(LOOP, machine.HANG)
        info = await place.ready("kitchen", 2)
        assert info.reset_reason == "watchdog"
        assert info.crash.status == 0
        seen_at(info.crash, board)
        assert {(slot.state, slot.sha256, slot.rejected) for slot in info.slots} == {
            (SlotState.CONFIRMED, old, None),
            (SlotState.REJECTED, new, "reset"),
        }


def seen_at(crash, board):
    """Where the defect is, and who had called it."""
    assert crash.pc == board.function(LOOP)
    assert board.function_at(crash.lr) == CALLER
    assert crash.stack_bytes > 0
