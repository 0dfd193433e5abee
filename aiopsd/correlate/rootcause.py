"""Which service, node or change is the cause: every symptom is blame that flows to what explains it ("blame flow").

Each symptom starts as blame on its own vertex. A vertex hands on what its callees explain: the more, the stronger and
the earlier their own symptoms of that kind, the more they add to it; vertices that say nothing are looked through.
What is not handed on stays, and trouble of its own (a resource, an alert that history finds at origins) adds to it.
The blame that a vertex holds in the end is its score. Works with alerts alone, with metric evidence alone, or both.

What enters is alerts, evidence, changes, the graph; what leaves is candidates, each with the chain of shares that leads
from the symptom to it. No clock, no state, no chance: the same sets give the same ranking in any order.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from aiopsd.correlate.place import name_of, place_of
from aiopsd.evidence import RATES, harm_of, harmful, rejudged
from aiopsd.model import Alert, Candidate, ChangeEvent, Evidence, Link
from aiopsd.topology import Topology

LOOKS = 2.5  # robust scales; below this a series is calm and is not looked at
STRONG = 3.0  # robust scales; below this a deviation only orders the tail of the list
CAP = 1000.0  # a deviation above this says no more
HANDED = 0.95  # at most so much of its blame does a vertex hand on
OTHER_KIND = 0.15  # worth of a symptom of another kind than the page's
OWN_EXPLAINS = 0.8  # how far a callee's resource trouble explains a caller's symptom
AGAIN = 0.6  # worth of a symptom on the page's own call paths: in part it is the page's trouble counted again
DEPTH = 20  # steps down the calls that count as the page's paths
LOOK_THROUGH = 3  # steps through vertices that say nothing
DIM = 0.35  # what is left of an explanation for each silent vertex between
LATE = 30.0  # s; a cause may be seen so much later than its symptom
LATE_SCALE = 60.0  # s; beyond that its share falls off
# A callee that says nothing, whose callers are in trouble together: is it the cause, or is each in trouble by chance?
UNSEEN = 2  # dependents of a node or zone that only labels of alerts know, for each that is in trouble
SILENT = 0.3  # chance that what is the cause says nothing itself
ALONE = 0.06  # chance that a vertex that nothing explains is in trouble on its own, in an incident of several
PASSED = 0.5  # chance that trouble of a callee shows in a caller
LOOSE = 0.2  # a vertex of which less is explained stands alone
TOGETHER = 150.0  # s; symptoms of one silent cause start within this
UNKNOWN = 0.01  # chance that the cause is not in the graph at all
RUN = 0.7  # share of a callee's trouble that runs down from a caller with a local symptom of its own
AHEAD = 120.0  # s; the caller began at most so long before
NOVEL = 1.1  # log-odds that a name is local which history does not know and only one vertex has: 1.5 of 2 counts
CROWD = 3  # vertices in trouble, before being the only one says anything
UNKNOWN_LEAST = 4  # unexplained vertices that start within TOGETHER, before something unknown is blamed
SEVERITY = {"critical": 1.2, "error": 1.1, "warning": 1.0, "info": 0.6, "none": 0.4}
WEIGHT = {"other": 0.3, "traffic": 0.3}  # of evidence of which nobody knows what it means
FALLS = 0.5  # worth of a resource that is used less than normal: seldom a cause, often the loss of traffic
SYMPTOMS = ("latency", "errors", "availability")
RESOURCES = ("resource", "saturation")  # a vertex has them of its own; they do not travel along calls
GROUND = ("node", "zone")  # kinds of what others stand on
ALERT = "alert"  # the kind of a symptom of which there is only an alert
STATISTICS = ("statistic", "stat", "quantile", "agg", "aggregation", "percentile")
BACK = 3600.0  # s; how far before a page its trouble is looked for
FILLED = 0.3  # of the usual level; a rise by more is what fills up
WEAK = 0.01  # worth of what is below STRONG
_FILLS = re.compile(r"(?i)mem|heap|rss|disk|filesystem|inode|swap|descriptor|fds")
_PERCENTILE = re.compile(r"(?i)(?:^|[^a-z0-9])(?:p\d{2,4}|0\.\d+|\d{2}(?:th)?|quantile|percentile)(?:$|[^a-z0-9])")
_VALUE = itemgetter(1)
CHANGE_WORTH = 0.5  # a change just before the onset raises its service's score by so much
CHANGE_TAU = 900.0  # s
ORIGIN_WORTH = 0.5  # blame that an alertname usually found at origins adds, per nat
# Chance that the first is right: weights of its SIGNS, a logistic regression on simulated storms (seeds 0-9 default,
# 0-3 hard) and fourteen simulated worlds with metrics (`python -m simulations confidence --fit`); judged on recordings.
CONFIDENCE = (0.764, 0.815, 0.176, -0.229, -0.044, 1.315, -0.031, 0.353, -0.62, -0.526, -1.753, -0.254)


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """What history and operators know: see `Grouper.knowledge`.

    `origin`: alertname -> log-ratio of its share at origins of incidents to its share among passed-on symptoms.
    `causes`: vertex -> how often operators confirmed it as a cause, minus how often they named another one.
    `local`: alertname -> log-odds that in an incident of several only one vertex has it, of names seen at several.
    `hosted`: node or zone -> vertices that labels of alerts have placed there, whether in this incident or before.
    """

    origin: dict[str, float] = {}
    causes: dict[str, float] = {}
    hosted: Mapping[str, Mapping[str, None]] = {}
    local: dict[str, float] = {}


class Heard:
    """Evidence of a neighbourhood, arranged once for ranking often: what it says of each vertex is worked out once.

    The evidence must not change, and neither may the vertices that are handed out: copy what you add to.
    """

    __slots__ = ("_key", "_levels", "_of", "_traffic", "_vertices", "evidence", "loud")

    def __init__(self, evidence: Iterable[Evidence]) -> None:
        self.evidence = tuple(evidence)
        self.loud = [e for e in self.evidence if e.deviation > LOOKS]
        self._of: dict[str, list[Evidence]] | None = None
        self._levels: dict[str, float] | None = None
        self._key: tuple[float, int, int] = (math.nan, 0, 0)
        self._vertices: dict[str, _Vertex] = {}
        self._traffic: dict[str, float] = {}

    def of(self, service: str) -> Sequence[Evidence]:
        """What was said of this service."""
        if self._of is None:
            self._of = {}
            for e in self.evidence:
                self._of.setdefault(e.service, []).append(e)
        return self._of.get(service, ())

    def usual(self, signature: str) -> float:
        """Median of what is normal for such a resource among all services; 0 when there is none."""
        if self._levels is None:
            found: dict[str, list[float]] = {}
            for e in self.evidence:
                if e.kind in RESOURCES:
                    found.setdefault(_signature(e), []).append(abs(e.normal))
            self._levels = {name: sorted(values)[len(values) // 2] for name, values in found.items()}
        return self._levels.get(signature, 0.0)

    def said(self, topology: Topology, began: float, onset: float) -> tuple[dict[str, "_Vertex"], dict[str, float]]:
        """(vertices of which something loud is said, requests of each that counts them).

        Judged since `began` where that is before `onset`, since which the evidence was judged.
        """
        key = (began if began < onset else math.inf, id(topology), topology.version)
        if key != self._key:
            loud = self.loud
            if began < onset:
                near = [rejudged(e, began) for e in self.evidence if _stirred(e)]
                loud = [e for e in near if e.deviation > LOOKS]
            self._vertices, self._traffic = {}, {}
            for e in loud:
                if name := topology.resolve(e.service):
                    _take_evidence(self._vertices, name, e)
            for e in self.evidence:
                if e.kind == "traffic":
                    name = topology.resolve(e.service)
                    self._traffic[name] = max(self._traffic.get(name, 0.0), e.traffic or e.normal)
            self._key = key
        return self._vertices, self._traffic


def _stirred(e: Evidence) -> bool:
    """Any of its recent samples may have been off: cheap, and nearly never wrong about what is loud."""
    if len(e.recent) < 4:
        return e.deviation > LOOKS
    near = LOOKS * min(e.scale, 0.1 if abs(e.normal) > 1.5 else 0.001) if e.kind in RATES else LOOKS * e.scale
    return max(e.recent, key=_VALUE)[1] > e.normal + near or min(e.recent, key=_VALUE)[1] < e.normal - near


class _Symptom(NamedTuple):
    strength: float
    onset: float
    shift: float  # in the metric's unit; 0 for an alert
    metric: str
    deviation: float  # robust scales; 0 for an alert
    evidence: Evidence | None

    @property
    def text(self) -> str:
        """As a person checks it: `latency 0.9 (normally 0.1)`, or the name of the alert."""
        e = self.evidence
        if e is None:
            return self.metric
        return f"{self.metric} {e.level:.3g} (normally {e.normal:.3g})"


class _Vertex:
    """Everything that speaks of one vertex."""

    __slots__ = ("alerts", "evidence", "means", "own", "passes", "symptoms", "weak")

    def __init__(self) -> None:
        self.symptoms: dict[str, _Symptom] = {}  # kind -> strongest
        self.means: dict[str, bool] = {}  # kind -> whether that one is a mean
        self.own: _Symptom | None = None
        self.weak = 0.0
        self.passes = 0.0  # log-odds that its alerts stand at an origin
        self.alerts: list[Alert] = []
        self.evidence: list[tuple[float, Evidence]] = []  # (gain, evidence)

    def copy(self) -> "_Vertex":
        other = _Vertex()
        other.symptoms, other.means, other.own, other.weak = (
            self.symptoms.copy(),
            self.means.copy(),
            self.own,
            self.weak,
        )
        other.evidence = self.evidence.copy()
        return other


def rank(
    alerts: Sequence[Alert],
    topology: Topology,
    evidence: Sequence[Evidence] | Heard = (),
    changes: Sequence[ChangeEvent] = (),
    *,
    onset: float,
    page: Alert | None = None,
    limit: int = 5,
    feedback: Knowledge | None = None,
) -> tuple[Candidate, ...]:
    """Candidates, best first; deterministic for equal sets in any order.

    Args:
        alerts: of the incident, anomalies with their evidence included.
        evidence: of the neighbourhood, sub-threshold included; deviations count robust scales in the harmful direction.
        changes: that may have caused it; those after `onset` + one minute are ignored.
        onset: when the incident began (UTC seconds).
        page: the alert that a person was told of; its kind of signal counts most. None: all kinds alike.
        limit: at most so many candidates.
        feedback: what history knows of names and services.
    """
    known = feedback or Knowledge()
    heard = evidence if isinstance(evidence, Heard) else Heard(evidence)
    began = _began(heard, topology, page, onset)
    vertices, under, traffic = _collect(alerts, heard, topology, page, known, began, onset)
    onset = began
    if not vertices:
        return ()
    graph = _Graph(topology, under, known.hosted)
    where = place_of(page, topology).vertex if page is not None else ""
    paths = topology.below(where, DEPTH) if where in vertices else {}
    names = sorted(vertices)
    total = dict.fromkeys(names, 0.0)
    why: dict[str, dict[str, tuple[float, str]]] = {}  # symptom vertex -> cause -> (share, kind)
    kinds = sorted({k for v in vertices.values() for k in v.symptoms})
    for kind in kinds:
        blame = {n: shown[kind].strength for n in names if kind in (shown := vertices[n].symptoms)}
        if kind != ALERT and where in blame:
            blame = {n: b * AGAIN if n in paths and n != where else b for n, b in blame.items()}
        shares = {u: s for u in blame if (s := _shares(u, kind, vertices, graph, traffic))}
        _silent_causes(blame, shares, kind, vertices, graph, traffic)
        if kind == ALERT:
            _run_down(shares, vertices, graph, known)
        for name, value in _flow(blame, shares).items():
            total[name] = total.get(name, 0.0) + value
        for u, parts in shares.items():
            for c, f in parts.items():
                if f > why.setdefault(u, {}).get(c, (0.0, ""))[0]:
                    why[u][c] = (f, kind)
    for name, vertex in vertices.items():
        if vertex.own is not None:
            total[name] += vertex.own.strength
        total[name] += 0.01 * vertex.weak if vertex.symptoms or vertex.own else vertex.weak
        total[name] += ORIGIN_WORTH * max(0.0, vertex.passes)
    near = _changes(changes, topology, onset)
    for name in total:
        if name in near:
            total[name] *= 1.0 + CHANGE_WORTH * near[name][0]
        if name in known.causes:
            total[name] *= math.exp(0.5 * max(-2.0, min(2.0, known.causes[name])))
        total[name] *= _prior(name, topology)
    first = {n: _first(v) for n, v in vertices.items()}
    order = sorted(total, key=lambda n: (-round(total[n], 9), first.get(n, math.inf), n))
    for name in order[:limit]:
        if name in vertices:
            vertices[name].evidence.sort(key=lambda item: (-item[0], _signature(item[1])))
            _fill_first(vertices[name], heard)
    return _candidates(order[:limit], order, total, vertices, why, near, topology, graph, onset, page, traffic, known)


# --------------------------------------------------------------------------- since when


def _began(heard: Heard, topology: Topology, page: Alert | None, onset: float) -> float:
    """When the trouble really began: a page may come long after its own service left the normal.

    Lead-in is what was there before; taken from the time of a late page, all of the trouble would count as lead-in.
    """
    if page is None:
        return onset
    where = place_of(page, topology).vertex
    best, began = (0.0, ""), onset
    for e in heard.of(where) if where == page.service else (*heard.of(where), *heard.of(page.service)):
        if e.kind in RESOURCES or e.kind == "traffic" or e.scale <= 0.0 or len(e.recent) < 4:
            continue
        harm = harm_of(e)
        bad = [harmful((v - e.normal) / e.scale, harm) for _, v in e.recent]
        at = next((i for i in range(len(bad) - 1, -1, -1) if bad[i] > STRONG), -1)
        if at < 0 or (bad[at], e.metric) <= best:
            continue
        best = (bad[at], e.metric)
        while at > 0 and bad[at - 1] > 1.0:
            at -= 1
        began = e.recent[at][0]
    return began if onset - BACK <= began < onset else onset


# --------------------------------------------------------------------------- what is said of each vertex


def _collect(
    alerts: Sequence[Alert],
    heard: Heard,
    topology: Topology,
    page: Alert | None,
    known: Knowledge,
    began: float,
    onset: float,
) -> tuple[dict[str, _Vertex], dict[str, dict[str, None]], dict[str, float]]:
    """(vertices that have something to say, node and zone below each as labels tell, requests of each)."""
    heard_of, traffic = heard.said(topology, began, onset)
    vertices = {name: vertex.copy() for name, vertex in heard_of.items()}
    under: dict[str, dict[str, None]] = {}
    told: list[tuple[str, Evidence]] = []
    for alert in sorted(alerts, key=lambda a: (a.starts_at, a.fingerprint)):
        place = place_of(alert, topology)
        if not place.vertex:
            continue
        vertex = vertices.get(place.vertex)
        if vertex is None:
            vertex = vertices[place.vertex] = _Vertex()
        vertex.alerts.append(alert)
        for host in place.under:
            under.setdefault(place.vertex, {})[host] = None
        told += [(topology.resolve(e.service) or place.vertex, e) for e in alert.evidence]
        if not alert.evidence:
            _take_alert(vertex, alert)
        vertex.passes += max(-4.0, min(4.0, known.origin.get(name_of(alert), 0.0)))
    if told:
        seen = {_who(e) for service in {e.service for _, e in told} for e in heard.of(service)}
        for name, e in told:
            if name and _who(e) not in seen:  # an answer is fuller than the alert
                _take_evidence(vertices, name, e)
    where = place_of(page, topology).vertex if page is not None else ""
    if where in vertices:
        _prefer(vertices, where)
    return vertices, under, traffic


def _who(e: Evidence) -> tuple[object, ...]:
    return (e.service, e.metric, *sorted(e.labels.items()))


def _prefer(vertices: dict[str, _Vertex], where: str) -> None:
    """Symptoms of another kind than what the page's own service shows most count less."""
    shown = {k: s for k, s in vertices[where].symptoms.items() if k != ALERT}
    if not shown:
        return
    kind = max(shown, key=lambda k: (shown[k].strength, k))
    for vertex in vertices.values():
        for other, symptom in vertex.symptoms.items():
            if other not in (ALERT, kind):
                vertex.symptoms[other] = symptom._replace(strength=symptom.strength * OTHER_KIND)


