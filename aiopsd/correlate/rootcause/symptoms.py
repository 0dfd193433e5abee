"""What is said of each vertex: evidence and alerts become symptoms, one for each kind of signal.

Enter alerts and evidence; leave vertices with what speaks of them, since when the trouble lasts, and the requests that
each service counts. Who is to blame is none of this module's business.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from aiopsd.correlate.place import name_of, place_of
from aiopsd.correlate.rootcause.knowledge import Knowledge
from aiopsd.evidence import RATES, harm_of, harmful, readings, rejudged
from aiopsd.model import Alert, Evidence
from aiopsd.topology import Topology

LOOKS = 2.5  # robust scales; below this a series is calm and is not looked at
STRONG = 3.0  # robust scales; below this a deviation only orders the tail of the list
CAP = 1000.0  # a deviation above this says no more
OTHER_KIND = 0.15  # worth of a symptom of another kind than the page's
SEVERITY = {"critical": 1.2, "error": 1.1, "warning": 1.0, "info": 0.6, "none": 0.4}
WEIGHT = {"other": 0.3, "traffic": 0.3}  # of evidence of which nobody knows what it means
FALLS = 0.5  # worth of a resource that is used less than normal: seldom a cause, often the loss of traffic
SYMPTOMS = ("latency", "errors", "availability")
RESOURCES = ("resource", "saturation")  # a vertex has them of its own; they do not travel along calls
ALERT = "alert"  # the kind of a symptom of which there is only an alert
CLEAR = (*SYMPTOMS, ALERT)
STATISTICS = ("statistic", "stat", "quantile", "agg", "aggregation", "percentile")
BACK = 3600.0  # s; how far before a page its trouble is looked for
FILLED = 0.3  # of the usual level; a rise by more is what fills up
WEAK = 0.01  # worth of what is below STRONG
_FILLS = re.compile(r"(?i)mem|heap|rss|disk|filesystem|inode|swap|descriptor|fds")
_PERCENTILE = re.compile(r"(?i)(?:^|[^a-z0-9])(?:p\d{2,4}|0\.\d+|\d{2}(?:th)?|quantile|percentile)(?:$|[^a-z0-9])")
_VALUE = itemgetter(1)


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
        self._vertices: dict[str, Vertex] = {}
        self._traffic: dict[str, float] = {}

    def of(self, service: str) -> Sequence[Evidence]:
        """What was said of this service."""
        if self._of is None:
            self._of = {}
            for e in self.evidence:
                self._of.setdefault(e.service, []).append(e)
        return self._of.get(service, ())

    def shift(self, service: str, statistic: str) -> float | None:
        """How far the service's series of this signature went the harmful way, be it calm; None when it has none."""
        for e in self.of(service):
            if signature(e) == statistic:
                return abs(e.level - e.normal) if e.deviation > 0.0 else 0.0
        return None

    def usual(self, resource: str) -> float:
        """Median of what is normal for such a resource among all services; 0 when there is none."""
        if self._levels is None:
            found: dict[str, list[float]] = {}
            for e in self.evidence:
                if e.kind in RESOURCES:
                    found.setdefault(signature(e), []).append(abs(e.normal))
            self._levels = {name: sorted(values)[len(values) // 2] for name, values in found.items()}
        return self._levels.get(resource, 0.0)

    def said(self, topology: Topology, began: float, onset: float) -> tuple[dict[str, "Vertex"], dict[str, float]]:
        """(vertices of which something loud is said, requests of each that speaks of how it serves; 0: not counted).

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
                    take_evidence(self._vertices, name, e)
            for e in self.evidence:
                if e.kind == "traffic":
                    name = topology.resolve(e.service)
                    self._traffic[name] = max(self._traffic.get(name, 0.0), e.traffic or e.normal)
                elif e.kind in SYMPTOMS:  # it would show if it was not well
                    self._traffic.setdefault(topology.resolve(e.service), 0.0)
            self._key = key
        return self._vertices, self._traffic


def _stirred(e: Evidence) -> bool:
    """Any of its recent samples may have been off: cheap, and nearly never wrong about what is loud."""
    if len(e.recent) < 4:
        return e.deviation > LOOKS
    near = LOOKS * min(e.scale, 0.1 if abs(e.normal) > 1.5 else 0.001) if e.kind in RATES else LOOKS * e.scale
    return max(e.recent, key=_VALUE)[1] > e.normal + near or min(e.recent, key=_VALUE)[1] < e.normal - near


def against_normal(name: str, e: Evidence) -> str:
    """`latency_seconds 0.9 s (normally 0.1 s)`; `name` is what it goes by."""
    (level, normal), unit = readings(e.metric, [e.level, e.normal], rate=e.rate, digits=3)
    return f"{name} {level}{unit} (normally {normal}{unit})"


class Symptom(NamedTuple):
    """One vertex that is not well in one kind of signal."""

    strength: float
    onset: float
    shift: float  # in the metric's unit; 0 for an alert
    metric: str
    deviation: float  # robust scales; 0 for an alert
    evidence: Evidence | None
    step: float = 0.0  # s between samples: the trouble may have begun so much before it was seen

    @property
    def text(self) -> str:
        """As a person checks it: `latency 0.9 (normally 0.1)`, or the name of the alert."""
        e = self.evidence
        if e is None:
            return self.metric
        return against_normal(self.metric, e)


class Vertex:
    """Everything that speaks of one vertex."""

    __slots__ = ("alerts", "evidence", "means", "own", "passes", "symptoms", "weak")

    def __init__(self) -> None:
        self.symptoms: dict[str, Symptom] = {}  # kind -> strongest
        self.means: dict[str, bool] = {}  # kind -> whether that one is a mean
        self.own: Symptom | None = None
        self.weak = 0.0
        self.passes = 0.0  # log-odds that its alerts stand at an origin
        self.alerts: list[Alert] = []
        self.evidence: list[tuple[float, Evidence]] = []  # (gain, evidence)

    def shown(self) -> Iterator[Symptom]:
        """All that it shows, of every kind."""
        yield from self.symptoms.values()
        if self.own is not None:
            yield self.own

    @property
    def unclear(self) -> bool:
        """It shows something, but nothing that is known to be trouble; fewer requests are others' trouble."""
        if self.own is not None or not self.symptoms.keys().isdisjoint(CLEAR):
            return False
        return any(e.kind != "traffic" or e.level > e.normal for _, e in self.evidence)

    def copy(self) -> "Vertex":
        """One that may be added to."""
        other = Vertex.__new__(Vertex)  # a ranking copies hundreds: nothing is made only to be replaced
        other.symptoms, other.means = self.symptoms.copy(), self.means.copy()
        other.own, other.weak, other.passes = self.own, self.weak, self.passes
        other.alerts, other.evidence = self.alerts.copy(), self.evidence.copy()
        return other


def began_of(heard: Heard, topology: Topology, page: Alert | None, onset: float) -> float:
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


def collect(
    alerts: Sequence[Alert],
    heard: Heard,
    topology: Topology,
    page: Alert | None,
    known: Knowledge,
    began: float,
    onset: float,
) -> tuple[dict[str, Vertex], dict[str, dict[str, None]], dict[str, str], dict[str, float]]:
    """(vertices that have something to say, node and zone below each, their kinds by labels, requests of each)."""
    heard_of, traffic = heard.said(topology, began, onset)
    vertices = {name: vertex.copy() for name, vertex in heard_of.items()}
    under: dict[str, dict[str, None]] = {}
    grounds: dict[str, str] = {}
    told: list[tuple[str, Evidence]] = []
    named: set[tuple[str, str]] = set()  # (vertex, alertname) so far
    for alert in sorted(alerts, key=lambda a: (a.starts_at, a.fingerprint)):
        place = place_of(alert, topology)
        if not place.vertex:
            continue
        vertex = vertices.get(place.vertex)
        if vertex is None:
            vertex = vertices[place.vertex] = Vertex()
        name = name_of(alert)
        if (place.vertex, name) not in named:  # said again it says no more
            named.add((place.vertex, name))
            vertex.passes += max(-4.0, min(4.0, known.origin.get(name, 0.0)))
        vertex.alerts.append(alert)
        grounds.update(place.grounds)
        if place.under:
            under.setdefault(place.vertex, {}).update(dict.fromkeys(place.under))
        told += [(topology.resolve(e.service) or place.vertex, e) for e in alert.evidence]
        if not alert.evidence:
            _take_alert(vertex, alert)
    if told:
        seen = {_who(e) for service in {e.service for _, e in told} for e in heard.of(service)}
        for name, e in told:
            if name and _who(e) not in seen:  # an answer is fuller than the alert
                take_evidence(vertices, name, e)
    where = place_of(page, topology).vertex if page is not None else ""
    if where in vertices:
        _prefer(vertices, where)
    return vertices, under, grounds, traffic


def _step(e: Evidence) -> float:
    """Seconds between its samples; 0 when it has too few."""
    recent = e.recent
    return (recent[-1][0] - recent[0][0]) / (len(recent) - 1) if len(recent) > 1 else 0.0


def _who(e: Evidence) -> tuple[object, ...]:
    return (e.service, e.metric, *sorted(e.labels.items()))


def _prefer(vertices: dict[str, Vertex], where: str) -> None:
    """Symptoms of another kind than what the page's own service shows most count less."""
    shown = {k: s for k, s in vertices[where].symptoms.items() if k != ALERT}
    if not shown:
        return
    kind = max(shown, key=lambda k: (shown[k].strength, k))
    for vertex in vertices.values():
        for other, symptom in vertex.symptoms.items():
            if other not in (ALERT, kind):
                vertex.symptoms[other] = symptom._replace(strength=symptom.strength * OTHER_KIND)


def _take_alert(vertex: Vertex, alert: Alert) -> None:
    """An alert without numbers is a symptom by its severity."""
    strength = SEVERITY.get(alert.labels.get("severity", ""), 1.0)
    have = vertex.symptoms.get(ALERT)
    name = alert.labels.get("alertname", "an alert")
    onset = alert.starts_at if have is None else min(have.onset, alert.starts_at)
    if have is None or strength > have.strength:
        vertex.symptoms[ALERT] = Symptom(strength, onset, 0.0, name, 0.0, None)
    elif onset < have.onset:
        vertex.symptoms[ALERT] = have._replace(onset=onset)


def take_evidence(vertices: dict[str, Vertex], name: str, e: Evidence) -> None:
    """Evidence becomes the symptom of its kind, or trouble of the vertex's own, where it says more than what was."""
    if e.kind == "traffic" and e.deviation <= STRONG:
        return
    gain = math.log1p(min(max(0.0, e.deviation), CAP)) - math.log1p(max(0.0, min(e.lead_in, CAP)))
    if gain <= 0.0:
        return
    vertex = vertices.get(name)
    if vertex is None:
        vertex = vertices[name] = Vertex()
    if e.deviation <= STRONG:
        vertex.weak = max(vertex.weak, WEAK * gain)
        return
    if e.kind in RESOURCES:
        if e.level < e.normal and harm_of(e) == "both":
            gain *= FALLS
        symptom = Symptom(gain, e.onset, abs(e.level - e.normal), signature(e), e.deviation, e, _step(e))
        if vertex.own is None or (gain, symptom.metric) > (vertex.own.strength, vertex.own.metric):
            vertex.own = symptom
    elif e.kind == "traffic":
        vertex.weak = max(vertex.weak, gain * WEIGHT["traffic"])
    else:
        kind = e.kind
        if kind not in SYMPTOMS:  # nobody knows what it means, but it can be compared with itself elsewhere
            kind, gain = f"{e.kind} {e.metric}", gain * WEIGHT["other"]
        symptom = Symptom(gain, e.onset, abs(e.level - e.normal), signature(e), e.deviation, e, _step(e))
        # percentiles do not add up along a call; where there is a mean, it is the physical quantity
        mean = not _is_percentile(e)
        have = vertex.symptoms.get(kind)
        if have is None or (mean, gain, symptom.metric) > (vertex.means.get(kind, False), have.strength, have.metric):
            vertex.symptoms[kind] = symptom
            vertex.means[kind] = mean
    vertex.evidence.append((gain, e))


def fill_first(vertex: Vertex, heard: Heard) -> None:
    """Where something fills up (memory, disk) the processor is busy too, but not the other way round: name the filling.

    Only a rise that is large against what this metric is elsewhere counts: a small service doubles easily.
    """
    for i, (_, e) in enumerate(vertex.evidence):
        if e.level > e.normal and _FILLS.search(e.metric) and e.kind in RESOURCES:
            usual = heard.usual(signature(e))
            if usual > 0.0 and e.level - e.normal > FILLED * usual:
                vertex.evidence.insert(0, vertex.evidence.pop(i))
                return


def first_of(vertex: Vertex) -> float:
    """When its trouble began; infinite when it shows none."""
    return min((s.onset for s in vertex.shown()), default=math.inf)


def onset_of(vertex: Vertex | None, onset: float) -> float:
    """When trouble of a vertex began: an incident may have begun elsewhere, but what shows nothing began with it."""
    first = first_of(vertex) if vertex is not None else math.inf
    return max(onset, first) if first < math.inf else onset


def since_when(vertex: Vertex) -> float:
    """When its trouble may have begun: up to a sample before it was seen; infinite when it shows none."""
    return min((s.onset - s.step for s in vertex.shown()), default=math.inf)


def signature(e: Evidence) -> str:
    """Metric with the labels that say which statistic it is: only equal signatures can be subtracted."""
    if not e.labels:
        return e.metric
    return "/".join((e.metric, *(e.labels[k] for k in STATISTICS if k in e.labels)))


def _is_percentile(e: Evidence) -> bool:
    return _PERCENTILE.search(signature(e)) is not None
