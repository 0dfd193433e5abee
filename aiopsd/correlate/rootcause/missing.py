"""Calls that no graph knows: what nobody is known to call may be what explains a caller's symptom.

A graph is never whole. Who is in trouble and has no known caller is an entry of its own, or is called by somebody all
the same; that it is the latter shows in what this one feels: the same kind of trouble, at the same time, as much of it.
"""

import math
from collections.abc import Collection, Mapping

from aiopsd.correlate.rootcause.flow import HARDLY, LATE, LATE_SCALE, OWN_EXPLAINS, answer_of, ratio_of
from aiopsd.correlate.rootcause.symptoms import Heard, Symptom, Vertex

# Of what nothing explains, the share of what fits it and has no known caller. One call in ten, say, is missing in a
# graph, and one stranger in twenty fits by chance in kind, time and amount: two to one.
UNKNOWN_CALL = 0.7


def missing_calls(
    kind: str,
    where: str,
    orphans: Collection[str],
    shares: dict[str, dict[str, float]],
    vertices: Mapping[str, Vertex],
    traffic: Mapping[str, float],
    heard: Heard,
) -> None:
    """Let what nobody is known to call explain part of what `where`, the page's vertex, and its causes show."""
    felt = _felt(kind, where, shares, vertices) if orphans else {}
    fits = {c: its for c in orphans if c not in felt and (its := answer_of(vertices[c], kind)) is not None}
    for u in felt:
        mine, parts = vertices[u].symptoms[kind], {}
        for c, its in fits.items():
            f = min(1.0, its.strength / mine.strength) * _together(mine, its)
            adds = ratio_of(mine, its, u, c, traffic, heard) if kind in vertices[c].symptoms else None
            f *= min(adds, 1.0 / adds) if adds else OWN_EXPLAINS
            if f > HARDLY:
                parts[c] = f
        if parts:
            have = shares.get(u, {})
            share = UNKNOWN_CALL * (1.0 - sum(have.values())) / max(1.0, sum(parts.values()))
            shares[u] = have | {c: share * f for c, f in parts.items()}


def _felt(
    kind: str, where: str, shares: Mapping[str, Mapping[str, float]], vertices: Mapping[str, Vertex]
) -> dict[str, None]:
    """The page's vertex and what explains it, directly or through others, as far as it shows this kind of symptom."""
    found: dict[str, None] = {}
    front = [where]
    while front:
        u = front.pop()
        if u not in found and u in vertices and kind in vertices[u].symptoms:
            found[u] = None
            front += [c for c, f in shares.get(u, {}).items() if f > HARDLY]
    return found


def _together(mine: Symptom, its: Symptom) -> float:
    """In (0, 1]: how far both began at the same time, as exactly as they are sampled."""
    step = max(mine.step, its.step)
    return math.exp(-max(0.0, abs(mine.onset - its.onset) - max(LATE, step)) / max(LATE_SCALE, step))
