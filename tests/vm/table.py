"""A node on the table, and an operator: `gatewayctl` in the guest has a screen and a keyboard, which are files; the node has a button."""

import asyncio
import re
import signal

from site_ble import CTL

ORDER_S = 130  # an operator's order stands for two minutes


class Table:
    """`said` is what passed between the node and its chip."""

    def __init__(self, site, name, process) -> None:
        self._site, self._name, self._process = site, name, process
        self._chip = site.chips[name]
        self.said = []
        self._chip.overhear = lambda kind, _payload: self.said.append(kind)

    async def order(self, *words):
        """Begin `gatewayctl node` with these words. Returns the task of what it says."""
        await self._site.guest.run("rm -f /tmp/keyboard /tmp/screen; mkfifo /tmp/keyboard")  # another number would stand there
        command = f"{CTL} node {' '.join(words)} <>/tmp/keyboard | tee /tmp/screen"
        return asyncio.create_task(self._site.guest.run(f"set -o pipefail\n{command}", timeout_s=ORDER_S))

    async def number(self):
        """Until the gateway shows a number, and the node the same."""
        async with asyncio.timeout(ORDER_S):
            while not (shown := re.search(r"has the number (\d{6})", await self._site.guest.run("cat /tmp/screen || true"))):
                await asyncio.sleep(0.2)
            while f"does the peer show {shown[1]}?" not in self._site.log(self._name).read_text():
                await asyncio.sleep(0.2)

    async def answer(self, word):
        """The operator presses the node's button, and a key."""
        self._process.send_signal(signal.SIGUSR1)
        await self._site.guest.run(f"echo {word} >/tmp/keyboard")

    async def lose_bonds(self):
        """The chip forgets with whom it has paired."""
        await self._chip._bonds.delete_all()
        await self._chip.restart()
