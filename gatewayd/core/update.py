"""One image's way to one node: a state machine as a table, and how to go on after either side was gone.

`step` takes what happens in a conversation with the node; `resume` takes what the node says of its slots, at its birth, its waking and
the gateway's start. What is stored is the `Update` alone. An action may be lost with the gateway that was about to do it, so `resume`
asks the node first: what it has done already is not asked again. Persist the new state *before* doing the actions.
"""

from enum import StrEnum
from typing import NamedTuple

import cbor2

from gatewayd.core import tflite
from gatewayd.core.image import Image
from gatewayd.core.types import Info, Limits, Slot, SlotState
from gatewayd.errors import GatewaydError


class TransitionError(GatewaydError):
    """Something happened that cannot happen now: a bug in whoever reports it."""


class State(StrEnum):
    """How far an update is."""

    WAITING = "waiting"  # for its turn, for its node to wake
    ADMITTED = "admitted"  # it would fit; the upload is asked for, nothing is answered yet
    UPLOADING = "uploading"
    VERIFIED = "verified"  # all bytes are there; the trial is asked for
    TRIAL = "trial"  # the node has agreed to the trial, and has not yet been seen running the image
    JUDGING = "judging"  # it runs the image, unconfirmed
    CONFIRMING = "confirming"  # the gate has passed it; the confirmation is asked for
    REVERTING = "reverting"  # the way back is asked for
    CONFIRMED = "confirmed"
    FAILED = "failed"  # the link or the way back broke
    REJECTED = "rejected"  # gateway or node refused the image
    ROLLED_BACK = "rolled_back"
    TIMED_OUT = "timed_out"  # silence


class Event(StrEnum):
    """What happens to an update."""

    ADMIT = "admit"
    REFUSE = "refuse"  # reason: of the gateway's admission, or what the node answered
    PROGRESS = "progress"  # offset_bytes: what the node has by now
    UPLOADED = "uploaded"
    TEST_ACCEPTED = "test_accepted"
    RUNNING = "running"  # the node was heard with the image active
    REVERTED = "reverted"  # the node was heard without; reason: why, as far as it is known
    GATE_PASSED = "gate_passed"
    GATE_FAILED = "gate_failed"  # reason
    CONFIRM_ACCEPTED = "confirm_accepted"
    DEADLINE = "deadline"  # `due` says when
    ASLEEP = "asleep"  # the node has said so; a lost node is not asleep
    AWAKE = "awake"
    BROKE = "broke"  # reason: the link, as often as it was tried
    ABORT = "abort"  # reason: undo what is done


class Action(StrEnum):
    """What is asked of the node. Each may be asked twice with the effect of once."""

    UPLOAD = "upload"  # from `Update.offset_bytes` on; the node's answer says where it really is
    TEST = "test"
    CONFIRM = "confirm"
    REVERT = "revert"  # make the image that was there before active and confirmed again
    ERASE = "erase"  # the image is not active: drop what was received


class Update(NamedTuple):
    """All that is stored of one image on its way to one node."""

    node: str
    sha256: bytes  # of the image (TLV 0x10)
    size_bytes: int
    state: State
    since_s: float  # Unix time of the state, of the last progress or of the last waking
    upload_sha256: bytes = b""  # of the image's file: what its upload is called
    image: int = 0  # the image's number on this node; 0 before it was admitted
    previous: bytes = b""  # SHA-256 of what was confirmed there when it was admitted
    started_s: float | None = None  # Unix time of the admission
    offset_bytes: int = 0
    reason: str = ""  # why it ended, or goes back
    asleep: bool = False


class Move(NamedTuple):
    """A new state and what is asked of the node there."""

    state: State
    action: Action | None = None


