"""Alerts into incidents: each trouble picks its most likely parent in the graph, and a tree of troubles is an incident.

An alert is one symptom of a *trouble*: one vertex of the graph that left its normal state. For every trouble we weigh
where it came from: from a trouble of something it depends on (it climbed), of something that depends on it (load and
retries run down), from a dependency that several share and that has said nothing yet, or from nowhere: its own fault
or noise. The weights are likelihoods, so they need no thresholds: the chance that trouble crosses that edge, times the
density of the delay, times how usual this alertname is for a passed-on symptom; against the rate at which this vertex
and this alertname fire by themselves. Both sides are learned from the stream, with decay:

- what names are passed on and what names stand at the origin of an incident (so a name is worth what history says of
  it, nothing is read from its spelling);
- how often a pair (vertex, alertname) fires alone: chronic pairs need better company, and open no incident;
- how much of a vertex's callers follow it down (silence of the others is evidence against it);
- whether incidents come in bursts.

Enter: alerts and their ends, verdicts, time. Leave: placements with a reason, merges and moves. Everything is
deterministic; time comes with the call; no alert is held back. What arrives within one second has no order: each alert
gets a first placement at once, and when the second is over all of it is taken in by onset, so that a burst means the
same in any order; what that changes follows as revisions. The cost of an alert grows with the troubles of the
last minutes in its neighbourhood, not with what is open.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

import msgspec

from aiopsd.config import CorrelateConfig
from aiopsd.correlate.place import name_of, place_of
from aiopsd.correlate.rootcause import Knowledge
from aiopsd.model import Alert, Verdict, content_id
from aiopsd.topology import Topology

# The likelihoods below were set on simulated storms (see simulations/storm.py); each is a physical quantity.
CROSS = 0.4  # chance that trouble of a callee shows at a given caller, before anything is known of this trouble
CROSS_WEIGHT = 3.0  # ... and how many callers of evidence that chance is worth
SILENT = 0.3  # chance that a vertex between two troubles stays silent (lost alert, no rule)
DOWN = 0.001  # chance that trouble runs from a caller down to a callee (load, retries)
SHARED = 0.02  # chance that an unexplained trouble stems from a dependency that has not alerted
SAME = 0.5  # chance that a trouble shows a further symptom
HOP_MEAN, HOP_SCALE = 22.0, 40.0  # s; delay from one trouble to the next, detection included (Student t, 3 degrees)
SAME_MEAN, SAME_SCALE = 5.0, 35.0  # s; between two symptoms of one trouble
SHARED_SCALE = 55.0  # s; between two that share a cause
FOLLOW_SPAN = 300.0  # s; callers that got into trouble within it count as followers
FOLLOW = 90.0  # s; callers that have not followed after about this time probably will not
ORIGIN = 3e-6  # 1/s; rate at which a vertex gets a fault of its own, before anything is learned
BURST = 3.0  # further incidents that an incident comes with, on average over BURST_SPAN
BURST_SPAN = 120.0  # s
SPREAD = 50  # vertices that these are spread over at least: a small graph does not have more faults per vertex
AGAIN_LIVE, AGAIN_OVER = 0.5, 0.15  # chance that a resolved alert fires again while its incident is alive, is over
AGAIN_TAU, AGAIN_TAU_ALONE = 300.0, 120.0  # s; how soon it then does, in company and alone
PART = 150.0  # s; symptoms of one vertex that end further apart are two troubles
NEARLY = 1.0  # nats; a new neighbour that is worth so much less than where a trouble is cannot make it move
MARGIN = 0.5  # nats by which a new home must be better before an alert moves: hysteresis
STICK = 1.0  # nats in favour of a home of its own: a wrongly hidden incident costs more than a second page
HORIZON = 450.0  # s; two troubles that began further apart have nothing to do with each other
RECHECK = (60.0, 200.0)  # s after its onset at which a trouble thinks again
SETTLE = 600.0  # s after which a trouble is what it is, and is learned from
END_SCALE = 25.0  # s; troubles of one cause end about so far apart
END_FREE = 1200.0  # s; ... and troubles of two causes so far
APART = -10.0  # nats; how far a difference of ends can count against one cause
FLAPS = 0.3  # chance that an end was not the last one
KEEP_ENDED = 7200.0  # s; what ended so long ago is no company for what ends now
END_CHECK = 60.0  # s after its end at which a trouble thinks again: what ended together belonged together
HOSTED_MOST = 512  # vertices of one node or zone that its label relates: a storm in a big zone must not stall the rest
HALF_LIFE = 7 * 86400.0  # s; memory of what fires alone and which names travel
CHRONIC = 4.0  # firings alone (decayed) that make a pair chronic ...
CHRONIC_RATE = 0.5 / 3600.0  # ... at this rate or above, 1/s
KNOWN = 3.0  # incidents in which a name was seen before it tells anything
NAMES = 8.0  # guess of how many alertnames there are, for the first hours
LEAST = 0.002  # share that an unseen alertname may have: nothing is impossible


class Placement(NamedTuple):
    """Where an alert went and why.

    `incident` is "" when the alert is kept quiet (chronic, flapping, noise): nobody is told, the reason still says why.
    `merged` holds (from, into) pairs that became one; what an arrival changes elsewhere comes from `reassess` when its
    second is over, so it is empty here. `score` is the log-odds for this home against standing alone.
    """

    incident: str
    reason: str
    opened: bool = False
    merged: tuple[tuple[str, str], ...] = ()
    score: float = 0.0


class Revision(NamedTuple):
    """A second thought: `kind` "merge" (all of `source` goes into `target`) or "move" (`fingerprints` go there).

    "" as the source or target of a move: the alerts were, or are from now on, kept quiet. `opened`: `target` is new.
    """

    kind: str
    source: str
    target: str
    fingerprints: tuple[str, ...]
    opened: bool
    reason: str


class _Trouble(msgspec.Struct):
    """One vertex that left its normal state: its symptoms, and where we think it came from."""

    id: int
    vertex: str
    onset: float
    group: str
    parent: int = -1
    names: dict[str, float] = {}  # alertname -> first onset
    alerts: dict[str, None] = {}  # fingerprints
    children: dict[int, None] = {}
    own: float = 0.0  # log-likelihood of no parent, over that of its names as passed-on symptoms
    ended: float = -1.0  # when its last alert resolved; -1 while one fires
    echo_of: int = -1  # the trouble whose alert fires again here ...
    echo: float = 0.0  # ... and the log-likelihood of that
    echoed: int = -1  # the trouble that fires again what this one did
    born: float = 0.0  # stamp of its first alert
    value: float = 0.0  # log-likelihood of where it is
    fan: int = 0  # how many depend on its vertex
    deps: int = 0  # how many its vertex depends on
    followers: int = 0  # how many of them are in trouble about as long
    pinned: bool = False  # an operator decided


class _Group(msgspec.Struct):
    """One incident to be, or a quiet alert."""

    id: str
    opened: float
    order: int
    quiet: bool = False
    firing: int = 0
    over_since: float = 0.0  # when the last alert resolved
    troubles: dict[int, None] = {}
    size: int = 0  # alerts, past ones included


class _Row(msgspec.Struct):
    """What we know of one fingerprint."""

    trouble: int
    name: str
    firing: bool
    starts_at: float
    ended: float = -1.0


class _Waiting(msgspec.Struct):
    """What arrived within the present second: an alert that fires, or one that ended."""

    fp: str
    firing: bool
    vertex: str = ""
    known: bool = False
    name: str = ""
    onset: float = 0.0
    starts_at: float = 0.0
    told: str = ""  # incident of its first placement
    opened: bool = False  # ... which was new


class _Look(NamedTuple):
    """What speaks for each home of an alert."""

    near: "list[tuple[_Trouble, _Link]]"
    votes: dict[str, float]
    best: "dict[str, tuple[float, _Trouble, str]]"
    own: float
    home: str


class _Count(msgspec.Struct):
    """A sum with exponential decay: `value` as of `at`."""

    value: float = 0.0
    at: float = 0.0

    def read(self, now: float) -> float:
        return self.value * math.exp2((self.at - now) / HALF_LIFE) if now > self.at else self.value

    def add(self, now: float, amount: float = 1.0) -> None:
        self.value = self.read(now) + amount
        self.at = max(self.at, now)


class _State(msgspec.Struct):
    """All that a snapshot holds."""

    groups: dict[str, _Group] = {}
    troubles: dict[int, _Trouble] = {}
    rows: dict[str, _Row] = {}
    hot: dict[str, dict[int, None]] = {}  # vertex -> troubles that began within HORIZON
    kept: dict[str, dict[int, None]] = {}  # vertex -> troubles that have not ended long ago
    pairs: dict[str, dict[int, float]] = {}  # pair -> trouble -> when it resolved; -1 while it fires
    hosts: dict[str, dict[str, float]] = {}  # vertex -> node, zone or peer that its alerts named -> when last
    alone: dict[str, _Count] = {}  # pair, "v|" + vertex, "n|" + name, "" for all: firings alone
    origin: dict[str, _Count] = {}  # alertname -> times at the origin of an incident; "" for all
    passed: dict[str, _Count] = {}  # alertname -> times as a passed-on symptom; "" for all
    learned: float = 0.0  # when `origin` and `passed` changed last
    causes: dict[str, _Count] = {}  # vertex -> confirmed as a cause by operators, less what they corrected
    noise: dict[str, float] = {}  # pairs that an operator called noise -> when
    gone: dict[str, float] = {}  # incidents merged away -> when: their ids are not used again
    bursts: list[float] = []  # when the last few incidents got a second alert
    timers: list[tuple[float, int, str]] = []  # due, tie-breaker, kind and key
    pending: list[Revision] = []  # second thoughts that nobody has fetched
    waiting: list[_Waiting] = []  # what arrived within `second`, in order of arrival
    second: float = 0.0
    began: float = -1.0
    now: float = 0.0  # of the snapshot
    count: int = 0


class _Link(NamedTuple):
    """How another vertex stands to this one."""

    down: int  # steps along the calls from this one to it; 0: not below
    up: int  # steps from it to this one
    shared: tuple[tuple[str, int], ...]  # what both depend on directly, and how many others do


_RECHECK, _SETTLE, _DROP, _ENDED, _FADE = "r", "s", "d", "e", "f"


class Grouper:
    """Online grouping of alerts by graph, time and history; see the module's docstring.

    Args:
        config: `hops` bounds the distance of a link, `reopen_within` how long after its end an incident takes an alert
            back, `retention` what is remembered of it.
        resume: what `snapshot()` returned.
    """

    def __init__(self, config: CorrelateConfig, topology: Topology, resume: dict[str, Any] | None = None) -> None:
        self.config = config
        self.topology = topology
        self._s = _State() if resume is None else msgspec.convert(resume, _State, str_keys=True)
        self._links: dict[str, dict[str, _Link]] = {}
        self._links_version = topology.version
        self._both: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        self._shares: dict[str, tuple[float, float]] = {}  # of alertnames; cleared when the counts change
        self._mates: dict[str, _Waiting] = {}  # vertex -> first of this second that was told of an incident
        self._untold: dict[str, None] = {}  # incidents of this step that nobody has been told of
        self._fresh: tuple[_Waiting, _Look] | None = None  # what `place` found, if nothing has changed since
        for item in self._s.waiting:
            if item.told:
                self._mates.setdefault(item.vertex, item)
        self._hosted: dict[str, dict[str, None]] = {}
        for vertex, hosts in self._s.hosts.items():
            for host in hosts:
                self._hosted.setdefault(host, {})[vertex] = None
        self._now = self._s.now

    # ------------------------------------------------------------------------- verbs

    def place(self, alert: Alert, stamp: float) -> Placement:
        """Place a firing alert: the first time, or again after it resolved."""
        s = self._s
        self._arrive(stamp)
        place = place_of(alert, self.topology)
        vertex = place.vertex or f"?{alert.fingerprint}"
        if place.under:
            self._see_hosts(vertex, place.under)
        recent = self._now - HORIZON < alert.starts_at <= self._now + 60.0
        item = _Waiting(
            fp=alert.fingerprint,
            firing=True,
            vertex=vertex,
            known=place.vertex != "",
            name=name_of(alert),
            onset=alert.starts_at if recent else s.second,
            starts_at=alert.starts_at,
        )
        look = self._look(item)
        score = 0.0
        if look.home:
            _, parent, how = look.best[look.home]
            group = s.groups[look.home]
            score = look.votes[look.home] - look.own
            reason = self._why(vertex, item.onset, parent, how)
            if not group.quiet or how != "again":
                item.told, item.opened = group.id, group.quiet
        else:
            mate = self._mate(vertex)
            if mate is not None:
                item.told, reason = (
                    mate.told,
                    f"{vertex.lstrip('?')} is near {mate.vertex} and began within a second of it",
                )
            else:
                quiet, reason = self._alone_reason(item, look.votes)
                if not quiet:
                    item.told, item.opened = self._free_id(item), True
        if item.told and vertex not in self._mates:
            self._mates[vertex] = item
        self._fresh = (item, look) if not s.waiting else None
        s.waiting.append(item)
        return Placement(item.told, reason, item.opened, (), score)

    def resolved(self, fingerprint: str, stamp: float) -> None:
        """The alert no longer fires."""
        self._arrive(stamp)
        self._fresh = None
        self._s.waiting.append(_Waiting(fingerprint, False))

    def wake_at(self) -> float | None:
        """When `reassess` has something to do; None: nothing is pending."""
        s = self._s
        if s.pending:
            return self._now
        due = s.timers[0][0] if s.timers else None
        if s.waiting and (due is None or s.second + 1.0 < due):
            return s.second + 1.0
        return due

    def reassess(self, stamp: float) -> list[Revision]:
        """Second thoughts that are due at `stamp`: merges and moves, in order; often none."""
        s = self._s
        if s.waiting and s.second + 1.0 <= stamp:
            self._take_in()
        while s.timers and s.timers[0][0] <= stamp:
            due, _, what = heappop(s.timers)
            self._now = max(self._now, due)
            kind, _, key = what.partition(":")
            if kind == _DROP:
                group = s.groups.get(key)
                for gid in [g for g, at in s.gone.items() if due - at > 2 * self.config.retention]:
                    del s.gone[gid]
                if group is not None and not group.firing and due - group.over_since >= self.config.retention:
                    self.forget(key)
                continue
            trouble = s.troubles.get(int(key))
            if trouble is None:
                continue
            if kind == _RECHECK:
                self._recheck(trouble)
                step = round(due - trouble.born, 3)
                wait = next((w for w in RECHECK if w > step + 1.0), None)
                if wait is None:
                    self._timer(trouble.born + SETTLE, _SETTLE, key)
                else:
                    self._timer(trouble.born + wait, _RECHECK, key)
            elif kind == _ENDED:
                self._after_end(trouble)
            elif kind == _FADE:
                if 0.0 <= self._end(trouble) <= due - KEEP_ENDED:
                    self._drop_in(s.kept, trouble.vertex, trouble.id)
            else:
                self._settle(trouble)
        out, s.pending = s.pending, []
        return out

    def verdict(self, v: Verdict, stamp: float, wrongly: Sequence[str] = ()) -> list[Revision]:
        """What an operator said: merge, split and noise change the groups now and the odds from now on.

        A cause changes the ranking from now on; `wrongly` is what had been ranked first instead.
        """
        s = self._s
        if s.waiting:
            self._take_in()
        self._now = max(self._now, stamp)
        group = s.groups.get(v.incident)
        if v.kind == "cause" and v.service:
            s.causes.setdefault(self.topology.resolve(v.service), _Count()).add(stamp)
            for wrong in wrongly:
                if wrong and wrong != v.service:
                    s.causes.setdefault(self.topology.resolve(wrong), _Count()).add(stamp, -0.5)
        elif group is None:
            return []
        elif v.kind == "merge" and v.other in s.groups and v.other != v.incident:
            kept, gone = sorted((group, s.groups[v.other]), key=self._seniority)
            self._absorb(gone, kept, f"{v.actor or 'an operator'} merged them")
        elif v.kind == "split":
            self._split(group, v)
        elif v.kind == "noise":
            for tid in group.troubles:
                trouble = s.troubles[tid]
                for name in trouble.names:
                    s.noise[f"{trouble.vertex}|{name}"] = stamp
        out, s.pending = s.pending, []
        return out

    def knowledge(self) -> Knowledge:
        """What history and operators know that ranking can use."""
        origin = {
            name: self._shares_of(name)[0] - self._shares_of(name)[1]
            for name in self._s.origin
            if name and self._read(self._s.origin, name) + self._read(self._s.passed, name) >= KNOWN
        }
        return Knowledge(origin=origin, causes={v: c.read(self._now) for v, c in self._s.causes.items()})

    def group_of(self, fingerprint: str) -> str:
        """Id of the group that holds an alert, quiet ones included; "" when it is not known."""
        row = self._s.rows.get(fingerprint)
        return self._s.troubles[row.trouble].group if row is not None else ""

    def forget(self, incident: str) -> None:
        """Drop an incident and its alerts; what was learned from them stays."""
        s = self._s
        group = s.groups.pop(incident, None)
        if group is None:
            return
        for tid in group.troubles:
            trouble = s.troubles.pop(tid)
            for fp in trouble.alerts:
                del s.rows[fp]
            self._unlink(trouble)
            for child in trouble.children:
                s.troubles[child].parent = -1
            for name in trouble.names:
                self._drop_in(s.pairs, f"{trouble.vertex}|{name}", tid)
            self._drop_in(s.hot, trouble.vertex, tid)
            self._drop_in(s.kept, trouble.vertex, tid)

    def snapshot(self) -> dict[str, Any]:
        """Plain data for `resume`."""
        self._s.now = self._now
        data: dict[str, Any] = msgspec.to_builtins(self._s, str_keys=True)
        return data

    # ------------------------------------------------------------------------- one second

    def _arrive(self, stamp: float) -> None:
        s = self._s
        second = math.floor(stamp)
        if s.waiting and second > s.second:
            self._take_in()
        if not s.waiting:
            s.second = float(second)
            self._mates.clear()
            if s.began < 0.0:
                s.began = s.second
        self._now = max(self._now, s.second + 1.0)

    def _look(self, item: _Waiting) -> _Look:
        """Weigh every home of an alert; changes nothing."""
        s = self._s
        own = self._own(item.vertex, (item.name,))
        near = self._near(item.vertex, s.hot, item.onset)
        votes: dict[str, float] = {}
        best: dict[str, tuple[float, _Trouble, str]] = {}
        for other, link in near:
            if other.vertex == item.vertex:
                w, how = _SAME_LOG + _delay(item.onset - other.onset, SAME_MEAN, SAME_SCALE), "same"
            else:
                w, how = self._weight(item.onset, other, link)
            self._vote(votes, best, other, w, how)
        ends = s.pairs.get(f"{item.vertex}|{item.name}")
        if ends:
            passed = self._log_passed(item.name)
            for tid, ended in ends.items():
                old = s.troubles[tid]
                echo = self._fires_again(item.onset, ended, s.groups[old.group])
                if echo is not None:
                    self._vote(votes, best, old, echo - passed + STICK, "again")
        home = self._best(votes)
        return _Look(near, votes, best, own, home if home and votes[home] > own + STICK else "")

    def _mate(self, vertex: str) -> _Waiting | None:
        """The first of this second's arrivals that is near enough to share a first placement."""
        if not self._mates:
            return None
        near = self._mates.keys() & self._around(vertex).keys()
        return next((m for v, m in self._mates.items() if v in near), None) if near else None

    def _free_id(self, item: _Waiting) -> str:
        s = self._s
        gid, k = content_id("incident", item.fp, item.starts_at), 0
        while gid in s.groups or gid in s.gone:
            k += 1
            gid = content_id("incident", item.fp, item.starts_at, k)
        return gid

    def _take_in(self) -> None:
        """The second is over: take in what arrived in it, by onset, and tell what differs from the first placements."""
        s = self._s
        batch, s.waiting = s.waiting, []
        fresh, self._fresh = self._fresh, None
        self._mates.clear()
        if len(batch) > 1:
            first: dict[str, float] = {}
            for item in batch:
                if item.firing:
                    first[item.fp] = min(first.get(item.fp, item.onset), item.onset)
            batch.sort(key=lambda w: (first.get(w.fp, s.second + 1.0), w.fp))
        free = dict.fromkeys(w.told for w in batch if w.opened and w.told not in s.groups)
        told = {w.fp: w.told for w in batch if w.firing}
        reasons: dict[str, str] = {}
        before = len(s.pending)
        self._untold.clear()
        for item in batch:
            if item.firing:
                look = fresh[1] if fresh is not None and fresh[0] is item else self._look(item)
                reasons[item.fp] = self._settle_in(item, look, free)
            else:
                self._take_end(item.fp)
        self._tell(told, free, reasons, before)

    def _settle_in(self, item: _Waiting, look: _Look, free: dict[str, None]) -> str:
        """Make an alert part of its trouble and its incident; the reason."""
        s = self._s
        if look.home:
            _, parent, how = look.best[look.home]
            reason = self._why(item.vertex, item.onset, parent, how)
            if how == "same":
                self._join(parent, item)
                trouble = parent
            else:
                trouble = self._new(item, look.home, parent.id, look.own)
                if how == "again":
                    trouble.echo_of, trouble.echo, parent.echoed = parent.id, look.best[look.home][0], trouble.id
                    self._drop_in(s.pairs, f"{item.vertex}|{item.name}", parent.id)
                trouble.value = look.votes[look.home]
        else:
            quiet, reason = self._alone_reason(item, look.votes)
            gid = item.told if item.told in free else self._free_id(item)
            if gid in free:
                del free[gid]
            elif not quiet:
                self._untold[gid] = None
            group = self._open(gid)
            group.quiet = quiet and gid != item.told
            trouble = self._new(item, gid, -1, look.own)
        group = s.groups[trouble.group]
        if group.quiet and not self._alone(group):
            self._unquiet(group)
        for other, link in look.near:
            if other.group != trouble.group and other.vertex != item.vertex:
                w, _ = self._weight(other.onset, trouble, _Link(link.up, link.down, link.shared))
                if w > other.value - NEARLY:
                    self._recheck(other)
        return reason

    def _tell(self, told: dict[str, str], free: dict[str, None], reasons: dict[str, str], before: int) -> None:
        """Second thoughts of a second: what was told of its alerts, against where they are."""
        s = self._s
        fresh = s.pending[before:]
        del s.pending[before:]
        into: dict[str, str] = {}
        for r in fresh:
            if r.kind == "merge":
                into[r.source] = r.target
                if r.source not in self._untold:
                    s.pending.append(r)
            else:
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
                continue
            if first in free:  # an incident that was opened at first sight and is none: all of it goes
                del free[first]
                if now:
                    into[first] = now
                    s.gone[first] = self._now
                    s.pending.append(Revision("merge", first, now, (fp,), False, reasons[fp]))
                    continue
            s.pending.append(Revision("move", home, now, (fp,), now in self._untold, reasons[fp]))

    def _take_end(self, fingerprint: str) -> None:
        s = self._s
        stamp = s.second
        row = s.rows.get(fingerprint)
        if row is None or not row.firing:
            return
        row.firing = False
        row.ended = stamp
        trouble = s.troubles[row.trouble]
        group = s.groups[trouble.group]
        group.firing -= 1
        if not group.firing:
            group.over_since = stamp
            self._timer(stamp + self.config.retention, _DROP, group.id)
        for fp in trouble.alerts:
            other = s.rows[fp]
            if other.firing and other.name == row.name:
                break
        else:
            s.pairs.setdefault(f"{trouble.vertex}|{row.name}", {})[trouble.id] = stamp
        if not any(s.rows[fp].firing for fp in trouble.alerts):
            trouble.ended = stamp
            self._timer(stamp + END_CHECK, _ENDED, str(trouble.id))

    # ------------------------------------------------------------------------- the graph around a vertex

    def _see_hosts(self, vertex: str, hosts: Iterable[str]) -> None:
        """Labels of alerts say where services run when no topology does."""
        seen = self._s.hosts.setdefault(vertex, {})
        for host in hosts:
            if host not in seen:
                if len(self._hosted.get(host, ())) >= HOSTED_MOST:
                    continue
                if len(seen) >= 32:
                    oldest = min(seen, key=lambda h: (seen[h], h))
                    del seen[oldest]
                    self._hosted[oldest].pop(vertex, None)
                self._hosted.setdefault(host, {})[vertex] = None
                self._forget_links()
            seen[host] = self._now

    def _callees(self, vertex: str) -> dict[str, None]:
        return self._sides(vertex)[0]

    def _callers(self, vertex: str) -> dict[str, None]:
        return self._sides(vertex)[1]

    def _fan(self, vertex: str) -> int:
        return len(self._sides(vertex)[1])

    def _sides(self, vertex: str) -> tuple[dict[str, None], dict[str, None]]:
        """(callees, callers) of a vertex, those that labels told of included."""
        if self._links_version != self.topology.version:
            self._forget_links()
        sides = self._both.get(vertex)
        if sides is None:
            sides = (
                dict.fromkeys((*self.topology.callees(vertex), *self._s.hosts.get(vertex, ()))),
                dict.fromkeys((*self.topology.callers(vertex), *self._hosted.get(vertex, ()))),
            )
            if len(self._both) > 20_000:
                self._both.clear()
            self._both[vertex] = sides
        return sides

    def _forget_links(self) -> None:
        self._links.clear()
        self._both.clear()
        self._links_version = self.topology.version

    def _around(self, vertex: str) -> dict[str, _Link]:
        """Every vertex that may pass trouble to this one, or share a cause with it."""
        if self._links_version != self.topology.version:
            self._forget_links()
        links = self._links.get(vertex)
        if links is None:
            hops = self.config.hops
            below = _walk(vertex, hops, self._callees)
            above = _walk(vertex, hops, self._callers)
            shared: dict[str, list[tuple[str, int]]] = {}
            for callee, distance in below.items():
                if distance == 1:
                    for other in self._callers(callee):
                        if other != vertex:
                            shared.setdefault(other, []).append((callee, max(0, self._fan(callee) - 2)))
            links = {
                other: _Link(below.get(other, 0), above.get(other, 0), tuple(shared.get(other, ())))
                for other in dict.fromkeys((*below, *above, *shared))
            }
            if len(self._links) > 20_000:
                self._links.clear()
            self._links[vertex] = links
        return links

    def _near(self, vertex: str, index: dict[str, dict[int, None]], onset: float) -> list[tuple[_Trouble, _Link]]:
        """Troubles in the neighbourhood that began within HORIZON of `onset`, in order of their birth."""
        troubles = self._s.troubles
        links = self._around(vertex)
        out: list[tuple[_Trouble, _Link]] = []
        low, high = onset - HORIZON, onset + HORIZON
        for other in index.keys() & links.keys():
            for tid in index[other]:
                trouble = troubles[tid]
                if low <= trouble.onset <= high:
                    out.append((trouble, links[other]))
        if len(out) > 1:
            out.sort(key=_birth)
        return out

    # ------------------------------------------------------------------------- likelihoods

    def _weight(self, onset: float, other: _Trouble, link: _Link) -> tuple[float, str]:
        """(log-likelihood that a trouble that began at `onset` stems from `other`, how).

        The chance that it crosses one more edge counts how many callers followed and how many stayed silent so far.
        """
        best, how = -99.0, ""
        gap = onset - other.onset
        silent = 1.0 - math.exp(min(0.0, other.onset - self._now) / FOLLOW)
        d, u, shared = link
        if d:
            k = other.followers
            crosses = (CROSS_WEIGHT * CROSS + k) / (CROSS_WEIGHT + k + max(0, other.fan - k) * silent)
            z = (gap - HOP_MEAN * d) / _HOP_SCALES[d]
            best = math.log(crosses) - 2.0 * math.log1p(z * z / 3.0) + _DOWN_CONST[d]
            how = "climbed"
            if other.echo_of >= 0:
                best += self._news(other)
        elif u:
            z = (gap - HOP_MEAN * u) / _HOP_SCALES[u]
            best = _UP_CONST[u] - 2.0 * math.log1p(z * z / 3.0)
            how = "ran down"
            if other.echo_of >= 0:
                best += self._news(other)
        if shared:
            z = gap / SHARED_SCALE
            far = -2.0 * math.log1p(z * z / 3.0) + _SHARED_CONST
            if far > best:
                q = 0.0
                hot = self._s.hot
                for callee, rest in shared:
                    if callee not in hot:
                        q += _SHARED_TOP / (CROSS_WEIGHT + 1.0 + rest * silent)
                if q:
                    w = far + math.log(q / max(1, other.deps))
                    if w > best:
                        best, how = w, "shared"
        return best, how

    @staticmethod
    def _news(other: _Trouble) -> float:
        """Log-probability that a trouble is news: what only fires again passes little on."""
        if other.echo_of < 0 or other.parent != other.echo_of:
            return 0.0
        odds = other.echo - other.own
        return -math.log1p(math.exp(min(30.0, odds)))

    def _fires_again(self, onset: float, ended: float, group: _Group) -> float | None:
        """Log-likelihood that an alert that ended then comes back now as the same trouble; None: it cannot."""
        gap = max(0.0, onset - ended)
        if group.firing:
            chance, tau = AGAIN_LIVE, AGAIN_TAU
        elif gap > self.config.reopen_within:
            return None
        else:
            chance, tau = AGAIN_OVER, AGAIN_TAU_ALONE if self._alone(group) else AGAIN_TAU
        return math.log(chance / tau) - gap / tau

    def _own(self, vertex: str, names: Iterable[str]) -> float:
        """Log-likelihood that a trouble has no parent, over that of its names as passed-on symptoms."""
        fault, passed, name, n = math.log(ORIGIN + self._burst()), 0.0, "", 0
        for name in names:
            shares = self._shares_of(name)
            fault += shares[0]
            passed += shares[1]
            n += 1
        if n == 1:
            noise = math.log(self._alone_rate(vertex, name))
            high, low = (fault, noise) if fault > noise else (noise, fault)
            fault = high + math.log1p(math.exp(low - high))
        return fault - passed

    def _log_share(self, counts: Mapping[str, _Count], name: str) -> float:
        at = self._s.learned  # not now: what is cached must not depend on when it was asked for
        total, seen = (c.read(at) if (c := counts.get(key)) is not None else 0.0 for key in ("", name))
        return math.log(max(LEAST, (seen + 0.5) / (total + 0.5 * NAMES)))

    def _log_passed(self, name: str) -> float:
        return self._shares_of(name)[1]

    def _shares_of(self, name: str) -> tuple[float, float]:
        """Log-shares of an alertname at origins and among passed-on symptoms, as of what was learned last."""
        known = self._shares.get(name)
        if known is None:
            if len(self._shares) > 20_000:
                self._shares.clear()
            known = (self._log_share(self._s.origin, name), self._log_share(self._s.passed, name))
            self._shares[name] = known
        return known

    def _burst(self) -> float:
        """Added rate of faults just after other incidents opened: they often come together (a rollout, a bad hour)."""
        recent = sum(1 for at in self._s.bursts if self._now - at <= BURST_SPAN)
        return BURST * recent / BURST_SPAN / max(SPREAD, len(self.topology)) if recent else 0.0

    def _alone_rate(self, vertex: str, name: str) -> float:
        """Rate (1/s) at which this pair fires by itself: its own history, shrunk to what its vertex and name do."""
        alone, now = self._s.alone, self._now
        span = max(3600.0, min(now - self._s.began, HALF_LIFE))
        total, at_vertex = self._read(alone, ""), self._read(alone, f"v|{vertex}")
        usual = (total + 3.0) / max(SPREAD, len(self.topology))
        expected = (at_vertex * at_vertex + usual) / (at_vertex + 1.0)
        share = (self._read(alone, f"n|{name}") + 0.5) / (total + 4.0)
        return 1e-7 + (expected * share + self._read(alone, f"{vertex}|{name}")) / (2.0 * span)

    def _read(self, counts: Mapping[str, _Count], key: str) -> float:
        count = counts.get(key)
        return count.read(self._now) if count is not None else 0.0

    # ------------------------------------------------------------------------- structure

    @staticmethod
    def _vote(
        votes: dict[str, float], best: dict[str, tuple[float, _Trouble, str]], other: _Trouble, w: float, how: str
    ) -> None:
        """Likelihoods of several members of one incident add up."""
        if w < -30.0:
            return
        gid = other.group
        have = best.get(gid)
        if have is None:
            votes[gid] = w
            best[gid] = (w, other, how)
            return
        sofar = votes[gid]
        high, low = (w, sofar) if w > sofar else (sofar, w)
        votes[gid] = high + math.log1p(math.exp(low - high))
        if w > have[0]:
            best[gid] = (w, other, how)

    def _best(self, votes: Mapping[str, float], without: str = "") -> str:
        """The incident with most votes, the older one of two equal ones."""
        groups = self._s.groups
        out, value, order = "", -1e9, 0
        for gid, w in votes.items():
            if gid != without and (w > value or (w == value and groups[gid].order < order)):
                out, value, order = gid, w, groups[gid].order
        return out

    def _open(self, gid: str) -> _Group:
        s = self._s
        s.count += 1
        group = s.groups[gid] = _Group(id=gid, opened=self._now, order=s.count)
        return group

    def _new(self, item: _Waiting, gid: str, parent: int, own: float) -> _Trouble:
        s = self._s
        vertex, onset = item.vertex, item.onset
        s.count += 1
        trouble = _Trouble(
            id=s.count,
            vertex=vertex,
            onset=onset,
            group=gid,
            parent=parent,
            names={item.name: onset},
            own=own,
            value=own,
            born=self._now,
            fan=self._fan(vertex),
            deps=len(self._callees(vertex)),
        )
        s.troubles[trouble.id] = trouble
        s.groups[gid].troubles[trouble.id] = None
        if parent >= 0:
            s.troubles[parent].children[trouble.id] = None
        hot = s.hot
        for callee in hot.keys() & self._callees(vertex).keys():
            for tid in hot[callee]:
                other = s.troubles[tid]
                if abs(other.onset - onset) < FOLLOW_SPAN:
                    other.followers += 1
        for caller in hot.keys() & self._callers(vertex).keys():
            if any(abs(s.troubles[tid].onset - onset) < FOLLOW_SPAN for tid in hot[caller]):
                trouble.followers += 1
        s.hot.setdefault(vertex, {})[trouble.id] = None
        s.kept.setdefault(vertex, {})[trouble.id] = None
        self._take_alert(trouble, item)
        self._timer(self._now + RECHECK[0], _RECHECK, str(trouble.id))
        return trouble

    def _join(self, trouble: _Trouble, item: _Waiting) -> None:
        self._take_alert(trouble, item)
        fresh = item.name not in trouble.names
        trouble.names.setdefault(item.name, item.onset)
        trouble.onset = min(trouble.onset, item.onset)
        if fresh:
            trouble.own = self._own(trouble.vertex, trouble.names)
            self._recheck(trouble)

    def _alone(self, group: _Group) -> bool:
        """Whether all of an incident is one alert that comes and goes."""
        if len(group.troubles) > 24:
            return False
        kind: tuple[str, str] | None = None
        for tid in group.troubles:
            trouble = self._s.troubles[tid]
            for name in trouble.names:
                if kind is not None and kind != (trouble.vertex, name):
                    return False
                kind = (trouble.vertex, name)
        return True

    def _take_alert(self, trouble: _Trouble, item: _Waiting) -> None:
        s = self._s
        fp = item.fp
        old = s.rows.get(fp)
        if old is not None:
            before = s.troubles[old.trouble]
            before.alerts.pop(fp, None)
            if old.firing:
                s.groups[before.group].firing -= 1
        s.rows[fp] = _Row(trouble.id, item.name, True, item.starts_at)
        trouble.alerts[fp] = None
        trouble.ended = -1.0
        group = s.groups[trouble.group]
        group.firing += 1
        group.size += 1
        if group.size == 2:
            s.bursts = [*s.bursts[-3:], self._now]
        pair = f"{item.vertex}|{item.name}"
        self._drop_in(s.pairs, pair, trouble.id)  # it fires; what ended of this pair elsewhere may still come back

    def _unquiet(self, group: _Group) -> None:
        group.quiet = False
        fps = tuple(fp for tid in group.troubles for fp in self._s.troubles[tid].alerts)
        self._s.pending.append(Revision("move", "", group.id, fps, True, "it is no longer alone"))

    def _subtree(self, trouble: _Trouble) -> dict[int, _Trouble]:
        out = {trouble.id: trouble}
        stack = [trouble]
        while stack:
            for child in stack.pop().children:
                if child not in out:
                    out[child] = self._s.troubles[child]
                    stack.append(out[child])
        return out

    def _unlink(self, trouble: _Trouble) -> None:
        if trouble.parent >= 0:
            parent = self._s.troubles.get(trouble.parent)
            if parent is not None:
                parent.children.pop(trouble.id, None)
        trouble.parent = -1

    def _link(self, trouble: _Trouble, parent: _Trouble) -> None:
        self._unlink(trouble)
        trouble.parent = parent.id
        parent.children[trouble.id] = None

    def _after_end(self, trouble: _Trouble) -> None:
        """What ended together belonged together: think again about this one and those around it that ended too."""
        s = self._s
        if trouble.ended < 0.0 or self._now < trouble.ended + END_CHECK:
            return
        for part in self._part_ways(trouble):
            self._recheck(part, ended=True)
        around = self._near(trouble.vertex, s.kept, trouble.onset)
        for other, link in around:
            if other is trouble or not (link.up or link.shared or other.parent == trouble.id):
                continue
            end = self._end(other)
            if 0.0 <= end <= self._now - END_CHECK and (other.group != trouble.group or other.parent == trouble.id):
                self._recheck(other, ended=True)
        self._timer(self._now + KEEP_ENDED, _FADE, str(trouble.id))

    def _part_ways(self, trouble: _Trouble) -> list[_Trouble]:
        """Symptoms of one vertex that ended far apart had two causes: one trouble for each."""
        s = self._s
        ends = sorted((s.rows[fp].ended, fp) for fp in trouble.alerts)
        cuts = [i for i in range(1, len(ends)) if ends[i][0] - ends[i - 1][0] > PART]
        if trouble.echoed >= 0 or not cuts:
            return [trouble]
        out = [trouble]
        for i, cut in enumerate(cuts):
            fps = [fp for _, fp in ends[cut : cuts[i + 1] if i + 1 < len(cuts) else len(ends)]]
            out.append(self._cut(trouble, fps))
        trouble.ended = ends[cuts[0] - 1][0]
        return out

    def _cut(self, trouble: _Trouble, fps: list[str]) -> _Trouble:
        """A trouble of their own, at the same place, for some alerts of a trouble."""
        s = self._s
        s.count += 1
        names: dict[str, float] = {}
        for fp in fps:
            names.setdefault(s.rows[fp].name, trouble.names.get(s.rows[fp].name, trouble.onset))
        other = _Trouble(
            id=s.count,
            vertex=trouble.vertex,
            onset=min(names.values()),
            group=trouble.group,
            names=names,
            ended=max(s.rows[fp].ended for fp in fps),
            born=trouble.born,
            fan=trouble.fan,
            deps=trouble.deps,
            followers=trouble.followers,
        )
        s.troubles[other.id] = other
        s.groups[trouble.group].troubles[other.id] = None
        s.kept.setdefault(trouble.vertex, {})[other.id] = None
        for fp in fps:
            del trouble.alerts[fp]
            other.alerts[fp] = None
            s.rows[fp].trouble = other.id
        left = {s.rows[fp].name for fp in trouble.alerts}
        for name in names:  # who fires again belongs to the trouble that has its name now
            pair = f"{trouble.vertex}|{name}"
            ended = s.pairs.get(pair, {}).get(trouble.id)
            if ended is not None:
                s.pairs[pair][other.id] = ended
                if name not in left:
                    self._drop_in(s.pairs, pair, trouble.id)
        trouble.names = {n: at for n, at in trouble.names.items() if n in left}
        trouble.onset = min(trouble.names.values())
        for item in (trouble, other):
            item.own = self._own(item.vertex, item.names)
        parent = s.troubles.get(trouble.parent)
        self._link(other, parent if parent is not None else trouble)
        return other

    def _together(self, trouble: _Trouble, other: _Trouble) -> float:
        """Log-likelihood ratio of how both ended, for one cause against two."""
        mine, its = self._end(trouble), self._end(other)
        if mine < 0.0:
            return 0.0
        if its < 0.0:
            return _STILL_LOG
        return max(APART, _delay(mine - its, 0.0, END_SCALE) + _END_FREE_LOG)

    def _company(self, trouble: _Trouble, before: _Trouble) -> float:
        """How the end of an echo fits those that its first trouble came with."""
        s = self._s
        while before.echo_of >= 0 and before.parent == before.echo_of and before.echo_of in s.troubles:
            before = s.troubles[before.echo_of]
        others = [before.parent, *before.children]
        fits = [self._together(trouble, o) for i in others if (o := s.troubles.get(i)) and o.vertex != trouble.vertex]
        return max(fits, default=0.0)

    def _end(self, trouble: _Trouble) -> float:
        """When it ended for good as far as we know: a trouble that fired again has not ended before its echo."""
        s = self._s
        while trouble.echoed >= 0:
            later = s.troubles.get(trouble.echoed)
            if later is None or later.parent != trouble.id:
                break
            trouble = later
        return trouble.ended

    def _recheck(self, trouble: _Trouble, *, ended: bool = False) -> None:
        """Think again about where a trouble came from; move or merge when another home is clearly better."""
        if trouble.pinned:
            return
        s = self._s
        votes: dict[str, float] = {}
        best: dict[str, tuple[float, _Trouble, str]] = {}
        here = trouble.group
        for other, link in self._near(trouble.vertex, s.kept if ended else s.hot, trouble.onset):
            if other.id == trouble.echo_of or (other.group == here and self._hangs_on(other, trouble)):
                continue
            if other.vertex != trouble.vertex:
                w, how = self._weight(trouble.onset, other, link)
            elif not ended:
                continue
            else:
                w, how = _SAME_LOG + _delay(trouble.onset - other.onset, SAME_MEAN, SAME_SCALE), "same"
            self._vote(votes, best, other, w + self._together(trouble, other) if ended else w, how)
        before = s.troubles.get(trouble.echo_of)
        if before is not None and not (before.group == here and self._hangs_on(before, trouble)):
            company = self._company(trouble, before) if ended else 0.0
            self._vote(votes, best, before, trouble.echo + company, "again")
        if trouble.parent >= 0:
            stay = votes.get(here, -99.0)
            if here in best and best[here][1].id != trouble.parent:
                self._link(trouble, best[here][1])
            away = self._best(votes, here)
        else:
            stay = trouble.own
            away = self._best(votes)
        value = votes.get(away, -99.0)
        trouble.value = max(stay, value, trouble.own)
        if trouble.parent >= 0:
            if trouble.own > max(value, stay) + MARGIN:
                self._move(trouble, None, "its trouble is better explained by itself")
            elif away and value > max(stay + MARGIN, trouble.own):
                self._move(trouble, best[away][1], self._why(trouble.vertex, trouble.onset, *best[away][1:]))
        elif away and value > trouble.own + (0.0 if ended else STICK):  # afterwards nobody is paged twice
            if away == here:
                self._link(trouble, best[away][1])
            else:
                self._move(trouble, best[away][1], self._why(trouble.vertex, trouble.onset, *best[away][1:]))

    def _hangs_on(self, trouble: _Trouble, on: _Trouble) -> bool:
        """Whether `trouble` is `on` or below it in their tree."""
        troubles = self._s.troubles
        while trouble is not on:
            if trouble.parent < 0:
                return False
            trouble = troubles[trouble.parent]
        return True

    def _move(self, trouble: _Trouble, parent: _Trouble | None, why: str) -> None:
        """Hang a trouble with all that hangs on it below another parent; None: on its own."""
        s = self._s
        below = self._subtree(trouble)
        source = s.groups[trouble.group]
        self._unlink(trouble)
        if parent is None:
            if len(below) == len(source.troubles):
                return
            first = min(below.values(), key=lambda t: (t.onset, t.id))
            fp = next(iter(first.alerts), "")
            starts = s.rows[fp].starts_at if fp in s.rows else first.onset
            target = self._open(self._free_id(_Waiting(fp, True, starts_at=starts)))
        else:
            target = s.groups[parent.group]
            self._link(trouble, parent)
        if len(below) == len(source.troubles):
            kept, gone = sorted((source, target), key=self._seniority)
            self._absorb(gone, kept, why)
            return
        if target.quiet:
            self._unquiet(target)
        for tid, item in below.items():
            del source.troubles[tid]
            target.troubles[tid] = None
            item.group = target.id
            for fp in item.alerts:
                row = s.rows[fp]
                source.firing -= row.firing
                target.firing += row.firing
                source.size -= 1
                target.size += 1
        fps = tuple(fp for item in below.values() for fp in item.alerts)
        if not source.firing:
            source.over_since = self._now
            self._timer(self._now + self.config.retention, _DROP, source.id)
        s.pending.append(Revision("move", "" if source.quiet else source.id, target.id, fps, parent is None, why))

    def _seniority(self, group: _Group) -> tuple[bool, bool, float, int]:
        """Of two that become one the older survives, if anybody was told of it."""
        return (group.quiet, group.id in self._untold, group.opened, group.order)

    def _absorb(self, gone: _Group, kept: _Group, why: str) -> None:
        s = self._s
        fps = tuple(fp for tid in gone.troubles for fp in s.troubles[tid].alerts)
        if kept.quiet:
            self._unquiet(kept)
        for tid in gone.troubles:
            s.troubles[tid].group = kept.id
            kept.troubles[tid] = None
        kept.firing += gone.firing
        kept.size += gone.size
        del s.groups[gone.id]
        if gone.quiet:
            s.pending.append(Revision("move", "", kept.id, fps, False, why))
        else:
            s.gone[gone.id] = self._now
            s.pending.append(Revision("merge", gone.id, kept.id, fps, False, why))

    def _split(self, group: _Group, v: Verdict) -> None:
        """The named alerts leave, each trouble whole, and stay together in an incident of their own."""
        s = self._s
        chosen = dict.fromkeys(s.rows[fp].trouble for fp in v.fingerprints if fp in s.rows)
        leaving = [s.troubles[tid] for tid in chosen if tid in group.troubles]
        if not leaving or len(leaving) == len(group.troubles):
            return
        first: _Trouble | None = None
        for trouble in leaving:
            for child in list(trouble.children):  # what hung on it stays where it is
                if child not in chosen:
                    self._unlink(s.troubles[child])
            self._unlink(trouble)
            self._move(trouble, first, f"{v.actor or 'an operator'} split them")
            trouble.pinned = True
            first = first or trouble
        for tid in group.troubles:
            s.troubles[tid].pinned = True

    # ------------------------------------------------------------------------- learning

    def _settle(self, trouble: _Trouble) -> None:
        """What a trouble turned out to be goes into the counts."""
        s, now = self._s, self._now
        group = s.groups[trouble.group]
        s.learned = now
        self._shares.clear()
        if trouble.echo_of >= 0 and trouble.parent == trouble.echo_of:
            pass  # it was counted when it fired first
        elif self._alone(group):
            name = next(iter(trouble.names))
            for key in ("", f"v|{trouble.vertex}", f"n|{name}", f"{trouble.vertex}|{name}"):
                s.alone.setdefault(key, _Count()).add(now)
        else:
            counts = s.origin if trouble.parent < 0 else s.passed
            for name in trouble.names:
                counts.setdefault(name, _Count()).add(now)
            counts.setdefault("", _Count()).add(now, float(len(trouble.names)))
        if len(s.alone) > 50_000:
            s.alone = {k: c for k, c in s.alone.items() if c.read(now) > 0.1}
        self._drop_in(s.hot, trouble.vertex, trouble.id)

    # ------------------------------------------------------------------------- small things

    def _timer(self, due: float, kind: str, key: str) -> None:
        self._s.count += 1
        heappush(self._s.timers, (float(math.ceil(due)), self._s.count, f"{kind}:{key}"))

    @staticmethod
    def _drop_in(table: dict[str, Any], key: str, item: int) -> None:
        row = table.get(key)
        if row is not None:
            row.pop(item, None)
            if not row:
                del table[key]

    def _why(self, vertex: str, onset: float, other: _Trouble, how: str) -> str:
        gap = onset - other.onset
        when = f"{abs(gap):.0f} s {'after' if gap >= 0 else 'before'} it"
        a, b = vertex.lstrip("?"), other.vertex.lstrip("?")
        if how == "same":
            return f"a further symptom of {b}, {when.removesuffix(' it')} the first"
        if how == "again":
            return f"the same alert of {b} again"
        link = self._around(vertex).get(other.vertex, _Link(0, 0, ()))
        if how == "climbed":
            return f"{a} depends on {b}{_steps(link.down)} and started {when}"
        if how == "ran down":
            return f"{b} depends on {a}{_steps(link.up)}, and {a} started {when}"
        shared = ", ".join(name for name, _ in link.shared[:3])
        return f"{a} and {b} both depend on {shared} and started {abs(gap):.0f} s apart"

    def _alone_reason(self, item: _Waiting, votes: Mapping[str, float]) -> tuple[bool, str]:
        """(whether an alert that nothing explains is kept quiet, why)."""
        s, name, vertex = self._s, item.name, item.vertex
        pair = f"{vertex}|{name}"
        if pair in s.noise:
            return True, f"an operator called {name} of {vertex} noise, and nothing near it is in trouble"
        fired = self._read(s.alone, pair)
        span = max(3600.0, min(self._now - s.began, HALF_LIFE))
        if fired >= CHRONIC and fired / span >= CHRONIC_RATE:
            return True, f"chronic: {name} of {vertex} fired alone {fired:.0f} times in the last {span / 3600:.0f} h"
        if not item.known:
            return False, "it names nothing that the topology knows, and nothing else fits"
        if votes:
            return False, "what is in trouble near it does not explain it"
        return False, "nothing near it is in trouble"


