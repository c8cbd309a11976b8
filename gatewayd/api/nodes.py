"""Nodes: the list, one node with its vitals and history, and what an operator changes of it."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query

from gatewayd import history
from gatewayd.api import fleet
from gatewayd.api.auth import READ, Operator
from gatewayd.api.fleet import Seen, Watched
from gatewayd.api.gateway import Daemon, Gateway
from gatewayd.api.schemas import CascadeWork, Enrolment, Labels, NodeDetail, NodeList, NodeNote, Slot, VitalsSeries
from gatewayd.core.pairing import Pairing, Stage
from gatewayd.core.types import Vitals
from gatewayd.ledger import NodeUpdate
from gatewayd.pairings import Pairings
from gatewayd.records import StoredNode

MOST = 500  # of a page
_HISTORY = 50  # updates of a node
_DAYS = 30
router = APIRouter(prefix="/nodes", tags=["nodes"], dependencies=[READ])
NodeId = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{1,30}$")]
State = Literal["up", "down", "trouble", "new"]
_FULL = 2.0  # a node without a battery comes after those with one
_IS: Mapping[State, Callable[[Seen], bool]] = {
    "up": lambda seen: seen.up,
    "down": lambda seen: not seen.up,
    "trouble": lambda seen: bool(seen.trouble),
    "new": lambda seen: not seen.node.enrolled,
}
_KEYS: Mapping[str, Callable[[Seen], Any]] = {
    "id": lambda seen: seen.node.id,
    "last_seen": lambda seen: (-seen.node.heard_unix_s, seen.node.id),
    "battery": lambda seen: (_battery(seen.node.vitals), seen.node.id),
}


@router.get("")
async def list_nodes(
    gateway: Daemon,
    watched: Watched,
    q: Annotated[str, Query(max_length=64, description="Part of an id, a board, a firmware or a label.")] = "",
    state: Annotated[State | None, Query(description="new: not enrolled.")] = None,
    cascade: Annotated[str, Query(max_length=31)] = "",
    label: Annotated[str, Query(max_length=31)] = "",
    sort: Literal["id", "last_seen", "battery"] = "id",
    limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> NodeList:
    """A page of the nodes that match; those heard last, or with the emptiest battery, first."""
    every = await watched.seen()

    def select() -> tuple[list[Seen], Mapping[str, Sequence[str]]]:
        labels = gateway.store.labels()
        found = every if state is None else [*filter(_IS[state], every)]
        if label:
            found = [seen for seen in found if label in labels.get(seen.node.id, ())]
        if cascade:
            found = [seen for seen in found if seen.node.info and any(slot.cascade == cascade for slot in seen.node.info.slots)]
        if q:
            found = [seen for seen in found if q.lower() in _text(seen, labels.get(seen.node.id, ()))]
        return sorted(found, key=_KEYS[sort]), labels

    found, labels = await asyncio.to_thread(select)
    items = [fleet.row(seen, labels) for seen in found[offset : offset + limit]]
    return NodeList(total=len(found), fleet=fleet.count(every), items=items)


@router.get("/{node}")
async def one_node(gateway: Daemon, watched: Watched, node: NodeId) -> NodeDetail:
    """All that is known of a node."""
    seen = watched.get(node)
    stored, pairing, updates = await asyncio.to_thread(_remembered, gateway, node)
    if seen is None:
        raise HTTPException(404, "there is no such node")
    return _detail(seen, stored, pairing, updates)


@router.get("/{node}/vitals")
async def vitals(
    gateway: Daemon, watched: Watched, node: NodeId, hours: Annotated[float, Query(gt=0, le=_DAYS * 24)] = 24.0
) -> VitalsSeries:
    """Its vitals over time; the last point is that of now."""
    now_s = time.time()
    samples = await asyncio.to_thread(history.samples, gateway.store, node, now_s - hours * 3_600)
    seen = watched.get(node)
    if seen is not None and seen.up and seen.node.vitals is not None:
        samples.append(history.sample(node, now_s, seen.node.vitals))
    return VitalsSeries(**{name: [getattr(one, name) for one in samples] for name in VitalsSeries.model_fields})


@router.put("/{node}/enrolment", status_code=204)
async def enrol(gateway: Daemon, caller: Operator, node: NodeId, wanted: Enrolment) -> None:
    """Trust a node, also one that was never heard; or take the trust back."""
    await asyncio.to_thread(gateway.store.enroll, node, wanted.enrolled, time.time())
    if (known := gateway.registry.get(node)) is not None:
        known.enrolled = wanted.enrolled
    await caller.record(gateway, "node.enroll" if wanted.enrolled else "node.dismiss", node)


@router.put("/{node}/labels", status_code=204)
async def label(gateway: Daemon, caller: Operator, node: NodeId, wanted: Labels) -> None:
    """Give a node these labels and no others."""
    if not await asyncio.to_thread(_label, gateway, node, {*wanted.labels}):
        raise HTTPException(404, "there is no such node")
    await caller.record(gateway, "node.label", node, " ".join(sorted(wanted.labels)))


def _battery(vitals: Vitals | None) -> float:
    return _FULL if vitals is None or vitals.battery is None else vitals.battery


def _text(seen: Seen, labels: Sequence[str]) -> str:
    info = seen.node.info
    return " ".join((seen.node.id, *labels, *((info.board, info.firmware) if info else ()))).lower()


def _remembered(gateway: Gateway, node: str) -> tuple[StoredNode | None, Pairing | None, list[NodeUpdate]]:
    return gateway.store.node(node), Pairings(gateway.store).get(node), gateway.ledger.updates_of(node, _HISTORY)


def _label(gateway: Gateway, node: str, wanted: set[str]) -> bool:
    stored = gateway.store.node(node)
    return stored is not None and gateway.store.label(node, wanted, {*stored.labels} - wanted) is not None


def _detail(seen: Seen, stored: StoredNode | None, pairing: Pairing | None, updates: Sequence[NodeUpdate]) -> NodeDetail:
    node, info, vitals = seen.node, seen.node.info, seen.node.vitals
    crash = info.crash if info else None
    return NodeDetail(
        node=fleet.row(seen, {node.id: stored.labels if stored else ()}),
        first_seen_s=stored.first_seen_s if stored else None,
        session=node.session,
        hardware=info.hardware if info else "",
        reset_reason=info.reset_reason if info else "",
        crash=f"at {crash.pc:#010x}, called from {crash.lr:#010x}, {crash.stack_bytes} bytes of stack" if crash else "",
        uptime_s=vitals.uptime_s if vitals else None,
        queued=vitals.queued if vitals else None,
        dropped=vitals.dropped if vitals else None,
        heap_free_bytes=vitals.heap_free_bytes if vitals else None,
        stack_free_bytes=vitals.stack_free_bytes if vitals else None,
        clock_skew_s=node.clock.drift_ms / 1_000 if node.clock and node.clock.skew is not None else None,
        pairing=_pairing(pairing),
        work=_work(vitals) if vitals else [],
        slots=[Slot(**{name: getattr(slot, name) for name in Slot.model_fields}) for slot in info.slots] if info else [],
        history=[_note(one) for one in updates],
    )


def _pairing(pairing: Pairing | None) -> str:
    if pairing is None:
        return ""
    how = "authenticated" if pairing.authenticated else "encrypted only"
    return f"{pairing.stage}, {how}" if pairing.stage is Stage.PAIRED else f"{pairing.stage} {pairing.cause}".strip()


def _work(vitals: Vitals) -> list[CascadeWork]:
    return [
        CascadeWork(
            cascade=one.cascade,
            invokes=one.invokes,
            invoke_us=one.invoke_us / one.invokes if one.invokes else 0.0,
            arena_bytes=one.arena_bytes,
            scores=one.scores,
            mean=one.mean,
            histogram=[*one.histogram],
        )
        for one in vitals.cascades
    ]


def _note(one: NodeUpdate) -> NodeNote:
    reason = f": {one.update.reason}" if one.update.reason else ""
    text = f"{one.cascade} {one.version}: {one.update.state.replace('_', ' ')}{reason}"
    return NodeNote(at_s=one.update.since_s, text=text, rollout=one.rollout_id)
