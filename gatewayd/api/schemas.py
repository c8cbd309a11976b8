"""What the API says and takes (docs/api.md). A name ends with its unit; `_s` in `at_s` and the like is Unix time."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Scope = Literal["read", "operate"]  # operate includes read


class Schema(BaseModel):
    """Every answer and every request: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Problem(Schema):
    """Why a request was refused (RFC 9457, application/problem+json)."""

    title: str
    status: int
    detail: str = ""


# ---- who asks


class Credentials(Schema):
    """POST /api/v1/session: a token becomes a cookie, for browsers."""

    token: Annotated[str, Field(min_length=8, max_length=128)]


class Session(Schema):
    """GET /api/v1/session: whose the cookie or the token is."""

    name: str
    scope: Scope
    csrf: str
    """What a browser's changes carry in the header X-CSRF-Token; empty for a token."""


# ---- the gateway


class FleetCounts(Schema):
    """How many nodes there are."""

    total: int
    enrolled: int
    up: int
    trouble: int
    """Up, and with a problem: a low battery, lost events, a crash."""


class Health(Schema):
    """GET /api/v1/health."""

    gateway: str
    version: str
    uptime_s: float
    broker_connected: bool
    problems: list[str]
    nodes: FleetCounts
    events: int
    clips: int
    clip_bytes: int
    escalation_queue: int
    store_queue: int


# ---- nodes


class Model(Schema):
    """What a node runs of one cascade, or has on trial."""

    cascade: str
    version: str
    model: str
    """First eight bytes of the image's SHA-256, hex."""
    state: Literal["test", "confirmed"]


class NodeRow(Schema):
    """One node in the list."""

    id: str
    enrolled: bool
    up: bool
    state: str
    """nodelink's word: init, ready, sleeping, disconnected, lost."""
    transports: list[str]
    """Where it is heard now."""
    route: str
    """Over which it is spoken to."""
    last_seen_s: float
    board: str
    firmware: str
    models: list[Model]
    labels: list[str]
    battery: float | None
    """0 to 1."""
    rssi_dbm: int | None
    lost: int
    """Events that never came."""
    reboots: int
    trouble: list[str]
    """In words; empty where all is well."""


class NodeList(Schema):
    """GET /api/v1/nodes?q=&state=up|down|trouble|new&cascade=&label=&sort=id|last_seen|battery&limit=&offset=."""

    total: int
    """That match."""
    fleet: FleetCounts
    items: list[NodeRow]


class Slot(Schema):
    """One image slot of a node."""

    image: int
    slot: int
    state: str
    cascade: str | None
    version: str | None
    size_bytes: int | None
    capacity_bytes: int
    rejected: str | None


class CascadeWork(Schema):
    """What one cascade does on a node, by its newest vitals."""

    cascade: str
    invokes: int
    invoke_us: float
    """Mean time of an inference."""
    arena_bytes: int
    scores: int
    mean: float
    histogram: list[int]
    """Of the scores since the report before, eight bins from 0 to 1."""


class NodeDetail(Schema):
    """GET /api/v1/nodes/{id}."""

    node: NodeRow
    first_seen_s: float | None
    session: int | None
    hardware: str
    reset_reason: str
    crash: str
    """Where it crashed before its last start, in words; empty where it did not."""
    uptime_s: int | None
    queued: int | None
    """Events that wait in its flash."""
    dropped: int | None
    heap_free_bytes: int | None
    stack_free_bytes: int | None
    clock_skew_s: float | None
    """Of its clock against the gateway's, over the time since it booted; None where unknown."""
    pairing: str
    """Over Bluetooth LE: empty, or how far it is."""
    work: list[CascadeWork]
    slots: list[Slot]
    history: list["NodeNote"]
    """Its updates, newest first."""


class NodeNote(Schema):
    """What happened to a node."""

    at_s: float
    text: str
    rollout: str | None = None


class VitalsSeries(Schema):
    """GET /api/v1/nodes/{id}/vitals?hours=24: columns of equal length, oldest first; None where a node said nothing of it."""

    at_s: list[float]
    battery: list[float | None]
    rssi_dbm: list[int | None]
    heap_free_bytes: list[int | None]
    stack_free_bytes: list[int | None]
    queued: list[int | None]
    uptime_s: list[int | None]
    invoke_us: list[float | None]
    """Mean time of an inference, all cascades."""


class Enrolment(Schema):
    """PUT /api/v1/nodes/{id}/enrolment (operate)."""

    enrolled: bool


