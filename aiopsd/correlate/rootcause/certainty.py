"""How sure the first candidate is: signs of it, and the chance that they were found to give."""

import math
from collections.abc import Mapping, Sequence

from aiopsd.correlate.place import name_of
from aiopsd.correlate.rootcause.graph import Graph
from aiopsd.correlate.rootcause.knowledge import EVEN, Knowledge
from aiopsd.correlate.rootcause.symptoms import Vertex
from aiopsd.model import Candidate

# Chance that the first is right: weights of its SIGNS, a logistic regression on two generators of storms, which weigh
# alike, and a few simulated worlds with metrics; judged on a third generator, on each of these by the others and on
# recordings: `python -m simulations confidence --fit`, with the sources that docs/explanation/correlation.md lists.
CONFIDENCE = (3.659, 0.214, 0.515, 0.215, -5.267, -0.656, -2.334, -2.611, -0.733)

# What is known of the first candidate, in the order of the weights of CONFIDENCE.
SIGNS = (
    "constant",
    "gap",  # its score minus the second's
    "heard",  # metrics speak for it
    "heard gap",
    "foreign",  # share of the others in trouble that it does not explain
    "below",  # logarithm of how many of its callees say nothing: one of them may be it
    "travels",  # chance that its most local alertname is one that is passed on; 0 where metrics speak
    "shatter",  # share of the incidents here that turned out to be pieces of others
    "company",  # logarithm of how many other incidents opened shortly before: pieces of one come together
)


def signs_of(
    found: Sequence[Candidate],
    vertices: Mapping[str, Vertex],
    callers: Mapping[str, Sequence[tuple[str, float]]],
    graph: Graph,
    known: Knowledge,
) -> tuple[float, ...]:
    """The SIGNS of the first candidate."""
    scores = [max(1e-3, c.score) for c in found[:2]]
    gap = min(5.0, scores[0] - (scores[1] if len(scores) > 1 else 0.1 * scores[0]))
    name = found[0].service
    vertex = vertices.get(name)
    shown = [known.travels.get(name_of(a), EVEN) for a in vertex.alerts] if vertex is not None else []
    reached, front = {name}, [name]
    while front:
        front = [u for c in front for u, f in callers.get(c, ()) if f > 0.05 and u not in reached]
        reached.update(front)
    others = [n for n, v in vertices.items() if v.symptoms and n != name]
    heard = bool(found[0].evidence)
    return (
        1.0,
        gap,
        float(heard),
        heard * gap,
        sum(n not in reached for n in others) / len(others) if others else 0.0,
        math.log1p(sum(map(graph.silent, graph.suspects(name)))),
        0.0 if heard else min(shown, default=EVEN),
        known.shatter,
        math.log1p(known.company),
    )


def confidence(signs: Sequence[float], trust: float = 0.0) -> float:
    """Chance that the first candidate is right, given its SIGNS; `trust`: log-odds that this place adds."""
    z = trust + sum(w * x for w, x in zip(CONFIDENCE, signs, strict=True))
    return min(0.99, max(0.01, 1.0 / (1.0 + math.exp(-z))))


def share_of_rest(score: float, rest: float, sure: float) -> float:
    """What is left for a later candidate: its share of the doubt, never above the first; the rest is somewhere else."""
    return min(sure, (1.0 - sure) * max(0.0, score) / rest) if rest > 0.0 else 0.0
