"""Troubles between which the graph knows no path: what time, likeness and history say for one cause.

A graph may be empty or stale. Where it does not know one of the two, what began shortly after a trouble may still stem
from it: the less likely, the more vertices there are that it could have reached instead; the more likely, if both say
the same, unless everybody says that all the time. Where it knows both and no path, only history speaks: how often the
two were in one incident before. All of it is a chance, and weighed against a fault of its own like any other (odds.py).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from heapq import nsmallest

from aiopsd.correlate.grouping.company import PARTNERS, Company
from aiopsd.correlate.grouping.graph import HORIZON, Spot
from aiopsd.correlate.grouping.likeness import alike
from aiopsd.correlate.grouping.memory import SPREAD, Memory
from aiopsd.correlate.grouping.odds import SHARED_SCALE, delay
from aiopsd.correlate.grouping.state import LATEST, Group, State, Trouble
from aiopsd.topology import Topology

REACH = 1.0  # vertices that a trouble reaches by paths that the graph does not know, if it does not know one of them
REPEATS = 0.95  # chance that what it does there is what it did here, else it is any symptom that is passed on: so near
# to one that two who say different things are two problems, until they have ended together or come together before
MANY = 256  # troubles of one incident above which it says of no two that they belong together

_NOBODY: frozenset[str] = frozenset()


class Latest:
    """Troubles that began, or ended, last: `ids` as they came, each as often as it did; are all in the graph?"""

    def __init__(self, ids: list[int], s: State, topology: Topology) -> None:
        self.ids = ids
        self.s = s
        self.topology = topology
        self._outside: list[int] = []
        self._version = -1

    def add(self, trouble: Trouble) -> None:
        """One more, and the first one goes."""
        self.ids.append(trouble.id)
        if len(self.ids) > LATEST:
            del self.ids[0]
        if trouble.vertex not in self.topology:
            self._outside.append(trouble.id)

    def known(self) -> bool:
        """Whether the graph has them all; asked of each once, as long as the graph stays."""
        if self._version != self.topology.version:
            self._version = self.topology.version
            among = [self.s.troubles[tid] for tid in self.ids if tid in self.s.troubles]
            self._outside = [trouble.id for trouble in among if trouble.vertex not in self.topology]
        elif self._outside:
            self._outside = [tid for tid in self._outside if tid in self.ids]
        return not self._outside


class Strangers:
    """Weighs strangers; of the state it keeps `begun` and `over`."""

    def __init__(self, s: State, topology: Topology, memory: Memory) -> None:
        self.s = s
        self.topology = topology
        self.memory = memory
        self.company = Company(s)
        self.begun = Latest(s.begun, s, topology)
        self.over = Latest(s.over, s, topology)

    def near(
        self,
        vertex: str,
        texts: Mapping[str, str],
        onset: float,
        among: Latest,
        spot: Spot,
    ) -> Iterable[tuple[Trouble, float, str]]:
        """Of some troubles the strangers to `vertex` that began about then: (trouble, log-likelihood, how).

        Where the graph knows both, those that history knows, and one of each incident, the likeliest: its members are
        no witnesses to an edge that is not there, however many they are.
        """
        known = vertex in self.topology
        friends = self.company.friends(vertex, texts) if known else _NOBODY
        if known and not friends and among.known():
            return ()  # as nearly always, where the graph is whole
        return self._near(vertex, texts, onset, among.ids, spot, known, friends)

    def _near(
        self,
        vertex: str,
        texts: Mapping[str, str],
        onset: float,
        among: Sequence[int],
        spot: Spot,
        known: bool,
        friends: Set[str],
    ) -> Iterator[tuple[Trouble, float, str]]:
        troubles, topology, links, hosts = self.s.troubles, self.topology, spot.links, spot.hosts
        others = [other for tid in among if (other := troubles.get(tid)) is not None]
        outside = topology.lacks([other.vertex for other in others]) if known else _NOBODY
        if known and not outside and not friends:
            return
        best: dict[str, tuple[Trouble, float, str]] = {}
        reach = self._reach()
        for other in others:
            where = other.vertex
            both = known and where not in outside
            if (both and where not in friends) or where in links:
                continue
            if abs(onset - other.onset) > HORIZON or (hosts and share(hosts, other.under)):
                continue
            found = (other, *self._weight(vertex, texts, onset, other, 0.0 if both else reach))
            if not both:
                yield found
            elif other.group not in best or found[1] > best[other.group][1]:
                best[other.group] = found
        yield from best.values()

    def weight(self, vertex: str, texts: Mapping[str, str], onset: float, other: Trouble) -> tuple[float, str]:
        """(log-likelihood that what began at `onset` and says `texts` stems from a trouble elsewhere, how)."""
        both = vertex in self.topology and other.vertex in self.topology
        return self._weight(vertex, texts, onset, other, 0.0 if both else self._reach())

    def _reach(self) -> float:
        """Chance that trouble takes a path that the graph does not know to one certain vertex.

        Where it knows both and no path, that says more than time and texts: 0 then.
        """
        return REACH / max(SPREAD, len(self.topology))

    def _weight(
        self, vertex: str, texts: Mapping[str, str], onset: float, other: Trouble, reach: float
    ) -> tuple[float, str]:
        chance, how = self._unknown(texts, other, reach) if reach else (0.0, "at once")
        before = self.company.chance(vertex, texts, other)
        if before > chance:
            how = "before"
        if not chance + before:
            return -99.0, how
        return math.log(min(0.5, chance + before)) + delay(onset - other.onset, 0.0, SHARED_SCALE), how

    def _unknown(self, texts: Mapping[str, str], other: Trouble, reach: float) -> tuple[float, str]:
        """Chance that trouble takes a path that the graph does not know, before anything is known of the two."""
        says, how = 1.0 - REPEATS, "at once"
        for name, text in texts.items():
            for its in other.texts.values():
                like = alike(text, its)
                if like:
                    share = math.exp(self.memory.log_passed(name))
                    says, how = max(says, 1.0 - REPEATS + REPEATS * like / share), "alike"
        return reach * says, how

    def learn(self, trouble: Trouble, group: Group, spot: Spot) -> None:
        """A settled trouble: which strangers were in its incident."""
        if len(group.troubles) > MANY:
            return
        if len(group.troubles) == 1:
            self.company.learn(trouble, ())
            return
        mates = [
            (abs(other.onset - trouble.onset), tid)
            for tid in group.troubles
            if (other := self.s.troubles[tid]).vertex != trouble.vertex
            and other.vertex not in spot.links
            and not share(spot.hosts, other.under)
        ]
        self.company.learn(trouble, [self.s.troubles[tid] for gap, tid in nsmallest(PARTNERS, mates) if gap <= HORIZON])


def share(hosts: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two run on the same: they are no strangers then, it is their host that is weighed (layers.py)."""
    return bool(hosts and others) and not set(hosts).isdisjoint(others)
