"""Causes that do not show themselves: what says nothing clear, what sends load from above, and what is in no graph."""

import math
from collections.abc import Collection, Mapping

from aiopsd.correlate.rootcause.flow import HANDED, hand_to
from aiopsd.correlate.rootcause.graph import GROUND, Graph
from aiopsd.correlate.rootcause.load import ALONE, SILENT, surges
from aiopsd.correlate.rootcause.symptoms import ALERT, CLEAR, Vertex

PASSED = 0.5  # chance that trouble of a callee shows in a caller
LOOSE = 0.2  # a vertex of which less is explained stands alone
TOGETHER = 150.0  # s; symptoms of one silent cause start within this
UNKNOWN = 0.01  # chance that the cause is not in the graph at all
UNKNOWN_LEAST = 4  # unexplained vertices that start within TOGETHER, before something unknown is blamed


def silent_causes(
    blame: Mapping[str, float],
    shares: dict[str, dict[str, float]],
    kind: str,
    vertices: Mapping[str, Vertex],
    graph: Graph,
) -> None:
    """Several vertices in trouble together that depend on one that says nothing clear: by Bayes, is it the cause?

    For it: its callers show trouble as callers of a failing callee do. Against it: each of them is in trouble on its
    own, or by what explains it already; and the callers that are well.
    """
    over: dict[str, list[str]] = {}
    for u in blame:
        for c in graph.suspects(u):
            if graph.silent(c) or (kind in CLEAR and c in vertices and vertices[c].unclear):
                over.setdefault(c, []).append(u)
    found = []
    for c, callers in over.items():
        if graph.kind(c) in GROUND:
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
            if graph.kind(c) not in GROUND:  # whose trouble breaks what stands on it, and does not only reach it
                odds -= max(0.0, vertices[u].passes)
        if odds > -3.0:
            found.append((-odds, c, callers))
    taken: set[str] = set()
    standing = 0  # vertices whose trouble a node or a zone explains
    for odds, c, callers in sorted(found):
        callers = [u for u in callers if u not in taken]
        if len(callers) < 2:
            continue
        taken.update(callers)
        standing += len(callers) if graph.kind(c) in GROUND else 0
        hand_to(c, callers, HANDED / (1.0 + math.exp(odds)), shares)
    _from_above_or_outside(blame, shares, kind, vertices, graph, taken, standing)


def _from_above_or_outside(
    blame: Mapping[str, float],
    shares: dict[str, dict[str, float]],
    kind: str,
    vertices: Mapping[str, Vertex],
    graph: Graph,
    taken: Collection[str],
    standing: int,
) -> None:
    """Many that nothing below them explains, within minutes: the load of somebody above, or what is in no graph."""
    if kind != ALERT:
        return
    # who is in no graph shares nothing with anybody for want of a graph, not for want of a cause in it
    drawn = [u for u in blame if u not in taken and graph.drawn(u)]
    loose = [u for u in drawn if sum(shares.get(u, {}).values()) < LOOSE]
    if not loose:
        return
    began = {u: vertices[u].symptoms[kind].onset for u in drawn}
    middle = sorted(began.values())[len(began) // 2]
    ill = [u for u in drawn if abs(began[u] - middle) <= TOGETHER and graph.kind(u) not in GROUND]
    odds, sender, loaded = max(surges(ill, loose, vertices, graph), default=(-math.inf, "", []))
    first = min(began[u] for u in loose)
    loose = [u for u in loose if began[u] <= first + TOGETHER]
    # a node or a zone that is gone also silences what others depend on: their trouble needs no cause of its own
    many = len(loose) >= max(UNKNOWN_LEAST, standing + 1)
    unknown = math.log(UNKNOWN) + len(loose) * math.log(PASSED / ALONE) if many else 0.0
    # what is unknown may reach anybody: that these get their load from one vertex would be chance
    below = len(graph.topology.loaded(sender)) / max(1, len(graph.topology)) if sender else 1.0
    if odds > max(0.0, unknown + sum(u in loaded for u in loose) * math.log(below)):
        share = HANDED / (1.0 + math.exp(-odds))
        shares[sender] = {c: f * (1.0 - share) for c, f in shares.get(sender, {}).items()}  # theirs comes from it
        hand_to(sender, loaded, share, shares)
    elif many:
        hand_to("", loose, HANDED / (1.0 + math.exp(-unknown)), shares)
