"""Load that runs down the calls: a batch job, a client that retries, a surge. Its callee suffers, and who calls that.

Somebody who calls what is in trouble, and shows something else than those who suffer from it, either is in trouble of
its own or sends the load. What speaks for load adds up as log-odds: a name that nobody else in the incident has, and
that history finds at one vertex only; and who began first.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from aiopsd.correlate.place import name_of
from aiopsd.correlate.rootcause.flow import LATE, LOOK_THROUGH
from aiopsd.correlate.rootcause.graph import GROUND, Graph
from aiopsd.correlate.rootcause.knowledge import Knowledge
from aiopsd.correlate.rootcause.symptoms import ALERT, Vertex

RUN = 0.9  # at most so much of a callee's trouble runs down: a store may be too small, too
NEAR = 120.0  # s; the sender's own sign and its callee's trouble begin within this
SURGE = 0.3  # chance that what is in trouble above many that nothing below them explains sends the load that broke them


def run_down(
    shares: dict[str, dict[str, float]], vertices: Mapping[str, Vertex], graph: Graph, known: Knowledge
) -> dict[str, tuple[str, float]]:
    """Let who sends load explain what its callee's own dependencies do not; vertex -> (sender, share) of each."""
    signs = _signs(vertices, known)
    found: dict[str, tuple[str, float]] = {}
    for c, vertex in vertices.items():
        symptom = vertex.symptoms.get(ALERT)
        if symptom is None or graph.kind(c) in GROUND:
            continue  # what runs on a node does not load it by calling
        odds, _, u = max(_senders(c, symptom.onset, signs, graph), default=(0.0, 0.0, ""))
        if not u:
            continue
        others = {v: f for v, f in shares.get(c, {}).items() if v != u}
        share = RUN * (1.0 - sum(others.values())) / (1.0 + math.exp(-odds))
        shares[c] = others | {u: share}
        shares[u] = {v: f * (1.0 - share) if v == c else f for v, f in shares.get(u, {}).items()}
        found[c] = (u, share)
    return found


def _signs(vertices: Mapping[str, Vertex], known: Knowledge) -> dict[str, list[tuple[float, float]]]:
    """Vertex -> (log-odds that it is local, since when) of each name that only this vertex has.

    Of a name that history does not know, the others here tell: the more of them show what others show, too, the less
    is it like a victim to show something that nobody else does. Where all have names of their own it says nothing.
    """
    places: dict[str, set[str]] = {}
    for vertex_name, vertex in vertices.items():
        for alert in vertex.alerts:
            places.setdefault(name_of(alert), set()).add(vertex_name)
    alike = set().union(*(who for who in places.values() if len(who) > 1))
    found: dict[str, list[tuple[float, float]]] = {}
    for vertex_name, vertex in vertices.items():
        if not vertex.alerts:
            continue
        common = len(alike) - (vertex_name in alike)
        own = len(vertices) - 1 - common
        novel = math.log((common + 0.5) / (own + 0.5))
        for alert in vertex.alerts:
            name = name_of(alert)
            if len(places[name]) == 1 and (name in known.local or common + own > 1):
                found.setdefault(vertex_name, []).append((known.local.get(name, novel), alert.starts_at))
    return found


def _senders(
    c: str, onset: float, signs: Mapping[str, list[tuple[float, float]]], graph: Graph
) -> Iterator[tuple[float, float, str]]:
    """(log-odds that it loads `c`, its onset negated, its name) of each caller with a sign of its own about `onset`."""
    for u in graph.callers(c):
        for odds, since in signs.get(u, ()):
            if abs(since - onset) <= NEAR:
                yield odds + (onset - since) / LATE, -since, u


def surges(
    loose: Sequence[str], vertices: Mapping[str, Vertex], graph: Graph
) -> Iterator[tuple[float, str, list[str]]]:
    """Who of those in trouble may have sent the load that several suffer from: (log-odds, who, those that it reaches).

    More requests than usual reach all that it calls: it counts how many of its own callees are in trouble, and how many
    are well. Load passes through what bears it, so those below need no trouble between.
    """
    among = set(loose)
    for u, vertex in vertices.items():
        if ALERT not in vertex.symptoms or u in among or graph.kind(u) in GROUND:
            continue
        called = graph.topology.callees(u)
        ill = sum(c in vertices for c in called)
        if ill < 2:
            continue
        below = graph.topology.below(u, LOOK_THROUGH)
        reached = [c for c in loose if c in below]
        if len(reached) < 2:
            continue
        reach = (ill + 1) / (len(called) + 2)  # share of its callees that the load breaks, as seen
        odds = math.log(SURGE) + len(reached) * math.log(reach) + (len(called) - ill) * math.log(1.0 - reach)
        yield odds, u, reached
