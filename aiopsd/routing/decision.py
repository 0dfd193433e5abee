"""What a receiver should hear now, given what it was last told: the needs-update decision."""

from collections.abc import Collection

import msgspec

from aiopsd.model import Action, Incident, IncidentState, NotifyReason

ROOT_MARGIN = 0.1  # of confidence by which a new top cause must lead the announced one: two near ties may swap for ever


class LogEntry(msgspec.Struct, kw_only=True):
    """What one integration was last told of one group: the notification log."""

    at: float
    firing: dict[str, None]  # fingerprints, in order; a dict for its order and its look-up
    resolved: dict[str, None] = {}
    seq: int = 1
    open: bool = True  # the receiver has an item that no resolve has closed
    dedup_key: str = ""
    root: str = ""  # kind/service of the probable cause that was named
    acked_at: float = 0.0  # of the acknowledgement that was passed on; 0: none


def needs_update(
    log: LogEntry | None,
    firing: Collection[str],
    resolved: Collection[str],
    *,
    send_resolved: bool,
    repeat_interval: float,
    stamp: float,
) -> NotifyReason | None:
    """Alertmanager's decision for a label group (notify/notify.go needsUpdate), with its reason; None: nothing is due.

    ALL_RESOLVED does not depend on `send_resolved`: the log must learn that nothing fires; the caller does not send.
    """
    if log is None:
        return NotifyReason.FIRST if firing else None
    if any(fp not in log.firing for fp in firing):
        return NotifyReason.NEW_ALERTS
    if not firing:
        return NotifyReason.ALL_RESOLVED if log.firing else None
    if send_resolved and any(fp not in log.resolved for fp in resolved):
        return NotifyReason.SOME_RESOLVED
    if stamp - log.at >= repeat_interval:
        return NotifyReason.REPEAT
    return None


def needs_update_incident(
    log: LogEntry | None,
    incident: Incident,
    firing: Collection[str],
    resolved: Collection[str],
    *,
    send_resolved: bool,
    repeat_interval: float,
    stamp: float,
    quiet: bool = False,
) -> NotifyReason | None:
    """The decision for an incident's group; `firing` holds what may page (see `page_anomalies`) and is not muted.

    An incident that is over closes what was opened and never opens anything. While it is acknowledged, news is still
    told, but neither a first page nor a repeat is sent. While nothing fires, or all that does is muted (`quiet`), only
    its end and an acknowledgement are told: the end names the newest cause.
    """
    if incident.state is IncidentState.MERGED:
        return NotifyReason.MERGED if log is not None and log.open else None
    if incident.state is IncidentState.RESOLVED:
        return NotifyReason.ALL_RESOLVED if log is not None and log.open else None
    acked = is_acked(incident, stamp)
    if log is None or not log.open:
        if not firing or acked:
            return None
        return NotifyReason.FIRST if log is None else NotifyReason.REOPENED
    if acked and log.acked_at != incident.acked_at:
        return NotifyReason.ACKNOWLEDGED
    if log.acked_at and not acked and firing:
        return NotifyReason.ACK_ENDED
    if any(fp not in log.firing for fp in firing):
        return NotifyReason.NEW_ALERTS
    if root_changed(log.root, incident) and not quiet:
        return NotifyReason.ROOT_CHANGED
    if send_resolved and firing and any(fp in log.firing for fp in resolved):
        return NotifyReason.SOME_RESOLVED  # when nothing fires any more, the incident's end is the news
    if firing and not acked and stamp - log.at >= repeat_interval:
        return NotifyReason.REPEAT
    return None


def is_acked(incident: Incident, stamp: float) -> bool:
    """Somebody has it and their time is not over."""
    return incident.state is IncidentState.ACKNOWLEDGED and not 0 < incident.ack_until <= stamp


def root_name(incident: Incident) -> str:
    """kind/service of the top candidate; "" without one."""
    return f"{incident.root.kind}/{incident.root.service}" if incident.root is not None else ""


def root_changed(told: str, incident: Incident) -> bool:
    """The probable cause is materially another than the one that was told: another name, and clearly ahead of it."""
    now = root_name(incident)
    if not now or now == told or incident.root is None:
        return False
    before = next((c.confidence for c in incident.roots if f"{c.kind}/{c.service}" == told), 0.0)
    return not told or incident.root.confidence >= before + ROOT_MARGIN


def action_of(reason: NotifyReason) -> Action:
    """What the receiver should do with its item."""
    if reason in (NotifyReason.ALL_RESOLVED, NotifyReason.MERGED):
        return Action.RESOLVE
    return Action.ACKNOWLEDGE if reason is NotifyReason.ACKNOWLEDGED else Action.TRIGGER
