"""The path of an update. Read it from top to bottom.

    run        the operator's orders, then every open rollout; again when something happens, and every second
    _advance   core.rollout says where the rollout is and what its nodes do next       stored, then carried out
    _begin     core.update.admit says whether a node would take the image, before a byte is sent
    _talk      a conversation with one node: read its slots, and do what core.update asks until it asks nothing more
    _end       when the last node has moved, the gateway's half of the cascade follows

What is in memory may be ahead of the ledger, but a node is asked for nothing before what led to it is on disk; and it is asked what it has
done before it is asked for more. So a gateway that was killed reads its rollouts and goes on.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gatewayd.bundle import NODE_IMAGE, Bundle, Folder
from gatewayd.core import gate, rollout, update
from gatewayd.core.registry import Node, Registry
from gatewayd.core.rollout import Do, Rollout
from gatewayd.core.types import Frame, Info, NodeState, Slot, SlotState
from gatewayd.core.update import Action, Event, State, Update
from gatewayd.errors import CascadeError, GatewaydError, NodeRefusedError, StoreError, TransportError
from gatewayd.evidence import Evidence
from gatewayd.journal import Kind
from gatewayd.judges import Judges
from gatewayd.ledger import Ledger
from gatewayd.metrics import Metrics
from gatewayd.ports import Publisher
from gatewayd.shelf import Shelf
from gatewayd.smp import SmpLinks

if TYPE_CHECKING:
    from gatewayd.courier import Courier

TICK_S = 1.0
WATCH_S = 600.0  # between two looks at a trial; a node's own deadline is longer
MOST_TALKS = 256
_RETRY_S, _MOST_RETRY_S = 2.0, 60.0  # after a conversation that broke
_MOST_BREAKS = 8  # in a row, before the update has failed
_EXPLAIN_S = 5.0
_GATHER_S = 0.1  # what happens meanwhile is looked at once
_WORD_S, _WORD_TRIES = 0.1, 20  # how long a node's `info` may come after its refusal
_EVENTS = {
    Do.CONFIRM: Event.GATE_PASSED,
    Do.ABORT: Event.ABORT,
    Do.ROLL_BACK: Event.GATE_FAILED,
    Do.EXPIRE: Event.DEADLINE,
}
_ASKED = frozenset({State.ADMITTED, State.UPLOADING, State.VERIFIED, State.TRIAL, State.CONFIRMING, State.REVERTING})
_log = logging.getLogger(__name__)


@dataclass
class _Open:
    """A rollout under way."""

    rollout: Rollout
    bundle_sha256: str
    evidence: Evidence
    updates: dict[str, Update]
    bundle: Bundle | None = None  # opened when it is needed first
    verdict: gate.Verdict = gate.NO_EVIDENCE
    unsaved: set[str] = field(default_factory=set)  # nodes whose update the ledger does not know
    saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    heard: set[str] = field(default_factory=set)  # nodes that have told something since they were looked at
    talks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    furthest: dict[str, int] = field(default_factory=dict)  # bytes of the image that a node ever had
    breaks: dict[str, int] = field(default_factory=dict)  # conversations that broke, in a row since that grew
    retry_s: dict[str, float] = field(default_factory=dict)  # not before
    explained: tuple[float, str] = (0.0, "")

    @property
    def ended(self) -> bool:
        """Nothing is left to do."""
        return self.rollout.state in rollout.ENDED and all(one.state in update.SETTLED for one in self.updates.values())


class Rollouts:
    """Drives every open rollout. `changed` and `managed` are the pipeline's: what a node said of itself, and over SMP.

    `clock` is Unix time that only runs: a wall clock that is set must not make deadlines pass.
    `folders` are the cascades that came with the configuration: the gateway's halves where no bundle was ever rolled out.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        ledger: Ledger,
        shelf: Shelf,
        judges: Judges,
        folders: Mapping[str, Folder],
        publisher: Publisher,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._shelf = shelf
        self._judges = judges
        self._folders = folders
        self._publisher = publisher
        self._links = SmpLinks(self._send)
        self._metrics = metrics
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._wake = asyncio.Event()

    def _send(self, node: str, transport: str, frame: bytes) -> None:
        known = self._registry.get(node)
        if known is None:
            raise TransportError(f"{node} was never heard")
        self._publisher.smp(known, transport, frame)

    def _reaches(self, node: str, transport: str) -> bool:
        known = self._registry.get(node)
        return known is not None and self._publisher.reaches(known, transport)

    def changed(self, node: str) -> None:
        """A node has told of its slots or its state."""
        for one in self._open.values():
            if node in one.updates:
                one.heard.add(node)
                self._wake.set()

    def managed(self, frame: Frame) -> None:
        """An SMP answer has come."""
        if not self._links.deliver(frame.node, frame.transport, frame.payload):
            self._metrics.smp_request("unasked")

    def coming(self, node: str, cascade: str) -> tuple[Rollout, Update] | None:
        """The open rollout of a cascade that has the node, and how far that is."""
        for one in self._open.values():
            if one.rollout.cascade == cascade and node in one.updates:
                return one.rollout, one.updates[node]
        return None

    def verdict(self, id_: str) -> gate.Verdict | None:
        """The gate's newest word on an open rollout; None where it is not asked."""
        one = self._open.get(id_)
        return one.verdict if one is not None and one.rollout.rules.gate else None

    async def run(self) -> None:
        """Until cancelled. A disk that refuses is waited for; nothing is asked of a node meanwhile."""
        next_look_s = 0.0
        async with asyncio.TaskGroup() as talks:
            while True:
                try:
                    if time.monotonic() >= next_look_s:
                        next_look_s = time.monotonic() + TICK_S
                        self._links.check(self._reaches)
                        await self._follow_orders()
                    for one in [*self._open.values()]:
                        await self._advance(one, talks)
                except StoreError as error:
                    _log.warning("rollouts wait: %s", error, extra=Kind.STORE_REFUSES())
                    await asyncio.sleep(TICK_S)
                await self._something()

    async def _something(self) -> None:
        """Wait until something happens, a second at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                await self._wake.wait()
                await asyncio.sleep(_GATHER_S)
        self._wake.clear()

    # ---- the operator's hand

    async def _follow_orders(self) -> None:
        """Take in new rollouts, and do what gatewayctl was told."""
        for stored in await asyncio.to_thread(self._ledger.open_rollouts):
            if stored.rollout.id not in self._open:
                await self._take_in(stored.rollout, stored.bundle_sha256, stored.created_s)
        for order in await asyncio.to_thread(self._ledger.orders):
            one = self._open.get(order.rollout_id)
            if one is None:  # it came a moment ago, and has its turn in the next one
                continue
            try:
                moved = rollout.command(one.rollout, order.command, self._clock(), order.cause)
            except rollout.CommandError as error:
                _log.warning("%s", error)
                await asyncio.to_thread(self._ledger.dismiss, order, str(error), self._clock())
            else:
                await self._move(one, moved, order.command.replace("_", " ") + (f": {order.cause}" if order.cause else ""), order.id)

    async def _take_in(self, stored: Rollout, bundle_sha256: str, created_s: float) -> None:
        """Go on with a rollout from the ledger. Silence while the gateway was away is nobody's fault: deadlines begin anew."""
        now_s = self._clock()
        updates = await asyncio.to_thread(self._ledger.updates, stored.id)
        updates = {node: one._replace(since_s=now_s) for node, one in updates.items()}
        self._open[stored.id] = _Open(stored, bundle_sha256, Evidence(self._ledger, stored, created_s), updates)

    # ---- one rollout, one turn

    async def _advance(self, one: _Open, talks: asyncio.TaskGroup) -> None:
        """Move it where it must, and carry out what its nodes do next."""
        now_s = self._clock()
        self._notice(one, now_s)
        if one.rollout.rules.gate:
            one.verdict = await one.evidence.verdict(one.updates, one.rollout.rules.margin)
        while True:
            nodes = self._nodes(one)
            moved, decisions = rollout.step(one.rollout, nodes, one.verdict, now_s)
            if moved == one.rollout:
                break
            await self._move(one, moved)
        for do, node in decisions:
            if do is not Do.START:
                self._event(one, node, _EVENTS[do], reason=_why(one.rollout, do))
        for do, node in decisions:
            if do is Do.START:
                await self._begin(one, node, now_s)
        await self._saved(one)
        self._start_talks(one, talks, nodes, now_s)
        await self._explain(one, now_s)
        self._metrics.rollout(one.rollout, one.updates)
        if one.ended and not one.talks:
            await self._end(one)

    def _notice(self, one: _Open, now_s: float) -> None:
        """Who fell asleep, woke, or was silent for too long."""
        for name, state in one.updates.items():
            node = self._registry.get(name)
            asleep = node is not None and node.state is NodeState.SLEEPING
            if asleep != state.asleep and state.state not in update.SETTLED:
                self._event(one, name, Event.ASLEEP if asleep else Event.AWAKE)
            if state.state not in update.SETTLED and update.due_s(one.updates[name]) <= now_s:
                self._event(one, name, Event.DEADLINE)

    def _nodes(self, one: _Open) -> dict[str, rollout.Node]:
        return {name: self._view(self._registry.get(name), state) for name, state in one.updates.items()}

    def _view(self, node: Node | None, state: Update) -> rollout.Node:
        battery = node.vitals.battery if node and node.vitals else None
        return rollout.Node(state.state, self._reachable(node), battery, state.started_s, state.reason)

    def _reachable(self, node: Node | None) -> bool:
        """Whether it can be talked to now: who cannot has not failed."""
        if node is None or not node.enrolled or node.info is None:
            return False
        return any(self._publisher.reaches(node, transport) for transport in node.links)

    async def _move(self, one: _Open, moved: Rollout, because: str = "", order: int | None = None) -> None:
        """Store where the rollout is now, with the words of why it moved, and that an order is done."""
        text = rollout.explain(moved, self._nodes(one), one.verdict, self._clock())
        async with one.saving:
            await asyncio.to_thread(self._ledger.move, moved, self._clock(), f"{because}\n{text}".strip(), order)
        one.rollout = moved
        halted = moved.state is rollout.State.HALTED
        if halted:
            self._metrics.rollouts_halted.inc()
        kind = Kind.ROLLOUT_HALTED if halted else Kind.ROLLOUT_MOVED
        told = kind(ROLLOUT=moved.id, CASCADE=moved.cascade, STATE=moved.state)
        _log.log(logging.WARNING if halted else logging.INFO, "%s", text.replace("\n", "; "), extra=told)

    async def _explain(self, one: _Open, now_s: float) -> None:
        """Let `gatewayctl rollout explain` say how it is now."""
        if now_s - one.explained[0] < _EXPLAIN_S:
            return
        text = rollout.explain(one.rollout, self._nodes(one), one.verdict, now_s)
        if text != one.explained[1]:
            await asyncio.to_thread(self._ledger.explain, one.rollout.id, now_s, text)
        one.explained = now_s, text

    async def _end(self, one: _Open) -> None:
        """The last node has moved: the gateway's half follows it, there or back."""
        now_s = self._clock()
        await asyncio.to_thread(
            self._ledger.explain, one.rollout.id, now_s, rollout.explain(one.rollout, self._nodes(one), one.verdict, now_s)
        )
        try:
            await self._follow(one)
        except StoreError:
            raise
        except GatewaydError as error:
            _log.error("rollout %s: the gateway's half stays as it was: %s", one.rollout.id, error)
            await asyncio.to_thread(self._ledger.log, one.rollout.id, now_s, f"the gateway's half stays as it was: {error}")
        await asyncio.to_thread(self._ledger.close, one.rollout.id)
        del self._open[one.rollout.id]
        self._metrics.rollout_ended(one.rollout)

    async def _follow(self, one: _Open) -> None:
        """Let the larger model judge that belongs to what the nodes run now: frozen until here, so that old and new were judged alike."""
        cascade, active = one.rollout.cascade, await asyncio.to_thread(self._ledger.active)
        bundle_sha256: str | None = one.bundle_sha256
        if one.rollout.state is not rollout.State.DONE:
            if active.get(cascade) != bundle_sha256 or one.rollout.state is rollout.State.ABORTED:
                return
            bundle_sha256 = await asyncio.to_thread(self._ledger.bundle_before, one.rollout)
        folder = await asyncio.to_thread(self._shelf.unpack, bundle_sha256) if bundle_sha256 else self._folders.get(cascade)
        if folder is not None:
            await self._judges.replace(folder)
        await asyncio.to_thread(self._ledger.activate, cascade, bundle_sha256)
        needed = {stored.bundle_sha256 for stored in await asyncio.to_thread(self._ledger.open_rollouts)} | {*active.values()}
        await asyncio.to_thread(self._shelf.forget, needed | {bundle_sha256 or ""})

    # ---- one node

    def _event(self, one: _Open, node: str, event: Event, *, reason: str = "", offset_bytes: int | None = None) -> Action | None:
        """Something has happened to a node's update."""
        moved, action = update.step(one.updates[node], event, self._clock(), reason=reason, offset_bytes=offset_bytes)
        self._put(one, moved)
        return action

    def _put(self, one: _Open, moved: Update) -> None:
        before = one.updates[moved.node]
        one.updates[moved.node] = moved
        if moved.state is not State.UPLOADING or before.state is not State.UPLOADING:  # how far it is, the node knows best
            one.unsaved.add(moved.node)
        if moved.state is not before.state:
            self._metrics.update(before, moved)
            self._wake.set()
            if moved.state in update.BAD and one.rollout.state is not rollout.State.ROLLING_BACK:
                told = Kind.UPDATE_FAILED(ROLLOUT=one.rollout.id, CASCADE=one.rollout.cascade, NODE=moved.node)
                state = moved.state.replace("_", " ")
                _log.warning("rollout %s: %s: %s%s", one.rollout.id, moved.node, state, moved.reason and f": {moved.reason}", extra=told)

    async def _saved(self, one: _Open) -> None:
        """Wait until the ledger knows every update as it is now. Those who wait at the same time share a commit."""
        async with one.saving:
            if not one.unsaved:
                return
            nodes, one.unsaved = one.unsaved, set()
            try:
                await asyncio.to_thread(self._ledger.save, one.rollout.id, [one.updates[node] for node in nodes])
            except StoreError:
                one.unsaved |= nodes
                raise

    async def _bundle(self, one: _Open) -> Bundle:
        """Its bundle, verified once more. Raises NodeRefusedError, as if the node had looked, where it cannot be used any more."""
        if one.bundle is None:
            try:
                one.bundle = await asyncio.to_thread(self._shelf.open, one.bundle_sha256)
            except CascadeError as error:
                _log.error(
                    "rollout %s: its bundle cannot be used: %s", one.rollout.id, error, extra=Kind.BUNDLE_REFUSED(ROLLOUT=one.rollout.id)
                )
                raise NodeRefusedError(getattr(error, "reason", "disk")) from error
        return one.bundle

    async def _begin(self, one: _Open, node: str, now_s: float) -> None:
        """Admission. A node that has the image already is not sent it again."""
        known = self._registry.get(node)
        assert known is not None
        assert known.info is not None  # else it would not be reachable
        confirmed = _confirmed(known.info, one.rollout.cascade)
        own = one.updates[node]._replace(
            image=confirmed.image if confirmed else 0, previous=(confirmed.sha256 or b"") if confirmed else b"", started_s=now_s
        )
        resumed, _ = update.resume(own, known.info.slots, now_s)
        one.updates[node] = own
        self._put(one, resumed)
        if resumed.state is not State.WAITING:
            return
        self._metrics.ota_jobs.inc()
        try:
            refused = update.admit((await self._bundle(one)).image, known.info)
        except NodeRefusedError as error:
            refused = error.reason
        self._event(one, node, Event.REFUSE if refused else Event.ADMIT, reason=refused or "")

    def _start_talks(self, one: _Open, talks: asyncio.TaskGroup, nodes: Mapping[str, rollout.Node], now_s: float) -> None:
        """With every node of which something is wanted, or that has told something else than was known of it."""
        heard, one.heard = one.heard, set()
        busy = {name for other in self._open.values() for name in other.talks}  # a node may be in the rollouts of two cascades
        for name, state in one.updates.items():
            if not (self._wants(state, now_s) or (name in heard and self._differs(state, now_s))):
                continue
            if name not in busy and nodes[name].reachable and now_s >= one.retry_s.get(name, 0) and len(one.talks) < MOST_TALKS:
                one.talks[name] = talks.create_task(self._talk(one, name), name=f"update-{one.rollout.id}-{name}")
            elif name in heard:
                one.heard.add(name)

    @staticmethod
    def _wants(state: Update, now_s: float) -> bool:
        return state.state in _ASKED or (state.state is State.JUDGING and now_s - state.since_s >= WATCH_S)

    def _differs(self, state: Update, now_s: float) -> bool:
        moved, action = update.resume(state, self._slots(state.node), now_s)
        return state.state is not State.WAITING and (action is not None or moved.state is not state.state)

    def _slots(self, node: str) -> tuple[Slot, ...]:
        """As the node's newest `info` tells of them; where a reset ended a trial, with why there was one."""
        known = self._registry.get(node)
        if known is None or known.info is None:
            return ()
        by = f"reset by {known.info.reset_reason}"
        return tuple(slot._replace(rejected=by) if slot.rejected == "reset" else slot for slot in known.info.slots)

    async def _talk(self, one: _Open, node: str) -> None:
        """One conversation: what the node has done, and what is there to do next."""
        from gatewayd.courier import conversation  # noqa: PLC0415 -- smpclient takes its time, and most gateways have nothing to roll out

        known = self._registry.get(node)
        assert known is not None  # else it would not be reachable
        transport = self._publisher.route(known)
        try:
            async with conversation(self._links, node, transport, self._metrics.smp_request) as courier:
                action = self._resume(one, node, await courier.states())
                while action is not None:
                    await self._saved(one)
                    action = await self._do(one, node, action, courier)
                await self._saved(one)
            one.breaks.pop(node, None)
        except NodeRefusedError as refused:
            await self._refused(one, node, refused.reason)
        except (TransportError, TimeoutError) as broken:
            self._broke(one, node, str(broken))
        except StoreError as error:
            _log.warning("rollout %s waits: %s", one.rollout.id, error)
            one.retry_s[node] = self._clock() + _RETRY_S
        finally:
            del one.talks[node]
            self._wake.set()

    def _resume(self, one: _Open, node: str, states: dict[bytes, SlotState]) -> Action | None:
        """Go on from what the node says of its slots now; of those that receive or are rejected only its `info` tells."""
        own = one.updates[node]
        told = next(
            (slot for slot in self._slots(node) if slot.sha256 in (own.sha256, own.upload_sha256)), Slot(own.image, 0, SlotState.EMPTY, 0)
        )
        if own.sha256 in states:
            told = told._replace(state=states[own.sha256], sha256=own.sha256)
        elif told.state not in (SlotState.RECEIVING, SlotState.REJECTED):
            told = told._replace(state=SlotState.EMPTY)
        moved, action = update.resume(own, (told,), self._clock())
        self._put(one, moved)
        return action

    async def _do(self, one: _Open, node: str, action: Action, courier: "Courier") -> Action | None:
        """Ask the node for one thing; what comes after it. Nothing comes where the update has been moved from elsewhere meanwhile."""
        asked = one.updates[node]
        match action:
            case Action.UPLOAD:
                done = await self._upload(one, node, courier)
            case Action.TEST:
                running = await courier.test(asked.sha256)
                done = (Event.TEST_ACCEPTED, Event.RUNNING) if running else (Event.TEST_ACCEPTED,)
            case Action.CONFIRM:
                await courier.confirm(asked.sha256)
                done = (Event.CONFIRM_ACCEPTED,)
            case Action.REVERT:
                await courier.confirm(asked.previous)
                done = (Event.REVERTED,)
            case Action.ERASE:
                await courier.erase(asked.image, self._slot(asked))
                done = (Event.REVERTED,)
        if one.updates[node].state not in (asked.state, State.UPLOADING):
            return None
        following = None
        for event in done:
            following = self._event(one, node, event)
        return following

    async def _upload(self, one: _Open, node: str, courier: "Courier") -> tuple[Event, ...]:
        """Send the image, from where the node has it."""
        state, had, image = one.updates[node], 0, (await self._bundle(one)).members[NODE_IMAGE]
        async for offset in courier.upload(image, state.image):
            if one.updates[node].state not in (State.ADMITTED, State.UPLOADING):
                return ()  # aborted
            if had == 0 and offset > courier.frame_bytes:  # more than the first piece: of an earlier conversation
                self._metrics.ota_resumes.inc()
                had = offset
            self._metrics.uploaded(courier.transport, offset, had)
            if offset > one.furthest.get(node, 0):
                one.furthest[node] = offset
                one.breaks.pop(node, None)
            had = offset
            self._event(one, node, Event.PROGRESS, offset_bytes=offset)
        return (Event.UPLOADED,)

    def _slot(self, state: Update) -> int:
        """Where the image is, or was to be: the slot of its number that is not confirmed."""
        return next(
            (slot.slot for slot in self._slots(state.node) if slot.image == state.image and slot.state is not SlotState.CONFIRMED), 1
        )

    async def _refused(self, one: _Open, node: str, reason: str) -> None:
        """The node said no. Its `info` may say it better, a moment later."""
        state = one.updates[node]
        for _ in range(_WORD_TRIES if state.state in (State.ADMITTED, State.UPLOADING) else 0):
            word = next(
                (slot.rejected for slot in self._slots(node) if slot.image == state.image and slot.state is SlotState.REJECTED), None
            )
            if word:
                reason = word
                break
            await asyncio.sleep(_WORD_S)
        if one.updates[node].state is not state.state:
            return  # the rollout has other plans by now
        if (one.updates[node].state, Event.REFUSE) in update.TABLE:
            self._event(one, node, Event.REFUSE, reason=reason)
        else:
            self._broke(one, node, reason)

    def _broke(self, one: _Open, node: str, reason: str) -> None:
        """Try again later; when that was in vain too often, the update has failed."""
        breaks = one.breaks[node] = one.breaks.get(node, 0) + 1
        one.retry_s[node] = self._clock() + min(_RETRY_S * 2 ** (breaks - 1), _MOST_RETRY_S)
        _log.info("rollout %s: %s: %s", one.rollout.id, node, reason)
        if breaks >= _MOST_BREAKS and (one.updates[node].state, Event.BROKE) in update.TABLE:
            self._event(one, node, Event.BROKE, reason="link")


def _why(one: Rollout, do: Do) -> str:
    return "slept too long" if do is Do.EXPIRE else "" if do is Do.CONFIRM else one.cause


def _confirmed(info: Info, cascade: str) -> Slot | None:
    return next((slot for slot in info.slots if slot.cascade == cascade and slot.state is SlotState.CONFIRMED), None)
