"""How many troubles that nothing explains began about when on each node and zone: counters, not pairs.

They follow from the troubles that are hot, so a snapshot need not hold them. Worth is counted in thousandths of a nat:
sums of whole numbers do not depend on the order in which things came and went.
"""

from typing import NamedTuple

from aiopsd.correlate.grouping.state import State, Trouble, by_onset

SLOT = 30.0  # s; grain of the counts
EVERYWHERE = ""  # key of the counts over all hosts


class Mark(NamedTuple):
    """Where a trouble is counted, and as what.

    `loose`: the hosts whose fault might explain it, `tied`: those whose need not, because something else does.
    """

    slot: int
    worth: int
    name: str
    loose: tuple[str, ...]
    tied: tuple[str, ...]


class Slot:
    """What began on a host within SLOT seconds."""

    __slots__ = ("explained", "members", "names", "silent", "worth")

    def __init__(self) -> None:
        self.members: dict[int, None] = {}
        self.explained = 0
        self.silent: dict[int, None] = {}
        self.names: dict[str, int] = {}
        self.worth = 0


class Crowd(NamedTuple):
    """What began on a host within some slots: how many that nothing explains, their worth in nats, their names."""

    size: int
    explained: int  # how many more something explains
    worth: float
    names: dict[str, int]


class Crowds:
    """Counts by host and slot of time."""

    def __init__(self, s: State) -> None:
        self.s = s
        self._marks: dict[int, Mark] = {}
        self._slots: dict[str, dict[int, Slot]] = {}
        for row in s.hot.values():
            for tid in row:
                self.update(s.troubles[tid])

    def update(self, trouble: Trouble) -> None:
        """Count a trouble as it is now, while it is hot."""
        old, mark = self._marks.get(trouble.id), self._mark(trouble)
        if old == mark:
            return
        if old is not None:
            self._take_out(trouble.id, old)
        if mark is not None:
            self._put_in(trouble.id, mark)

    def _mark(self, trouble: Trouble) -> Mark | None:
        under = trouble.under
        if not under or trouble.id not in self.s.hot.get(trouble.vertex, ()):
            return None
        slot, parent = int(trouble.onset // SLOT), self.s.troubles.get(trouble.parent)
        if not trouble.names:
            return Mark(slot, 0, "", under, ())
        loose: tuple[str, ...] = ()
        if trouble.strange > 0.0:
            if parent is None:
                loose = under
            elif not parent.names:  # a silent trouble is a guess: a layer below it may be the better one
                loose = tuple(host for host in under if host == parent.vertex or host in parent.under)
        tied = tuple(host for host in under if host not in loose)
        return Mark(slot, round(1000.0 * trouble.strange), next(iter(trouble.names)), loose, tied)

    def _put_in(self, tid: int, mark: Mark) -> None:
        self._marks[tid] = mark
        for host in mark.tied:
            self._slot(host, mark.slot).explained += 1
        for host in (EVERYWHERE, *mark.loose) if mark.loose else ():
            slot = self._slot(host, mark.slot)
            if not mark.name:
                slot.silent[tid] = None
                continue
            slot.members[tid] = None
            slot.worth += mark.worth
            slot.names[mark.name] = slot.names.get(mark.name, 0) + 1

    def _take_out(self, tid: int, mark: Mark) -> None:
        del self._marks[tid]
        for host in mark.tied:
            self._slots[host][mark.slot].explained -= 1
            self._tidy(host, mark.slot)
        for host in (EVERYWHERE, *mark.loose) if mark.loose else ():
            slot = self._slots[host][mark.slot]
            if not mark.name:
                del slot.silent[tid]
            else:
                del slot.members[tid]
                slot.worth -= mark.worth
                slot.names[mark.name] -= 1
                if not slot.names[mark.name]:
                    del slot.names[mark.name]
            self._tidy(host, mark.slot)

    def _slot(self, host: str, slot: int) -> Slot:
        return self._slots.setdefault(host, {}).setdefault(slot, Slot())

    def _tidy(self, host: str, slot: int) -> None:
        slots = self._slots[host]
        left = slots[slot]
        if not left.members and not left.silent and not left.explained:
            del slots[slot]
            if not slots:
                del self._slots[host]

    def loose(self, trouble: Trouble) -> tuple[str, ...]:
        """The hosts whose fault might explain a trouble that shows alerts."""
        mark = self._marks.get(trouble.id)
        return mark.loose if mark is not None and mark.name else ()

    def __len__(self) -> int:
        """How many troubles are counted."""
        return len(self._marks)

    def size(self, host: str, first: int, last: int) -> int:
        """How many began on a host from one slot to another that nothing explains."""
        return sum(len(slot.members) for slot in self._between(host, first, last))

    def crowd(self, host: str, first: int, last: int) -> Crowd:
        """What is counted of a host from one slot to another."""
        size, explained, worth = 0, 0, 0
        names: dict[str, int] = {}
        for slot in self._between(host, first, last):
            size += len(slot.members)
            explained += slot.explained
            worth += slot.worth
            for name, n in slot.names.items():
                names[name] = names.get(name, 0) + n
        return Crowd(size, explained, worth / 1000.0, names)

    def members(self, host: str, first: int, last: int) -> list[Trouble]:
        """Those troubles that nothing explains, by onset."""
        found = [self.s.troubles[tid] for slot in self._between(host, first, last) for tid in slot.members]
        found.sort(key=by_onset)
        return found

    def silent(self, host: str, first: int, last: int) -> list[Trouble]:
        """Silent troubles of what stands on a host, by onset."""
        found = [self.s.troubles[tid] for slot in self._between(host, first, last) for tid in slot.silent]
        found.sort(key=by_onset)
        return found

    def _between(self, host: str, first: int, last: int) -> list[Slot]:
        slots = self._slots.get(host)
        return [slots[i] for i in range(first, last + 1) if i in slots] if slots else []
