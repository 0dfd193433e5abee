"""How many troubles that nothing explains began about when on what they depend on: numbers, not pairs.

Of nodes, zones and other layers (graph.py) there are counters; of what few depend on, it is counted when asked for.
They follow from the troubles that are hot, so a snapshot need not hold them. Worth is counted in thousandths of a nat:
sums of whole numbers do not depend on the order in which things came and went.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from aiopsd.correlate.grouping.graph import Graph, Spot
from aiopsd.correlate.grouping.odds import SPAN
from aiopsd.correlate.grouping.state import State, Trouble, by_onset

SLOT = 30.0  # s; grain of the counts
SLOTS = round(SPAN / SLOT)  # what one fault brings begins within as many


class Mark(msgspec.Struct, frozen=True):
    """Where a trouble is counted, and as what.

    `free`: nothing that shows alerts explains it. It is counted on `hosts` as one that their fault might explain; or
    else as one that it need not. `claim`: the silent trouble on which it hangs; -1: none.
    """

    slot: int
    worth: int
    fell: int  # of its worth, what holds on a host only
    name: str
    free: bool
    hosts: tuple[str, ...]
    claim: int


class Slot:
    """What began on a host within SLOT seconds."""

    __slots__ = ("claims", "explained", "members", "names", "worth")

    def __init__(self) -> None:
        self.members: dict[int, None] = {}
        self.explained = 0
        self.claims: dict[int, int] = {}
        self.names: dict[str, int] = {}
        self.worth = 0

    def add(self, tid: int, mark: Mark) -> None:
        """One more that nothing explains."""
        self.members[tid] = None
        self.worth += mark.worth
        self.names[mark.name] = self.names.get(mark.name, 0) + 1
        if mark.claim >= 0:
            self.claims[mark.claim] = self.claims.get(mark.claim, 0) + 1


class Crowd(NamedTuple):
    """What began on a host within some slots: how many that nothing explains, their worth in nats, their names."""

    size: int
    explained: int  # how many more something explains
    worth: float
    names: dict[str, int]

    @classmethod
    def of(cls, slots: Iterable[Slot]) -> "Crowd":
        """The sum of some slots."""
        size, explained, worth = 0, 0, 0
        names: dict[str, int] = {}
        for slot in slots:
            size += len(slot.members)
            explained += slot.explained
            worth += slot.worth
            for name, n in slot.names.items():
                names[name] = names.get(name, 0) + n
        return cls(size, explained, worth / 1000.0, names)

    def without(self, others: Iterable[Trouble], *, fell: bool) -> "Crowd":
        """The same, when something else explains these of it; `fell`: it is a host's."""
        size, explained, worth, names = self.size, self.explained, self.worth, dict(self.names)
        for other in others:
            name = next(iter(other.names))
            if names.get(name):
                size, explained = size - 1, explained + 1
                worth -= round(1000.0 * other.strange) / 1000.0 - (0.0 if fell else round(1000.0 * other.fell) / 1000.0)
                less(names, name)
        return Crowd(size, explained, worth, names)


