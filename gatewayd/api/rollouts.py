"""Rollouts: the list, one with its nodes and what the gate says, and an operator's orders."""

import asyncio
import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from typing import IO, Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request

from gatewayd import operations
from gatewayd.api.auth import READ, Operator
from gatewayd.api.gateway import Daemon, Gateway
from gatewayd.api.schemas import Gate, NodeNote, NodeUpdate, Order, Question, RolloutDetail, RolloutRow, Start
from gatewayd.core import gate, update
from gatewayd.core.rollout import COMMANDS, Command, Rollout, Rules
from gatewayd.core.update import Update
from gatewayd.errors import RefusedError
from gatewayd.ledger import Note, StoredRollout

MOST = 200
router = APIRouter(prefix="/rollouts", tags=["rollouts"], dependencies=[READ])
RolloutId = Annotated[str, Path(pattern=r"^\d{1,19}$")]
_SENT = frozenset({
    *(update.State.VERIFIED, update.State.TRIAL, update.State.JUDGING, update.State.CONFIRMING, update.State.CONFIRMED),
})  # fmt: skip


@router.get("")
def list_rollouts(gateway: Daemon, limit: Annotated[int, Query(ge=1, le=MOST)] = 50) -> list[RolloutRow]:
    """The newest, newest first."""
    newest = gateway.ledger.newest(limit)
    counts = gateway.ledger.counts([one.rollout.id for one in newest])
    return [row(one, counts.get(one.rollout.id, Counter())) for one in newest]


@router.get("/{id}")
async def one_rollout(gateway: Daemon, id: RolloutId) -> RolloutDetail:  # noqa: A002 -- its name in the path
    """One rollout: its rules, its nodes, what was told of it, and what the gate says while it is open."""
    stored, updates, history, explanation = await asyncio.to_thread(_remembered, gateway, id)
    verdict = gateway.verdict(id)
    one = stored.rollout
    return RolloutDetail(
        rollout=row(stored, Counter(each.state for each in updates.values())),
        rules=one.rules._asdict(),
        nodes=[_node(updates[name], number) for number, names in enumerate(one.groups) for name in names],
        history=[NodeNote(at_s=note.at_s, text=note.text, rollout=id) for note in reversed(history)],
        explanation=explanation.text if explanation else "",
        gate=_gate(verdict) if verdict else None,
    )


@router.post("", status_code=201, openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}})
async def start(request: Request, gateway: Daemon, caller: Operator, wanted: Annotated[Start, Query()]) -> RolloutRow:
    """Bring a bundle, which is the body, to its nodes, a canary first: what `gatewayctl rollout start` does."""
    uploading: asyncio.Lock = request.app.state.uploading
    if uploading.locked():
        raise HTTPException(503, "another bundle is on its way", {"Retry-After": "60"})
    async with uploading:  # one at a time in memory
        bundles = gateway.config.bundles
        await asyncio.to_thread(lambda: bundles.mkdir(parents=True, exist_ok=True))
        with tempfile.TemporaryFile(dir=bundles) as file:
            async for chunk in request.stream():
                file.write(chunk)
            file.seek(0)
            added = await asyncio.to_thread(_start, gateway, file, wanted)
    await caller.record(gateway, "rollout.start", added.rollout.id, f"{added.rollout.cascade} {added.rollout.version}")
    return row(added, Counter({update.State.WAITING: sum(map(len, added.rollout.groups))}))


@router.post("/{id}/orders", status_code=202)
async def give_order(gateway: Daemon, caller: Operator, id: RolloutId, order: Order) -> None:  # noqa: A002
    """Have the daemon do something with a rollout; it obeys within a second."""
    if await asyncio.to_thread(gateway.ledger.rollout, id) is None:
        raise HTTPException(404, "there is no such rollout")
    await asyncio.to_thread(operations.order, gateway.ledger, id, Command(order.command), order.because or caller.token.name)
    await caller.record(gateway, f"rollout.{order.command}", id, order.because)


def row(stored: StoredRollout, counts: Mapping[update.State, int]) -> RolloutRow:
    """As in the list."""
    one = stored.rollout
    return RolloutRow(
        id=one.id,
        cascade=one.cascade,
        version=one.version,
        state=one.state,
        cause=one.cause,
        created_s=stored.created_s,
        since_s=one.since_s,
        group=one.group,
        groups=[len(names) for names in one.groups],
        counts={state.value: count for state, count in sorted(counts.items())},
        closed=stored.closed,
        commands=_commands(one),
    )


def _start(gateway: Gateway, file: IO[bytes], wanted: Start) -> StoredRollout:
    """Raises what operations.plan() and operations.start() do, and ConfigError."""
    data, keys = file.read(), operations.keyring(gateway.config.cascades)
    selected = {"nodes": wanted.nodes, "boards": wanted.boards, "labels": wanted.labels}
    rules = Rules(**{name: getattr(wanted, name) for name in Rules._fields})
    try:
        plan = operations.plan(gateway.store, gateway.ledger, data, keys, "bundle", selected, wanted.groups, rules)
    except RefusedError as error:
        gateway.metrics.ota_refused(error.reason)
        raise
    return operations.start(gateway.ledger, gateway.config.bundles, data, plan)


def _commands(one: Rollout) -> list[str]:
    return [command.value for command in Command if command is not Command.START and (one.state, command) in COMMANDS]


def _remembered(gateway: Gateway, id_: str) -> tuple[StoredRollout, dict[str, Update], list[Note], Note | None]:
    stored = gateway.ledger.rollout(id_)
    if stored is None:
        raise HTTPException(404, "there is no such rollout")
    return stored, gateway.ledger.updates(id_), gateway.ledger.history(id_), gateway.ledger.explanation(id_)


def _node(one: Update, group: int) -> NodeUpdate:
    progress = 1.0 if one.state in _SENT else min(1.0, one.offset_bytes / one.size_bytes if one.size_bytes else 0.0)
    return NodeUpdate(
        node=one.node, group=group, state=one.state, since_s=one.since_s, progress=progress, reason=one.reason, asleep=one.asleep
    )


def _gate(verdict: gate.Verdict) -> Gate:
    return Gate(
        answer=verdict.answer.value,
        nodes=verdict.nodes,
        escalated=verdict.escalated,
        worse=verdict.worse,
        questions=[
            Question(name=one.name, old=_known(one.old), new=_known(one.new), worse=one.worse, fine=one.fine) for one in verdict.questions
        ],
        fails_at=1 / gate.WRONG_HALT,
        passes_at=1 / gate.MISSED,
    )


def _known(share: float) -> float | None:
    return None if math.isnan(share) else share
