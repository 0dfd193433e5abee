"""The ranking itself: everything that is said, weighed and put in order."""

import math
from collections.abc import Callable, Mapping, Sequence

from aiopsd.correlate.place import place_of
from aiopsd.correlate.rootcause.explanation import candidates
from aiopsd.correlate.rootcause.flow import HARDLY, flow, shares_of
from aiopsd.correlate.rootcause.graph import Graph
from aiopsd.correlate.rootcause.knowledge import Knowledge
from aiopsd.correlate.rootcause.load import run_down
from aiopsd.correlate.rootcause.missing import missing_calls
from aiopsd.correlate.rootcause.symptoms import (
    ALERT,
    Heard,
    Vertex,
    began_of,
    collect,
    fill_first,
    first_of,
    onset_of,
    signature,
    since_when,
)
from aiopsd.correlate.rootcause.unsaid import silent_causes
from aiopsd.model import Alert, Candidate, ChangeEvent, Evidence
from aiopsd.topology import DEEP, Topology

AGAIN = 0.6  # worth of a symptom on the page's own call paths: in part it is the page's trouble counted again
CHANGE_WORTH = 0.5  # a change just before the onset raises its service's score by so much
CHANGE_TAU = 900.0  # s
ORIGIN_WORTH = 0.5  # blame that an alertname usually found at origins adds, per nat
INFERRED = 0.3  # a vertex that only ever stands for the far end of a call is seldom a cause of its own
APART = 0.3  # worth of what explains nothing that alerts here: metrics always show something somewhere
Reasons = dict[str, dict[str, tuple[float, str]]]  # symptom vertex -> cause -> (share, kind of signal)


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
    elsewhere: Callable[[str], bool] = lambda vertex: False,
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
        elsewhere: whether a vertex is in trouble of another incident: a cause only of what depends on it.
    """
    known = feedback or Knowledge()
    heard = evidence if isinstance(evidence, Heard) else Heard(evidence)
    began = began_of(heard, topology, page, onset)
    vertices, under, grounds, traffic = collect(alerts, heard, topology, page, known, began, onset)
    _leave_to_others(vertices, alerts, topology, elsewhere)
    if not vertices:
        return ()
    graph = Graph(topology, under, grounds, known.hosted, vertices, traffic)
    where = place_of(page, topology).vertex if page is not None else ""
    total, why, sent = _blamed(vertices, graph, traffic, heard, where, known)
    _add_own(total, vertices, sent)
    related = _related(vertices, why, graph)
    for name in total:
        if name not in related:
            total[name] *= APART
    near = changes_before(changes, topology, vertices, began)
    for name in total:
        total[name] = _weighed(total[name], name, near, known, topology)
    order = _ordered(total, vertices)
    for name in order[:limit]:
        if name in vertices:
            vertices[name].evidence.sort(key=lambda item: (-item[0], signature(item[1])))
            fill_first(vertices[name], heard)
    return candidates(order[:limit], order, total, vertices, why, near, topology, graph, began, page, known)


def _blamed(
    vertices: Mapping[str, Vertex],
    graph: Graph,
    traffic: Mapping[str, float],
    heard: Heard,
    where: str,
    known: Knowledge,
) -> tuple[dict[str, float], Reasons, dict[str, tuple[str, float]]]:
    """Blame flows from symptoms to causes, one kind of signal after the other; `where` is the page's vertex.

    (blame of each vertex, who explains whom, vertex -> who sends it the load and what part of its trouble that is).
    """
    names = sorted(vertices)
    if len(names) == 1:  # nobody else can explain it, or be explained by it: most incidents are no more
        (vertex,) = vertices.values()
        return {names[0]: sum((vertex.symptoms[k].strength for k in sorted(vertex.symptoms)), 0.0)}, {}, {}
    total = dict.fromkeys(names, 0.0)
    sent: dict[str, tuple[str, float]] = {}
    why: Reasons = {}
    kinds = sorted({k for v in vertices.values() for k in v.symptoms})
    paths = graph.topology.below(where, DEEP) if where in vertices and kinds != [ALERT] else {}
    orphans = [c for c in names if not graph.callers(c)] if where in vertices and kinds != [ALERT] else []
    for kind in kinds:
        blame = {n: shown[kind].strength for n in names if kind in (shown := vertices[n].symptoms)}
        if kind != ALERT and where in blame:
            blame = {n: b * AGAIN if n in paths and n != where else b for n, b in blame.items()}
        shares = {u: s for u in blame if (s := shares_of(u, kind, vertices, graph, traffic, heard))}
        silent_causes(blame, shares, kind, vertices, graph)
        if kind != ALERT:
            missing_calls(kind, where, orphans, shares, vertices, traffic, heard)
        else:
            sent = run_down(shares, vertices, graph, known)
        for name, value in flow(blame, shares).items():
            total[name] = total.get(name, 0.0) + value
        for u, parts in shares.items():
            for c, f in parts.items():
                if f > why.setdefault(u, {}).get(c, (0.0, ""))[0]:
                    why[u][c] = (f, kind)
    return total, why, sent


def _related(vertices: Mapping[str, Vertex], why: Reasons, graph: Graph) -> set[str]:
    """What alerts here, and what explains any of that, directly or through others.

    What shows no symptom that could be explained (only its processor, say) may stem from anything that it calls.
    """
    found = {name for name, v in vertices.items() if v.alerts}
    front = list(found)
    while front:
        u = front.pop()
        causes = [c for c, (f, _) in why.get(u, {}).items() if f > HARDLY]
        if u in vertices and not vertices[u].symptoms:
            causes += [c for c in graph.suspects(u) if c in vertices]
        for c in causes:
            if c not in found:
                found.add(c)
                front.append(c)
    return found


def _add_own(total: dict[str, float], vertices: Mapping[str, Vertex], sent: Mapping[str, tuple[str, float]]) -> None:
    """What speaks of a vertex itself: its resources, what is weak of it, and names that usually stand at origins."""
    for name, vertex in vertices.items():
        if vertex.own is not None:
            total[name] += vertex.own.strength
        total[name] += 0.01 * vertex.weak if vertex.symptoms or vertex.own else vertex.weak
        if vertex.passes > 0.0:
            sender, share = sent.get(name, (name, 0.0))  # where trouble climbs from, load ran down to before
            total[name] += ORIGIN_WORTH * vertex.passes * (1.0 - share)
            total[sender] += ORIGIN_WORTH * vertex.passes * share


def _leave_to_others(
    vertices: dict[str, Vertex], alerts: Sequence[Alert], topology: Topology, elsewhere: Callable[[str], bool]
) -> None:
    """Drop what came with the neighbourhood: in trouble of another incident, later than all here, below nobody here."""
    here = {place_of(alert, topology).vertex for alert in alerts}
    last = max((alert.starts_at for alert in alerts), default=math.inf)
    others = [name for name, v in vertices.items() if name not in here and elsewhere(name) and since_when(v) > last]
    if others:
        below = topology.needed(here)
        for name in others:
            if name not in below:
                del vertices[name]


def _ordered(total: Mapping[str, float], vertices: Mapping[str, Vertex]) -> list[str]:
    """By score; of equals the one that began first, then by name."""
    scores = {name: -round(value, 9) for name, value in total.items()}
    order = sorted(scores)
    order.sort(key=scores.__getitem__)
    for i in range(len(order) - 1):
        if scores[order[i]] == scores[order[i + 1]]:  # few are
            return sorted(scores, key=lambda n: (scores[n], first_of(vertices[n]) if n in vertices else math.inf, n))
    return order


def _weighed(
    blame: float, name: str, near: Mapping[str, tuple[float, object]], known: Knowledge, topology: Topology
) -> float:
    """Blame by what else is known: a change just before the onset, operators' verdicts, what kind of vertex it is."""
    if name in near:
        blame *= 1.0 + CHANGE_WORTH * near[name][0]
    if name in known.causes:
        blame *= math.exp(0.5 * max(-2.0, min(2.0, known.causes[name])))
    node = topology.node(name)
    if node is not None and node.labels.get("inferred") == "true":
        blame *= INFERRED
    return blame


def changes_before(
    changes: Sequence[ChangeEvent], topology: Topology, vertices: Mapping[str, Vertex], onset: float
) -> dict[str, tuple[float, list[ChangeEvent]]]:
    """Vertex -> (how recent its latest change was before its trouble, in (0, 1]; its changes, latest first)."""
    out: dict[str, tuple[float, list[ChangeEvent]]] = {}
    for change in sorted(changes, key=lambda c: (-c.ts, c.id)):
        name = topology.resolve(change.service)
        began = onset_of(vertices.get(name), onset)
        if change.ts > began + 60.0:
            continue
        worth = math.exp(-max(0.0, began - change.ts) / CHANGE_TAU)
        have = out.get(name)
        out[name] = (worth, [change]) if have is None else (max(worth, have[0]), [*have[1], change])
    return out
