"""The nouns of nodelink/1 and of the gateway, frozen. A quantity carries its unit in its name.

The annotations of what a node sends are docs/nodelink.cddl's types and bounds; `wire` holds every byte against them.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import Field

U32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
ClockMs = Annotated[int, Field(ge=0, le=2**63 - 1)]  # does not wrap while a node runs; as large as a database's integer
Finite = Annotated[float, Field(allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(max_length=64)]
Short = Annotated[str, Field(min_length=1, max_length=63)]
Der = Annotated[bytes, Field(min_length=1)]
NodeId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,30}$")]
CascadeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")]
_WORD = Field(strict=False)  # an enum's value may stand for its member
ModelId = Annotated[bytes, Field(min_length=8, max_length=8)]  # first bytes of the image's SHA-256


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


class WindowKind(StrEnum):
    """What a window holds."""

    PCM16 = "pcm16"
    ADPCM = "adpcm"
    FEATURES = "features"
    VIBRATION = "vibration"
    ECG = "ecg"
    GRAY8 = "image_gray8"
    RGB8 = "image_rgb8"
    TABULAR = "tabular"


class SlotState(StrEnum):
    """MCUboot's words for what is in a slot."""

    EMPTY = "empty"
    RECEIVING = "receiving"
    VERIFIED = "verified"
    TEST = "test"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"


class Window(NamedTuple):
    """What the node's sensor gave: `data` is little-endian, row-major, `shape` counts its elements."""

    kind: Annotated[WindowKind, _WORD]
    rate_hz: U32
    channels: U32
    shape: Annotated[tuple[U32, ...], Field(min_length=1, max_length=4)]
    data: Annotated[bytes, Field(max_length=65_536)]
    scale: Finite | None = None
    zero_point: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None


class State(NamedTuple):
    """A node's birth, sleep, goodbye or will."""

    state: Annotated[NodeState, _WORD]
    session: U32


class Slot(NamedTuple):
    """One of the two places of an image."""

    image: U32
    slot: U32
    state: Annotated[SlotState, _WORD]
    capacity_bytes: U32
    cascade: CascadeName | None = None
    sha256: Annotated[bytes, Field(min_length=32, max_length=32)] | None = None
    version: Text | None = None
    counter: U32 | None = None
    size_bytes: U32 | None = None
    rejected: Text | None = None


class Limits(NamedTuple):
    """The most that a model may have where a node's engine shall run it."""

    tensors: U32  # of a subgraph
    operators: U32  # of a subgraph
    rank: U32  # dimensions of a tensor
    work: U32  # an invocation's multiply-accumulates; every other element counts as one or more
    plan_version: U32  # of the plans in models that it reads


class Crash(NamedTuple):
    """Where a fault or the watchdog ended a node's session before this one."""

    pc: U32
    lr: U32
    status: U32  # of the processor; 0 for a watchdog
    stack_bytes: U32  # used at most


class Info(NamedTuple):
    """What a node is, and what is installed on it."""

    session: U32
    hardware: Text
    board: Text
    firmware: Text
    reset_reason: Text
    operators: Annotated[bytes, Field(max_length=64)]
    arena_bytes: U32
    front_ends: Annotated[tuple[Text, ...], Field(max_length=8)]
    vitals_interval_s: Annotated[int, Field(ge=1, le=7 * 86_400)]
    slots: Annotated[tuple[Slot, ...], Field(max_length=32)]
    limits: Limits | None = None
    crash: Crash | None = None


class CascadeVitals(NamedTuple):
    """One cascade's work on a node; scores since the last report."""

    cascade: CascadeName
    model: ModelId
    invokes: U64
    invoke_us: U64
    arena_bytes: U32
    scores: U32
    mean: Finite
    variance: Finite
    histogram: Annotated[tuple[U32, ...], Field(min_length=8, max_length=8)]
    listened_ms: U64 | None = None


class Vitals(NamedTuple):
    """A node's periodic health."""

    session: U32
    uptime_s: U32
    t_ms: ClockMs
    queued: U32
    dropped: U32
    cascades: Annotated[tuple[CascadeVitals, ...], Field(max_length=16)]
    battery: Unit | None = None
    rssi_dbm: Annotated[int, Field(ge=-128, le=127)] | None = None
    heap_free_bytes: U32 | None = None
    stack_free_bytes: U32 | None = None


class Event(NamedTuple):
    """What a node noticed; `(node, session, seq)` names it for ever."""

    seq: U32
    session: U32
    cascade: CascadeName
    model: ModelId
    score: Unit
    label: U32
    t_ms: ClockMs
    reason: Annotated[Reason, _WORD]
    window: Window | None = None
    ref: U32 | None = None


class Verdict(NamedTuple):
    """The gateway's answer to an event."""

    seq: U32
    session: U32
    accepted: bool
    label: Text
    score: Unit
    action: Text
    ttl_ms: U32
    basis: Annotated[Basis, _WORD]


class GatewayState(NamedTuple):
    """Whether a gateway is there to answer; nodes keep their events while none is."""

    state: Annotated[str, Field(pattern="^(online|offline)$")]
    unix_s: U32


class Stored(NamedTuple):
    """Over Bluetooth LE: events of a session that are on the gateway's disk."""

    session: U32
    seqs: Annotated[tuple[U32, ...], Field(min_length=1, max_length=16)]


class Security(StrEnum):
    """How a node and its broker know each other."""

    PLAIN = "plain"
    PSK = "psk"
    X509 = "x509"


class Provisioning(NamedTuple):
    """What makes a firmware one node: in its flash, and once over Bluetooth LE. `provisioning` says what belongs together."""

    id: NodeId
    host: Short  # of the broker: a name or an IPv4 address
    port: Annotated[int, Field(ge=1, le=65_535)]
    security: Annotated[Security, _WORD]
    keys: Annotated[tuple[Annotated[bytes, Field(min_length=32, max_length=32)], ...], Field(max_length=4)]  # of who may sign images
    psk: Annotated[bytes, Field(min_length=16, max_length=32)] | None = None  # its identity is the id
    user: Short | None = None
    password: Short | None = None
    ca: Der | None = None
    certificate: Der | None = None
    private_key: Der | None = None
    image_bytes: U32 | None = None  # of the factory's image
    ssid: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    wifi_password: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class EventKey(NamedTuple):
    """Names an event for ever."""

    node: str
    session: int
    seq: int


Message = State | Info | Vitals | Event


class Frame(NamedTuple):
    """One message as a transport heard it. `done()` tells the transport that it need not be delivered again."""

    node: str
    tail: str  # state, info, vitals, event, smp
    payload: bytes
    transport: str
    done: Callable[[], object]
    retained: bool = False  # the broker's memory of an earlier time: says nothing about now


class Opinion(NamedTuple):
    """What a larger model says of a window."""

    accepted: bool
    label: str
    score: float  # 0 to 1, its confidence that the node was right
    model: str  # name and version of what judged
    text: str = ""  # what was heard or found, for people
    action: str = ""  # what the policy asks for; empty: the cascade's default
    stages: tuple[tuple[str, float], ...] = ()  # (stage, seconds), in order
    wait_s: float = 0.0  # for a free worker; it and `model_s` are filled in by the worker pool
    model_s: float = 0.0


class Record(NamedTuple):
    """All that is remembered of one event."""

    node: str
    event: Event
    arrived_s: float  # Unix time
    verdict: Verdict | None = None  # None: its node is not enrolled, or its cascade is unknown here
    opinion: Opinion | None = None
    latency_s: float = 0.0  # from arrival to verdict
