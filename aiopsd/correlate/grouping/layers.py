"""What several depend on and what says nothing: their troubles are weighed against it, not pair by pair.

A host that fails seldom says so itself, and everything carries the label of some popular zone; nobody may watch a
database, nor what others run. When so many of all that depends on one vertex began within SPAN that one fault there is
likelier than as many faults of their own, it gets a *silent trouble*: a trouble without alerts, on which they hang, and
against which every later one is weighed as against that of any callee. If the vertex speaks up later, that is a further
symptom of this trouble; if another cause of theirs does, and the rest does not need the guess, it takes them over.

What is compared, in nats: the rate of faults of a vertex, the chance that it says nothing, and that just so many of its
callers follow it while the others stay well (Beta-binomial); against the rates at which these fire alone, raised to
what is seen elsewhere at the moment: a bad hour is no fault of a zone. A new alert costs some counters for each host
of its vertex, however many run there, and a look at the callers of its other callees when one of them is in trouble.
"""

import math
from collections.abc import Mapping, Sequence

from aiopsd.correlate.grouping.crowds import SLOT, SLOTS, Crowds
from aiopsd.correlate.grouping.forest import FOLLOW_SPAN, Forest
from aiopsd.correlate.grouping.graph import Graph, Link, Spot
from aiopsd.correlate.grouping.memory import BURST, BURST_SPAN, ORIGIN, SPREAD
from aiopsd.correlate.grouping.odds import SILENT, SPAN, Odds
from aiopsd.correlate.grouping.passages import HOP_MEAN, read
from aiopsd.correlate.grouping.reasons import why
from aiopsd.correlate.grouping.state import State, Trouble, by_onset
from aiopsd.correlate.grouping.thoughts import Thoughts

FOLLOWS, STAYS = 1.2, 1.8  # weights of a Beta prior: how many of what runs on a host follow it into trouble
RAISE = 2.0  # nats by which a fault of the host must be likelier than faults of their own

_BETA = math.lgamma(FOLLOWS) + math.lgamma(STAYS) - math.lgamma(FOLLOWS + STAYS)


