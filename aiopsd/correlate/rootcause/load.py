"""Load that runs down the calls: a batch job, a client that retries, a surge. Its callee suffers, and who calls that.

Somebody who calls what is in trouble, and shows something else than those who suffer from it, either is in trouble of
its own or sends the load. What speaks for load adds up as log-odds: a name that nobody else in the incident has, and
that history finds at one vertex only; and who began first.
"""

import math
from collections.abc import Collection, Iterator, Mapping

from aiopsd.correlate.place import name_of
from aiopsd.correlate.rootcause.flow import LATE
from aiopsd.correlate.rootcause.graph import GROUND, Graph
from aiopsd.correlate.rootcause.knowledge import Knowledge
from aiopsd.correlate.rootcause.symptoms import ALERT, Vertex

ALONE = 0.06  # chance that a vertex that nothing explains is in trouble on its own, in an incident of several
RUN = 0.9  # at most so much of a callee's trouble runs down: a store may be too small, too
NEAR = 120.0  # s; the sender's own sign and its callee's trouble begin within this
SURGE = 0.3  # chance that trouble above many that fall together is load that is sent to them
SILENT = 0.3  # chance that what is the cause says nothing itself
STEEP = 3  # load breaks the less, the less of its load a vertex has from there: by this power of the share
MOST = 0.95  # chance at most: rules are missing, alerts get lost
LEAST = 3  # vertices that nothing else explains, before load is blamed


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
    ill: Collection[str], loose: Collection[str], told: Collection[str], graph: Graph
) -> Iterator[tuple[float, str, list[str]]]:
    """Who may have sent the load that many suffer from: (log-odds, who, those of `ill` that it reaches).

    Args:
        ill: those that got into trouble about then.
        loose: those that nothing below them explains; the others of `ill` speak neither for it nor against it.
        told: all that have something to say; who says nothing is well.

    More requests than usual reach all that it calls, and what that calls; who gets little of its load from there bears
    it. The odds are against each of the loose ones being in trouble on its own.
    """
    over: dict[str, None] = {}
    for v in loose:
        over.update(dict.fromkeys(graph.topology.senders(v)))
    for u in over:
        loaded = {v: f**STEEP for v, f in graph.topology.loaded(u).items() if graph.kind(v) not in GROUND}
        broke, bore = [v for v in ill if v in loaded], [f for v, f in loaded.items() if v not in told]
        alone = [loaded[v] for v in broke if v in loose]
        if len(alone) < LEAST:
            continue
        whole = math.fsum([loaded[v] for v in broke]) + math.fsum(bore)
        chance = (len(broke) + 1) / (whole + 2.0)  # that it breaks what gets all of its load from there
        odds = [math.log(SURGE if u in told else SURGE * SILENT)]
        odds += [math.log1p(min(MOST, chance * f) * (1.0 / ALONE - 1.0)) for f in alone]
        odds += [math.log(1.0 - min(MOST, chance * f)) for f in bore]
        yield math.fsum(odds), u, broke