def _take_alert(vertex: _Vertex, alert: Alert) -> None:
    """An alert without numbers is a symptom by its severity."""
    strength = SEVERITY.get(alert.labels.get("severity", ""), 1.0)
    have = vertex.symptoms.get(ALERT)
    name = alert.labels.get("alertname", "an alert")
    onset = alert.starts_at if have is None else min(have.onset, alert.starts_at)
    if have is None or strength > have.strength:
        vertex.symptoms[ALERT] = _Symptom(strength, onset, 0.0, name, 0.0, None)
    elif onset < have.onset:
        vertex.symptoms[ALERT] = have._replace(onset=onset)


def _take_evidence(vertices: dict[str, _Vertex], name: str, e: Evidence) -> None:
    if e.kind == "traffic" and e.deviation <= STRONG:
        return
    gain = math.log1p(min(max(0.0, e.deviation), CAP)) - math.log1p(max(0.0, min(e.lead_in, CAP)))
    if gain <= 0.0:
        return
    vertex = vertices.get(name)
    if vertex is None:
        vertex = vertices[name] = _Vertex()
    if e.deviation <= STRONG:
        vertex.weak = max(vertex.weak, WEAK * gain)
        return
    if e.kind in RESOURCES:
        if e.level < e.normal and harm_of(e) == "both":
            gain *= FALLS
        symptom = _Symptom(gain, e.onset, abs(e.level - e.normal), _signature(e), e.deviation, e)
        if vertex.own is None or (gain, symptom.metric) > (vertex.own.strength, vertex.own.metric):
            vertex.own = symptom
    elif e.kind == "traffic":
        vertex.weak = max(vertex.weak, gain * WEIGHT["traffic"])
    else:
        kind = e.kind
        if kind not in SYMPTOMS:  # nobody knows what it means, but it can be compared with itself elsewhere
            kind, gain = f"{e.kind} {e.metric}", gain * WEIGHT["other"]
        symptom = _Symptom(gain, e.onset, abs(e.level - e.normal), _signature(e), e.deviation, e)
        # percentiles do not add up along a call; where there is a mean, it is the physical quantity
        mean = not _is_percentile(e)
        have = vertex.symptoms.get(kind)
        if have is None or (mean, gain, symptom.metric) > (vertex.means.get(kind, False), have.strength, have.metric):
            vertex.symptoms[kind] = symptom
            vertex.means[kind] = mean
    vertex.evidence.append((gain, e))


