"""Pairings: the operator's orders and what came of them, as rows of the store; and the daemon's desk, which follows them."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select

from gatewayd.core.beacon import crc_of
from gatewayd.core.pairing import Pairing, Stage, Trust
from gatewayd.database import pairings
from gatewayd.errors import StoreError
from gatewayd.journal import Kind
from gatewayd.store import Store, count_change

_LOOK_S = 1.0
_COMPARE_S = 25.0  # Bluetooth gives up a pairing after 30 s of silence
_COMPARE_LOOK_S = 0.2
_MOST_TRIES = 3  # of an order: each tells whoever imitates the node a bit or two of its passkey
_ORDERED = [stage for stage in Stage if stage.ordered]
_log = logging.getLogger(__name__)


class Pairings:
    """The rows. All methods block and raise StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[Pairing]:
        """Every one, by node."""
        with self._store.reading() as connection:
            return [_pairing(row) for row in connection.execute(select(pairings).order_by(pairings.c.node))]

    def get(self, node: str) -> Pairing | None:
        """That of one node."""
        with self._store.reading() as connection:
            row = connection.execute(select(pairings).where(pairings.c.node == node)).one_or_none()
        return None if row is None else _pairing(row)

    def order(self, node: str, passkey: int | None, now_s: float, *, provision: bool = False, address: str = "") -> bool:
        """Have it paired, or provisioned: then it may be said which `address` is meant. False where it is paired already."""
        wanted = Pairing(node, Stage.WANTED, now_s, passkey, address=address, provision=provision)
        with self._store.writing() as connection:
            connection.execute(sa.delete(pairings).where(pairings.c.node == node, pairings.c.stage != Stage.PAIRED))
            if connection.scalar(select(pairings.c.node).where(pairings.c.node == node)) is not None:
                return False
            connection.execute(sa.insert(pairings).values(wanted._asdict()))
            count_change(connection)
        return True

    def change(self, before: Pairing, stages: Collection[Stage], **values: Any) -> bool:
        """Change it, if it is still the same order and at one of these stages; whether it was."""
        with self._store.writing() as connection:
            same = pairings.c.node == before.node, pairings.c.at_s == before.at_s, pairings.c.stage.in_(stages)
            changed = connection.execute(sa.update(pairings).where(*same).values(**values)).rowcount == 1
            count_change(connection)
        return changed

    def answer(self, shown: Pairing, *, same: bool) -> None:
        """The operator has compared the number of `shown`."""
        with self._store.writing() as connection:
            asked = pairings.c.node == shown.node, pairings.c.stage == Stage.COMPARE, pairings.c.number == shown.number
            said = {"stage": Stage.AGREED} if same else {"stage": Stage.FAILED, "cause": "the numbers are not the same"}
            connection.execute(sa.update(pairings).where(*asked).values(**said))

    def give(self, asked: Pairing, data: bytes) -> None:
        """Say what the node that `asked` is about is to be told."""
        self.change(asked, [Stage.ASKED], stage=Stage.GIVEN, given=data)

    def fail(self, before: Pairing, cause: str) -> None:
        """Give an order up."""
        self.change(before, _ORDERED, stage=Stage.FAILED, passkey=None, given=None, cause=cause)

    def forget(self, node: str) -> bool:
        """Forget its bond or order; whether there was one."""
        with self._store.writing() as connection:
            known = connection.execute(sa.delete(pairings).where(pairings.c.node == node)).rowcount == 1
            count_change(connection)
        return known


def _pairing(row: Any) -> Pairing:
    return Pairing(**row._mapping)._replace(stage=Stage(row.stage))  # noqa: SLF001 -- SQLAlchemy's public name


