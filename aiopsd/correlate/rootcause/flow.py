"""Blame that flows: what part of a symptom each callee explains, and what stays where when all has flowed."""

import math
from collections.abc import Iterable, Mapping

from aiopsd.correlate.rootcause.graph import Graph
from aiopsd.correlate.rootcause.symptoms import ALERT, Heard, Symptom, Vertex

HANDED = 0.95  # at most so much of its blame does a vertex hand on
OWN_EXPLAINS = 0.8  # how far a callee's trouble of another kind explains a caller's symptom
HARDLY = 0.05  # a symptom of which a smaller part than this is explained is not
LOOK_THROUGH = 3  # steps through vertices that say nothing
DIM = 0.35  # what is left of an explanation for each silent vertex between
LATE = 30.0  # s; a cause may be seen so much later than its symptom, or by one sample of its own if that is longer
LATE_SCALE = 60.0  # s; beyond that its share falls off; not faster than it is sampled
Shares = dict[str, dict[str, float]]  # symptom vertex -> cause -> part of it that the cause explains


def shares_of(
    u: str, kind: str, vertices: Mapping[str, Vertex], graph: Graph, traffic: Mapping[str, float], heard: Heard
) -> dict[str, float]:
    """What part of the symptom of `u` each callee explains; silent vertices are looked through."""
    suspects = graph.suspects(u)
    if not suspects:
        return {}
    mine = vertices[u].symptoms[kind]
    parts: dict[str, float] = {}
    front = [(c, 1.0) for c in suspects]
    seen = {u}
    for _ in range(LOOK_THROUGH):
        further: list[tuple[str, float]] = []
        for c, dim in front:
            if c in seen:
                continue
            seen.add(c)
            other = vertices.get(c)
            its = answer_of(other, kind) if other is not None else None
            if its is None:
                if c not in traffic:  # else it speaks, and is well
                    further += [(d, dim * DIM) for d in graph.suspects(c)]
                continue
            f = min(1.0, its.strength / mine.strength)
            if other is None or kind not in other.symptoms:
                f *= OWN_EXPLAINS
            elif kind != ALERT and (adds := ratio_of(mine, its, u, c, traffic, heard)) is not None:
                f = min(1.0, 2.0 * f) * min(1.0, adds)
            f *= dim
            after = its.onset - mine.onset
            if after > LATE and after > its.step:
                f *= math.exp(-(after - max(LATE, its.step)) / max(LATE_SCALE, its.step))
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


def answer_of(vertex: Vertex, kind: str) -> Symptom | None:
    """What it shows of this kind, else of whatever kind: first of all its own trouble."""
    shown = vertex.symptoms
    return shown.get(kind) or vertex.own or max(shown.values(), key=lambda s: s.strength, default=None)


def ratio_of(mine: Symptom, its: Symptom, u: str, c: str, traffic: Mapping[str, float], heard: Heard) -> float | None:
    """How much of what `u` gained its callee `c` adds, in the metric's unit and by calls; None where nothing tells.

    What a callee's percentile gained, its callers' means need not: like is compared with like.
    """
    shift = its.shift if its.metric == mine.metric else heard.shift(c, mine.metric)
    if shift is None or mine.shift <= 0.0:
        return None
    calls = min(4.0, max(0.02, traffic.get(c, 0.0) / traffic[u])) if traffic.get(u) else 1.0
    return shift * calls / mine.shift


def hand_to(cause: str, callers: Iterable[str], share: float, shares: dict[str, dict[str, float]]) -> None:
    """Let this cause explain `share` of each caller, and what explained them before the rest."""
    for u in callers:
        parts = {c: f * (1.0 - share) for c, f in shares.get(u, {}).items()}
        shares[u] = parts | {cause: share}


def flow(blame: Mapping[str, float], shares: Mapping[str, Mapping[str, float]], rounds: int = 16) -> dict[str, float]:
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