def _signature(e: Evidence) -> str:
    """Metric with the labels that say which statistic it is: only equal signatures can be subtracted."""
    if not e.labels:
        return e.metric
    return "/".join((e.metric, *(e.labels[k] for k in STATISTICS if k in e.labels)))


def _is_percentile(e: Evidence) -> bool:
    return _PERCENTILE.search(_signature(e)) is not None


# --------------------------------------------------------------------------- the flow


class _Graph:
    """The topology plus the nodes and zones that labels name."""

    def __init__(
        self, topology: Topology, under: Mapping[str, Mapping[str, None]], hosted: Mapping[str, Mapping[str, None]]
    ) -> None:
        self.topology = topology
        self.hosted = hosted
        self.under = under
        self.over: dict[str, dict[str, None]] = {}
        self._callees: dict[str, tuple[str, ...]] = {}
        for vertex, hosts in under.items():
            for host in hosts:
                self.over.setdefault(host, {})[vertex] = None

    def callees(self, name: str) -> tuple[str, ...]:
        known = self._callees.get(name)
        if known is None:
            own, more = self.topology.callees(name), self.under.get(name)
            known = self._callees[name] = tuple(dict.fromkeys((*own, *more))) if more else tuple(own)
        return known

    def callers(self, name: str) -> Sequence[str]:
        own, more = self.topology.callers(name), self.over.get(name)
        return tuple(dict.fromkeys((*own, *more))) if more else own

    def dependents(self, name: str, troubled: list[str]) -> tuple[list[str], int]:
        """Those in trouble that tell of this silent vertex, and how many depend on it, the quiet ones included.

        Labels of alerts place what alerts on its node or zone, and nobody else: where they alone tell, as many as are
        in trouble are taken for well, more when more have been seen there before. Where the topology tells, it counts.
        """
        drawn = self.topology.callers(name)
        told = [u for u in troubled if u in drawn]
        if len(told) >= 2:
            return told, len(drawn)
        seen = dict.fromkeys((*drawn, *self.hosted.get(name, ()), *troubled))
        return troubled, max(len(seen), UNSEEN * len(troubled))


