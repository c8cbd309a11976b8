"""Cascades: what they are, who runs them, and how good their node models are in the field."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request

from gatewayd.api.auth import READ
from gatewayd.api.fleet import Seen, Watched
from gatewayd.api.gateway import Daemon, Gateway
from gatewayd.api.schemas import CascadeDetail, CascadeRow, Quality
from gatewayd.bundle import CARD, Folder
from gatewayd.core.types import Slot
from gatewayd.ledger import DayOfModel, Ledger
from gatewayd.metrics import running

_DAY_S = 86_400.0
_CARD_BYTES = 64 << 10
router = APIRouter(prefix="/cascades", tags=["cascades"], dependencies=[READ])


class Field:
    """What the ledger counts of the last days, each question asked once a minute at most: it reads every event of that time."""

    FRESH_S = 60.0

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._told: dict[tuple[str, int], tuple[float, list[DayOfModel]]] = {}
        self._asking = asyncio.Lock()

    async def days(self, cascade: str, days: int) -> list[DayOfModel]:
        """Those that the last so many times 24 hours touch."""
        async with self._asking:
            until_s, told = self._told.get((cascade, days), (0.0, []))
            if time.monotonic() >= until_s:
                told = await asyncio.to_thread(self._ledger.days, cascade, time.time() - days * _DAY_S)
                self._told[cascade, days] = time.monotonic() + self.FRESH_S, told
        return told


async def _field(request: Request) -> Field:
    field: Field = request.app.state.field
    return field


InField = Annotated[Field, Depends(_field)]


@router.get("")
async def list_cascades(gateway: Daemon, watched: Watched, field: InField) -> list[CascadeRow]:
    """Every cascade that is loaded here."""
    seen = await watched.seen()
    return [await _row(gateway, field, folder, seen) for _, folder in sorted(gateway.judges.folders.items())]


@router.get("/{name}")
async def one_cascade(
    gateway: Daemon,
    watched: Watched,
    field: InField,
    name: Annotated[str, Path(max_length=31)],
    days: Annotated[int, Query(ge=1, le=366)] = 28,
) -> CascadeDetail:
    """One cascade, with the quality of its node models on each of the last days."""
    folder = gateway.judges.folders.get(name)
    if folder is None:
        raise HTTPException(404, "there is no such cascade")
    node, policy, seen = folder.cascade.node, folder.cascade.policy, await watched.seen()
    versions = await asyncio.to_thread(gateway.ledger.versions, name) | {slot.sha256: slot.version for slot in _slots(seen, name)}
    called = {(sha256 or b"")[:8]: version or "" for sha256, version in versions.items()}
    return CascadeDetail(
        cascade=await _row(gateway, field, folder, seen),
        actions={label: policy.actions.get(label, policy.action) for label in node.decision.labels},
        labels=[*node.decision.labels],
        cutoff=node.decision.cutoff,
        arena_bytes=node.arena_bytes,
        quality=[
            Quality(
                day=time.strftime("%Y-%m-%d", time.gmtime(one.day * _DAY_S)),
                model=one.model.hex(),
                version=called.get(one.model, ""),
                judged=one.judged,
                agreed=one.agreed,
                audits=one.audits,
                missed=one.missed,
            )
            for one in await field.days(name, days)
        ],
        card=await asyncio.to_thread(_card, folder),
    )


async def _row(gateway: Gateway, field: Field, folder: Folder, seen: Sequence[Seen]) -> CascadeRow:
    cascade = folder.cascade
    versions = Counter(slot.version or "" for slot in _slots(seen, cascade.name))
    day, week = await field.days(cascade.name, 1), await field.days(cascade.name, 7)
    return CascadeRow(
        name=cascade.name,
        title=cascade.title,
        version=cascade.version,
        judge=cascade.gateway.kind if cascade.gateway else "",
        ready=cascade.name not in gateway.judges.waited_for(),
        source="bundle" if folder.path.parent == gateway.config.bundles else "folder",
        nodes=versions.total(),
        models=dict(sorted(versions.items())),
        agreement_1d=_share(day, "agreed", "judged"),
        agreement_7d=_share(week, "agreed", "judged"),
        missed_7d=_share(week, "missed", "audits"),
    )


def _slots(seen: Sequence[Seen], cascade: str) -> Iterator[Slot]:
    """What nodes run of it."""
    return (slot for one in seen if one.node.info for slot in running(one.node.info) if slot.cascade == cascade)


def _share(days: Sequence[DayOfModel], part: str, whole: str) -> float | None:
    total: int = sum(getattr(one, whole) for one in days)
    return sum(getattr(one, part) for one in days) / total if total else None


def _card(folder: Folder) -> str:
    try:
        with (folder.path / CARD).open(encoding="utf-8", errors="replace") as file:
            return file.read(_CARD_BYTES)
    except OSError:
        return ""
