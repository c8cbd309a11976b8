"""The whole firmware on a Cortex-M4 under QEMU, connected by TLS-PSK: the instructions that it executes in a second of its own time."""

from __future__ import annotations

import asyncio
import functools
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from report import Result

from cascades.wakeword import speech
from gatewayd import provisioning

sys.path += [str(Path(__file__).parents[1] / "tests" / folder) for folder in ("", "qemu")]
import m4
import machine
import place

_CLOCK, _CLOCK_HZ = 0x4000_1004, 25_000_000  # the board's timer 1, which counts down
_CORE_HZ = 64_000_000  # such nodes have
_SETTLE_S, _IDLE_S, _LISTEN_S = 3, 65, 20  # 65: a vitals message and a ping are in it
_SAID = "the weather will be fine tomorrow, and on friday we are going to the lake with the children; please bring some bread and milk"
_FUNCTIONS = ("verify_signature", "mbedtls_ssl_handshake", "audio_frontend_feed", "audio_frontend_quantize", "clip_write", "nn_invoke")
_HOP = ("audio_frontend_feed", "audio_frontend_quantize")


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
        return Spent((before.clock - self.clock) % 2**32 / _CLOCK_HZ, self.executed - before.executed, work)


class Spent(NamedTuple):
    """Between two moments."""

    seconds: float
    executed: int
    work: dict[str, Work]

    @property
    def per_s(self) -> float:
        """Instructions a second of the board's clock."""
        return self.executed / self.seconds


class Counted(machine.Machine):
    """A board whose instructions are counted."""

    @functools.cached_property
    def _spans(self) -> list[tuple[str, int]]:
        """Each of _FUNCTIONS and where a call of it comes back to."""
        return [(name, back) for name in _FUNCTIONS for back in m4.returns(machine.firmware(self.preset), name)]

    def _command(self) -> list[str]:
        addresses = m4.symbols(machine.firmware(self.preset))
        marks = "".join(f",begin={addresses[name] & ~1:#x},end={back:#x}" for name, back in self._spans)
        return [*super()._command(), "-plugin", f"{m4.plugin()},total=totals{marks}"]

    async def totals(self) -> Totals:
        """Now; it stands still meanwhile."""
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
    """A board without a model, then one with the wake word's: in silence, and while somebody speaks."""
    try:
        machine.firmware("qemu-m4")
    except m4.Missing as missing:
        print(f"node: not measured, {missing}", flush=True)
        return {}
    site = place.Place(folder, place.models(folder), ["idle", "listening"])
    async with site.broker():
        async with Counted(folder / "idle", provisioning.flash_image(site.identity("idle"))) as board:
            await board.until_said("online")
            await asyncio.sleep(_SETTLE_S)
            idle = await board.spends(_IDLE_S)
        async with Counted(folder / "listening", provisioning.flash_image(site.identity("listening"), site.models.old)) as board:
            await board.until_said("online")
            start = await board.totals()
            await asyncio.sleep(_SETTLE_S)
            silence = await board.spends(_LISTEN_S)
            board.say(np.resize(speech.say(_SAID, "espeak-ng:en-us"), (_LISTEN_S + 2 * _SETTLE_S) * speech.RATE_HZ))
            await asyncio.sleep(_SETTLE_S)
            talk = await board.spends(_LISTEN_S)
    return {f"node.{name}": result for name, result in _results(start.work, idle, silence, talk).items()}


def _results(start: dict[str, Work], idle: Spent, silence: Spent, talk: Spent) -> dict[str, Result]:
    hop = Work(talk.work["audio_frontend_quantize"].calls, sum(talk.work[name].executed for name in _HOP))
    signature, handshake = start["verify_signature"], start["mbedtls_ssl_handshake"]
    return {
        "idle.instructions_per_s": _per_s(
            idle, None, "Without a model: the loop, lwIP's timers, and what keeps the connection; vitals and a ping are in it"
        ),
        "silence.instructions_per_s": _per_s(silence, idle, "Listening for `okay_nabu` in silence. Reference: idle"),
        "speech.instructions_per_s": _per_s(talk, silence, "Listening while somebody talks, without the wake word. Reference: in silence"),
        "hop.instructions": _each(hop, talk, "The audio front end, 10 ms"),
        "clip.instructions": _each(talk.work["clip_write"], talk, "Keeping 10 ms of the sound, as ADPCM"),
        "inference.instructions": _each(talk.work["nn_invoke"], talk, "`okay_nabu`, 30 ms"),
        "handshake.instructions": Result(handshake.executed, "instructions", note="TLS 1.2 with a pre-shared key, the node's side."),
        "signature.instructions": Result(
            round(signature.executed / signature.calls), "instructions", note="Ed25519, to verify the model's image at boot."
        ),
    }


def _per_s(spent: Spent, reference: Spent | None, note: str) -> Result:
    note = f"{note}. {spent.seconds:.1f} s of the board's clock; were each instruction a cycle, {100 * spent.per_s / _CORE_HZ:.2f} % of a Cortex-M4 at 64 MHz."
    if reference is None:
        return Result(round(spent.per_s), "instructions/s", note=note)
    return Result(round(spent.per_s), "instructions/s", None, round(reference.per_s), round(spent.per_s / reference.per_s, 2), note)


def _each(work: Work, spent: Spent, what: str) -> Result:
    share = f"{work.calls / spent.seconds:.1f} a second, {100 * work.executed / spent.executed:.0f} % of what is executed then"
    return Result(
        round(work.executed / work.calls),
        "instructions",
        note=f"{what}: mean of {work.calls} while somebody talks; {share}. Interrupts in it count.",
    )


SUBJECTS = {"node": node}