_S, _E, _A = State, Event, Action
_OPEN = (_S.ADMITTED, _S.UPLOADING, _S.VERIFIED, _S.TRIAL, _S.JUDGING, _S.CONFIRMING)
_BEFORE_TRIAL, _ON_TRIAL = _OPEN[:3], _OPEN[3:]
SETTLED = frozenset({_S.CONFIRMED, _S.FAILED, _S.REJECTED, _S.ROLLED_BACK, _S.TIMED_OUT})
BAD = SETTLED - {_S.CONFIRMED}

TABLE: dict[tuple[State, Event], Move] = {
    (_S.WAITING, _E.ADMIT): Move(_S.ADMITTED, _A.UPLOAD),
    (_S.WAITING, _E.REFUSE): Move(_S.REJECTED),
    (_S.WAITING, _E.ABORT): Move(_S.ROLLED_BACK),
    (_S.WAITING, _E.DEADLINE): Move(_S.TIMED_OUT),
    (_S.ADMITTED, _E.PROGRESS): Move(_S.UPLOADING),
    (_S.ADMITTED, _E.UPLOADED): Move(_S.VERIFIED, _A.TEST),
    (_S.UPLOADING, _E.PROGRESS): Move(_S.UPLOADING),
    (_S.UPLOADING, _E.UPLOADED): Move(_S.VERIFIED, _A.TEST),
    (_S.VERIFIED, _E.TEST_ACCEPTED): Move(_S.TRIAL),
    (_S.VERIFIED, _E.RUNNING): Move(_S.JUDGING),  # it was quicker than its answer
    (_S.TRIAL, _E.RUNNING): Move(_S.JUDGING),
    (_S.JUDGING, _E.RUNNING): Move(_S.JUDGING),
    (_S.JUDGING, _E.GATE_PASSED): Move(_S.CONFIRMING, _A.CONFIRM),
    (_S.CONFIRMING, _E.CONFIRM_ACCEPTED): Move(_S.CONFIRMED),
    (_S.CONFIRMING, _E.RUNNING): Move(_S.CONFIRMING),
    (_S.CONFIRMED, _E.GATE_FAILED): Move(_S.REVERTING, _A.REVERT),
    (_S.REVERTING, _E.REVERTED): Move(_S.ROLLED_BACK),
    (_S.REVERTING, _E.REFUSE): Move(_S.FAILED),
    (_S.REVERTING, _E.BROKE): Move(_S.FAILED),
    (_S.REVERTING, _E.DEADLINE): Move(_S.FAILED),
    (_S.CONFIRMING, _E.REFUSE): Move(_S.REVERTING, _A.REVERT),
    **{(state, _E.REFUSE): Move(_S.REJECTED) for state in _BEFORE_TRIAL},
    **{(state, _E.BROKE): Move(_S.FAILED) for state in _BEFORE_TRIAL},
    **{(state, _E.DEADLINE): Move(_S.TIMED_OUT) for state in _OPEN},
    **{(state, _E.ABORT): Move(_S.REVERTING, _A.ERASE) for state in _BEFORE_TRIAL},
    **{(state, _E.REVERTED): Move(_S.ROLLED_BACK) for state in _ON_TRIAL},
    **{(state, event): Move(_S.REVERTING, _A.REVERT) for state in _ON_TRIAL for event in (_E.GATE_FAILED, _E.ABORT)},
}
"""What a conversation with the node can bring. ASLEEP and AWAKE are possible anywhere and change no state."""

