"""The whole firmware on a Cortex-M4 under QEMU, connected by TLS-PSK: the instructions that it executes in a second of its own time."""

from __future__ import annotations

import asyncio
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from report import Result

from cascades.wakeword import speech

sys.path += [str(Path(__file__).parents[1] / "tests" / folder) for folder in ("", "qemu")]
import m4
import machine
import place

_CLOCK, _CLOCK_HZ = 0x4000_1004, 25_000_000  # the board's timer 1, which counts down
_CORE_HZ = 64_000_000  # such nodes have
_SETTLE_S, _IDLE_S, _LISTEN_S = 3, 65, 20  # 65: a vitals message and a ping are in it
_SAID = "the weather will be fine tomorrow, and on friday we are going to the lake with the children; please bring some bread and milk"
_FUNCTIONS = ("verify_signature", "mbedtls_ssl_handshake", "audio_frontend_feed", "audio_frontend_quantize", "nn_invoke")


class Work(NamedTuple):
    """What a function and all that it calls executed, and how often it was called."""

    calls: int
    executed: int


class Totals(NamedTuple):
    """At one moment: the board's clock, and what was executed since its start, altogether and in _FUNCTIONS."""

    clock: int
    executed: int
    work: dict[str, Work]

    def since(self, before: Totals) -> Spent:
        """From `before` to now."""
        work = {name: Work(*(now - then for now, then in zip(self.work[name], before.work[name], strict=True))) for name in _FUNCTIONS}
        seconds = (before.clock - self.clock) % 2**32 / _CLOCK_HZ
        return Spent(seconds, round((self.executed - before.executed) / seconds), work)


class Spent(NamedTuple):
    """Between two moments."""

    seconds: float
    per_s: int
    work: dict[str, Work]


class Counted(machine.Machine):
    """A board whose instructions are counted."""

    def _command(self) -> list[str]:
        program = machine.firmware(self.preset)
        addresses = m4.symbols(program)
        self._spans = [(name, back) for name in _FUNCTIONS for back in m4.returns(program, name)]
        marks = "".join(f",begin={addresses[name] & ~1:#x},end={back:#x}" for name, back in self._spans)
        return [*super()._command(), "-plugin", f"{m4.plugin()},total=totals{marks}"]

    async def totals(self) -> Totals:
        async with self.stopped() as memory:
            clock = int.from_bytes(await memory.read(_CLOCK, 4), "little")
            counted = (self.folder / "totals").read_bytes()
        executed, *words = struct.unpack_from(f"={1 + 2 * len(self._spans)}Q", counted)
        calls, spent = dict.fromkeys(_FUNCTIONS, 0), dict.fromkeys(_FUNCTIONS, 0)
        for (name, _), passes, instructions in zip(self._spans, words[::2], words[1::2], strict=True):
            calls[name] += passes
            spent[name] += instructions
        return Totals(clock, executed, {name: Work(calls[name], spent[name]) for name in _FUNCTIONS})

    async def spends(self, seconds: float) -> Spent:
        """From now on."""
        before = await self.totals()
        await asyncio.sleep(seconds)
        return (await self.totals()).since(before)


async def node(folder: Path) -> dict[str, Result]:
    """Idle, listening, and what it does then."""
    try:
        machine.firmware("qemu-m4")
    except m4.Missing as missing:
        print(f"node: not measured, {missing}", flush=True)
        return {}
    site = place.Place(folder / "test_node", place.models(folder), ["node"])
    image = site.board("node").flash.read_bytes()
    async with site.broker():
        async with Counted(folder / "idle", site.provisioning("node")) as board:
            await board.until_said("online")
            await asyncio.sleep(_SETTLE_S)
            idle = await board.spends(_IDLE_S)
        async with Counted(folder / "listening", site.provisioning("node", site.models.old)) as board:
            await board.until_said("online")
            start = (await board.totals()).work
            await asyncio.sleep(_SETTLE_S)
            silence = await board.spends(_LISTEN_S)
            board.say(_talk(_LISTEN_S + 2))
            await asyncio.sleep(1)
            talk = await board.spends(_LISTEN_S)
    return {f"node.{name}": result for name, result in _results(start, idle, silence, talk).items()}


def _talk(seconds: int) -> NDArray[np.int16]:
    said = speech.say(_SAID, "espeak-ng:en-us")
    return np.resize(said, seconds * speech.RATE_HZ)


def _results(start: dict[str, Work], idle: Spent, silence: Spent, talk: Spent) -> dict[str, Result]:
    signature, handshake, feed, quantize, invoke = (start[name] for name in _FUNCTIONS)
    ...


SUBJECTS = {"node": node}
