"""The words of a notification: cause, chain, evidence, affected services, since when, what changed, where to look.

Enters: a Notification. Leaves: plain text, without any vendor's markup; each notifier dresses it and cuts it to its
limits. Times are written in UTC, with the zone, because a page is read by whoever is awake.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from aiopsd.evidence import about, readings
from aiopsd.model import (
    Action,
    Alert,
    AlertState,
    Candidate,
    Direction,
    Evidence,
    Incident,
    IncidentState,
    Notification,
    NotifyReason,
    labels_text,
)

SERVICES_LIMIT = 10  # named; the rest is a number
EVIDENCE_LIMIT = 3  # signals; the incident's page draws the others


def status(item: Notification) -> str:
    """firing, acknowledged, resolved or merged: the state of the receiver's item after this notification."""
    if item.reason is NotifyReason.MERGED:
        return "merged"
    if item.action is Action.RESOLVE:
        return "resolved"
    if item.incident is not None and item.incident.state is IncidentState.ACKNOWLEDGED:
        return "acknowledged"
    return "firing"


def severity(item: Notification) -> str:
    """The incident's, else the first one given among the alerts, else "warning"."""
    if item.incident is not None:
        return item.incident.severity
    return next((s for a in item.alerts if (s := a.labels.get("severity"))), "warning")


def headline(item: Notification) -> str:
    """One line: what is wrong. `[RESOLVED] payments-db: saturation, 4 more services affected`."""
    mark = {"firing": severity(item).upper()}.get(status(item), status(item).upper())
    if item.incident is not None and item.incident.title:
        title = item.incident.title
    else:
        names = ", ".join(dict.fromkeys(a.labels.get("alertname", "alert") for a in item.alerts)) or "alerts"
        where = labels_text(item.group_labels, without=("alertname", "incident"))
        title = f"{names} ({where})" if where else names
    late = " (late: found in a backlog)" if item.incident is not None and item.incident.late else ""
    return f"[{mark}] {title}{late}"


def change(item: Notification) -> str:
    """What is new since the last notification, as a sentence."""
    incident = item.incident
    if item.reason is NotifyReason.ACKNOWLEDGED and incident is not None:
        until = f" until {when(incident.ack_until)}" if incident.ack_until else ""
        return f"Acknowledged by {incident.acked_by or 'somebody'}{until}."
    if item.reason is NotifyReason.MERGED:
        into = (
            f"incident {incident.merged_into}" if incident is not None and incident.merged_into else "another incident"
        )
        return f"Merged into {into}, which goes on as {item.supersedes}."
    if item.reason is NotifyReason.ALL_RESOLVED:
        return "Everything has resolved." if incident is None else "The incident has resolved."
    if item.reason is NotifyReason.ROOT_CHANGED and incident is not None and incident.root is not None:
        return f"The probable cause is now {cause(incident.root)}."
    known = {a.fingerprint: a for a in item.alerts}
    new = [known[fp] for fp in item.changed if fp in known and known[fp].state is AlertState.FIRING]
    gone = [known[fp] for fp in item.changed if fp in known and known[fp].state is AlertState.RESOLVED]
    parts = []
    if new:
        parts.append(f"{len(new)} new: {_names(new)}")
    if gone:
        parts.append(f"{len(gone)} resolved: {_names(gone)}")
    said = "; ".join(parts)
    return f"{item.reason[0].upper()}{item.reason[1:]}{': ' + said if said else ''}."


def _names(alerts: list[Alert]) -> str:
    names = list(dict.fromkeys(alert_name(a) for a in alerts))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def alert_name(alert: Alert) -> str:
    """`HighLatency of checkout`."""
    name = alert.labels.get("alertname", "alert")
    if alert.anomaly and "signal" in alert.labels:
        name = f"anomaly of {about(alert.labels['signal'])}"
        return f"{name} ({alert.service})" if alert.service else name
    where = alert.service or alert.labels.get("instance", "")
    return f"{name} of {where}" if where else name


def alert_line(alert: Alert) -> str:
    """One line for one alert: its name, its summary, since when and, once over, until when."""
    summary = alert.annotations.get("summary") or alert.annotations.get("description", "")
    span = f"since {when(alert.starts_at)}"
    if alert.state is AlertState.RESOLVED:
        span = f"{when(alert.starts_at)} to {when(alert.ends_at)}"
    text = f"{alert_name(alert)}: {summary}" if summary else alert_name(alert)
    return f"{text} ({span})"


