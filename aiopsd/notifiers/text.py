"""The words of a notification: cause, chain, evidence, affected services, since when, what changed, where to look.

Enters: a Notification. Leaves: plain text, without any vendor's markup; each notifier dresses it and cuts it to its
limits. Times are written in UTC, with the zone, because a page is read by whoever is awake.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from aiopsd.evidence import about, readings
from aiopsd.incidents import advice, span
from aiopsd.model import (
    Action,
    Alert,
    AlertState,
    Candidate,
    ChangeEvent,
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
SLIGHT = 0.05  # confidence; an alternative below it is none that a person would try
TITLE_LEAST = 40  # characters that a title keeps, however little room its headline has


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


def headline(item: Notification, limit: int = 1024) -> str:
    """One line of at most `limit` characters: what is wrong, how sure of the cause, since when.

    `[CRITICAL] payments-db: saturation high, 4 more affected (cause 82 % sure, since 10:02:20 UTC)`
    """
    incident = item.incident
    mark = {"firing": severity(item).upper()}.get(status(item), status(item).upper())
    if incident is not None and incident.title:
        title = incident.title
    else:
        names = ", ".join(dict.fromkeys(a.labels.get("alertname", "alert") for a in item.alerts)) or "alerts"
        where = labels_text(item.group_labels, without=("alertname", "incident"))
        title = f"{names} ({where})" if where else names
    aside = []
    if incident is not None and incident.root is not None and item.reason is not NotifyReason.MERGED:
        aside.append(f"cause {100 * incident.root.confidence:.0f} % sure")
    if status(item) in ("resolved", "merged"):
        aside += [f"lasted {lasted}"] if (lasted := _lasted(item)) else []
    elif started := started_at(item):
        aside.append(f"since {clock(started, item.stamp)}")
    if incident is not None and incident.late:
        aside.append("late: found in a backlog")
    tail = f" ({', '.join(aside)})" if aside else ""
    room = max(TITLE_LEAST, limit - len(mark) - len(tail) - 3)
    return f"[{mark}] {cut(title, room)}{tail}"


def _lasted(item: Notification) -> str:
    """From the earliest onset to the end of the last alert; "" when something still fires or nothing says so."""
    over = item.incident.quiet_since or item.incident.resolved_at if item.incident is not None else item.stamp
    return span(over - started_at(item)) if over and started_at(item) and not counts(item)[0] else ""


def change(item: Notification) -> str:
    """What is new since the last notification, as a sentence; "" in an incident's first one."""
    incident = item.incident
    if item.reason is NotifyReason.ACKNOWLEDGED and incident is not None:
        until = f" until {clock(incident.ack_until, item.stamp)}" if incident.ack_until else ""
        return f"Acknowledged by {incident.acked_by or 'somebody'}{until}."
    if item.reason is NotifyReason.MERGED:
        other = f"incident {incident.merged_into}" if incident is not None and incident.merged_into else ""
        into = item.into or other or "another incident"
        return f"Merged into {into}, which goes on as {item.supersedes}."
    if item.reason is NotifyReason.ALL_RESOLVED:
        return _ended(item)
    if item.reason is NotifyReason.ROOT_CHANGED and incident is not None and incident.root is not None:
        return f"The probable cause is now {cause(incident.root)}."
    if item.reason is NotifyReason.FIRST and incident is not None:
        return ""  # all of it is new: the facts say it
    known = {a.fingerprint: a for a in item.alerts}
    new = [known[fp] for fp in item.changed if fp in known and known[fp].state is AlertState.FIRING]
    gone = [known[fp] for fp in item.changed if fp in known and known[fp].state is AlertState.RESOLVED]
    parts = []
    if new:
        parts.append(f"{len(new)} new: {_names(new)}")
    if gone:
        parts.append(f"{len(gone)} resolved: {_names(gone)}")
    said = "; ".join(parts)
    if not said and item.reason is NotifyReason.REPEAT and started_at(item):
        said = f"still firing after {span(item.stamp - started_at(item))}"
    return f"{item.reason[0].upper()}{item.reason[1:]}{': ' + said if said else ''}."


def _ended(item: Notification) -> str:
    """How it ended: by itself and after how long, or by somebody's word while it still fires."""
    firing = item.incident.firing if item.incident is not None else 0
    if firing:
        return f"Resolved by an operator while {firing} of its alerts still fire{'s' if firing == 1 else ''}."
    lasted = _lasted(item)
    what = "The incident" if item.incident is not None else "Everything"
    last = item.incident.quiet_since if item.incident is not None else 0.0
    quiet = f"; nothing fires since {clock(last, item.stamp)}" if last else ""
    return f"{what} has resolved{f', it lasted {lasted}' if lasted else ''}{quiet}."


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


def alert_line(alert: Alert, near: float) -> str:
    """One line for one alert: its name, its summary, since when and, once over, until when; see `clock` for `near`."""
    summary = alert.annotations.get("summary") or alert.annotations.get("description", "")
    span = f"since {clock(alert.starts_at, near)}"
    if alert.state is AlertState.RESOLVED:
        span = f"{clock(alert.starts_at, near)} to {clock(alert.ends_at, near)}"
    elif alert.anomaly and "since " in summary:
        span = ""  # our own words say it, of each metric
    text = f"{alert_name(alert)}: {summary}" if summary else alert_name(alert)
    return f"{text} ({span})" if span else text


def cause(root: Candidate) -> str:
    """`payments-db (datastore), confidence 82 %: its saturation left the normal range first`."""
    name = root.service or "something upstream that is not in the graph"
    kind = f" ({root.kind})" if root.kind not in ("", "service", "unknown") else ""
    reason = f": {root.reason.removeprefix(f'{root.service}: ')}" if root.reason else ""
    return f"{name}{kind}, confidence {100 * root.confidence:.0f} %{reason}"


