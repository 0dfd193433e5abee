"""Which service, node or change is the cause: candidates ranked by explaining the symptoms away."""

from collections.abc import Sequence
from typing import Any

from aiopsd.correlate.place import place_of
from aiopsd.model import Alert, Candidate, ChangeEvent, Evidence
from aiopsd.topology import Topology


def rank(
    alerts: Sequence[Alert],
    topology: Topology,
    evidence: Sequence[Evidence] = (),
    changes: Sequence[ChangeEvent] = (),
    *,
    onset: float,
    page: Alert | None = None,
    limit: int = 5,
    feedback: Any = None,
) -> tuple[Candidate, ...]:
    """Candidates, best first; deterministic for equal input in any order."""
    first: dict[str, float] = {}
    for alert in alerts:
        vertex = place_of(alert, topology).vertex
        if vertex:
            first[vertex] = min(first.get(vertex, alert.starts_at), alert.starts_at)
    score: dict[str, float] = {}
    for v in sorted(first):
        below = topology.below(v, 3)
        for c in first:
            if c in below:
                score[c] = score.get(c, 0.0) + 1.0
    for v in score:
        if any(c in first for c in topology.callees(v)):
            score[v] *= 0.35
    order = sorted(score, key=lambda v: (-score[v], first[v], v))[:limit]
    total = sum(score.values()) or 1.0
    return tuple(
        Candidate(service=v, score=score[v], confidence=score[v] / total, reason=f"{v} explains the most alerts")
        for v in order
    )