def cause(root: Candidate) -> str:
    """`payments-db (datastore), confidence 82 %: its saturation left the normal range first`."""
    name = root.service or "something upstream that is not in the graph"
    kind = f" ({root.kind})" if root.kind not in ("", "service", "unknown") else ""
    reason = f": {root.reason}" if root.reason else ""
    return f"{name}{kind}, confidence {100 * root.confidence:.0f} %{reason}"


def chain(root: Candidate) -> str:
    """From the symptom to the cause: `checkout <- payments (calls, 90 %) <- payments-db (calls, 85 %)`."""
    if not root.chain:
        return ""
    text = root.chain[0].symptom
    for link in root.chain:
        share = f", {100 * link.share:.0f} %" if link.share else ""
        text += f" <- {link.cause} ({link.edge}{share})"
    return text


def evidence_line(e: Evidence) -> str:
    """`saturation of payments-db is 0.97, normal 0.2 to 0.6, since 10:03:20 UTC`."""
    (level, low, high, usual), unit = readings(e.metric, [e.level, e.low, e.high, e.normal], rate=e.rate)
    normal = f"normal {low} to {high}{unit}" if e.low != e.high else f"normal {usual}{unit}"
    way = {Direction.LOW: "fell to", Direction.HIGH: "rose to"}.get(e.direction, "is")
    return f"{e.metric} of {e.service} {way} {level}{unit}, {normal}, since {when(e.onset)}"


def evidence(incident: Incident) -> list[str]:
    """The strongest signals of the probable cause, strongest first."""
    if incident.root is None:
        return []
    found = sorted(incident.root.evidence, key=lambda e: (-e.deviation, e.service, e.metric))
    return [evidence_line(e) for e in found[:EVIDENCE_LIMIT]]


def services(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - SERVICES_LIMIT} more" if len(found) > SERVICES_LIMIT else ""
    return ", ".join(found[:SERVICES_LIMIT]) + more


def counts(item: Notification) -> tuple[int, int]:
    """(alerts firing, alerts resolved), of those in the notification."""
    firing = sum(a.state is AlertState.FIRING for a in item.alerts)
    return firing, len(item.alerts) - firing


def facts(item: Notification) -> Iterator[tuple[str, str]]:
    """(name, text) of what an operator wants to know, in the order of reading."""
    incident = item.incident
    if incident is not None:
        if incident.root is not None:
            yield "Probable cause", cause(incident.root)
            if steps := chain(incident.root):
                yield "Chain", steps
            if signals := evidence(incident):
                yield "Evidence", "; ".join(signals)
            for event in incident.root.changes[:2]:
                yield "Change", f"{event.kind} of {event.service} at {when(event.ts)}: {event.summary or event.version}"
        if incident.services:
            yield "Affected", services(incident.services)
    started = started_at(item)
    if started:
        yield "Since", when(started)
    firing, resolved = counts(item)
    more = f", {item.truncated} not listed" if item.truncated else ""
    if item.alerts:
        yield "Alerts", f"{firing} firing, {resolved} resolved{more}"
    if incident is not None and incident.acked_by:
        yield "Acknowledged", f"by {incident.acked_by}"


def started_at(item: Notification) -> float:
    """Earliest onset in UTC seconds; 0 when nothing says so."""
    if item.incident is not None:
        return item.incident.started_at
    return min((a.starts_at for a in item.alerts), default=0.0)


def runbook(item: Notification) -> str:
    """The incident's, else the first alert's; "" when it is no http(s) link."""
    given = [item.incident.runbook] if item.incident is not None else []
    given += [a.annotations.get("runbook_url", "") for a in item.alerts]
    return next((url for url in given if url.startswith(("https://", "http://"))), "")


def link(item: Notification) -> str:
    """The page of the incident (of the one that it was merged into), else the daemon's."""
    base = item.external_url.rstrip("/")
    if not base.startswith(("https://", "http://")):
        return ""
    return f"{base}/incidents/{item.incident.merged_into or item.incident.id}" if item.incident is not None else base


def when(ts: float) -> str:
    """`2026-03-01 10:03:20 UTC`; "unknown" for times that no calendar holds."""
    try:
        return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "unknown"


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, the last one an ellipsis when something is missing.

    >>> cut("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain(item: Notification) -> str:
    """All of it as lines of text."""
    lines = [headline(item), change(item), *(f"{name}: {text}" for name, text in facts(item))]
    if url := runbook(item):
        lines.append(f"Runbook: {url}")
    if url := link(item):
        lines.append(f"Incident: {url}")
    return "\n".join(lines)
