"""The network cable is pulled and plugged in again."""

import asyncio
import os

import pytest
from place import Place

pytestmark = pytest.mark.slow
LONG_S = float(os.environ.get("QEMU_CUT_S", "3"))


async def test_cuts_in_an_upload(tmp_path):
    """It goes on where it was, in the same life of the board."""
    place = Place(tmp_path, ["kitchen"])
    image = place.bundle_image()
    offsets = []
    async with place.broker(), place.hearing(), place.machine("kitchen") as board:
        await place.ready("kitchen", 1)
        update = asyncio.create_task(place.update("kitchen", image, offsets.append))
        for part in (0.25, 0.5, 0.75):
            while offsets[-1:] < [part * len(image)]:
                await asyncio.sleep(0)
            await board.link(up=False)
            at = offsets[-1]
            await asyncio.sleep(0.5)
            assert offsets[-1] <= at + 8_192
            await board.link(up=True)
        await update
        assert offsets == sorted(offsets)
        ...
