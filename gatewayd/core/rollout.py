"""A rollout: one image's way to many nodes, group by group, and when it must stop.

`step` is asked again and again with what is known of the nodes and the gate; it moves the rollout and says what the nodes' updates shall
do next. It keeps nothing between calls: a gateway that was killed asks with what it stored and gets the same answer. `command` is the
operator's hand on it. `explain` says in words, with the numbers, why it moved, waits or stopped.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from gatewayd.core import gate, update
from gatewayd.core.gate import MARGIN
from gatewayd.errors import GatewaydError

_HOUR_S, _DAY_S = 3_600.0, 86_400.0
_Z = 1.2816  # one-sided 90 %


class CommandError(GatewaydError):
    """A command that a rollout in this state cannot take."""


class State(StrEnum):
    """Where a rollout is."""

    DRAFT = "draft"
    RUNNING = "running"  # its group is being updated
    SOAKING = "soaking"  # enough of the group runs the image; time, the gate and the confirmations are awaited
    AWAITING_APPROVAL = "awaiting_approval"  # of the next group
    PAUSED = "paused"  # cause: whose wish, or that the gate has not enough evidence
    HALTED = "halted"  # cause: what broke
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"  # nodes on their way go back, confirmed ones stay
    DONE = "done"


class Command(StrEnum):
    """What an operator may ask for."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"  # the next group; where the gate has not enough evidence: go on without
    ABORT = "abort"
    ROLL_BACK = "roll_back"


class Rules(NamedTuple):
    """When a group has succeeded, when the rollout halts, and what it may use."""

    success_ratio: float = 0.9  # S: confirmed of a group, for the next to begin; one that cannot reach it halts the rollout
    min_attempted: int = 1  # k_min: no error rate is looked at before
    error_limit: float = 0.1  # E: failed, rejected, timed out and rolled back of those attempted
    soak_s: float = _DAY_S
    gate: bool = True
    margin: float = MARGIN  # a greater loss is excluded before the gate passes: points of agreement, share of the detections
    gate_patience_s: float = 14 * _DAY_S  # soaking without enough evidence for so long pauses
    approval: bool = False  # before every group but the first
    concurrent: int = 4  # transfers
    bytes_per_hour: int | None = None  # air time that new transfers may take
    min_battery: float = 0.3  # of nodes that have one
    sleep_limit_s: float = 7 * _DAY_S  # after its group began: a node not heard by then has failed


class Rollout(NamedTuple):
    """All that is stored of a rollout, beside its nodes' updates and the gate's counts."""

    id: str
    cascade: str
    version: str
    sha256: bytes  # of the node's image
    size_bytes: int
    groups: tuple[tuple[str, ...], ...]  # node ids, canary first, in the order of their turn; each once
    rules: Rules
    state: State = State.DRAFT
    group: int = 0
    since_s: float = 0.0  # Unix time of the state
    group_since_s: float = 0.0
    cause: str = ""
    paused_from: State = State.DRAFT
    cleared: bool = False  # the gate has passed, or was overruled: from now on it can only stop the rollout


class Node(NamedTuple):
    """What a rollout needs to know of a node."""

    state: update.State
    reachable: bool = True  # up, and not asleep
    battery: float | None = None
    started_s: float | None = None  # Unix time of its transfer's beginning
    reason: str = ""


class Do(StrEnum):
    """What a node's update shall do next: the update events of the same meaning."""

    START = "start"  # admit or refuse
    CONFIRM = "confirm"  # update.Event.GATE_PASSED
    ABORT = "abort"  # update.Event.ABORT
    ROLL_BACK = "roll_back"  # update.Event.GATE_FAILED
    EXPIRE = "expire"  # update.Event.DEADLINE


class Decision(NamedTuple):
    """One node's next step."""

    do: Do
    node: str


