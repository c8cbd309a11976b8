"""Nodes on the air, and controllers that hear them. `ble_field.py NODES CONTROLLERS INTERVAL_MS`; prints the controllers' ports, serves until SIGTERM."""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from gatewayd.demo.air import Air, Controller, plugged

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from ble_site import BleNode


async def _serve(nodes: int, controllers: int, interval_ms: float) -> None:
    air = Air()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(plugged(Controller(f"gateway-{number}", air))) for number in range(controllers)]
        for number in range(nodes):
            node = BleNode(air, f"bench-{number}", address=f"F0:00:00:00:00:{number:02X}", advertising_ms=interval_ms)
            await node.start()
        print(*ports, flush=True)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
