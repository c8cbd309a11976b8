"""Places in memory: blocks that are not needed at the same time share it, and some may be written over what they are made of.

Places are legal if no write destroys what is needed at its time (plan_check_write() of node_firmware/core/nn/plan.c). First, blocks are
joined of which one is a copy of a part of the other, where that is legal: then nothing is copied, and they stay together from then on. One
after the other these groups get the lowest legal place. In which order, decides how much memory is needed, so many orders are tried.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ALIGNMENT = 4
_WORK = 1_500_000  # comparisons that a search may make: less than a second
_PATIENCE = 30  # tries for each group that do not lead further


class Over(NamedTuple):
    """A write may destroy `block`, if that dies then and begins at least `distance` bytes, and a multiple of `unit`, behind it.

    `unit` 0: wherever it is.
    """

    block: int
    distance: int
    unit: int


class Block(NamedTuple):
    """Memory that is needed from time `first` to `last`; `place`: where it is already."""

    size: int
    first: int
    last: int
    alignment: int = ALIGNMENT
    place: int | None = None


class Write(NamedTuple):
    """Something is written into `block`; a copy of what lies at `source` (block and offset) is no write if that is the same place."""

    time: int
    block: int
    offset: int
    size: int
    source: tuple[int, int] | None = None
    over: tuple[Over, ...] = ()


class Conflict(NamedTuple):
    """`write` must not destroy `block`."""

    write: Write
    block: int
    over: Over | None

    def allows(self, distance: int, size: int) -> bool:
        """Whether the block, of `size`, may be `distance` behind the write."""
        if distance >= self.write.size or distance <= -size:
            return True
        return self.over is not None and (self.over.unit == 0 or (distance >= self.over.distance and distance % self.over.unit == 0))


class Groups:
    """Which blocks are joined: they have fixed distances."""

    def __init__(self, blocks: Sequence[Block], writes: Sequence[Write]) -> None:
        self.blocks = blocks
        self.of = list(range(len(blocks)))
        self.offsets = [0] * len(blocks)  # in its group
        self.members = {i: [i] for i in range(len(blocks))}
        self.conflicts = {write: list(_conflicts(write, blocks)) for write in writes}

    def join(self, *, legally: bool) -> None:
        """Join sources and copies, the largest first."""
        wishes = sorted((write for write in self.conflicts if write.source), key=lambda write: -write.size)
        while granted := [write for write in wishes if self._grant(write, legally=legally)]:
            for write in granted:
                del self.conflicts[write]
            wishes = [write for write in wishes if write not in granted]

    def _grant(self, write: Write, *, legally: bool) -> bool:
        assert write.source is not None
        block, offset = write.source
        one, other = self.of[block], self.of[write.block]
        shift = self.offsets[block] + offset - write.offset - self.offsets[write.block]
        if one == other:
            return shift == 0
        moved = {i: self.offsets[i] + shift for i in self.members[other]}
        together = moved | {i: self.offsets[i] for i in self.members[one]}
        if legally and not (self._is_aligned(together) and self._is_legal(together, write)):
            return False
        for i, place in moved.items():
            self.of[i], self.offsets[i] = one, place
        self.members[one] += self.members.pop(other)
        return True

    def _is_aligned(self, places: dict[int, int]) -> bool:
        lowest = min(places.values())
        return all((place - lowest) % self.blocks[i].alignment == 0 for i, place in places.items())

    def _is_legal(self, places: dict[int, int], granted: Write) -> bool:
        return all(
            conflict.allows(places[conflict.block] - places[write.block] - write.offset, self.blocks[conflict.block].size)
            for write, conflicts in self.conflicts.items()
            if write.block in places and write is not granted
            for conflict in conflicts
            if conflict.block in places
        )


def _conflicts(write: Write, blocks: Sequence[Block]) -> Iterator[Conflict]:
    may = {over.block: over for over in write.over if blocks[over.block].last == write.time}
    for i, block in enumerate(blocks):
        if i != write.block and block.size and block.first <= write.time <= block.last:
            yield Conflict(write, i, may.get(i))


def places(blocks: Sequence[Block], writes: Sequence[Write]) -> tuple[list[int], int]:
    """Where each block is, and how much memory that takes; always the same for the same blocks and writes."""
    groups = Groups(blocks, writes)
    groups.join(legally=True)
    for members in groups.members.values():
        lowest = min(groups.offsets[i] for i in members)
        for i in members:
            groups.offsets[i] -= lowest
    bases, top = _search(groups)
    return [bases[group] + offset for group, offset in zip(groups.of, groups.offsets, strict=True)], _aligned(top)


def _aligned(place: int) -> int:
    return place + -place % ALIGNMENT


def _needs(groups: Groups) -> list[int]:
    """At each time the bytes that are needed, if what must not overlap does not, and each group is as it is."""
    needs = [0] * (1 + max((block.last for block in groups.blocks), default=0))
    for members in groups.members.values():
        blocks = sorted((groups.offsets[i], groups.blocks[i]) for i in members)
        for time in range(min(block.first for _, block in blocks), 1 + max(block.last for _, block in blocks)):
            end = 0
            for begin, block in blocks:
                if block.first <= time <= block.last:
                    needs[time] += max(0, begin + block.size - max(begin, end))
                    end = max(end, begin + block.size)
    return needs


def _least(groups: Groups, needs: Sequence[int]) -> int:
    """What no plan goes below: all that is needed at a time, but for what may overlap."""
    least = list(needs)
    for write, conflicts in groups.conflicts.items():
        overlap = 0
        for conflict in conflicts:
            if conflict.over and groups.of[conflict.block] != groups.of[write.block]:
                free = write.size - conflict.over.distance if conflict.over.unit else write.size
                overlap += max(0, min(free, groups.blocks[conflict.block].size))
        least[write.time] -= min(overlap, write.size)
    return max(least)


class _Forbidden(NamedTuple):
    """A group must not begin `low` to `high` bytes behind another one, but for `phase` and a multiple of `unit` (0: no exception)."""

    other: int
    low: int
    high: int
    unit: int = 0
    phase: int = 0


def _forbidden(groups: Groups) -> dict[int, list[_Forbidden]]:
    """All that keeps groups apart, for both sides."""
    found: dict[int, set[_Forbidden]] = {group: set() for group in groups.members}
    for write, conflicts in groups.conflicts.items():
        for conflict in conflicts:
            writer, needed = groups.of[write.block], groups.of[conflict.block]
            if writer == needed:
                continue
            shift = groups.offsets[write.block] + write.offset - groups.offsets[conflict.block]
            low, high, unit = shift - groups.blocks[conflict.block].size + 1, shift + write.size - 1, 0
            if conflict.over:
                if conflict.over.unit == 0:
                    continue
                begin = shift + conflict.over.distance
                unit = conflict.over.unit if conflict.over.unit > 1 else 0
                if unit and begin <= high:
                    found[needed].add(_Forbidden(writer, max(begin, low), high, unit, shift % unit))
                    found[writer].add(_Forbidden(needed, -high, -max(begin, low), unit, -shift % unit))
                high = min(high, begin - 1)
            if low <= high:
                found[needed].add(_Forbidden(writer, low, high))
                found[writer].add(_Forbidden(needed, -high, -low))
    return {group: sorted(forbidden) for group, forbidden in found.items()}


class _Placer:
    """Places groups in a given order."""

    def __init__(self, groups: Groups) -> None:
        self.forbidden = _forbidden(groups)
        self.sizes = {g: max(groups.offsets[i] + groups.blocks[i].size for i in members) for g, members in groups.members.items()}
        given = {g: groups.blocks[members[0]].place for g, members in groups.members.items()}
        self.fixed = {g: place or 0 for g, place in given.items() if place is not None or not self.sizes[g]}

    def place(self, order: Sequence[int]) -> tuple[dict[int, int], int]:
        """Each group's lowest place beside those before it, and the end of all."""
        bases = dict(self.fixed)
        for group in order:
            bases[group] = self._lowest(group, bases)
        return bases, max((base + self.sizes[group] for group, base in bases.items()), default=0)

    def _lowest(self, group: int, bases: dict[int, int]) -> int:
        near = [(bases[f.other], f.low, f.high, f.unit, f.phase) for f in self.forbidden[group] if f.other in bases]
        taken = sorted((base + low, base + high, unit, base + phase) for base, low, high, unit, phase in near)
        place, before = 0, -1
        while place != before:
            before = place
            for low, high, unit, phase in taken:
                if low > place:
                    break
                if place <= high and not (unit and (place - phase) % unit == 0):
                    place = _aligned(min(high + 1, place + (phase - place) % unit) if unit else high + 1)
        return place