_GONE = (SlotState.EMPTY, SlotState.RECEIVING)
RESUME: dict[tuple[State, SlotState], Move] = {
    (_S.WAITING, SlotState.TEST): Move(_S.JUDGING),
    (_S.WAITING, SlotState.CONFIRMED): Move(_S.CONFIRMED),
    **{(state, SlotState.EMPTY): Move(_S.ADMITTED, _A.UPLOAD) for state in _BEFORE_TRIAL},
    **{(state, SlotState.RECEIVING): Move(_S.UPLOADING, _A.UPLOAD) for state in _BEFORE_TRIAL},
    **{(state, SlotState.VERIFIED): Move(_S.VERIFIED, _A.TEST) for state in _BEFORE_TRIAL},
    (_S.ADMITTED, SlotState.REJECTED): Move(_S.ADMITTED, _A.UPLOAD),  # of an earlier try
    **{(state, SlotState.REJECTED): Move(_S.REJECTED) for state in (_S.UPLOADING, _S.VERIFIED)},
    **{(state, SlotState.TEST): Move(_S.JUDGING) for state in (*_BEFORE_TRIAL, _S.TRIAL, _S.JUDGING)},
    (_S.CONFIRMING, SlotState.TEST): Move(_S.CONFIRMING, _A.CONFIRM),
    **{(state, slot): Move(_S.ROLLED_BACK) for state in _ON_TRIAL for slot in (*_GONE, SlotState.VERIFIED, SlotState.REJECTED)},
    **{(state, SlotState.CONFIRMED): Move(_S.CONFIRMED) for state in (*_OPEN, _S.TIMED_OUT)},
    # A trial that nobody waits for any more goes back; so does one whose way back got lost.
    **{(state, SlotState.TEST): Move(_S.REVERTING, _A.REVERT) for state in (_S.REVERTING, *sorted(BAD))},
    (_S.REVERTING, SlotState.CONFIRMED): Move(_S.REVERTING, _A.REVERT),
    **{(_S.REVERTING, slot): Move(_S.REVERTING, _A.ERASE) for slot in (SlotState.RECEIVING, SlotState.VERIFIED)},
    **{(_S.REVERTING, slot): Move(_S.ROLLED_BACK) for slot in (SlotState.EMPTY, SlotState.REJECTED)},
    **{(_S.CONFIRMED, slot): Move(_S.ROLLED_BACK) for slot in (*_GONE, SlotState.VERIFIED, SlotState.REJECTED)},
}
"""What a node's report brings, by what it says of this image (EMPTY: nothing). What is not here changes nothing."""

DEADLINE_S: dict[State, float] = {
    _S.ADMITTED: 600,  # erasing may come first
    _S.UPLOADING: 600,  # since the last progress
    _S.VERIFIED: 300,
    _S.TRIAL: 600,
    _S.JUDGING: 3_600,  # since it was last heard running the image
    _S.CONFIRMING: 600,
    _S.REVERTING: 86_400,
}


def step(update: Update, event: Event, now_s: float, *, reason: str = "", offset_bytes: int | None = None) -> tuple[Update, Action | None]:
    """The update after `event`, and what to ask the node. Raises TransitionError where the event is not in the table."""
    if event in (Event.ASLEEP, Event.AWAKE):
        return update._replace(asleep=event is Event.ASLEEP, since_s=now_s), None
    move = TABLE.get((update.state, event))
    if move is None:
        raise TransitionError(f"{update.node}: {event} while {update.state}")
    if event is Event.DEADLINE and not reason:
        reason = f"silent while {update.state}"
    return _moved(update, move, now_s, reason, update.offset_bytes if offset_bytes is None else offset_bytes), move.action


def resume(update: Update, slots: tuple[Slot, ...], now_s: float) -> tuple[Update, Action | None]:
    """The update after the node reported its slots, and what to ask it: the same report twice changes nothing the second time."""
    slot = next((slot for slot in slots if slot.sha256 in (update.sha256, update.upload_sha256)), None)
    state = slot.state if slot else SlotState.EMPTY
    move = RESUME.get((update.state, state))
    if move is None:
        return update, None
    reason = (slot.rejected if slot else None) or update.reason or ("reverted" if move.state is State.ROLLED_BACK else "")
    offset_bytes = 0
    if slot is not None and state is not SlotState.EMPTY:
        offset_bytes = slot.size_bytes or 0 if state is SlotState.RECEIVING else update.size_bytes
    return _moved(update, move, now_s, reason, offset_bytes), move.action