Nodes = Mapping[str, Node]
_U = update.State
_TRANSFERRING = frozenset({_U.ADMITTED, _U.UPLOADING, _U.VERIFIED})
_RUNNING_IT = frozenset({_U.JUDGING, _U.CONFIRMING, _U.CONFIRMED})
ENDED = frozenset({State.DONE, State.ABORTED, State.ROLLED_BACK})
_ACTIVE = frozenset({State.RUNNING, State.SOAKING, State.AWAITING_APPROVAL, State.PAUSED})
NO_EVIDENCE = "not enough evidence"

COMMANDS: dict[tuple[State, Command], State] = {
    (State.DRAFT, Command.START): State.RUNNING,
    (State.DRAFT, Command.ABORT): State.ABORTED,
    (State.AWAITING_APPROVAL, Command.APPROVE): State.RUNNING,
    **{(state, Command.PAUSE): State.PAUSED for state in _ACTIVE - {State.PAUSED}},
    (State.PAUSED, Command.RESUME): State.PAUSED,  # and from there to where it was
    (State.PAUSED, Command.APPROVE): State.PAUSED,
    (State.SOAKING, Command.APPROVE): State.SOAKING,
    **{(state, Command.ABORT): State.ABORTED for state in _ACTIVE},
    **{(state, Command.ROLL_BACK): State.ROLLING_BACK for state in (*_ACTIVE, State.ABORTED, State.DONE)},
}


def command(rollout: Rollout, order: Command, now_s: float, cause: str = "operator") -> Rollout:
    """The rollout after an operator's command. Raises CommandError."""
    to = COMMANDS.get((rollout.state, order))
    if to is None:
        raise CommandError(f"rollout {rollout.id} is {rollout.state}: it cannot {order.replace('_', ' ')}")
    if order is Command.APPROVE and rollout.state is not State.AWAITING_APPROVAL:  # overrules the gate's silence, never its no
        rollout = rollout._replace(cleared=True)
    if rollout.state is State.PAUSED and order in (Command.RESUME, Command.APPROVE):
        return _enter(rollout, rollout.paused_from, now_s)
    if to is State.PAUSED:
        rollout = rollout._replace(paused_from=rollout.state)
    if rollout.state is State.AWAITING_APPROVAL and to is State.RUNNING:
        return _next_group(rollout, now_s)
    entered = _enter(rollout, to, now_s, "" if to in (State.RUNNING, State.SOAKING) else cause)
    return entered._replace(group_since_s=now_s) if order is Command.START else entered


def step(rollout: Rollout, nodes: Nodes, verdict: gate.Verdict, now_s: float) -> tuple[Rollout, tuple[Decision, ...]]:
    """Move the rollout where it must and say what its nodes do next. `nodes` has every node of every group.

    A rollout that has moved is to be stored before the decisions are carried out, and `step` asked again: it moves once in a call.
    """
    if rollout.state in _ACTIVE and (cause := _broken(rollout, nodes, verdict)):
        return _enter(rollout, State.HALTED, now_s, cause), ()
    if rollout.state is State.HALTED:
        return _enter(rollout, State.ROLLING_BACK, now_s, rollout.cause), ()
    moved = rollout
    if rollout.state is State.ROLLING_BACK and all(node.state in update.BAD for node in nodes.values()):
        moved = _enter(rollout, State.ROLLED_BACK, now_s, rollout.cause)
    elif rollout.state is State.RUNNING and _enough(rollout, _count(rollout, nodes, _RUNNING_IT)):
        moved = _enter(rollout, State.SOAKING, now_s)
    elif rollout.state is State.SOAKING and now_s - rollout.since_s >= rollout.rules.soak_s:
        moved = _soaked(rollout, nodes, verdict, now_s)
    return moved, () if moved != rollout else _decide(rollout, nodes, now_s)