def _search(groups: Groups) -> tuple[dict[int, int], int]:
    """The best places of many, and their end: a group is moved to another position in the order, and stays there if that is not worse."""
    placer, needs = _Placer(groups), _needs(groups)
    least = _aligned(_least(groups, needs))
    free = [g for g in groups.members if g not in placer.fixed]
    begun = [(*placer.place(order), order) for order in _orders(groups, free, needs.index(max(needs)))]
    bases, end, order = min(begun, key=lambda tried: tried[1])
    rng = random.Random(1)  # noqa: S311 -- the same plan each time
    tries, last = 0, _WORK // (1 + 10 * len(free) + sum(map(len, placer.forbidden.values())))
    patience = _PATIENCE * len(free)
    while end > least and tries < min(last, patience):
        highest = [g for g in free if bases[g] + placer.sizes[g] == end]
        moved = rng.choice(highest if highest and rng.randrange(2) else free)
        other = [g for g in order if g != moved]
        other.insert(rng.randrange(len(free)), moved)
        new, top = placer.place(other)
        if top < end:
            patience = tries + _PATIENCE * len(free)
        if top <= end:
            bases, end, order = new, top, other
        tries += 1
    return bases, end


def _orders(groups: Groups, free: Sequence[int], peak: int) -> Iterator[list[int]]:
    """To begin with: by size; outward from the time of most need; backwards and forwards in time."""
    first = {g: min(groups.blocks[i].first for i in groups.members[g]) for g in free}
    size = {g: max(groups.blocks[i].size for i in groups.members[g]) for g in free}
    yield sorted(free, key=lambda g: (-size[g], -first[g]))
    yield sorted(free, key=lambda g: (abs(first[g] - peak), -size[g]))
    yield sorted(free, key=lambda g: (-first[g], -size[g]))
    yield sorted(free, key=lambda g: (first[g], -size[g]))
