"""The lifecycle of an incident as a transition table, and the small sums and words over its alerts.

Enters: a state and what happened. Leaves: the next state, or `IllegalMove`. Who decides that something happened
(a timer, an operator, the grouper) is not known here.
"""

from collections.abc import Iterable
from enum import StrEnum
from itertools import islice

from aiopsd.errors import AiopsdError
from aiopsd.model import Alert, Candidate, Evidence, IncidentState

LOOKED = 20  # alerts among which the cause's own is looked for: a sum made anew with each alert must stay cheap
ADVICE = {  # what to ask of an incident's alerts -> the annotations that say so
    "first look": ("first_look",),
    "owner": ("owner", "team"),
    "runbook": ("runbook_url", "runbook"),
    "dashboard": ("dashboard_url", "dashboard", "dashboardURL"),
}
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


def advice(alerts: Iterable[Alert], root: Candidate | None, key: str) -> tuple[str, str]:
    """(what annotations say to whoever has to act, whose that is); the alerts of the cause are asked first.

    Whose is "" for what the cause's own alerts say, and where there is no cause; so is the text when nobody says any.

    Args:
        key: one of ADVICE.
    """
    other = ("", "")
    for alert in alerts:
        text = next((said for name in ADVICE[key] if (said := alert.annotations.get(name, ""))), "")
        if text and (root is None or alert.service == root.service):
            return text, ""
        if text and not other[0]:
            other = (text, alert.service or alert.labels.get("alertname", ""))
    return other


def speaker(alerts: Iterable[Alert], root: Candidate | None) -> Alert | None:
    """Who speaks for an incident, of the first LOOKED: an alert of its cause, of somebody's rule before an anomaly."""
    first = own = None
    for alert in islice(alerts, LOOKED):
        first = first or alert
        if root is None or alert.service == root.service:
            if not alert.anomaly:
                return alert
            own = own or alert
    return own or first


def title(speaks: Alert | None, services: tuple[str, ...], root: Candidate | None) -> str:
    """One line that an operator reads first: the probable cause, what it shows, and how far the trouble reaches.

    An alert that somebody wrote a rule for goes by its name, which people know; else the metric speaks that left its
    range furthest. What a cause does not show itself is said of whom it is seen at (`stripe: HighErrorRate on
    payments`). A change that it may come from is named.
    """
    what = speaks.labels.get("alertname", "alert") if speaks else "alert"
    if speaks is not None and speaks.anomaly and speaks.evidence:
        what = _words(max(speaks.evidence, key=lambda e: e.score))
    where = (speaks.service or speaks.labels.get("instance", "")) if speaks else ""
    if root is None:
        return f"{what} on {where}" if where else what
    own, seen_at = speaks is not None and speaks.service == root.service, ""
    if root.evidence and (speaks is None or speaks.anomaly or not own):
        what = _words(root.evidence[0])
    elif where and not own:
        seen_at = f" on {where}"
    change = root.changes[0] if root.changes else None
    after = f" after {' '.join(filter(None, (change.kind, change.version)))}" if change is not None else ""
    others = len([s for s in services if s != root.service and not (seen_at and s == where)])
    reach = f", {others} more affected" if others else ""
    return f"{root.service or 'unknown upstream'}: {what}{seen_at}{after}{reach}"


def span(seconds: float) -> str:
    """A duration in two units.

    >>> span(42), span(3700), span(90000)
    ('42s', '1h 01m', '1d 1h')
    """
    s = max(0, int(seconds))
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m" if s >= 600 else f"{s // 60}m {s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h {s % 3600 // 60:02d}m"
    return f"{s // 86400}d {s % 86400 // 3600}h"
