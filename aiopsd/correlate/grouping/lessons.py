"""What a trouble teaches when it has settled: names, pairs, company, and how trouble takes the edges around it."""

import math
from collections.abc import Sequence

from aiopsd.correlate.grouping.forest import Forest
from aiopsd.correlate.grouping.graph import Graph, Link
from aiopsd.correlate.grouping.memory import Memory
from aiopsd.correlate.grouping.odds import Odds
from aiopsd.correlate.grouping.passages import Passages
from aiopsd.correlate.grouping.state import PLACES, Group, State, Trouble, count, drop_in
from aiopsd.correlate.grouping.strangers import Strangers

COMPANY = (3, 64)  # vertices and troubles of an incident that tells whether a name comes in company
TEACH_AFTER = 1500.0  # s after its end at which a trouble teaches its edges: hindsight is through with it
GRAIN = 64.0  # likelihoods are counted in such parts: sums of whole ones do not depend on the order in which they come
WORD = 4.0  # troubles that one counts for of which an operator said where it belongs


class Lessons:
    """Puts settled troubles into the counts."""

    def __init__(
        self,
        s: State,
        graph: Graph,
        memory: Memory,
        odds: Odds,
        strangers: Strangers,
        passages: Passages,
        forest: Forest,
    ) -> None:
        self.s = s
        self.graph = graph
        self.memory = memory
        self.odds = odds
        self.strangers = strangers
        self.passages = passages
        self.forest = forest

    def of_edges(self, trouble: Trouble) -> None:
        """By which edges this trouble came, and which it did not take, as far as either is likely.

        Not the verdict of the moment: hindsight is through with it, its end counts, and what stands where nobody was
        sure counts for little.
        """
        if trouble.taught or not trouble.names or self._repeats(trouble) or self.graph.is_host(trouble.vertex):
            return
        trouble.taught = True
        near = self.graph.near_kept(self.graph.spot(trouble.vertex), trouble.onset)
        self._how_it_came(trouble, near)
        self._where_it_stayed_away(trouble, {other.vertex for other, _ in near})
        self.passages.bound()

    def _how_it_came(self, trouble: Trouble, near: Sequence[tuple[Trouble, Link]]) -> None:
        decided = trouble.pinned
        weights = [] if decided and trouble.parent >= 0 else [trouble.own]
        direct: list[tuple[Trouble, bool, float]] = []
        for other, link in near:
            if other.vertex == trouble.vertex:
                continue
            if other.group == trouble.group and self.forest.hangs_on(other, trouble):
                continue  # what hangs on it is none of its causes
            edge = 1 in (link.down, link.up) and other.names and not self._repeats(other)
            edge = edge and not self.graph.is_host(other.vertex)
            if decided and other.group != trouble.group:
                if edge:
                    self.passages.stayed(other.vertex, trouble.vertex, link.down == 1, WORD)
                continue
            w, _ = self.odds.weight(trouble.vertex, trouble.names, trouble.onset, other, link)
            w += self.odds.together(trouble, other)
            weights.append(w)
            if edge:
                direct.append((other, link.down == 1, w))
        if not direct:
            return
        top = max(weights)
        whole = sum([math.exp(w - top) for w in weights])
        for other, up, w in direct:
            share = whole_parts(math.exp(w - top) / whole)
            if share:
                gap, worth = trouble.onset - other.onset, WORD if decided else 1.0
                self.passages.crossed(other.vertex, trouble.vertex, up, gap, worth * share)

    def _where_it_stayed_away(self, trouble: Trouble, ill: set[str]) -> None:
        genuine = whole_parts(self._genuine(trouble))
        if not genuine:
            return
        spot, is_host = self.graph.spot(trouble.vertex), self.graph.is_host
        for vertices, up in ((spot.callers, True), (spot.callees, False)):
            well = [vertex for vertex in vertices if vertex not in ill and not is_host(vertex)]
            self.passages.all_stayed(trouble.vertex, well, up, genuine)

    def _genuine(self, trouble: Trouble) -> float:
        """Chance that a trouble is one that could spread, and no noise."""
        if not self.odds.alone(self.s.groups[trouble.group]):
            return 1.0
        (name,) = trouble.names
        return self.odds.genuine(trouble.vertex, name)

    @staticmethod
    def _repeats(trouble: Trouble) -> bool:
        """Whether it is a trouble that fires again, and was counted when it fired first."""
        return trouble.echo_of >= 0 and trouble.parent == trouble.echo_of

    def _learn_company(self, trouble: Trouble, group: Group) -> None:
        """Does an alertname come in company? What is passed on shows at several vertices, what is local at one."""
        s = self.s
        if not COMPANY[0] <= len(group.troubles) <= COMPANY[1]:
            return
        others = [t for tid in group.troubles if (t := s.troubles[tid]).vertex != trouble.vertex]
        if len({t.vertex for t in others}) < COMPANY[0] - 1:
            return
        for name in trouble.names:
            counts = s.common if any(name in t.names for t in others) else s.lone
            count(counts, name, s.now)
            places = s.places.setdefault(name, {})
            if len(places) < PLACES:
                places[trouble.vertex] = None

    def _count_alone(self, trouble: Trouble, times: float) -> None:
        name = next(iter(trouble.names))
        for key in ("", f"v|{trouble.vertex}", f"n|{name}", f"{trouble.vertex}|{name}"):
            count(self.s.alone, key, self.s.now, times)
        self.memory.bound()

    def _astray(self, trouble: Trouble) -> float:
        """Chance that a single alert in an incident is none of it, but what its pair does now and then."""
        if trouble.parent < 0 or trouble.children or len(trouble.names) > 1 or trouble.pinned or trouble.traced:
            return 0.0
        (name,) = trouble.names
        noise = math.log(self.memory.alone_rate(trouble.vertex, name)) - self.memory.log_passed(name)
        return whole_parts(1.0 / (1.0 + math.exp(min(30.0, trouble.value - noise))))

    def settle(self, trouble: Trouble) -> None:
        """What a trouble turned out to be goes into the counts."""
        s = self.s
        group = s.groups[trouble.group]
        if not trouble.names or self._repeats(trouble):
            pass  # it says nothing, or was counted when it fired first
        elif self.odds.alone(group):
            self._count_alone(trouble, 1.0)
        else:
            astray = self._astray(trouble)
            if astray:
                self._count_alone(trouble, astray)
            self._learn_company(trouble, group)
            parent = s.troubles.get(trouble.parent)
            fell = parent is not None and self.graph.is_host(parent.vertex)
            self.memory.learn(trouble.names, passed=parent is not None, fell=fell)
        if trouble.echo_of < 0 and trouble.names and (s.met or len(group.troubles) > 1):
            self.strangers.learn(trouble, group, self.graph.spot(trouble.vertex))
        drop_in(s.hot, trouble.vertex, trouble.id)
        self.forest.crowds.drop(trouble)


def whole_parts(likely: float) -> float:
    """A likelihood in parts of 1 / GRAIN."""
    return round(GRAIN * likely) / GRAIN