class Layers:
    """Raises silent troubles of nodes, zones and callees."""

    def __init__(self, s: State, graph: Graph, odds: Odds, crowds: Crowds, forest: Forest, thoughts: Thoughts) -> None:
        self.s = s
        self.graph = graph
        self.odds = odds
        self.memory = odds.memory
        self.crowds = crowds
        self.forest = forest
        self.thoughts = thoughts

    def new(self, trouble: Trouble, spot: Spot, near: Sequence[tuple[Trouble, Link]]) -> None:
        """A trouble came: it may be the one too many for chance, or that of the cause that others waited for."""
        if spot.is_host:
            self._around(trouble)
        if near:
            self._take_over(trouble, near)
        self._rise(trouble)

    def _around(self, host: Trouble) -> None:
        """A node or zone has a trouble: what began about then on it, or calls what runs there, is thought over."""
        s = self.s
        about = [
            trouble
            for vertex in s.hot
            if vertex != host.vertex and host.vertex in self.graph.looks(vertex)
            for tid in s.hot[vertex]
            if abs((trouble := s.troubles[tid]).onset - host.onset) < SPAN + SLOT
        ]
        about.sort(key=by_onset)
        for trouble in about:
            if trouble.id in s.troubles and trouble.parent != host.id:
                self.thoughts.recheck(trouble)

    def again(self, trouble: Trouble) -> None:
        """A while later: labels of others may have told where it runs, and others may have come."""
        under = self.graph.spot(trouble.vertex).hosts
        if under != trouble.under:
            trouble.apart = -1
            trouble.under = under
            self.counted(trouble)
        self._rise(trouble)

    def counted(self, trouble: Trouble) -> None:
        """Count a trouble anew, and what hangs on it: it has spoken up, or it is known by now where it stands."""
        self.crowds.update(trouble)
        for child in trouble.children:
            self.crowds.update(self.s.troubles[child])

    def _take_over(self, trouble: Trouble, near: Sequence[tuple[Trouble, Link]]) -> None:
        """A cause that speaks for itself, of callers that hang on a guess: the guess goes, unless others need it."""
        guesses: dict[int, list[Trouble]] = {}
        for other, link in near:
            guess = self.s.troubles.get(other.parent)
            if link.up == 1 and other.names and guess is not None and not guess.names:
                guesses.setdefault(guess.id, []).append(other)
        for tid, callers in guesses.items():
            guess = self.s.troubles[tid]
            slot = int(guess.onset // SLOT)
            if guess.vertex != trouble.vertex and self._odds(guess.vertex, slot - SLOTS, slot + SLOTS, callers) <= 0.0:
                for caller in callers:
                    self._hand_over(caller, trouble)
                if not guess.children:
                    self.forest.dismiss(guess)

    def _hand_over(self, caller: Trouble, cause: Trouble) -> None:
        """Hang a trouble on that of a callee, if that explains it."""
        link = self.graph.around(caller.vertex)[cause.vertex]
        w, how = self.odds.weight(caller.vertex, caller.names, caller.onset, cause, link)
        if w <= caller.own or caller.pinned or self.forest.hangs_on(cause, caller):
            return
        if caller.group == cause.group:
            self.forest.link(caller, cause)
        else:
            self.forest.move(caller, cause, why(self.graph, caller.vertex, caller.onset, cause, how))
        caller.value = w

    def _rise(self, trouble: Trouble) -> None:
        if not trouble.under and trouble.apart == self.graph.topology.version:
            return  # it runs on nothing, and nothing near it is in trouble: as nearly always
        slot = int(trouble.onset // SLOT)
        parent = self.s.troubles.get(trouble.parent)
        best, where, last = RAISE, "", 0
        for host in self.crowds.suspects(trouble):
            if parent is not None and parent.vertex == host:
                continue
            for end in (slot, slot + SLOTS // 2, slot + SLOTS - 1):
                value = self._gain(host, end - SLOTS + 1, end)
                if value > best:
                    best, where, last = value, host, end
        if where:
            self._collect(trouble, where, last - SLOTS + 1, last)

    def _gain(self, host: str, first: int, last: int) -> float:
        """Log-odds of a fault of the host against what is believed now: faults of their own, or of nodes below it."""
        value = self._odds(host, first, last)
        if value > RAISE:
            for guess in self.crowds.claims(host, first, last):
                value -= max(0.0, self._odds(guess.vertex, first, last))
            if not self.graph.is_host(host):
                value -= self.untold(self.crowds.members(host, first, last))
        return value

    def untold(self, members: Sequence[Trouble]) -> float:
        """Nats by which a guess must be likelier for what it hides: all incidents that it makes one but the largest.

        As where one trouble moves (`Thoughts`): each weighs by the vertices in trouble of which nobody would be told.
        """
        groups = dict.fromkeys(member.group for member in members)
        sizes = sorted(len(self.s.groups[gid].troubles) for gid in groups)
        return sum(map(math.log, sizes[:-1]))

    def _odds(self, host: str, first: int, last: int, without: Sequence[Trouble] = ()) -> float:
        """Log-odds of a fault of the host against faults of their own, of all that began on it in these slots."""
        crowd = self.crowds.crowd(host, first, last)
        if without:
            crowd = crowd.without(without, fell=self.graph.is_host(host))
        k = crowd.size
        if k < 2:
            return 0.0
        n = max(k, self.graph.fan(host) - crowd.explained)
        follow = math.lgamma(FOLLOWS + k) + math.lgamma(STAYS + n - k) - math.lgamma(FOLLOWS + STAYS + n) - _BETA
        rate = math.log(SPAN * (ORIGIN + self.memory.burst_rate(1)))
        if not self.graph.is_host(host):  # which seldom speak for themselves
            rate += math.log(SILENT / (1.0 + self._spoke(host)))
        worse = self.worse(self.crowds.everywhere(first, last) - k, n, SPAN)
        return rate + follow + crowd.worth + self._alike(crowd.names) - k * worse

    def worse(self, elsewhere: int, here: int, span: float) -> float:
        """Log of how many times as many as usual began `elsewhere` within a span (s), where `here` might have."""
        every = max(SPREAD, len(self.graph.topology))
        expected = BURST * span / BURST_SPAN * max(0.0, 1.0 - here / every)
        return max(0.0, math.log((1.0 + elsewhere) / (1.0 + expected)))

    def _spoke(self, vertex: str) -> float:
        """In how many troubles a vertex spoke for itself: who has alerts is less likely to be in trouble without."""
        learned = self.s.up.get(vertex, {})
        asked = max((read(tally, self.s.now)[0] for tally in learned.values()), default=0.0)
        return asked + self.memory.read(self.s.alone, f"v|{vertex}")

    def _alike(self, names: Mapping[str, int]) -> float:
        """Log-likelihood ratio of alertnames: one fault shows alike (Chinese restaurant), many as names are usual."""
        terms = [-math.lgamma(1.0 + sum(names.values()))]
        for name, n in names.items():
            if n > 1:  # a single one cancels
                log_usual = self.memory.shares_of(name)[2]
                usual = math.exp(log_usual)
                terms.append(math.lgamma(n + usual) - math.lgamma(usual) - n * log_usual)
        return math.fsum(terms)  # in any order

    def _collect(self, trouble: Trouble, host: str, first: int, last: int) -> None:
        """Hang a trouble on that of a host; if the host has none yet, a silent one with all that began with it."""
        s = self.s
        for known in [s.troubles[tid] for tid in s.kept.get(host, ())]:
            if self._goes_on(known, trouble.onset):
                self._hang([trouble], known)
                return
        guesses = self.crowds.claims(host, first, last)
        members = self.crowds.members(host, first, last)
        middle = members[len(members) // 2].onset
        root = self.forest.raise_silent(host, middle - HOP_MEAN, members[0])
        self._hang(members, root)
        for guess in guesses:
            if not guess.children:
                self.forest.dismiss(guess)
        if self.graph.is_host(host):
            self._around(root)

    def _goes_on(self, known: Trouble, onset: float) -> bool:
        """Whether a trouble of what several depend on explains what began at `onset`, so that no other is needed."""
        if abs(known.onset - onset) < FOLLOW_SPAN:
            return known.id in self.s.hot.get(known.vertex, ())
        return self.graph.is_host(known.vertex) and known.onset < onset and self.graph.lasts(known, onset)

    def _hang(self, members: list[Trouble], root: Trouble) -> None:
        many = f"{root.followers} of what {self.graph.verb(root.vertex)} on {root.vertex} began within minutes"
        why = f"{many}, and nothing else explains them"
        for member in members:
            if member.pinned or member.traced or self.odds.over_before(member, root):
                continue  # an operator or the evidence decided, or it was over by then
            if self.forest.hangs_on(root, member):
                continue  # the host's trouble is one that this one caused
            if member.group == root.group:
                self.forest.link(member, root, why)
            else:
                self.forest.move(member, root, why)
