"""The verbs: alerts and their ends, verdicts and time in; placements and second thoughts out."""

import math
from collections.abc import Iterable, Sequence
from heapq import heappop
from itertools import takewhile
from typing import Any

import msgspec

from aiopsd.config import CorrelateConfig
from aiopsd.correlate.grouping.crowds import Crowds
from aiopsd.correlate.grouping.forest import Forest
from aiopsd.correlate.grouping.graph import HORIZON, Graph
from aiopsd.correlate.grouping.hindsight import Hindsight
from aiopsd.correlate.grouping.layers import Layers
from aiopsd.correlate.grouping.lessons import TEACH_AFTER, Lessons
from aiopsd.correlate.grouping.likeness import template_of
from aiopsd.correlate.grouping.memory import Memory
from aiopsd.correlate.grouping.odds import Odds
from aiopsd.correlate.grouping.passages import Passages
from aiopsd.correlate.grouping.reasons import at_once
from aiopsd.correlate.grouping.second import Second
from aiopsd.correlate.grouping.state import (
    CHECK_TIMER,
    ENDED_TIMER,
    PLACES,
    RECHECK_TIMER,
    SETTLE_TIMER,
    TEACH_TIMER,
    THINK_TIMER,
    Count,
    Group,
    Placement,
    Revision,
    State,
    Trouble,
    Waiting,
    by_onset,
    set_timer,
)
from aiopsd.correlate.grouping.strangers import Strangers
from aiopsd.correlate.grouping.surges import Surges
from aiopsd.correlate.grouping.thoughts import KEEP_ENDED, Thoughts
from aiopsd.correlate.place import measured, name_of, place_of
from aiopsd.correlate.rootcause import Knowledge
from aiopsd.model import Alert, Verdict
from aiopsd.topology import Topology

RECHECK = 200.0  # s after its first alert at which a trouble thinks again for the last time
SETTLE = 600.0  # s after which a trouble is what it is, and is learned from
LATER = {CHECK_TIMER: (RECHECK_TIMER, RECHECK), RECHECK_TIMER: (SETTLE_TIMER, SETTLE)}
BACKLOG = 6 * 3600.0  # s; an onset so long ago is still taken as told: what queued up while nobody read it
KNOWN = 3.0  # incidents in which a name was seen before it tells anything