def _delay(gap: float, mean: float, scale: float) -> float:
    """Log-density (1/s) of a delay: Student's t with 3 degrees of freedom, because detection has long tails."""
    z = (gap - mean) / scale
    return -1.0007 - 2.0 * math.log1p(z * z / 3.0) - math.log(scale)


def _birth(item: tuple[_Trouble, _Link]) -> int:
    return item[0].id


def _walk(start: str, hops: int, step: Any) -> dict[str, int]:
    out, front = {start: 0}, [start]
    for distance in range(1, hops + 1):
        further = []
        for here in front:
            for other in step(here):
                if other not in out:
                    out[other] = distance
                    further.append(other)
        front = further
    return out


def _steps(n: int) -> str:
    return "" if n <= 1 else f" ({n} steps away)"


_SAME_LOG = math.log(SAME)
_STILL_LOG = math.log(FLAPS)
_END_FREE_LOG = math.log(END_FREE)
_SHARED_TOP = CROSS_WEIGHT * CROSS + 1.0
_SHARED_CONST = math.log(SHARED) - 1.0007 - math.log(SHARED_SCALE)
_HOP_SCALES = [1.0] + [math.sqrt(HOP_SCALE**2 + (d - 1) * 18.0**2) for d in range(1, 12)]
_DOWN_CONST = [(d - 1) * math.log(CROSS * SILENT) - 1.0007 - math.log(_HOP_SCALES[d]) for d in range(12)]
_UP_CONST = [d * math.log(DOWN) - 1.0007 - math.log(_HOP_SCALES[d]) for d in range(12)]

__all__ = ("Grouper", "Placement", "Revision")
