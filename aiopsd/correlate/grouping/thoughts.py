"""Second thoughts of a trouble: is there a better home by now?"""

import math

from aiopsd.correlate.grouping.forest import END_CHECK, Forest
from aiopsd.correlate.grouping.graph import Graph
from aiopsd.correlate.grouping.lessons import TEACH_AFTER
from aiopsd.correlate.grouping.odds import Odds
from aiopsd.correlate.grouping.reasons import why
from aiopsd.correlate.grouping.state import FADE_TIMER, TEACH_TIMER, State, Trouble, set_timer
from aiopsd.correlate.grouping.strangers import Strangers

MARGIN = 0.5  # nats by which a new home must be better before an alert moves: hysteresis
STICK = 1.0  # nats in favour of a home of its own while a page may be due: hiding a fault costs more than a second one
KEEP_ENDED = 7200.0  # s; what ended so long ago is no company for what ends now


class Thoughts:
    """Each trouble is thought over when something new is near it, at fixed times after its onset and after its end."""

    def __init__(self, s: State, graph: Graph, odds: Odds, strangers: Strangers, forest: Forest) -> None:
        self.s = s
        self.graph = graph
        self.odds = odds
        self.strangers = strangers
        self.forest = forest

    def recheck(self, trouble: Trouble, *, ended: bool = False) -> None:
        """Think again about where a trouble came from; move or merge when another home is clearly better."""
        if trouble.pinned or trouble.traced:
            return
        s = self.s
        votes: dict[str, float] = {}
        best: dict[str, tuple[float, Trouble, str]] = {}
        here = trouble.group
        lives = trouble.ended < 0.0 and trouble.echoed < 0
        near = self.graph.near_kept if ended else self.graph.near
        spot = self.graph.spot(trouble.vertex)
        for other, link in near(spot, trouble.onset):
            if other.id == trouble.echo_of or (other.group == here and self.forest.hangs_on(other, trouble)):
                continue
            if not lives and self.odds.over_before(trouble, other):
                continue
            if other.vertex != trouble.vertex:
                w, how = self.odds.weight(trouble.vertex, trouble.names, trouble.onset, other, link)
            elif not ended:
                continue
            else:
                w, how = self.odds.same(trouble.onset, trouble.names, other), "same"
            self.odds.vote(votes, best, other, w + self.odds.together(trouble, other) if ended else w, how)
        recent = self.strangers.over if ended else self.strangers.begun
        for other, w, how in self.strangers.near(trouble.vertex, trouble.texts, trouble.onset, recent, spot):
            if other.group != here or not self.forest.hangs_on(other, trouble):
                w += self.odds.together(trouble, other) if ended else 0.0
                self.odds.vote(votes, best, other, w, how)
        before = s.troubles.get(trouble.echo_of)
        if before is not None and not (before.group == here and self.forest.hangs_on(before, trouble)):
            company = self.odds.company(trouble, before) if ended else 0.0
            self.odds.vote(votes, best, before, trouble.echo + company, "again")
        if not votes and trouble.parent < 0:
            trouble.value = trouble.own
            return  # nothing else explains it
        if trouble.parent >= 0:
            stay = votes.get(here, -99.0)
            if here in best and best[here][1].id != trouble.parent:
                self.forest.link(trouble, best[here][1], self._why(trouble, *best[here][1:]))
            away = self.odds.best(votes, here)
        else:
            stay = trouble.own
            away = self.odds.best(votes)
        value = votes.get(away, -99.0)
        trouble.value = max(stay, value, trouble.own)
        if trouble.parent >= 0:
            if trouble.own > max(value, stay) + MARGIN:
                self.forest.move(trouble, None, "its trouble is better explained by itself")
            elif away and value > max(stay + MARGIN, trouble.own):
                self.forest.move(trouble, best[away][1], self._why(trouble, *best[away][1:]))
        elif away and value > trouble.own + self._worth_telling(trouble) + (0.0 if ended else STICK):
            to_parent = self.forest.link if away == here else self.forest.move
            to_parent(trouble, best[away][1], self._why(trouble, *best[away][1:]))

    def _worth_telling(self, trouble: Trouble) -> float:
        """Nats by which a cause must be likelier none before all that hangs on it goes into another incident.

        If it was one after all, nobody is told of a problem, and that weighs by the vertices that it took down; if it
        was none, one page was too many. The likelier choice is not the one that costs less.
        """
        return math.log(len({below.vertex for below in self.forest.subtree(trouble).values()}))

    def _why(self, trouble: Trouble, parent: Trouble, how: str) -> str:
        return why(self.graph, trouble.vertex, trouble.onset, parent, how)

    def after_end(self, trouble: Trouble) -> None:
        """What ended together belonged together: think again about this one and those around it that ended too."""
        if trouble.ended < 0.0 or self.s.now < trouble.ended + END_CHECK:
            return
        for part in self.forest.part_ways(trouble):
            self.recheck(part, ended=True)
        around = self.graph.near_kept(self.graph.spot(trouble.vertex), trouble.onset)
        for other, link in around:
            if other is trouble or not (link.up or link.shared or other.parent == trouble.id):
                continue
            end = self.odds.end(other)
            if 0.0 <= end <= self.s.now - END_CHECK and (other.group != trouble.group or other.parent == trouble.id):
                self.recheck(other, ended=True)
        set_timer(self.s, trouble.ended + TEACH_AFTER, TEACH_TIMER, trouble.id)
        set_timer(self.s, self.s.now + KEEP_ENDED, FADE_TIMER, trouble.id)