def _shares(
    u: str, kind: str, vertices: Mapping[str, _Vertex], graph: _Graph, traffic: Mapping[str, float]
) -> dict[str, float]:
    """What part of the symptom of `u` each callee explains; silent vertices are looked through."""
    mine = vertices[u].symptoms[kind]
    parts: dict[str, float] = {}
    front = [(c, 1.0) for c in graph.callees(u) if c in vertices or c not in traffic]
    if not front:
        return {}
    seen = {u}
    for _ in range(LOOK_THROUGH):
        further: list[tuple[str, float]] = []
        for c, dim in front:
            if c in seen:
                continue
            seen.add(c)
            other = vertices.get(c)
            its = other.symptoms.get(kind) if other is not None else None
            if its is not None:
                f = min(1.0, its.strength / mine.strength)
                if its.metric == mine.metric and mine.shift > 0.0 and kind != ALERT:
                    calls = min(4.0, max(0.02, traffic.get(c, 0.0) / traffic[u])) if traffic.get(u) else 1.0
                    f = min(1.0, 2.0 * f) * min(1.0, its.shift * calls / mine.shift)
                when = its.onset
            elif other is not None and other.own is not None:
                f, when = OWN_EXPLAINS * min(1.0, other.own.strength / mine.strength), other.own.onset
            elif other is not None and other.symptoms:
                s = max(other.symptoms.values(), key=lambda s: s.strength)
                f, when = OWN_EXPLAINS * min(1.0, s.strength / mine.strength), s.onset
            elif c in traffic:
                continue  # it speaks, and is well
            else:
                further += [(d, dim * DIM) for d in graph.callees(c) if d in vertices or d not in traffic]
                continue
            f *= dim * math.exp(-max(0.0, when - mine.onset - LATE) / LATE_SCALE)
            if f > 0.01:
                parts[c] = f
        front = further
    if not parts:
        return {}
    tot, best = sum(parts.values()), max(parts.values())
    handed = HANDED * min(1.0, max(best, min(1.0, tot)))
    if vertices[u].passes > 0.0:  # its own alerts usually stand at origins
        handed /= 1.0 + vertices[u].passes
    return {c: handed * f / tot for c, f in parts.items()}


