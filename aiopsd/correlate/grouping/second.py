"""What arrives within one second has no order: a first placement at once, and all of it by onset when it is over."""

import math
from collections.abc import Sequence

import msgspec

from aiopsd.correlate.grouping.forest import Forest, Look
from aiopsd.correlate.grouping.graph import Graph, Link
from aiopsd.correlate.grouping.layers import Layers
from aiopsd.correlate.grouping.memory import Memory
from aiopsd.correlate.grouping.odds import Odds
from aiopsd.correlate.grouping.reasons import alone_reason, why
from aiopsd.correlate.grouping.state import Revision, State, Trouble, Waiting, drop_in
from aiopsd.correlate.grouping.strangers import Strangers
from aiopsd.correlate.grouping.surges import Surges
from aiopsd.correlate.grouping.thoughts import STICK, Thoughts

SPELLS = 16  # troubles of one vertex at a time beyond which an alert that comes and goes makes no further ones
NEARLY = 1.0  # nats; a new neighbour that is worth so much less than where a trouble is cannot make it move


class Known(msgspec.Struct, frozen=True):
    """What is said of an alert where it goes: whether it is kept quiet, and why it is there."""

    quiet: bool
    text: str


class Second:
    """The present second."""

    def __init__(
        self,
        s: State,
        graph: Graph,
        memory: Memory,
        odds: Odds,
        strangers: Strangers,
        forest: Forest,
        thoughts: Thoughts,
        layers: Layers,
        surges: Surges,
    ) -> None:
        self.s = s
        self.graph = graph
        self.memory = memory
        self.odds = odds
        self.strangers = strangers
        self.forest = forest
        self.thoughts = thoughts
        self.layers = layers
        self.surges = surges
        self.mates: dict[str, Waiting] = {}  # vertex -> first of this second that was told of an incident
        self.fresh: tuple[Waiting, Look, Known] | None = None  # what `place` found, if nothing has changed since
        for item in s.waiting:
            if item.told:
                self.join_mates(item, graph.hosts(item.vertex))

    def arrive(self, stamp: float) -> None:
        s = self.s
        second = math.floor(stamp)
        if s.waiting and second > s.second:
            self.take_in()
        if not s.waiting:
            s.second = float(second)
            self.mates.clear()
            if s.began < 0.0:
                s.began = s.second
        self.s.now = max(self.s.now, s.second + 1.0)

    def look(self, item: Waiting) -> Look:
        """Weigh every home of an alert; changes nothing."""
        s = self.s
        own, strange, fell = self.odds.alone_or_not(item.vertex, (item.name,), item.onset)
        spot = self.graph.spot(item.vertex)
        near = self.graph.near(spot, item.onset)
        votes: dict[str, float] = {}
        best: dict[str, tuple[float, Trouble, str]] = {}
        for other, link in near:
            if other.vertex == item.vertex:
                w, how = self.odds.same(item.onset, (item.name,), other), "same"
            else:
                w, how = self.odds.weight(item.vertex, (item.name,), item.onset, other, link)
            self.odds.vote(votes, best, other, w, how)
        texts = {item.name: item.text}
        for other, w, how in self.strangers.near(item.vertex, texts, item.onset, self.strangers.begun, spot):
            self.odds.vote(votes, best, other, w, how)
        ends = s.pairs.get(f"{item.vertex}|{item.name}")
        if ends:
            passed = self.memory.log_passed(item.name)
            for tid, ended in ends.items():
                old = s.troubles[tid]
                echo = self.odds.fires_again(item.onset, ended, s.groups[old.group])
                if echo is not None:
                    self.odds.vote(votes, best, old, echo - passed + STICK, "again")
        home = self.odds.best(votes) if votes else ""
        return Look(spot, near, votes, best, own, strange, fell, home if home and votes[home] > own + STICK else "")

    def explain(self, item: Waiting, look: Look) -> Known:
        """Why this home, or none."""
        if look.home:
            _, parent, how = look.best[look.home]
            return Known(False, why(self.graph, item.vertex, item.onset, parent, how))
        return Known(*alone_reason(self.memory, item, look.votes))

    def join_mates(self, item: Waiting, hosts: Sequence[str]) -> None:
        for place in (item.vertex, *hosts):
            self.mates.setdefault(place, item)

    def mate(self, vertex: str) -> Waiting | None:
        """The first of this second's arrivals that is near enough to share a first placement."""
        if not self.mates:
            return None
        for place in (vertex, *self.graph.hosts(vertex)):
            if place in self.mates:
                return self.mates[place]
        near = self.mates.keys() & self.graph.around(vertex).keys()
        return next((m for v, m in self.mates.items() if v in near), None) if near else None

    def take_in(self) -> None:
        """The second is over: take in what arrived in it, by onset, and tell what differs from the first placements."""
        s = self.s
        batch, s.waiting = s.waiting, []
        fresh, self.fresh = self.fresh, None
        self.mates.clear()
        if len(batch) > 1:
            first: dict[str, float] = {}
            for item in batch:
                if item.firing:
                    first[item.fp] = min(first.get(item.fp, item.onset), item.onset)
            batch.sort(key=lambda w: (first.get(w.fp, s.second + 1.0), w.fp))
        free: dict[str, None] = {}
        told: dict[str, str] = {}
        said: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for item in batch:
            if item.firing:
                told[item.fp], said[item.fp] = item.told, item.said
                if item.opened and item.told not in s.groups:
                    free[item.told] = None
        before = len(s.pending)
        self.forest.untold.clear()
        for item in batch:
            if item.firing:
                if fresh is not None and fresh[0] is item:
                    _, look, known = fresh
                else:
                    look = self.look(item)
                    known = self.explain(item, look)
                reasons[item.fp] = known.text
                self.settle_in(item, look, known.quiet, free)
            else:
                self.forest.take_end(item)
        self.tell(told, said, free, reasons, before)

    def settle_in(self, item: Waiting, look: Look, quiet: bool, free: dict[str, None]) -> None:
        """Make an alert part of its trouble and its incident."""
        s = self.s
        how = ""
        if look.home:
            _, parent, how = look.best[look.home]
            if how == "again" and self.flaps(parent):
                how = "same"
            if how == "same":
                self.join(parent, item)
                trouble = parent
            else:
                trouble = self.forest.new(item, look.home, parent.id, look)
                if how == "again":
                    trouble.echo_of, trouble.echo, parent.echoed = parent.id, look.best[look.home][0], trouble.id
                    drop_in(s.pairs, f"{item.vertex}|{item.name}", parent.id)
                trouble.value = look.votes[look.home]
        else:
            gid = item.told if item.told in free else self.forest.free_id(item)
            if gid in free:
                del free[gid]
            elif not quiet:
                self.forest.untold[gid] = None
            group = self.forest.open(gid)
            group.quiet = quiet and gid != item.told
            trouble = self.forest.new(item, gid, -1, look)
        group = s.groups[trouble.group]
        if group.quiet and not self.odds.alone(group):
            self.forest.unquiet(group)
        for other, link in look.near:
            if other.group != trouble.group and other.vertex != item.vertex:
                back = Link(link.up, link.down, link.shared)
                w, _ = self.odds.weight(other.vertex, other.names, other.onset, trouble, back)
                if w > other.value - NEARLY:
                    self.thoughts.recheck(other)
        if how != "same":
            self.layers.new(trouble, look.spot, look.near)
            self.surges.look(trouble)

    def flaps(self, trouble: Trouble) -> bool:
        """Whether what fires again goes on with its last spell: the first spells are troubles of their own.

        Each may be another fault. What came and went so often within the horizon is one trouble with gaps, however
        often it still does: else each spell would be weighed against all others.
        """
        hot = self.s.hot.get(trouble.vertex, ())
        return trouble.id in hot and len(hot) >= SPELLS

    def join(self, trouble: Trouble, item: Waiting) -> None:
        self.forest.take_alert(trouble, item)
        fresh = item.name not in trouble.names
        trouble.names.setdefault(item.name, item.onset)
        trouble.texts.setdefault(item.name, item.text)
        if item.onset < trouble.onset:
            before, trouble.onset, trouble.apart = trouble.onset, item.onset, -1
            self.graph.began.moved(trouble, before)
        if fresh:
            trouble.own, trouble.strange, trouble.fell = self.odds.alone_or_not(
                trouble.vertex, trouble.names, trouble.onset
            )
        self.layers.counted(trouble)
        if fresh:
            self.thoughts.recheck(trouble)

    def tell(
        self, told: dict[str, str], said: dict[str, str], free: dict[str, None], reasons: dict[str, str], before: int
    ) -> None:
        """Second thoughts of a second: what was told of its alerts, against where they are."""
        s = self.s
        fresh, s.pending[before:] = s.pending[before:], []
        into: dict[str, str] = {}
        for r in fresh:
            if r.kind == "merge":
                into[r.source] = r.target
                if r.source not in self.forest.untold:
                    s.pending.append(r)
            else:
                if r.source:  # else an incident is no longer alone, which says nothing of each alert
                    reasons.update((fp, r.reason) for fp in r.fingerprints if fp in told)
                rest = r._replace(fingerprints=tuple(fp for fp in r.fingerprints if fp not in told))
                if rest.fingerprints:
                    s.pending.append(rest)
        for fp, first in told.items():
            home = first
            while home in into:
                home = into[home]
            group = s.groups[s.troubles[s.rows[fp].trouble].group]
            now = "" if group.quiet else group.id
            if home == now:
                if first == home and reasons[fp] != said[fp]:
                    s.pending.append(Revision("why", now, now, (fp,), False, reasons[fp]))
                continue
            if first in free:  # an incident that was opened at first sight and is none: all of it goes
                del free[first]
                if now:
                    into[first] = now
                    s.gone[first] = self.s.now
                    s.pending.append(Revision("merge", first, now, (fp,), False, reasons[fp]))
                    continue
            s.pending.append(Revision("move", home, now, (fp,), now in self.forest.untold, reasons[fp]))
