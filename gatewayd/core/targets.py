"""Who takes part in a rollout, and in which group.

The gate compares each node with its own past, so whose past is known best comes first: heard within the hour (a sleeper would keep the
canary waiting), then by how often the gateway judged it lately, then by name. The same fleet gives the same groups.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from gatewayd.core import update
from gatewayd.core.image import Image
from gatewayd.core.types import Info, SlotState
from gatewayd.errors import GatewaydError

DEFAULT_GROUPS = "1,10%,100%"
_RECENT_S = 3_600.0
_SIZE = re.compile(r"([1-9]\d{0,6})(%?)", re.ASCII)


class TargetError(GatewaydError):
    """No rollout can be made of what was asked for; says why."""


class Candidate(NamedTuple):
    """What is known of a node."""

    id: str
    enrolled: bool
    heard_s: float  # Unix time
    info: Info | None
    labels: tuple[str, ...] = ()


class Selector(NamedTuple):
    """Which nodes are meant: of the cascade always; of one of `nodes` and of `boards` and with all `labels` where there are any."""

    cascade: str
    nodes: Collection[str] = ()
    boards: Collection[str] = ()
    labels: Collection[str] = ()


def select(candidates: Iterable[Candidate], selector: Selector) -> list[Candidate]:
    """The enrolled nodes that are meant. Raises TargetError where there is none, or where one that was named cannot be among them."""
    known = {candidate.id: candidate for candidate in candidates}
    for node in selector.nodes:
        reason = _outside(known[node], selector) if node in known else "it was never heard"
        if reason:
            raise TargetError(f"{node} cannot take part: {reason}")
    eligible = [candidate for candidate in known.values() if _outside(candidate, Selector(selector.cascade)) is None]
    if not eligible:
        raise TargetError(f"no enrolled node has a slot for {selector.cascade!r}")
    _check_words("board", selector.boards, {candidate.info.board for candidate in eligible if candidate.info})
    _check_words("label", selector.labels, {label for candidate in eligible for label in candidate.labels})
    meant = [one for one in eligible if (not selector.nodes or one.id in selector.nodes) and _outside(one, selector) is None]
    if not meant:
        raise TargetError("no node has all that was asked for")
    return meant


def _outside(candidate: Candidate, selector: Selector) -> str | None:
    """Why a node is not meant, its name apart."""
    info = candidate.info
    if not candidate.enrolled:
        return "it is not enrolled"
    if info is None:
        return "it has not said yet what it is"
    if all(slot.cascade != selector.cascade for slot in info.slots):
        return f"it has no slot for {selector.cascade!r}"
    if selector.boards and info.board not in selector.boards:
        return f"its board is {info.board!r}"
    missing = sorted(set(selector.labels) - set(candidate.labels))
    return f"it has no label {missing[0]!r}" if missing else None


def _check_words(what: str, asked: Collection[str], known: Collection[str]) -> None:
    for word in asked:
        if word not in known:
            raise TargetError(f"no node of this cascade has {what} {word!r}; there are: {', '.join(sorted(known)) or 'none'}")


def unfit(image: Image, info: Info) -> str | None:
    """Why an image is not offered to a node; None where it would take it."""
    if any(slot.sha256 == image.sha256 and slot.state is SlotState.CONFIRMED for slot in info.slots):
        return "has it already"
    return update.admit(image, info)


def in_turn(candidates: Iterable[Candidate], judged: Mapping[str, int], now_s: float) -> list[str]:
    """The nodes' names, the best canary first; `judged` counts what the gateway judged of each lately."""

    def turn(candidate: Candidate) -> tuple[bool, int, str]:
        return now_s - candidate.heard_s > _RECENT_S, -judged.get(candidate.id, 0), candidate.id

    return [candidate.id for candidate in sorted(candidates, key=turn)]


def split(names: Sequence[str], sizes: str = DEFAULT_GROUPS) -> tuple[tuple[str, ...], ...]:
    """`names` in groups of growing size: "1,10%,100%" is one, then up to a tenth of all (rounded up), then all. A group that would add
    nobody is left out. Raises TargetError.
    """
    groups: list[tuple[str, ...]] = []
    ends: dict[str, int] = {}  # the newest of each unit
    reached = 0
    for size in sizes.split(","):
        match = _SIZE.fullmatch(size.strip())
        if match is None:
            raise TargetError(f"groups {sizes!r}: {size.strip()!r} is neither a number of nodes nor a percentage")
        number, unit = int(match[1]), match[2]
        if number <= ends.get(unit, 0) or (unit and number > 100):  # noqa: PLR2004 - percent
            raise TargetError(f"groups {sizes!r}: each says how many have it by then, so they must grow, to 100% at most")
        ends[unit] = number
        end = min(len(names), -(-len(names) * number // 100) if unit else number)
        if end > reached:
            groups.append(tuple(names[reached:end]))
            reached = end
    if reached < len(names):
        raise TargetError(f"groups {sizes!r}: they end at {reached} of {len(names)} nodes; end with 100%")
    return tuple(groups)