def alternatives(incident: Incident) -> list[str]:
    """The next candidates, as far as a person would try them."""
    return [cause(c) for c in incident.roots[1:3] if c.confidence >= SLIGHT]


def chain(root: Candidate) -> str:
    """From the symptom to the cause: `checkout calls payments (explains 90 %), which reads payments-db (85 %)`."""
    steps = []
    for i, link in enumerate(root.chain):
        share = f" ({'explains ' if not i else ''}{100 * link.share:.0f} %)" if link.share else ""
        steps.append(f"{'which' if i else link.symptom} {link.verb} {link.cause or 'something unknown'}{share}")
    return ", ".join(steps)


def evidence_line(e: Evidence, near: float) -> str:
    """`saturation of payments-db rose to 0.97, normal 0.2 to 0.6, since 10:03:20 UTC`; see `clock` for `near`."""
    since = f"since {clock(e.onset, near)}"
    if e.channel == "no-data":
        return f"{e.metric} of {e.service} has no data {since}"
    (level, low, high, usual), unit = readings(e.metric, [e.level, e.low, e.high, e.normal], rate=e.rate)
    if e.channel == "flatline":
        return f"{e.metric} of {e.service} does not move from {level}{unit} {since}"
    normal = f"normal {low} to {high}{unit}" if e.low != e.high else f"normal {usual}{unit}"
    way = {Direction.LOW: "fell to", Direction.HIGH: "rose to"}.get(e.direction, "is")
    return f"{e.metric} of {e.service} {way} {level}{unit}, {normal}, {since}"


def evidence(item: Notification) -> list[str]:
    """What speaks for the probable cause: its strongest signals, strongest first; without any, its own alerts."""
    incident = item.incident
    if incident is None or incident.root is None:
        return []
    found = sorted(incident.root.evidence, key=lambda e: (-e.deviation, e.service, e.metric))
    if found:
        return [evidence_line(e, item.stamp) for e in found[:EVIDENCE_LIMIT]]
    own = [a for a in item.alerts if a.service == incident.root.service]
    return [alert_line(a, item.stamp) for a in own[:EVIDENCE_LIMIT]]


def changed(event: ChangeEvent, began: float, near: float) -> str:
    """`deploy v42 of search at 22:59:45 UTC, 1m 30s before it began, by ci: release 42 (https://ci/42)`."""
    said = f"{event.kind}{' ' + event.version if event.version else ''} of {event.service} at {clock(event.ts, near)}"
    if began >= event.ts:
        said += f", {span(began - event.ts)} before it began"
    said += f", by {event.actor}" if event.actor else ""
    said += f": {event.summary}" if event.summary else ""
    return f"{said} ({event.link})" if event.link.startswith(("https://", "http://")) else said


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
            for event in incident.root.changes[:2]:
                yield "Change", changed(event, incident.started_at, item.stamp)
            if signals := evidence(item):
                yield "Evidence", "; ".join(signals)
            if steps := chain(incident.root):
                yield "Chain", steps
            if others := alternatives(incident):
                yield "Next suspects", "; ".join(others)
        else:
            yield "Probable cause", "not known yet"
        for name, key in (("First look", "first look"), ("Owner", "owner")):
            said, whose = advice(item.alerts, incident.root, key)
            if said:
                yield name, f"{said} (of {whose})" if whose else said
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
    """Of the cause's alerts, else the incident's, else another alert's; "" when it is no http(s) link."""
    return _runbook(item)[0]


def _runbook(item: Notification) -> tuple[str, str]:
    incident = item.incident
    found, whose = advice(item.alerts, incident.root if incident is not None else None, "runbook")
    if incident is not None and (not found or (whose and incident.runbook not in ("", found))):
        found, whose = incident.runbook, ""
    return (found, whose) if _is_link(found) else ("", "")


def link(item: Notification) -> str:
    """The page of the incident (of the one that it was merged into), else the daemon's."""
    base = item.external_url.rstrip("/")
    if not _is_link(base):
        return ""
    return f"{base}/incidents/{item.incident.merged_into or item.incident.id}" if item.incident is not None else base


def links(item: Notification) -> list[tuple[str, str]]:
    """(name, address) of where to look, most useful first; http(s) only."""
    root = item.incident.root if item.incident is not None else None
    found = [("Incident", link(item))]
    for name, (url, whose) in (("Runbook", _runbook(item)), ("Dashboard", advice(item.alerts, root, "dashboard"))):
        found.append((f"{name} of {whose}" if whose else name, url))
    found += [(f"{c.kind.capitalize()} {c.version}".strip(), c.link) for c in root.changes[:1]] if root else []
    return [(name, url) for name, url in found if _is_link(url)]


def _is_link(url: str) -> bool:
    return url.startswith(("https://", "http://"))


def clock(ts: float, near: float) -> str:
    """`10:03:20 UTC`, with its date when that is not the date of `near`, the time at which it is said.

    >>> clock(1_772_359_400.0, 1_772_359_430.0), clock(1_772_359_400.0, 1_772_450_000.0)
    ('10:03:20 UTC', '2026-03-01 10:03:20 UTC')
    """
    said = when(ts)
    return said[11:] if said[:10] == when(near)[:10] and said != "unknown" else said


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
    lines = [headline(item), *filter(None, [change(item)]), *(f"{name}: {text}" for name, text in facts(item))]
    return "\n".join(lines + [f"{name}: {url}" for name, url in links(item)])