class Crowds:
    """Counts by host and slot of time."""

    def __init__(self, s: State, graph: Graph) -> None:
        self.s = s
        self.graph = graph
        self._marks: dict[int, Mark] = {}
        self._slots: dict[str, dict[int, Slot]] = {}
        self._everywhere: dict[int, int] = {}  # slot -> how many began in it that nothing explains
        for row in s.hot.values():
            for tid in row:
                self.update(s.troubles[tid])

    def update(self, trouble: Trouble) -> None:
        """Count a trouble as it is now, while it is hot."""
        old, mark = self._marks.get(trouble.id), self._mark(trouble)
        if old is mark or old == mark:
            return
        if old is not None:
            self._take_out(trouble.id, old)
        if mark is not None:
            self._put_in(trouble.id, mark)

    def drop(self, trouble: Trouble) -> None:
        """It is not hot any more."""
        old = self._marks.get(trouble.id)
        if old is not None:
            self._take_out(trouble.id, old)

    def _mark(self, trouble: Trouble) -> Mark | None:
        if not trouble.names or trouble.id not in self.s.hot.get(trouble.vertex, ()):
            return None
        parent = self.s.troubles.get(trouble.parent) if trouble.parent >= 0 else None
        claim = parent.id if parent is not None and not parent.names else -1
        return Mark(
            int(trouble.onset // SLOT),
            round(1000.0 * trouble.strange),
            round(1000.0 * trouble.fell),
            next(iter(trouble.names)),
            trouble.strange > 0.0 and (parent is None or claim >= 0 or self._shares(trouble, parent)),
            trouble.under,
            claim,
        )

    def free(self, trouble: Trouble) -> bool:
        """Whether nothing that shows alerts explains a trouble."""
        mark = self._marks.get(trouble.id)
        return mark is not None and mark.free

    def _shares(self, trouble: Trouble, parent: Trouble) -> bool:
        """Whether two have no more in common than something that says nothing."""
        link = self.graph.around(trouble.vertex).get(parent.vertex)
        return link is not None and not link.down and not link.up and link.shared != ()

    def _put_in(self, tid: int, mark: Mark) -> None:
        self._marks[tid] = mark
        if not mark.free:
            for host in mark.hosts:
                self._slot(host, mark.slot).explained += 1
            return
        self._everywhere[mark.slot] = self._everywhere.get(mark.slot, 0) + 1
        for host in mark.hosts:
            self._slot(host, mark.slot).add(tid, mark)

    def _take_out(self, tid: int, mark: Mark) -> None:
        del self._marks[tid]
        if not mark.free:
            for host in mark.hosts:
                self._slots[host][mark.slot].explained -= 1
                self._tidy(host, mark.slot)
            return
        less(self._everywhere, mark.slot)
        for host in mark.hosts:
            slot = self._slots[host][mark.slot]
            del slot.members[tid]
            slot.worth -= mark.worth
            less(slot.names, mark.name)
            if mark.claim >= 0:
                less(slot.claims, mark.claim)
            self._tidy(host, mark.slot)

    def _slot(self, host: str, slot: int) -> Slot:
        slots = self._slots.get(host)
        if slots is None:
            slots = self._slots[host] = {}
        known = slots.get(slot)
        if known is None:
            known = slots[slot] = Slot()
        return known

    def _tidy(self, host: str, slot: int) -> None:
        slots = self._slots[host]
        left = slots[slot]
        if not left.members and not left.explained:
            del slots[slot]
            if not slots:
                del self._slots[host]

    def suspects(self, trouble: Trouble) -> list[str]:
        """What several depend on whose fault might explain a trouble: nodes, zones, callees."""
        mark = self._marks.get(trouble.id)
        if mark is None or not mark.free:
            return []
        if trouble.apart == self.graph.topology.version:
            return list(mark.hosts)  # nothing near it is in trouble: no callee of it has another caller that is
        spot = self.graph.spot(trouble.vertex)
        return [
            at
            for at in spot.callees
            if (self._several(spot.common[at], mark.slot) if at in spot.common else self._carries(spot, at))
        ]

    def _carries(self, spot: Spot, at: str) -> bool:
        """Whether a callee is a layer with others on it."""
        return at in spot.hosts and len(self.graph.callers(at)) > 1

    def _several(self, callers: Iterable[str], slot: int) -> bool:
        """Whether two or more of these began near enough to a slot for one fault."""
        hot, marks = self.s.hot, self._marks
        began = 0
        for caller in hot.keys() & callers:
            for tid in hot[caller]:
                mark = marks.get(tid)
                if mark is not None and -SLOTS < mark.slot - slot < SLOTS:
                    began += 1
                    break
        return began > 1

    def __len__(self) -> int:
        """How many troubles are counted."""
        return len(self._marks)

    def everywhere(self, first: int, last: int) -> int:
        """How many began anywhere from one slot to another that nothing explains."""
        began = self._everywhere
        return sum([began[slot] for slot in range(first, last + 1) if slot in began])

    def crowd(self, at: str, first: int, last: int) -> Crowd:
        """What depends on `at` and began from one slot to another."""
        return Crowd.of(self._between(at, first, last))

    def members(self, at: str, first: int, last: int) -> list[Trouble]:
        """Those troubles that nothing explains, by onset."""
        found = [self.s.troubles[tid] for slot in self._between(at, first, last) for tid in slot.members]
        found.sort(key=by_onset)
        return found

    def claims(self, at: str, first: int, last: int) -> list[Trouble]:
        """Silent troubles elsewhere on which they hang, by onset."""
        found = dict.fromkeys(tid for slot in self._between(at, first, last) for tid in slot.claims)
        out = [self.s.troubles[tid] for tid in found]
        out = [t for t in out if t.vertex != at]
        out.sort(key=by_onset)
        return out

    def _between(self, at: str, first: int, last: int) -> list[Slot]:
        slots = self._slots.get(at) if self.graph.is_host(at) else self._callers(at, first, last)
        return [slots[i] for i in range(first, last + 1) if i in slots] if slots else []

    def _callers(self, at: str, first: int, last: int) -> dict[int, Slot]:
        """Of what few depend on: counted when asked for, each caller once, however often it came and went."""
        out: dict[int, Slot] = {}
        hot, marks = self.s.hot, self._marks
        for caller in hot.keys() & self.graph.callers(at).keys():
            here = [(mark.slot, tid, mark) for tid in hot[caller] if (mark := marks.get(tid)) is not None]
            here = [one for one in here if first <= one[0] <= last]
            if not here:
                continue
            slot, tid, mark = min(here, key=lambda one: one[:2])
            if all(mark.free and mark.worth > mark.fell for _, _, mark in here):
                out.setdefault(slot, Slot()).add(tid, replace(mark, worth=mark.worth - mark.fell))
            else:
                out.setdefault(slot, Slot()).explained += 1
        return out


def less(counts: dict[Any, int], key: Any) -> None:
    """Count one less of it; what is left of nothing goes."""
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
