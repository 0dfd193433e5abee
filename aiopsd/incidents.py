"""The lifecycle of an incident as a transition table, and the small sums over its alerts.

Enters: a state and what happened. Leaves: the next state, or `IllegalMove`. Who decides that something happened
(a timer, an operator, the grouper) is not known here.
"""

from collections.abc import Iterable
from enum import StrEnum

from aiopsd.errors import AiopsdError
from aiopsd.model import Alert, Candidate, Evidence, IncidentState

SEVERITIES = ("info", "none", "warning", "error", "critical", "page")  # ascending; unknown words rank as warning


class Move(StrEnum):
    """What can happen to an incident."""

    ALERT = "alert"  # an alert of it fires
    ACK = "ack"
    ACK_ENDED = "ack ended"
    QUIET = "quiet"  # nothing fired for correlate.resolve_after
    RESOLVE = "resolve"  # by an operator
    MERGE = "merge"  # into another one


class IllegalMove(AiopsdError):
    """The table has no such move; names both."""

    def __init__(self, state: IncidentState, move: Move) -> None:
        super().__init__(f"an incident that is {state} cannot take `{move}`")
        self.state, self.move = state, move


_OPEN, _ACK, _RESOLVED, _MERGED = (
    IncidentState.OPEN,
    IncidentState.ACKNOWLEDGED,
    IncidentState.RESOLVED,
    IncidentState.MERGED,
)

TABLE: dict[tuple[IncidentState, Move], IncidentState] = {
    (_OPEN, Move.ALERT): _OPEN,
    (_OPEN, Move.ACK): _ACK,
    (_OPEN, Move.QUIET): _RESOLVED,
    (_OPEN, Move.RESOLVE): _RESOLVED,
    (_OPEN, Move.MERGE): _MERGED,
    (_ACK, Move.ALERT): _ACK,
    (_ACK, Move.ACK): _ACK,
    (_ACK, Move.ACK_ENDED): _OPEN,
    (_ACK, Move.QUIET): _RESOLVED,
    (_ACK, Move.RESOLVE): _RESOLVED,
    (_ACK, Move.MERGE): _MERGED,
    (_RESOLVED, Move.ALERT): _OPEN,  # reopened
    (_RESOLVED, Move.MERGE): _MERGED,
}


def move(state: IncidentState, what: Move) -> IncidentState:
    """The next state.

    Raises:
        IllegalMove: the table has no entry.
    """
    try:
        return TABLE[state, what]
    except KeyError:
        raise IllegalMove(state, what) from None


def rank_of(severity: str) -> int:
    """Order of a severity word; unknown words count as warning."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else SEVERITIES.index("warning")


def worst(severities: Iterable[str]) -> str:
    """The worst of these words.

    >>> worst(["warning", "critical", "info"])
    'critical'
    """
    return max(severities, key=lambda w: (rank_of(w), w), default="warning")


def _words(e: Evidence) -> str:
    """What is wrong with a signal; its direction says nothing where the trouble is that there is no value, or one."""
    if e.channel == "no-data":
        return "no data"
    if e.channel == "flatline":
        return f"{e.metric} does not move"
    return f"{e.metric} {e.direction}" if e.direction in ("low", "high") else e.metric


def title(alerts: Iterable[Alert], services: tuple[str, ...], root: Candidate | None) -> str:
    """One line that an operator reads first: the probable cause and how far the trouble reaches.

    Without a cause it is the first alert's own words; an anomaly's are the metric that left its range furthest.
    """
    first = next(iter(alerts), None)
    what = first.labels.get("alertname", "alert") if first else "alert"
    if first is not None and first.anomaly and first.evidence:
        told = max(first.evidence, key=lambda e: e.score)
        what = _words(told)
    where = (first.service or first.labels.get("instance", "")) if first else ""
    if root is not None:
        others = len([s for s in services if s != root.service])
        reach = f", {others} more service{'s' if others != 1 else ''} affected" if others else ""
        signal = root.metric or what
        name = root.service or "unknown upstream"
        return f"{name}: {signal}{reach}"
    return f"{what} on {where}" if where else what