class Labels(Schema):
    """PUT /api/v1/nodes/{id}/labels (operate): these and no others."""

    labels: Annotated[list[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")]], Field(max_length=32)]


# ---- events


class Opinion(Schema):
    """What one of the two models, or both together, made of an event."""

    accepted: bool | None
    label: str
    score: float | None
    model: str
    """Node: eight bytes of its image, hex. Gateway: name and version."""


class EventRow(Schema):
    """One event in the list."""

    id: int
    node: str
    cascade: str
    at_s: float
    reason: Literal["trigger", "audit", "follow"]
    suspicion: Opinion
    """The node's."""
    verdict: Opinion | None
    """What was decided; None: it was not judged."""
    basis: str
    """Whose judgement the verdict is: gateway, node, timeout, overload, ...; empty without one."""
    agreed: bool | None
    """Whether the larger model shared the node's opinion; None where it was not asked."""
    action: str
    heard: str
    """What was heard or found, for people."""
    latency_ms: float
    window: str | None
    """Its kind where it is still kept: pcm16, adpcm, features, vibration, ecg, image_gray8, image_rgb8, tabular."""


class EventList(Schema):
    """GET /api/v1/events?node=&cascade=&reason=&agreed=true|false&before=ID&limit=: newest first."""

    items: list[EventRow]
    next: int | None
    """`before` of the next page."""


class EventDetail(Schema):
    """GET /api/v1/events/{id}."""

    event: EventRow
    session: int
    seq: int
    t_ms: int
    follows: int | None
    """Id of the event that this one follows."""
    stages: list[tuple[str, float]]
    """(stage of the larger model, seconds)."""
    wait_ms: float
    model_ms: float
    clip: bool
    """Whether GET /api/v1/events/{id}/clip.wav is there: sound, decoded to PCM16 (audio/wav)."""
    rate_hz: int | None
    channels: int | None
    shape: list[int] | None


class Series(Schema):
    """GET /api/v1/events/{id}/series: a window as numbers, dequantised: sound and signals by channel, features by row."""

    kind: str
    rate_hz: int
    """Of samples, or 0 where rows have no rate."""
    names: list[str]
    values: list[list[float]]
    """One list for each name; for `features` and images: one for each row of the picture."""
    every: int
    """Each value stands for so many samples: long ones are thinned, by minimum and maximum."""


# ---- cascades


class Quality(Schema):
    """How good a node model was in the field on one day."""

    day: str
    """ISO date, UTC."""
    model: str
    version: str
    """Empty where no node runs it any more and it was never rolled out."""
    judged: int
    agreed: int
    audits: int
    missed: int


class CascadeRow(Schema):
    """GET /api/v1/cascades: a list of these."""

    name: str
    title: str
    version: str
    judge: str
    """Kind of the larger model; empty without one."""
    ready: bool
    """Whether the larger model has come up."""
    source: Literal["folder", "bundle"]
    nodes: int
    """That run it."""
    models: dict[str, int]
    """Version -> nodes."""
    agreement_1d: float | None
    agreement_7d: float | None
    missed_7d: float | None
    """Share of the audits in which it found what the node had not."""


class CascadeDetail(Schema):
    """GET /api/v1/cascades/{name}?days=28."""

    cascade: CascadeRow
    actions: dict[str, str]
    labels: list[str]
    cutoff: float
    arena_bytes: int
    quality: list[Quality]
    """Oldest first."""
    card: str
    """Its CARD.md, plain text."""


# ---- rollouts


class RolloutRow(Schema):
    """GET /api/v1/rollouts: a list of these, newest first."""

    id: str
    cascade: str
    version: str
    state: str
    cause: str
    created_s: float
    since_s: float
    group: int
    groups: list[int]
    """How many nodes each has."""
    counts: dict[str, int]
    """State of a node's update -> nodes."""
    closed: bool
    commands: list[str]
    """What may be ordered now: start, pause, resume, approve, abort, roll_back."""


class NodeUpdate(Schema):
    """One node in a rollout."""

    node: str
    group: int
    state: str
    since_s: float
    progress: float
    """0 to 1."""
    reason: str
    asleep: bool


class Question(Schema):
    """One comparison that the gate makes; docs/gate.md."""

    name: str
    old: float | None
    new: float | None
    worse: float
    """E-value against "as good as before"."""
    fine: float
    """E-value against "worse by the margin"."""


class Gate(Schema):
    """What the gate says of a rollout that is open."""

    answer: Literal["pass", "fail", "hold"]
    nodes: int
    escalated: int
    worse: float
    questions: list[Question]
    fails_at: float
    passes_at: float


class RolloutDetail(Schema):
    """GET /api/v1/rollouts/{id}."""

    rollout: RolloutRow
    rules: dict[str, float | int | bool | None]
    nodes: list[NodeUpdate]
    history: list[NodeNote]
    explanation: str
    gate: Gate | None


class Start(Schema):
    """POST /api/v1/rollouts (operate): its query, as of `gatewayctl rollout start`. The body is the bundle, the answer a RolloutRow."""

    nodes: Annotated[list[str], Field(max_length=1_000)] = []
    boards: Annotated[list[str], Field(max_length=100)] = []
    labels: Annotated[list[str], Field(max_length=32)] = []
    groups: Annotated[str, Field(max_length=100)] = "1,10%,100%"
    soak_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 86_400.0
    success_ratio: Annotated[float, Field(ge=0.01, le=1)] = 0.9
    error_limit: Annotated[float, Field(ge=0, le=1)] = 0.1
    min_attempted: Annotated[int, Field(ge=1)] = 1
    approval: bool = False
    gate: bool = True
    gate_patience_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1_209_600.0
    margin: Annotated[float, Field(ge=0.01, le=0.9)] = 0.15
    concurrent: Annotated[int, Field(ge=1, le=1_000)] = 4
    bytes_per_hour: Annotated[int | None, Field(ge=1)] = None
    min_battery: Annotated[float, Field(ge=0, le=1)] = 0.3
    sleep_limit_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 604_800.0


class Order(Schema):
    """POST /api/v1/rollouts/{id}/orders (operate); answered with 202: the daemon obeys within a second."""

    command: Literal["pause", "resume", "approve", "abort", "roll_back"]
    because: Annotated[str, Field(max_length=200)] = ""


# ---- what was changed, and by whom


class AuditEntry(Schema):
    """GET /api/v1/audit?before=&limit= (operate): a list of these, newest first."""

    id: int
    at_s: float
    who: str
    """A token's name, or cli:USER."""
    what: str
    """Like node.enroll, rollout.pause, token.add, session.refused."""
    target: str
    detail: str
    address: str


# ---- the live stream: GET /api/v1/stream, server-sent events; `event:` is the name, `data:` one of these as JSON
# hello: Health · node: NodeRow (changed) · event: EventRow · rollout: RolloutRow · lagged: {} (too slow: load again)
