"""What operators said of causes and of what belongs together: a memory that changes the next decision, and fades.

Enter: verdicts and the decisions that they correct. Leave: candidates in another order, edges for the graph. A verdict
holds where its situation comes again: "not the database, the report that hammers it" says nothing of a day on which the
report is not among the suspects.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from aiopsd.model import Candidate, Edge, Incident, TopologyUpdate
from aiopsd.topology import OPERATOR, Topology

HALF_LIFE = 90 * 86400.0  # s; an architecture changes within months, and what was said of it with it
LEAST = 0.25  # a correction that has faded this far is forgotten
MOST = 2000  # corrections kept; beyond it the weakest go
DOUBT = 0.5  # of a word, against those that were given: one verdict is worth 2/3, three 6/7
RELATED = "related"  # kind of the edge between two services whose incidents an operator called one
CONFIDENCE = 0.8
SAID = 0.95  # that a cause is right which an operator named for this very incident: people err, too


class _Said(msgspec.Struct):
    """How often, as of `at`."""

    times: float
    at: float

    def read(self, now: float) -> float:
        return float(self.times * 0.5 ** (max(now - self.at, 0.0) / HALF_LIFE))


_Right = tuple[str, str]  # true cause, and an alert that it showed; "" when it showed none


class Verdicts:
    """Corrections: named first -> (true cause, what it showed) -> how often operators said so."""

    def __init__(self, resume: Mapping[str, Any] | None = None) -> None:
        self._instead: dict[str, dict[_Right, _Said]] = {}
        for wrong, right, shows, times, at in (resume or {}).get("instead", []):
            self._instead.setdefault(wrong, {})[right, shows] = _Said(times, at)

    def cause(self, named: str, true: str, shown: Collection[str], stamp: float) -> None:
        """An operator named `true` where `named` stood first; the same name confirms it.

        Args:
            shown: names of the alerts of `true` in that incident. The next time counts when it shows one of them again.
        """
        if not named:
            return
        if named == true:
            for said in self._instead.get(named, {}).values():
                said.times, said.at = said.read(stamp) / 2, stamp
        else:
            for name in sorted(shown) or [""]:
                said = self._instead.setdefault(named, {}).setdefault((true, name), _Said(0.0, stamp))
                said.times, said.at = said.read(stamp) + 1.0, stamp
                for right in [r for r in self._instead.get(true, {}) if r[0] == named]:
                    del self._instead[true][right]  # the opposite is not true as well
        self._bound(stamp)

    def _bound(self, now: float) -> None:
        pairs = sorted(
            (said.read(now), wrong, right) for wrong, m in self._instead.items() for right, said in m.items()
        )
        for k, (times, wrong, right) in enumerate(pairs):
            if times < LEAST or k < len(pairs) - MOST:
                del self._instead[wrong][right]
        self._instead = {wrong: m for wrong, m in self._instead.items() if m}

    def corrected(
        self, roots: tuple[Candidate, ...], shown: Mapping[str, Collection[str]], now: float
    ) -> tuple[Candidate, ...]:
        """The candidates as operators would have them: whom they named instead of the first stands before it.

        Only one who is a candidate anyway, and shows (service -> names of its alerts) what it showed then: a correction
        is no evidence. Confidences of the two are shared out anew.
        """
        if not roots or roots[0].service not in self._instead:
            return roots
        first = roots[0]
        memory = self._instead[first.service]
        named = []
        for i, c in enumerate(roots[1:], 1):
            names = shown.get(c.service) or ("",)
            times = max(
                (s.read(now) for name in names if (s := memory.get((c.service, name))) is not None), default=0.0
            )
            if times >= LEAST:
                named.append((times, -i))
        if not named:
            return roots
        times, place = max(named)
        true = roots[-place]
        whole = first.confidence + true.confidence
        sure = round(whole * times / (times + DOUBT), 4)
        count = max(1, round(times))
        why = f"operators named it {'once' if count == 1 else f'{count} times'} where {first.service} stood first"
        ahead = replace(true, confidence=sure, score=first.score, reason=f"{true.reason}; {why}".lstrip("; "))
        behind = replace(first, confidence=round(whole - sure, 4), score=min(true.score, first.score))
        rest = [c for c in roots[1:] if c is not true]
        return (ahead, *sorted((behind, *rest), key=lambda c: -c.confidence))

    def snapshot(self) -> dict[str, Any]:
        """Plain data for `resume`."""
        pairs = [[wrong, *right, s.times, s.at] for wrong, m in self._instead.items() for right, s in m.items()]
        return {"instead": pairs}


def named(roots: tuple[Candidate, ...], incident: Incident) -> tuple[Candidate, ...]:
    """The candidates of an incident of which an operator named the cause: it stands first, suspect or not."""
    if not incident.said:
        return roots
    mine = next((c for c in roots if c.service == incident.said), Candidate(service=incident.said))
    others = [c for c in roots if c is not mine]
    left = min(1.0, (1.0 - SAID) / max(1e-9, sum(c.confidence for c in others)))
    why = f"{incident.said_by or 'an operator'} named it"
    first = replace(
        mine,
        confidence=SAID,
        score=max((c.score for c in roots), default=0.0),
        reason=f"{why}; {mine.reason}" if mine.reason else why,
    )
    return (first, *(replace(c, confidence=round(left * c.confidence, 4)) for c in others))


def drawn(topology: Topology, first: str, second: str, hops: int) -> TopologyUpdate | None:
    """What the graph learns of an operator's "these are one": an edge, when nothing leads from one to the other.

    The later one is drawn as depending on the earlier one. The edge is the operator's word: it does not age, and a
    verdict that splits the two takes it back.
    """
    if not first or not second or first == second or second in topology.near(first, hops):
        return None
    edge = Edge(caller=second, callee=first, kind=RELATED, confidence=CONFIDENCE)
    return TopologyUpdate(source=OPERATOR, edges=(edge,))


def withdrawn(topology: Topology, some: Sequence[str], others: Sequence[str]) -> TopologyUpdate | None:
    """What the graph unlearns of an operator's "these are two": edges between the two sides that an operator drew."""
    pairs = [(a, b) for one in some for other in others for a, b in ((one, other), (other, one))]
    own = [pair for pair in dict.fromkeys(pairs) if topology.says(OPERATOR, *pair)]
    if not own:
        return None
    return TopologyUpdate(source=OPERATOR, removed=tuple(Edge(caller=a, callee=b) for a, b in own))
