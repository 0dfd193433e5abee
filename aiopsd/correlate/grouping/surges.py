"""Load that runs down from one sender: a surge at an entry, a client that retries without end.

More requests than usual reach all that the sender calls, and what that calls. Each vertex has a share of its load from
there (`Topology.senders`); with most of it from there it may break, with little it bears it. When so many of what has
its load from one vertex began within SPAN, and nothing below explains them, that one surge is likelier than as many
faults of their own, they hang on a trouble of the sender: its own, if it speaks, else a silent one. What that costs in
nats is weighed as for a callee that says nothing (layers.py): a fault of the sender that sends load, who broke and who
is well so far, a bad hour elsewhere, and every incident that is one no more. Later alerts are weighed against the
sender's trouble as any other (`Odds.weight`), for it remembers how likely its load breaks something.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from aiopsd.correlate.grouping.crowds import SLOT, SLOTS, Crowds
from aiopsd.correlate.grouping.forest import FOLLOW_SPAN, Forest
from aiopsd.correlate.grouping.graph import Graph
from aiopsd.correlate.grouping.layers import Layers
from aiopsd.correlate.grouping.memory import ORIGIN
from aiopsd.correlate.grouping.odds import FOLLOW, SILENT, SPAN, Odds
from aiopsd.correlate.grouping.state import State, Trouble, by_onset
from aiopsd.correlate.rootcause.load import LEAST, MOST, STEEP

SENDS = 0.1  # chance that a fault is one that sends load down
BREAKS, BEARS = 1.2, 1.8  # weights of a Beta prior: how much of what has all its load from a sender breaks
RAISE = 2.0  # nats by which one surge must be likelier than faults of their own


class Surge(NamedTuple):
    """What speaks for load from one vertex: nats, whom it broke, how likely it breaks what has all its load there."""

    value: float
    members: Sequence[Trouble]
    chance: float


class Surges:
    """Hangs what load broke on who sent it."""

    def __init__(self, s: State, graph: Graph, odds: Odds, crowds: Crowds, forest: Forest, layers: Layers) -> None:
        self.s = s
        self.graph = graph
        self.topology = graph.topology
        self.odds = odds
        self.memory = odds.memory
        self.crowds = crowds
        self.forest = forest
        self.layers = layers

    def look(self, trouble: Trouble) -> None:
        """A trouble came, or was thought over: it may be the one too many for chance."""
        senders = [u for u in self.topology.senders(trouble.vertex) if self._overloads(u)]
        if not senders or not self._free(trouble):
            return  # as nearly always
        slot = int(trouble.onset // SLOT)
        if self.crowds.everywhere(slot - SLOTS, slot + SLOTS) < LEAST:
            return
        best, sender, least = None, "", RAISE
        for u in senders:
            surge = self._surge(u, trouble.onset)
            if surge is not None and (gain := surge.value - self._believed(surge, u, trouble.onset)) > least:
                best, sender, least = surge, u, gain
        if best is not None:
            self._collect(sender, best)

    def _overloads(self, u: str) -> bool:
        """Whether enough of what gets its load from a vertex is in trouble at all."""
        loaded = self.topology.loaded(u)
        return len(loaded) >= LEAST and len(self.s.hot.keys() & loaded.keys()) >= LEAST and not self.graph.is_host(u)

    def _believed(self, surge: Surge, u: str, onset: float) -> float:
        """What speaks for other senders that say nothing, and on whom some of these hang now."""
        parents = [self.s.troubles.get(member.parent) for member in surge.members]
        others = {guess.vertex for guess in parents if guess is not None and not guess.names} - {u}
        believed = [self._surge(v, onset) for v in others]
        return math.fsum(max(0.0, other.value) for other in believed if other is not None)

    def _free(self, trouble: Trouble) -> bool:
        """Whether nothing explains a trouble but load, from somebody who says nothing."""
        parent = self.s.troubles.get(trouble.parent)
        if parent is not None and not parent.names:
            return parent.load > 0.0 and trouble.names != {}
        return self.crowds.free(trouble)

    def _sender(self, u: str, onset: float) -> Trouble | None:
        """The trouble of a vertex that may have sent load about then."""
        here = [self.s.troubles[tid] for tid in self.s.hot.get(u, ())]
        return min((t for t in here if abs(t.onset - onset) <= FOLLOW_SPAN), key=by_onset, default=None)

    def _surge(self, u: str, onset: float) -> Surge | None:
        """What speaks for load from `u` about then; None: too few would hang on it."""
        s, hot = self.s, self.s.hot
        loaded = self.topology.loaded(u)
        members: list[Trouble] = []
        ill: set[str] = set()
        for v in hot.keys() & loaded.keys():
            near = [t for tid in hot[v] if abs((t := s.troubles[tid]).onset - onset) <= SPAN]
            free = [t for t in near if self._free(t)]
            if near:
                ill.add(v)
            if free:
                members.append(min(free, key=by_onset))
        if len(members) < LEAST:
            return None
        members.sort(key=by_onset)
        broke = [loaded[t.vertex] ** STEEP for t in members]
        bore = [f**STEEP for v, f in loaded.items() if v not in ill and not self.graph.is_host(v)]
        told = 1.0 - math.exp(min(0.0, members[0].onset - s.now) / FOLLOW)  # who breaks says so within minutes
        whole = math.fsum(broke) + told * math.fsum(bore)
        chance = min(MOST, (len(members) + BREAKS) / (whole + BREAKS + BEARS))
        slot = int(onset // SLOT)
        elsewhere = max(0, self.crowds.everywhere(slot - SLOTS, slot + SLOTS) - len(members))
        terms = [self._rate(u, onset), -self.layers.untold(members)]
        terms.append(-len(members) * self.layers.worse(elsewhere, len(loaded), 2.0 * SPAN))
        terms += [t.strange + math.log(chance * f) for t, f in zip(members, broke, strict=True)]
        terms += [told * math.log(1.0 - chance * f) for f in bore]
        return Surge(math.fsum(terms), members, chance)

    def _rate(self, u: str, onset: float) -> float:
        """Log-chance that a vertex began to send load about then: a fault more, unless it has a trouble of its own."""
        sender = self._sender(u, onset)
        if sender is None:
            return math.log(SENDS * SILENT * SPAN * (ORIGIN + self.memory.burst_rate(1)))
        return math.log(SENDS) + min(0.0, sender.own - sender.value)

    def _collect(self, u: str, surge: Surge) -> None:
        """Hang what load broke on who sent it; on a silent trouble, if that says nothing."""
        members = surge.members
        middle = members[len(members) // 2].onset
        root = self._sender(u, middle) or self.forest.raise_silent(u, members[0].onset, members[0])
        root.load = surge.chance
        if any(self.forest.hangs_on(root, member) for member in members):
            self.forest.unlink(root)  # it was taken for a victim of what it broke
            root.value = root.own
            self.forest.say(root, f"{len(members)} that get their load from it began within minutes")
        guesses = {m.parent: guess for m in members if (guess := self.s.troubles.get(m.parent)) is not None}
        why = f"{len(members)} that get their load from {u} began within minutes, and nothing else explains them"
        for member in members:
            if member.pinned or member.traced or self.odds.over_before(member, root):
                continue  # an operator or the evidence decided, or it was over by then
            if member.group == root.group:
                self.forest.link(member, root, why)
            else:
                self.forest.move(member, root, why)
        for guess in guesses.values():
            if not guess.names and not guess.children:
                self.forest.dismiss(guess)