def _soaked(rollout: Rollout, nodes: Nodes, verdict: gate.Verdict, now_s: float) -> Rollout:
    rules, last = rollout.rules, rollout.group == len(rollout.groups) - 1
    if rules.gate and not rollout.cleared:
        if verdict.answer is gate.Answer.PASS:
            return rollout._replace(cleared=True)
        if now_s - rollout.since_s >= rules.soak_s + rules.gate_patience_s:
            return _enter(rollout._replace(paused_from=State.SOAKING), State.PAUSED, now_s, NO_EVIDENCE)
    elif last and all(node.state in update.SETTLED for node in nodes.values()):
        return _enter(rollout, State.DONE, now_s)
    elif not last and _enough(rollout, _count(rollout, nodes, {_U.CONFIRMED})):
        return _enter(rollout, State.AWAITING_APPROVAL, now_s) if rules.approval else _next_group(rollout, now_s)
    return rollout


def _decide(rollout: Rollout, nodes: Nodes, now_s: float) -> tuple[Decision, ...]:
    """What the nodes do next where the rollout stays as it is."""
    if rollout.state in (State.ROLLING_BACK, State.ABORTED):
        open_ = [name for name, node in nodes.items() if node.state not in update.SETTLED | {_U.REVERTING}]
        confirmed = [name for name, node in nodes.items() if node.state is _U.CONFIRMED and rollout.state is State.ROLLING_BACK]
        return (*(Decision(Do.ABORT, name) for name in open_), *(Decision(Do.ROLL_BACK, name) for name in confirmed))
    if rollout.state not in (State.RUNNING, State.SOAKING, State.AWAITING_APPROVAL):
        return ()
    soaked = now_s - rollout.since_s >= rollout.rules.soak_s and (rollout.cleared or not rollout.rules.gate)
    # Who comes late to a group that has succeeded is confirmed with no soak of its own.
    finished = rollout.groups[: rollout.group + (rollout.state is State.AWAITING_APPROVAL or (rollout.state is State.SOAKING and soaked))]
    confirm = [name for names in finished for name in names if nodes[name].state is _U.JUDGING]
    return (*_starts(rollout, nodes, now_s), *(Decision(Do.CONFIRM, name) for name in confirm))