def _silent_causes(
    blame: Mapping[str, float],
    shares: dict[str, dict[str, float]],
    kind: str,
    vertices: Mapping[str, _Vertex],
    graph: _Graph,
    traffic: Mapping[str, float],
) -> None:
    """Several vertices in trouble together that depend on one that says nothing: by Bayes, is it the cause?

    For it: its callers show trouble as callers of a failing callee do. Against it: each of them is in trouble on its
    own, or by what explains it already; and the callers that are well.
    """
    over: dict[str, list[str]] = {}
    for u in blame:
        for c in graph.callees(u):
            if c not in vertices and c not in traffic:
                over.setdefault(c, []).append(u)
    found = []
    for c, callers in over.items():
        if _kind(c, graph.topology, graph) in GROUND:
            # what runs side by side calls each other, too: only what calls do not explain speaks against the ground
            callers = [u for u in callers if sum(shares.get(u, {}).values()) < LOOSE]
            if len(callers) < 2:
                continue
        first = min(vertices[u].symptoms[kind].onset for u in callers)
        callers = [u for u in callers if vertices[u].symptoms[kind].onset <= first + TOGETHER]
        if len(callers) < 2:
            continue
        callers, all_ = graph.dependents(c, callers)
        n = len(callers)
        reach = (n + 1) / (all_ + 2)  # share of its callers that its trouble reaches, as seen
        odds = math.log(SILENT) + n * math.log(reach) + (all_ - n) * math.log(1.0 - reach)
        for u in callers:
            odds -= math.log(max(ALONE, PASSED * min(1.0, sum(shares.get(u, {}).values()))))
        if odds > -3.0:
            found.append((-odds, c, callers))
    taken: set[str] = set()
    standing = 0  # vertices whose trouble a node or a zone explains
    for odds, c, callers in sorted(found):
        callers = [u for u in callers if u not in taken]
        if len(callers) < 2:
            continue
        taken.update(callers)
        standing += len(callers) if _kind(c, graph.topology, graph) in GROUND else 0
        _hand_to(c, callers, HANDED / (1.0 + math.exp(odds)), shares)
    loose = [u for u in blame if u not in taken and sum(shares.get(u, {}).values()) < LOOSE]
    if kind == ALERT and loose:
        first = min(vertices[u].symptoms[kind].onset for u in loose)
        loose = [u for u in loose if vertices[u].symptoms[kind].onset <= first + TOGETHER]
        # a node or a zone that is gone also silences what others depend on: their trouble needs no cause of its own
        if len(loose) >= max(UNKNOWN_LEAST, standing + 1):
            odds = -math.log(UNKNOWN) - len(loose) * (math.log(PASSED) - math.log(ALONE))
            _hand_to("", loose, HANDED / (1.0 + math.exp(odds)), shares)