class Grouper:
    """Online grouping of alerts by graph, time and history; see the package's docstring.

    Args:
        config: `hops` bounds the distance of a link, `reopen_within` how long after its end an incident takes an alert
            back, `retention` what is remembered of it.
        resume: what `snapshot()` returned.
    """

    def __init__(self, config: CorrelateConfig, topology: Topology, resume: dict[str, Any] | None = None) -> None:
        self.config = config
        self.topology = topology
        self.s = s = State() if resume is None else msgspec.convert(resume, State, str_keys=True)
        self.passages = Passages(s)
        self.graph = Graph(s, topology, self.passages, config.hops)
        self.memory = Memory(s, topology)
        self.odds = Odds(s, config, self.memory, self.passages)
        self.strangers = Strangers(s, topology, self.memory)
        self.crowds = Crowds(s, self.graph)
        self.forest = Forest(s, config, self.graph, self.odds, self.crowds, self.strangers)
        self.thoughts = Thoughts(s, self.graph, self.odds, self.strangers, self.forest)
        self.lessons = Lessons(s, self.graph, self.memory, self.odds, self.strangers, self.passages, self.forest)
        self.hindsight = Hindsight(s, self.graph, self.memory, self.strangers, self.forest)
        self.layers = Layers(s, self.graph, self.odds, self.crowds, self.forest, self.thoughts)
        self.surges = Surges(s, self.graph, self.odds, self.crowds, self.forest, self.layers)
        self.second = Second(
            s, self.graph, self.memory, self.odds, self.strangers, self.forest, self.thoughts, self.layers, self.surges
        )

    def place(self, alert: Alert, stamp: float) -> Placement:
        """Place a firing alert: the first time, or again after it resolved."""
        s = self.s
        self.second.arrive(stamp)
        place = place_of(alert, self.topology)
        vertex = self.graph.host(place.vertex) or f"?{alert.fingerprint}"
        if place.under:
            self.graph.see_hosts(vertex, place.under)
        name = name_of(alert)
        if alert.role:
            self.memory.heed(name, alert.role)
        # an anomaly began when its samples did, however long ago; a sender's word may be a wild clock's
        told = (alert.anomaly or self.s.now - BACKLOG < alert.starts_at) and alert.starts_at <= self.s.now + 60.0
        item = Waiting(
            fp=alert.fingerprint,
            firing=True,
            vertex=vertex,
            known=place.vertex != "",
            name=name,
            text=template_of(alert, name),
            onset=alert.starts_at if told else s.second,
            starts_at=alert.starts_at,
        )
        look = self.second.look(item)
        known = self.second.explain(item, look)
        score, reason = 0.0, known.text
        if look.home:
            group = s.groups[look.home]
            score = look.votes[look.home] - look.own
            if not group.quiet or look.best[look.home][2] != "again":
                item.told, item.opened = group.id, group.quiet
        elif (mate := self.second.mate(vertex)) is not None:
            item.told = mate.told
            reason = at_once(vertex, mate.vertex)
        elif not known.quiet:
            item.told, item.opened = self.forest.free_id(item), True
        item.said = reason
        if item.told:
            self.second.join_mates(item, look.spot.hosts)
        self.second.fresh = (item, look, known) if not s.waiting else None
        s.waiting.append(item)
        return Placement(item.told, reason, item.opened, (), score)

    def resolved(self, fingerprint: str, stamp: float, ended: float | None = None) -> None:
        """The alert no longer fires, since `ended` if its samples tell: what a backlog says was over long ago."""
        self.second.arrive(stamp)
        self.second.fresh = None
        at = self.s.second if ended is None else min(ended, self.s.second)
        self.s.waiting.append(Waiting(fingerprint, False, onset=at))

    def wake_at(self) -> float | None:
        """When `reassess` has something to do; None: nothing is pending."""
        s = self.s
        if s.pending:
            return self.s.now
        due = s.dues[0] if s.dues else None
        if s.waiting and (due is None or s.second + 1.0 < due):
            return s.second + 1.0
        return due

    def reassess(self, stamp: float) -> list[Revision]:
        """Second thoughts that are due at `stamp`: merges and moves, in order; often none."""
        s = self.s
        if s.waiting and s.second + 1.0 <= stamp:
            self.second.take_in()
        while s.dues and s.dues[0] <= stamp:
            due = heappop(s.dues)
            s.now = max(s.now, due)
            for kind, key in s.agenda.pop(due):
                if isinstance(key, int):
                    self._think_of_trouble(kind, key, due)
                elif (group := s.groups.get(key)) is not None:
                    self._think_of_group(kind, group, due)
        out, s.pending = s.pending, []
        return out

    def _think_of_group(self, kind: str, group: Group, due: float) -> None:
        if kind == THINK_TIMER:
            group.due.pop(due, None)
            if not self.hindsight.busy():
                self.hindsight.reconsider(group)
            elif due + 1.0 not in group.due:
                group.due[due + 1.0] = None
                set_timer(self.s, due + 1.0, THINK_TIMER, group.id)
        elif not group.firing and due - group.over_since >= self.config.retention:
            self.forest.forget(group.id)
            self._tidy(due)

    def _tidy(self, due: float) -> None:
        gone = self.s.gone
        for gid in list(takewhile(lambda gid: due - gone[gid] > 2 * self.config.retention, gone)):  # in order of time
            del gone[gid]
        self.graph.sweep()

    def _think_of_trouble(self, kind: str, tid: int, due: float) -> None:
        trouble = self.s.troubles.get(tid)
        if trouble is None:
            return
        if not trouble.names and not trouble.children:
            self.forest.dismiss(trouble)
        elif kind in LATER:
            self.layers.again(trouble)
            if trouble.apart != self.topology.version or trouble.echo_of >= 0:
                self.thoughts.recheck(trouble)
            self.surges.look(trouble)
            following, after = LATER[kind]
            set_timer(self.s, trouble.born + after, following, tid)
        elif kind == SETTLE_TIMER:
            self.lessons.settle(trouble)
        elif kind == TEACH_TIMER:
            if 0.0 <= self.odds.end(trouble) <= due - TEACH_AFTER:
                self.lessons.of_edges(trouble)
        elif kind == ENDED_TIMER:
            self.thoughts.after_end(trouble)
        elif 0.0 <= self.odds.end(trouble) <= due - KEEP_ENDED:
            self.forest.let_go(trouble)

    @property
    def settling(self) -> bool:
        """Whether the present second is still to be taken in: where its alerts are may change."""
        return bool(self.s.waiting)

    def caused(self, incident: str, cause: str, stamp: float) -> list[Revision]:
        """The evidence shows that an incident stems from `cause`: the one that has this trouble, if any, is the same.

        Alerts alone do not show it when nothing of the cause is in the incident: load that breaks off reaches what
        stands three calls away at once. But the metrics of an incident must have moved, or it must depend on the cause:
        an alert that merely came at a bad time is another problem, and would go untold.
        """
        s = self.s
        s.now = max(s.now, stamp)
        origin = self._origin(incident, cause)
        if origin is not None:
            self.forest.follow(s.groups[incident], origin, f"the evidence names {cause} as the cause of both")
        out, s.pending = s.pending, []
        return out

    def home(self, incident: str, cause: str) -> str:
        """The incident with the trouble of `cause` that `caused` would make this one part of; "": none."""
        origin = self._origin(incident, cause)
        return origin.group if origin is not None else ""

    def _origin(self, incident: str, cause: str) -> Trouble | None:
        s = self.s
        group = s.groups.get(incident)
        if group is None or not group.firing:
            return None
        here = [s.troubles[tid] for tid in group.troubles]
        below = self.topology.needed({t.vertex for t in here})
        if cause not in below and not any(measured(name) for t in here for name in t.names):
            return None
        began = min(t.onset for t in here)
        others = [t for tid in s.hot.get(cause, ()) if (t := s.troubles[tid]).group != incident and t.names]
        origins = [t for t in others if t.ended < 0.0 and abs(t.onset - began) <= HORIZON]
        return min(origins, key=by_onset, default=None)

    def verdict(self, v: Verdict, stamp: float, wrongly: Sequence[str] = ()) -> list[Revision]:
        """What an operator said: merge, split and noise change the groups now and the odds from now on.

        A cause changes the ranking from now on; `wrongly` is what had been ranked first instead.
        """
        s = self.s
        if s.waiting:
            self.second.take_in()
        self.s.now = max(self.s.now, stamp)
        group = s.groups.get(v.incident)
        if v.kind == "cause" and v.service:
            s.causes.setdefault(self.topology.resolve(v.service), Count()).add(stamp)
            for wrong in wrongly:
                if wrong and wrong != v.service:
                    s.causes.setdefault(self.topology.resolve(wrong), Count()).add(stamp, -0.5)
        elif group is None:
            return []
        elif v.kind == "merge" and v.other in s.groups and v.other != v.incident:
            self._teach(self.forest.unite(group, s.groups[v.other], v))
        elif v.kind == "split":
            self._teach(self.forest.split(group, v))
        elif v.kind == "noise":
            for tid in group.troubles:
                trouble = s.troubles[tid]
                for name in trouble.names:
                    s.noise[f"{trouble.vertex}|{name}"] = stamp
        out, s.pending = s.pending, []
        return out

    def _teach(self, decided: Sequence[Trouble]) -> None:
        """What operators said of troubles that have taught already: they teach again, and it counts for more."""
        for trouble in decided:
            if trouble.taught:
                trouble.taught = False
                self.lessons.of_edges(trouble)

    def knowledge(self, names: Iterable[str] | None = None) -> Knowledge:
        """What history and operators know that ranking can use, of these alertnames; None: of all."""
        s = self.s
        wanted = dict.fromkeys((*s.origin, *s.places) if names is None else names)
        origin = {
            name: self.memory.shares_of(name)[0] - self.memory.shares_of(name)[1]
            for name in filter(s.origin.__contains__, wanted)
            if name and self.memory.read(s.origin, name) + self.memory.read(s.passed, name) >= KNOWN
        }
        return Knowledge(
            origin=origin,
            causes={v: c.read(s.now) for v, c in s.causes.items()},
            hosted=self.graph.hosted,
            local={n: self._local(n) for n in wanted if len(s.places.get(n, ())) >= PLACES},
            travels={n: self.memory.travels(n) for n in wanted},
        )

    def _local(self, name: str) -> float:
        lone, common = self.memory.read(self.s.lone, name), self.memory.read(self.s.common, name)
        return math.log((lone + 0.5) / (common + 0.5)) if lone + common > KNOWN - 0.5 else 0.0

    def group_of(self, fingerprint: str) -> str:
        """Id of the group that holds an alert, quiet ones included; "" when it is not known."""
        row = self.s.rows.get(fingerprint)
        return self.s.troubles[row.trouble].group if row is not None else ""

    def elsewhere(self, vertex: str, incident: str) -> bool:
        """Whether a vertex is in trouble, or lately was, of another incident that somebody may be told of."""
        s = self.s
        for tid in s.kept.get(vertex, ()):
            group = s.troubles[tid].group
            if group != incident and not s.groups[group].quiet:
                return True
        return False

    def forget(self, incident: str) -> None:
        """Drop an incident and its alerts; what was learned from them stays."""
        self.forest.forget(incident)

    def snapshot(self) -> dict[str, Any]:
        """Plain data for `resume`."""
        data: dict[str, Any] = msgspec.to_builtins(self.s, str_keys=True)
        return data