def _moved(update: Update, move: Move, now_s: float, reason: str, offset_bytes: int) -> Update:
    if move.state is State.CONFIRMED:
        reason = ""
    return update._replace(state=move.state, since_s=now_s, reason=reason or update.reason, offset_bytes=offset_bytes)


def due_s(update: Update) -> float:
    """Unix time from which silence is a failure; infinite where nothing is awaited or the node sleeps."""
    return float("inf") if update.asleep else update.since_s + DEADLINE_S.get(update.state, float("inf"))


def admit(image: Image, info: Info) -> str | None:
    """Why a node would refuse an image, before a byte of it is sent; None where it would take it.

    The reasons, each a metric's label: cascade, capacity, counter, arena, operators, front-end, limits. A node that does not tell
    its limits says itself what is beyond them. Raises RefusedError where the image's model was never checked, and lies.
    """
    own = {slot.image for slot in info.slots if slot.image and slot.cascade == image.cascade}
    slots = [slot for slot in info.slots if slot.image in own]
    capacity_bytes = max((slot.capacity_bytes for slot in slots if slot.state is not SlotState.CONFIRMED), default=0)
    confirmed = max((slot.counter or 0 for slot in slots if slot.state is SlotState.CONFIRMED), default=0)
    faults = {
        "cascade": not own,
        "capacity": image.size_bytes > capacity_bytes,
        "counter": image.counter < confirmed,
        "arena": _arena_bytes(image, info.limits) > info.arena_bytes,
        "operators": int.from_bytes(image.operators, "little") & ~int.from_bytes(info.operators, "little"),
        "front-end": _front_end(image.front_end) not in info.front_ends,
        "limits": info.limits is not None and _is_beyond(info.limits, tflite.needs(image.payload)),
    }
    return next((reason for reason, fault in faults.items() if fault), None)


def _arena_bytes(image: Image, limits: Limits | None) -> int:
    """What the image says; on a node that reads the model's plan, what that says."""
    plan = tflite.plan_of(image.payload) if limits else None
    return plan.arena_bytes if plan and limits and plan.version == limits.plan_version else image.arena_bytes


def _is_beyond(limits: Limits, needs: tflite.Needs) -> bool:
    work = needs.plan.work if needs.plan else 0  # without a plan the node counts
    return needs.tensors > limits.tensors or needs.operators > limits.operators or needs.rank > limits.rank or work > limits.work


def _front_end(encoded: bytes) -> str | None:
    try:
        fields = cbor2.loads(encoded)
    except Exception:  # noqa: BLE001 - cbor2 raises whatever comes its way
        return None
    kind = fields.get(0) if isinstance(fields, dict) else None
    return kind if isinstance(kind, str) else None


_IMAGE_GROUP = 1
_IMAGE_REFUSALS = {  # MCUmgr's image management errors that a node with slots and verification can answer
    1: "image",
    5: "tlv",
    8: "no such image",
    9: "no free slot",
    11: "flash read",
    12: "flash write",
    13: "flash erase",
    14: "no such slot",
    20: "offset",
    21: "size",
    22: "header",
    23: "header",
    24: "digest",
    27: "counter",
    28: "already pending",
    30: "capacity",
    31: "size",
    32: "confirmation denied",
    33: "test denied",
}


def refusal(group: int, rc: int) -> str:
    """An SMP refusal as a reason; the node's slot may give a better one (`Slot.rejected`)."""
    known = _IMAGE_REFUSALS.get(rc) if group == _IMAGE_GROUP else None
    return known or f"smp group {group} rc {rc}"


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, event), move in TABLE.items():
        label = f"{event} / {move.action}" if move.action else str(event)
        edges.setdefault((state, move.state), []).append(label)
    lines = [f"    {state} --> {to}: {', '.join(labels)}" for (state, to), labels in edges.items()]
    ends = [f"    {state} --> [*]" for state in State if state in SETTLED]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {State.WAITING}", *lines, *ends]) + "\n"