def _run_down(
    shares: dict[str, dict[str, float]], vertices: Mapping[str, _Vertex], graph: _Graph, known: Knowledge
) -> None:
    """Load that runs down: a caller has a symptom that nobody else here has, and it began just before its callee's.

    A batch job, a client that retries, a surge. Which names are local is learned (`Knowledge.local`: seen at several
    vertices, and at one in each incident); one that history does not know yet may be, if it came first.
    """
    if len(vertices) < CROWD:
        return
    places: dict[str, set[str]] = {}  # name -> vertices that have it
    for vertex_name, vertex in vertices.items():
        for alert in vertex.alerts:
            places.setdefault(name_of(alert), set()).add(vertex_name)
    senders: dict[str, list[tuple[float, float, float]]] = {}  # vertex -> (chance that it is local, since, slack)
    for vertex_name, vertex in vertices.items():
        for alert in vertex.alerts:
            name = name_of(alert)
            if len(places[name]) == 1:
                odds, slack = (known.local[name], LATE) if name in known.local else (NOVEL, 0.0)
                row = (1.0 / (1.0 + math.exp(-odds)), alert.starts_at, slack)
                senders.setdefault(vertex_name, []).append(row)
    for c, vertex in vertices.items():
        symptom = vertex.symptoms.get(ALERT)
        if symptom is None or _kind(c, graph.topology, graph) in GROUND:
            continue  # what runs on a node does not load it by calling
        best = (0.0, 0.0, "")
        for u in graph.callers(c):
            for chance, at, slack in senders.get(u, ()):
                if -AHEAD <= at - symptom.onset <= slack:
                    best = max(best, (chance, -at, u))
        chance, _, u = best
        if u:
            share = RUN * chance
            shares[c] = {v: f * (1.0 - share) for v, f in shares.get(c, {}).items() if v != u} | {u: share}
            shares[u] = {v: f * (1.0 - share) if v == c else f for v, f in shares.get(u, {}).items()}


def _hand_to(cause: str, callers: Iterable[str], share: float, shares: dict[str, dict[str, float]]) -> None:
    """Let this cause explain `share` of each caller, and what explained them before the rest."""
    for u in callers:
        parts = {c: f * (1.0 - share) for c, f in shares.get(u, {}).items()}
        shares[u] = parts | {cause: share}


def _flow(blame: Mapping[str, float], shares: Mapping[str, Mapping[str, float]], rounds: int = 16) -> dict[str, float]:
    """Blame that each vertex holds when all has flowed; cycles are cut after `rounds` steps."""
    got, moving = dict(blame), dict(blame)
    for _ in range(rounds):
        step: dict[str, float] = {}
        for u, parts in shares.items():
            b = moving.get(u, 0.0)
            if b > 1e-9:
                for c, f in parts.items():
                    step[c] = step.get(c, 0.0) + b * f
        if not step:
            break
        for c, b in step.items():
            got[c] = got.get(c, 0.0) + b
        moving = step
    for u, parts in shares.items():
        got[u] *= 1.0 - sum(parts.values())
    return got


def _prior(name: str, topology: Topology) -> float:
    """A vertex that only ever stands for the far end of a call is seldom a cause of its own."""
    node = topology.node(name)
    return 0.3 if node is not None and node.labels.get("inferred") == "true" else 1.0


def _changes(
    changes: Sequence[ChangeEvent], topology: Topology, onset: float
) -> dict[str, tuple[float, list[ChangeEvent]]]:
    """Vertex -> (how recent its latest change was before the onset, in (0, 1]; its changes, latest first)."""
    out: dict[str, tuple[float, list[ChangeEvent]]] = {}
    for change in sorted(changes, key=lambda c: (-c.ts, c.id)):
        if change.ts > onset + 60.0:
            continue
        name = topology.resolve(change.service)
        worth = math.exp(-max(0.0, onset - change.ts) / CHANGE_TAU)
        have = out.get(name)
        out[name] = (worth, [change]) if have is None else (max(worth, have[0]), [*have[1], change])
    return out


# --------------------------------------------------------------------------- candidates and their explanation


