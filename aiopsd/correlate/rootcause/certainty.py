"""How sure the first candidate is: signs of it, and the chance that they were found to give."""

import math
from collections.abc import Mapping, Sequence

from aiopsd.correlate.place import name_of
from aiopsd.correlate.rootcause.graph import Graph
from aiopsd.correlate.rootcause.knowledge import Knowledge
from aiopsd.correlate.rootcause.symptoms import Vertex
from aiopsd.model import Candidate

# Chance that the first is right: weights of its SIGNS, a logistic regression on two generators of storms, which weigh
# alike, and fourteen simulated worlds with metrics; judged on other seeds and on recordings: `python -m simulations
# confidence`, with the sources that docs/explanation/correlation.md lists.
CONFIDENCE = (0.009, 0.631, 0.242, -0.174, 0.049, 1.863, -0.247, 0.217, -0.583, -0.395, -1.144, -0.454)

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


def signs_of(
    found: Sequence[Candidate],
    vertices: Mapping[str, Vertex],
    callers: Mapping[str, Sequence[tuple[str, float]]],
    graph: Graph,
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
    below = sum(map(graph.silent, graph.suspects(name)))
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


def confidence(signs: Sequence[float], trust: float = 0.0) -> float:
    """Chance that the first candidate is right, given its SIGNS; `trust`: log-odds that this place adds."""
    z = trust + sum(w * x for w, x in zip(CONFIDENCE, signs, strict=True))
    return min(0.99, max(0.01, 1.0 / (1.0 + math.exp(-z))))


def share_of_rest(score: float, rest: float, sure: float) -> float:
    """What is left for a later candidate: its share of the doubt, never above the first; the rest is somewhere else."""
    return min(sure, (1.0 - sure) * max(0.0, score) / rest) if rest > 0.0 else 0.0
