"""The nouns of nodelink/1 and of the gateway, frozen. A quantity carries its unit in its name."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

MODEL_ID_BYTES = 8


class NodeState(StrEnum):
    """Homie's words for the life of a device."""

    INIT = "init"
    READY = "ready"
    SLEEPING = "sleeping"
    DISCONNECTED = "disconnected"
    LOST = "lost"


class Reason(StrEnum):
    """Why a node sent an event."""

    TRIGGER = "trigger"
    AUDIT = "audit"
    FOLLOW = "follow"


class Basis(StrEnum):
    """Whose judgement a verdict is."""

    GATEWAY = "gateway"
    NODE = "node"
    OVERLOAD = "overload"
    TIMEOUT = "timeout"
    FAILED = "failed"


class Window(NamedTuple):
    """What the node's sensor gave: `data` is little-endian, row-major, `shape` counts its elements."""

    kind: str
    rate_hz: int
    channels: int
    shape: tuple[int, ...]
    data: bytes
    scale: float | None = None
    zero_point: int | None = None


class State(NamedTuple):
    """A node's birth, sleep, goodbye or will."""

    state: NodeState
    session: int


class Slot(NamedTuple):
    """One of the two places of an image."""

    image: int
    slot: int
    state: str
    capacity_bytes: int
    cascade: str | None = None
    sha256: bytes | None = None
    version: str | None = None
    counter: int | None = None
    size_bytes: int | None = None
    rejected: str | None = None


class Info(NamedTuple):
    """What a node is, and what is installed on it."""

    session: int
    hardware: str
    board: str
    firmware: str
    reset_reason: str
    operators: bytes
    arena_bytes: int
    front_ends: tuple[str, ...]
    vitals_interval_s: int
    slots: tuple[Slot, ...]


class CascadeVitals(NamedTuple):
    """One cascade's work on a node; scores since the last report."""

    cascade: str
    model: bytes
    invokes: int
    invoke_us: int
    arena_bytes: int
    scores: int
    mean: float
    variance: float
    histogram: tuple[int, ...]


class Vitals(NamedTuple):
    """A node's periodic health."""

    session: int
    uptime_s: int
    t_ms: int
    queued: int
    dropped: int
    cascades: tuple[CascadeVitals, ...]
    battery: float | None = None
    rssi_dbm: int | None = None
    heap_free_bytes: int | None = None
    stack_free_bytes: int | None = None


class Event(NamedTuple):
    """What a node noticed; `(node, session, seq)` names it for ever."""

    seq: int
    session: int
    cascade: str
    model: bytes
    score: float
    label: int
    t_ms: int
    reason: Reason
    window: Window | None = None
    ref: int | None = None


class Verdict(NamedTuple):
    """The gateway's answer to an event."""

    seq: int
    session: int
    accepted: bool
    label: str
    score: float
    action: str
    ttl_ms: int
    basis: Basis


type_of_tail: Mapping[str, type] = {"state": State, "info": Info, "vitals": Vitals, "event": Event}

Message = State | Info | Vitals | Event


class Frame(NamedTuple):
    """One message as a transport heard it. `done()` tells the transport that it need not be delivered again."""

    node: str
    tail: str  # state, info, vitals, event, smp
    payload: bytes
    transport: str
    done: Callable[[], None]


class Opinion(NamedTuple):
    """What a larger model says of a window."""

    accepted: bool
    label: str
    score: float  # 0 to 1, its confidence that the node was right
    model: str  # name and version of what judged
    text: str = ""  # what was heard or found, for people
    action: str = ""  # what the policy asks for; empty: the cascade's default
    stages: tuple[tuple[str, float], ...] = ()  # (stage, seconds), in order