def _starts(rollout: Rollout, nodes: Nodes, now_s: float) -> tuple[Decision, ...]:
    """Who may begin now, within the limits on transfers, air time and battery; who has slept too long."""
    rules, begun = rollout.rules, _begun(rollout)
    waiting = [name for name in begun if nodes[name].state is _U.WAITING]
    late = now_s - rollout.group_since_s > rules.sleep_limit_s
    expired = [Decision(Do.EXPIRE, name) for name in waiting if late and not nodes[name].reachable]
    free = rules.concurrent - sum(node.state in _TRANSFERRING for node in nodes.values())
    if rules.bytes_per_hour is not None:
        recent = sum(node.started_s is not None and node.started_s > now_s - _HOUR_S for node in nodes.values())
        free = min(free, max(1, rules.bytes_per_hour // rollout.size_bytes) - recent)
    ready = [name for name in waiting if nodes[name].reachable and _charged(nodes[name], rules)]
    return (*expired, *(Decision(Do.START, name) for name in ready[: max(0, free)]))


def _charged(node: Node, rules: Rules) -> bool:
    return node.battery is None or node.battery >= rules.min_battery


def _begun(rollout: Rollout) -> list[str]:
    return [name for names in rollout.groups[: rollout.group + 1] for name in names]


def _count(rollout: Rollout, nodes: Nodes, states: Collection[update.State]) -> int:
    """How many of the current group are in one of `states`."""
    return sum(nodes[name].state in states for name in rollout.groups[rollout.group])


def _needed(rollout: Rollout) -> int:
    return math.ceil(rollout.rules.success_ratio * len(rollout.groups[rollout.group]) - 1e-9)


def _enough(rollout: Rollout, count: int) -> bool:
    return count >= _needed(rollout)


def _broken(rollout: Rollout, nodes: Nodes, verdict: gate.Verdict) -> str:
    """Why the rollout must halt; empty where it need not."""
    rules, total = rollout.rules, len(rollout.groups[rollout.group])
    if rules.gate and verdict.answer is gate.Answer.FAIL:
        return f"the gate has failed: {_gate_words(verdict, rules.margin)}"
    attempted, bad = _attempts(nodes.values())
    if attempted >= rules.min_attempted and wilson_lower(bad, attempted) > rules.error_limit:
        return f"{bad} of {attempted} attempted nodes went wrong{_reasons(rollout, nodes)}: surely more than {rules.error_limit:.0%}"
    lost = _count(rollout, nodes, update.BAD)
    if not _enough(rollout, total - lost):
        return f"{lost} of the {total} nodes of group {rollout.group + 1} went wrong{_reasons(rollout, nodes)}: success is out of reach"
    return ""


def _attempts(nodes: Iterable[Node]) -> tuple[int, int]:
    """How many were attempted, and how many of them went wrong."""
    states = [node.state for node in _attempted(nodes)]
    return len(states), sum(state in update.BAD or state is _U.REVERTING for state in states)


def _attempted(nodes: Iterable[Node]) -> list[Node]:
    """A node that waits or sleeps is not attempted yet, and one that was called off while it did never is."""
    return [node for node in nodes if node.state is not _U.WAITING and not (node.state is _U.ROLLED_BACK and node.started_s is None)]


def wilson_lower(bad: int, total: int) -> float:
    """The error rate that `bad` of `total` show at least, at 90 % (Wilson's score interval, one-sided)."""
    if not total:
        return 0.0
    share, z2 = bad / total, _Z**2
    spread = _Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, share + z2 / (2 * total) - spread) / (1 + z2 / total)


def _enter(rollout: Rollout, state: State, now_s: float, cause: str = "") -> Rollout:
    return rollout._replace(state=state, since_s=now_s, cause=cause)


def _next_group(rollout: Rollout, now_s: float) -> Rollout:
    return _enter(rollout, State.RUNNING, now_s)._replace(group=rollout.group + 1, group_since_s=now_s)


def _reasons(rollout: Rollout, nodes: Nodes) -> str:
    """Of those that went wrong; the rollout's own cause is told elsewhere."""
    bad = (node for node in _attempted(nodes.values()) if node.state in update.BAD)
    counts = Counter(str(node.state) if node.reason in ("", rollout.cause) else node.reason for node in bad)
    return f" ({', '.join(f'{reason}: {count}' for reason, count in counts.most_common(3))})" if counts else ""


def _gate_words(verdict: gate.Verdict, margin: float) -> str:
    """The gate's numbers: every question with old, new and how sure it is."""
    if not verdict.questions:
        return "no node could be compared with itself yet"
    units = {"precision": "{:.0%}", "audits": "{:.1%}"}
    parts = []
    for question in verdict.questions:
        number = units.get(question.name, "{:.2f}/h")
        old, new = ("none yet" if math.isnan(value) else number.format(value) for value in (question.old, question.new))
        parts.append(f"{question.name} {old} -> {new} (worse {question.worse:.3g}:1, fine {question.fine:.3g}:1)")
    passes = f"passes when all are {1 / gate.MISSED:.0f}:1 fine, which excludes a loss of {margin:.0%}"
    needs = f"it fails at {1 / gate.WRONG_HALT:.0f}:1 for worse (now {verdict.worse:.3g}), {passes}"
    return f"{'; '.join(parts)}; over {verdict.nodes} nodes, {verdict.escalated} triggers; {needs}"


def explain(rollout: Rollout, nodes: Nodes, verdict: gate.Verdict, now_s: float) -> str:
    """In words and numbers: where the rollout is, and why it moved, waits or stopped. One fact a line."""
    rules, names = rollout.rules, rollout.groups[rollout.group]
    attempted, bad = _attempts(nodes.values())
    states = Counter(nodes[name].state for name in names)
    place = f"{rollout.state.replace('_', ' ')}, group {rollout.group + 1} of {len(rollout.groups)}"
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    surely, limit = wilson_lower(bad, attempted), f"{rules.error_limit:.0%} from {rules.min_attempted} attempted on"
    wrong = f"{bad} went wrong{_reasons(rollout, nodes)}: surely {surely:.0%}, the limit is {limit}"
    lines = [
        f"rollout {rollout.id} of {rollout.cascade} {rollout.version}: {place}, for {_span(now_s - rollout.since_s)}",
        f"group: {counts}; {_needed(rollout)} of {len(names)} must be confirmed",
        f"all groups: {attempted} of {len(nodes)} attempted, {wrong}",
    ]
    if rollout.cause:
        lines.append(f"because: {rollout.cause}")
    if rollout.state in (State.RUNNING, State.SOAKING):
        lines += _waits(rollout, nodes, now_s)
    if rollout.state is State.PAUSED and rollout.cause == NO_EVIDENCE:
        lines.append("approve goes on without the gate's word; resume lets it wait as long again")
    if rules.gate and rollout.state in _ACTIVE | {State.DONE}:
        lines.append(f"gate: {'passed' if rollout.cleared else verdict.answer}: {_gate_words(verdict, rules.margin)}")
    return "\n".join(lines)


def _waits(rollout: Rollout, nodes: Nodes, now_s: float) -> list[str]:
    rules = rollout.rules
    waiting = [nodes[name] for name in _begun(rollout) if nodes[name].state is _U.WAITING]
    away = sum(not node.reachable for node in waiting)
    empty = sum(node.reachable and not _charged(node, rules) for node in waiting)
    busy = sum(node.state in _TRANSFERRING for node in nodes.values())
    lines = []
    if away:
        lines.append(f"waits for {away} nodes that sleep or are away, until {_span(rules.sleep_limit_s)} after the group began")
    if empty:
        lines.append(f"waits for {empty} nodes with a battery below {rules.min_battery:.0%}")
    if queued := len(waiting) - away - empty:
        budget = f", {rules.bytes_per_hour} bytes an hour" if rules.bytes_per_hour is not None else ""
        lines.append(f"{queued} nodes are in the queue: {busy} of {rules.concurrent} transfers run{budget}")
    if rollout.state is State.SOAKING and (left_s := rules.soak_s - (now_s - rollout.since_s)) > 0:
        lines.append(f"soaks for another {_span(left_s)}")
    return lines


def _span(seconds: float) -> str:
    for unit, name in ((_DAY_S, "d"), (_HOUR_S, "h"), (60.0, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def mermaid() -> str:
    """The life of a rollout as a Mermaid state diagram: the operator's commands, and what `step` does."""
    commands = [f"    {state} --> {to}: {order}" for (state, order), to in COMMANDS.items() if state is not to]
    steps = [f"    {state} --> {to}: {why}" for state, to, why in _STEPS]
    back = [f"    paused --> {state}: resume" for state in State if state in _ACTIVE - {State.PAUSED}]
    ends = [f"    {state} --> [*]" for state in (State.DONE, State.ABORTED, State.ROLLED_BACK)]
    return "\n".join(["stateDiagram-v2", "    [*] --> draft", *sorted(commands), *steps, *back, *ends]) + "\n"


_STEPS = (
    (State.RUNNING, State.SOAKING, "enough of the group run it"),
    (State.SOAKING, State.RUNNING, "enough confirmed, next group"),
    (State.SOAKING, State.AWAITING_APPROVAL, "enough confirmed, approval asked"),
    (State.SOAKING, State.PAUSED, "not enough evidence"),
    (State.SOAKING, State.DONE, "every node settled"),
    *((state, State.HALTED, "too many went wrong, or the gate failed") for state in State if state in _ACTIVE),
    (State.HALTED, State.ROLLING_BACK, "at once"),
    (State.ROLLING_BACK, State.ROLLED_BACK, "every node settled"),
)