def _fill_first(vertex: _Vertex, heard: Heard) -> None:
    """Where something fills up (memory, disk) the processor is busy too, but not the other way round: name the filling.

    Only a rise that is large against what this metric is elsewhere counts: a small service doubles easily.
    """
    for i, (_, e) in enumerate(vertex.evidence):
        if e.level > e.normal and _FILLS.search(e.metric) and e.kind in RESOURCES:
            usual = heard.usual(_signature(e))
            if usual > 0.0 and e.level - e.normal > FILLED * usual:
                vertex.evidence.insert(0, vertex.evidence.pop(i))
                return


def _first(vertex: _Vertex) -> float:
    times = [s.onset for s in vertex.symptoms.values()]
    if vertex.own is not None:
        times.append(vertex.own.onset)
    return min(times, default=math.inf)


def _candidates(
    chosen: Sequence[str],
    order: Sequence[str],
    total: Mapping[str, float],
    vertices: Mapping[str, _Vertex],
    why: Mapping[str, Mapping[str, tuple[float, str]]],
    near: Mapping[str, tuple[float, list[ChangeEvent]]],
    topology: Topology,
    graph: _Graph,
    onset: float,
    page: Alert | None,
    traffic: Mapping[str, float],
    known: Knowledge,
) -> tuple[Candidate, ...]:
    mass = sum(max(0.0, total[n]) for n in order) or 1.0
    rest = mass - max(0.0, total[order[0]])
    start = place_of(page, topology).vertex if page is not None else ""
    callers: dict[str, list[tuple[str, float]]] = {}
    for u in sorted(why):
        for c, (f, _) in why[u].items():
            callers.setdefault(c, []).append((u, f))
    out = []
    for name in chosen:
        vertex = vertices.get(name)
        found = vertex.evidence[:5] if vertex is not None else []
        moved = near.get(name, (0.0, []))[1]
        chain = _chain(start, name, why, callers, vertices, topology)
        out.append(
            Candidate(
                service=name,
                kind=_kind(name, topology, graph),
                score=round(total[name], 6),
                metric=found[0][1].metric if found else "",
                reason=_reason(name, vertex, why, moved, onset),
                chain=chain,
                evidence=tuple(e for _, e in found),
                changes=tuple(moved),
            )
        )
    signs = _signs(out, vertices, callers, graph, traffic, known)
    sure = confidence(signs)
    out[0] = replace(out[0], confidence=round(sure, 4), signs=tuple(round(x, 4) for x in signs))
    return (out[0], *(replace(c, confidence=round(_share_of_rest(c.score, rest, sure), 4)) for c in out[1:]))


def _share_of_rest(score: float, rest: float, sure: float) -> float:
    """What is left for a later candidate: its share of the doubt, never above the first; the rest is somewhere else."""
    return min(sure, (1.0 - sure) * max(0.0, score) / rest) if rest > 0.0 else 0.0


# What is known of the first candidate, in the order of the weights of CONFIDENCE.
SIGNS = (
    "constant",
    "lead",  # logarithm of its score over the second's
    "gap",  # its score minus the second's
    "share",  # logit of its share of the scores of the first five
    "heard",  # metrics speak for it
    "heard lead",
    "heard gap",
    "origin",  # log-odds that its most telling alert stands at an origin
    "silent",  # it says nothing itself
    "explains",  # logarithm of how many it explains, directly or not
    "foreign",  # share of the others in trouble that it does not explain
    "below",  # logarithm of how many of its callees say nothing: one of them may be it
)


def _signs(
    found: Sequence[Candidate],
    vertices: Mapping[str, _Vertex],
    callers: Mapping[str, Sequence[tuple[str, float]]],
    graph: _Graph,
    traffic: Mapping[str, float],
    known: Knowledge,
) -> tuple[float, ...]:
    """The SIGNS of the first candidate."""
    scores = [max(1e-3, c.score) for c in found[:5]]
    top, second = scores[0], scores[1] if len(scores) > 1 else 0.1 * scores[0]
    lead, gap = min(3.0, math.log(top / second)), min(5.0, top - second)
    share = min(0.98, max(0.02, top / sum(scores)))
    name = found[0].service
    vertex = vertices.get(name)
    names = [known.origin.get(name_of(a), 0.0) for a in vertex.alerts] if vertex is not None else []
    reached, front = {name}, [name]
    while front:
        front = [u for c in front for u, f in callers.get(c, ()) if f > 0.05 and u not in reached]
        reached.update(front)
    others = [n for n, v in vertices.items() if v.symptoms and n != name]
    foreign = sum(n not in reached for n in others) / len(others) if others else 0.0
    below = sum(c not in vertices and c not in traffic for c in graph.callees(name))
    heard = float(bool(found[0].evidence))
    return (
        1.0,
        lead,
        gap,
        math.log(share / (1.0 - share)),
        heard,
        heard * lead,
        heard * gap,
        max(-4.0, min(4.0, max(names, default=0.0))),
        float(vertex is None),
        math.log(len(reached)),
        foreign,
        math.log1p(below),
    )


def confidence(signs: Sequence[float]) -> float:
    """Chance that the first candidate is right, given its SIGNS."""
    z = sum(w * x for w, x in zip(CONFIDENCE, signs, strict=True))
    return min(0.99, max(0.01, 1.0 / (1.0 + math.exp(-z))))