class Desk:
    """The daemon's side: what the transport asks and tells. What the disk refuses is as if the operator had not answered."""

    def __init__(self, rows: Pairings, trust: Trust, changes: Callable[[], int]) -> None:
        self.trust = trust
        self._rows = rows
        self._changes = changes
        self._tries = Counter[tuple[str, float]]()

    async def follow(self, review: Callable[[Collection[Pairing]], Awaitable[None]]) -> None:
        """Notice within a second what gatewayctl ordered or took back; `review` gets the bonds that are no more."""
        seen = -1
        while True:
            with contextlib.suppress(StoreError):  # the disk's trouble is told by what it makes fail
                changes = await asyncio.to_thread(self._changes)
                if changes != seen or self.trust.orders:
                    before = {(one.node, one.address): one for one in self.trust.bonds()}
                    await self._load()
                    seen = changes
                    for one in self.trust.bonds():
                        before.pop((one.node, one.address), None)
                    await review(before.values())
            await asyncio.sleep(_LOOK_S)

    async def _load(self) -> None:
        self.trust.load(await asyncio.to_thread(self._rows.all), time.time())

    def passkey(self, node: str) -> int | None:
        """What the operator said that the node shows."""
        order = self.trust.orders.get(crc_of(node))
        return None if order is None else order.passkey

    async def compare(self, node: str, number: int) -> bool:
        """Whether the operator says, soon enough, that the node shows the same number."""
        seen = await self._ask(node, Stage.COMPARE, number)
        return seen is not None and seen.stage is Stage.AGREED and seen.number == number

    async def provisioning(self, node: str) -> bytes | None:
        """What it is to be told, or None."""
        seen = await self._ask(node, Stage.ASKED, None)
        return seen.given if seen is not None and seen.stage is Stage.GIVEN else None

    async def _ask(self, node: str, stage: Stage, number: int | None) -> Pairing | None:
        """Let gatewayctl see `stage`; the row when it has answered, or None where nobody does, soon enough."""
        order = self.trust.orders.get(crc_of(node))
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_COMPARE_S):
                if order and await self._change(order, _ORDERED, stage=stage, number=number):
                    while (seen := await asyncio.to_thread(self._rows.get, node)) and seen.stage is stage:  # noqa: ASYNC110 -- gatewayctl's answer
                        await asyncio.sleep(_COMPARE_LOOK_S)
                    return seen
        return None

    async def told(self, node: str, adapter: str, address: str) -> bool:
        """It is told that now, and by its bond is that node when it comes back; False where that is not wanted any more."""
        order = self.trust.orders.get(crc_of(node))
        bond = {"adapter": adapter, "address": address, "authenticated": True, "given": None}
        with contextlib.suppress(StoreError):
            if order and await self._change(order, [Stage.GIVEN], stage=Stage.TOLD, **bond):
                await self._load()
                return True
        return False

    async def _change(self, before: Pairing, stages: Collection[Stage], **values: Any) -> bool:
        return await asyncio.to_thread(lambda: self._rows.change(before, stages, **values))

    async def paired(self, node: str, adapter: str, address: str, *, authenticated: bool) -> bool:
        """It has paired; False where that was not wanted any more."""
        order = self.trust.orders.get(crc_of(node)) or self.trust.bond(address)
        bond = {"adapter": adapter, "address": address, "authenticated": authenticated, "passkey": None, "number": None, "cause": ""}
        with contextlib.suppress(StoreError):
            if order and await self._change(order, _ORDERED, stage=Stage.PAIRED, **bond):
                await self._load()
                _log.info("%s has paired as %s on %s", node, address, adapter, extra=Kind.NODE_PAIRED(NODE=node))
                return True
        return False

    async def failed(self, node: str, cause: str, *, final: bool) -> None:
        """It has not. The order stands, unless it is `final` or was tried too often."""
        _log.warning("%s has not paired: %s", node, cause, extra=Kind.PAIRING_FAILED(NODE=node))
        order = self.trust.orders.get(crc_of(node))
        if order is None:
            return
        self._tries[order.node, order.at_s] += 1
        if final or self._tries[order.node, order.at_s] >= _MOST_TRIES:
            del self._tries[order.node, order.at_s]
            del self.trust.orders[crc_of(node)]
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self._rows.fail, order, cause)

    async def judged(self, bond: Pairing, cause: str) -> None:
        """What is wrong with a bond, or "" when it holds."""
        if cause == bond.cause:
            return
        if cause:
            _log.warning("the bond with %s: %s", bond.node, cause, extra=Kind.PAIRING_BROKEN(NODE=bond.node))
        with contextlib.suppress(StoreError):
            await self._change(bond, [Stage.PAIRED, Stage.TOLD], cause=cause)
            await self._load()