def _kind(name: str, topology: Topology, graph: _Graph) -> str:
    if not name:
        return "unknown"
    kind = topology.kind(name)
    if kind in ("node", "host", "machine"):
        return "node"
    if kind in ("zone", "region"):
        return "zone"
    if kind == "external":
        return "external"
    if not kind and name in graph.over:
        return "node"
    return "service"


def _chain(
    start: str,
    goal: str,
    why: Mapping[str, Mapping[str, tuple[float, str]]],
    callers: Mapping[str, Sequence[tuple[str, float]]],
    vertices: Mapping[str, _Vertex],
    topology: Topology,
) -> tuple[Link, ...]:
    """The path of the largest shares to the cause: from the page, else from the most distant symptom.

    A page about the cause itself is no symptom of it: what it made of others is what is worth seeing.
    """
    best: dict[str, tuple[float, str]] = {goal: (1.0, "")}  # vertex -> (product of shares to the goal, next vertex)
    front = [goal]
    for _ in range(8):
        further = []
        for c in front:
            for u, f in callers.get(c, ()):
                value = f * best[c][0]
                if u not in best or (value > best[u][0] and u != goal):
                    if _leads_back(best, c, u):
                        continue
                    best[u] = (value, c)
                    further.append(u)
        front = further
    if start not in best or start == goal:
        reach = [u for u in best if u != goal]
        if not reach:
            return ()
        start = max(reach, key=lambda u: (_steps_to(best, u, goal), best[u][0], u))
    out: list[Link] = []
    here = start
    while here != goal and len(out) < 16:
        nxt = best[here][1]
        share, kind = why[here][nxt]
        edge = topology.edge(here, nxt)
        if edge is None and topology.edge(nxt, here) is not None:
            name = "called_by"
        else:
            name = edge.kind if edge is not None else "runs_on" if not topology.callees(here) else "calls"
        out.append(
            Link(
                symptom=here,
                cause=nxt,
                edge=name,
                share=round(share, 4),
                text=_link_text(here, nxt, name, share, kind, vertices),
            )
        )
        here = nxt
    return tuple(out)


def _leads_back(best: Mapping[str, tuple[float, str]], here: str, to: str) -> bool:
    for _ in range(16):
        if here == to:
            return True
        if here not in best or not best[here][1]:
            return False
        here = best[here][1]
    return True


def _steps_to(best: Mapping[str, tuple[float, str]], here: str, goal: str) -> int:
    n = 0
    while here != goal and n < 16:
        here, n = best[here][1], n + 1
    return n


def _link_text(u: str, c: str, edge: str, share: float, kind: str, vertices: Mapping[str, _Vertex]) -> str:
    mine = vertices[u].symptoms.get(kind)
    verb = {"calls": "calls", "runs_on": "runs on", "located_in": "is in", "reads": "reads", "writes": "writes"}
    verb["called_by"] = "is called by"
    how = verb.get(edge, "depends on")
    other = vertices.get(c)
    its = None
    if other is not None:
        shown = sorted(other.symptoms.items(), key=lambda kv: (-kv[1].strength, kv[0]))
        its = other.symptoms.get(kind) or other.own or (shown[0][1] if shown else None)
    left = f"{u} ({mine.text})" if mine is not None and mine.text else u
    if not c:
        return (
            f"{left} began with others that depend on nothing in common with it; something unknown explains {share:.0%}"
        )
    if its is None:
        return f"{left} {how} {c}, which says nothing; it may explain {share:.0%}"
    gap = (mine.onset if mine is not None else its.onset) - its.onset
    when = f"{abs(gap):.0f} s {'earlier' if gap >= 0 else 'later'}"
    return f"{left} {how} {c} ({its.text}, {when}), which explains {share:.0%}"


def _reason(
    name: str,
    vertex: _Vertex | None,
    why: Mapping[str, Mapping[str, tuple[float, str]]],
    moved: Sequence[ChangeEvent],
    onset: float,
) -> str:
    explains = sorted(u for u, parts in why.items() if name in parts)
    if not name:
        text = (
            f"{_list(explains)} are in trouble together and depend on nothing in common: the cause is not in the graph"
        )
    elif vertex is None:
        text = f"{name} says nothing itself, but {_list(explains)} depend on it and nothing else explains them"
    else:
        facts = []
        if vertex.own is not None:
            facts.append(vertex.own.text)
        facts += [s.text for _, s in sorted(vertex.symptoms.items(), key=lambda kv: (-kv[1].strength, kv[0]))[:2]]
        text = f"{name}: {', '.join(f for f in facts if f) or 'deviates most'}"
        if explains:
            text += f"; explains {_list(explains)}"
        handed = why.get(name)
        if not handed:
            text += "; nothing that it depends on explains it" if explains else ""
    if moved:
        change = moved[0]
        ago = max(0.0, onset - change.ts)
        text += f"; {change.kind}{' ' + change.version if change.version else ''} {ago / 60:.0f} min before the onset"
    return text


def _list(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2} more"
