"""The flush of one group: what every integration of its receiver hears now, why nobody does, when to look again."""

from collections.abc import Mapping
from math import inf

import msgspec

from aiopsd.model import (
    Action,
    Alert,
    AlertState,
    Audit,
    AuditEntry,
    Effect,
    Incident,
    IncidentState,
    Notification,
    Notify,
    NotifyReason,
    content_id,
)
from aiopsd.routing.book import Book, Group
from aiopsd.routing.decision import LogEntry, action_of, is_acked, needs_update, needs_update_incident, root_name
from aiopsd.routing.inhibition import Inhibitor
from aiopsd.silences import SilenceBook

ALERT_LIMIT = 100  # alerts in one notification: no receiver shows more, and the outbox keeps every one of them


class Flusher:
    """Decides what is told, and writes the notification log in the same breath."""

    def __init__(self, book: Book, silences: SilenceBook, inhibitor: Inhibitor, external_url: str) -> None:
        self._book = book
        self._silences = silences
        self._inhibitor = inhibitor
        self._external_url = external_url

    def muted(self, alert: Alert, stamp: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(ids of silences, fingerprints of inhibiting alerts) that keep this alert quiet at `stamp`."""
        return self._silences.silenced_by(alert.labels, stamp), self._inhibitor.inhibited_by(alert.labels)

    def flush(self, group: Group, stamp: float) -> list[Effect]:
        """Decide for every integration of the group's receiver, write the log, arm the next timer."""
        on_grid = not group.grid or stamp >= self._book.tick(group, group.grid)
        incident = self._book.incidents.get(group.incident) if group.incident else self._only_incident(group)
        shown: list[Alert] = []
        muted: dict[str, dict[str, None]] = {"silenced": {}, "muted": {}, "inhibited": {}}  # why -> by what, in order
        for alert in group.alerts.values():
            if group.incident and alert.state is AlertState.RESOLVED:
                shown.append(alert)  # good news of an incident is never muted
                continue
            by_silence, by_alert = self.muted(alert, stamp)
            by_time = self._book.muted_by(group, alert, stamp)
            if not (by_silence or by_time or by_alert):
                shown.append(alert)
            for why, by in zip(muted, (by_silence, by_time, by_alert), strict=True):
                muted[why].update(dict.fromkeys(by))
        firing = {a.fingerprint: None for a in shown if a.state is AlertState.FIRING and group.pages(a)}
        resolved = {a.fingerprint: None for a in shown if a.state is AlertState.RESOLVED and group.pages(a)}
        # all that could page is muted, or nothing fires at all: neither is the time to correct what was said
        quiet = not firing and (any(muted.values()) or all(a.state is AlertState.RESOLVED for a in shown))
        repeat = self._book.repeat(group)
        effects: list[Effect] = []
        for name, send_resolved in self._book.integrations.get(group.receiver, ()):
            log = group.logs.get(name)
            reason = None
            if group.incident and incident is not None:
                reason = needs_update_incident(
                    log,
                    incident,
                    firing,
                    resolved,
                    send_resolved=send_resolved,
                    repeat_interval=repeat,
                    stamp=stamp,
                    quiet=quiet,
                )
            elif not group.incident and shown:
                reason = needs_update(
                    log, firing, resolved, send_resolved=send_resolved, repeat_interval=repeat, stamp=stamp
                )
            if reason is None:
                if log is not None and incident is not None and not is_acked(incident, stamp):
                    log.acked_at = 0.0  # it ended while nothing fired: not news any more
                continue
            told = shown if send_resolved else [a for a in shown if a.state is AlertState.FIRING]
            note = self._notification(group, name, log, reason, told, firing, resolved, incident, stamp)
            group.logs[name] = self._logged(log, note, reason, firing, resolved, incident)
            if send_resolved or note.action is not Action.RESOLVE:
                effects.append(Notify(notification=note))
        again = any(muted.values()) or not on_grid  # a silence may end; what waited for the tick still waits
        again = again or any(isinstance(e, Notify) and e.notification.action is Action.ACKNOWLEDGE for e in effects)
        effects += self._held(group, incident, firing, muted, bool(effects), stamp)
        self._settle(group, incident, again, on_grid, stamp)
        return effects

    def _only_incident(self, group: Group) -> Incident | None:
        """The incident of a label group's alerts, when they share one."""
        ids = dict.fromkeys(a.incident for a in group.alerts.values())
        return self._book.incidents.get(next(iter(ids))) if len(ids) == 1 else None

    def _notification(
        self,
        group: Group,
        integration: str,
        log: LogEntry | None,
        reason: NotifyReason,
        shown: list[Alert],
        firing: Mapping[str, None],
        resolved: Mapping[str, None],
        incident: Incident | None,
        stamp: float,
    ) -> Notification:
        told = log.firing if log is not None else {}
        changed = [fp for fp in firing if fp not in told] + [fp for fp in resolved if fp in told]
        rank = dict.fromkeys(changed, 0)
        ordered = sorted(
            shown, key=lambda a: rank.get(a.fingerprint, 1 if a.state is AlertState.FIRING else 2)
        )  # stable: within a rank, in order of arrival
        dedup_key, supersedes, into = group.dedup_key, "", ""
        if group.incident and incident is not None:
            dedup_key = self._book.keys.get(incident.id, incident.dedup_key)
            if reason is NotifyReason.MERGED and log is not None:
                dedup_key = log.dedup_key
                supersedes, into = self._book.living(incident)
        seq = log.seq + 1 if log is not None else 1
        return Notification(
            id=content_id("notification", group.key, group.receiver, integration, seq, repr(stamp)),
            receiver=group.receiver,
            integration=integration,
            group_key=group.key,
            dedup_key=dedup_key,
            action=action_of(reason),
            reason=reason,
            stamp=stamp,
            group_labels=group.labels,
            alerts=tuple(ordered[:ALERT_LIMIT]),
            changed=tuple(changed[:ALERT_LIMIT]),
            incident=incident,
            supersedes=supersedes,
            into=into,
            external_url=self._external_url,
            truncated=max(0, len(ordered) - ALERT_LIMIT),
        )

    def _logged(
        self,
        log: LogEntry | None,
        note: Notification,
        reason: NotifyReason,
        firing: dict[str, None],
        resolved: dict[str, None],
        incident: Incident | None,
    ) -> LogEntry:
        acked_at = incident.acked_at if incident is not None and is_acked(incident, note.stamp) else 0.0
        seq = log.seq + 1 if log is not None else 1
        if reason is NotifyReason.ACKNOWLEDGED and log is not None:
            return msgspec.structs.replace(log, acked_at=acked_at, seq=seq)  # new alerts are still to be told
        return LogEntry(
            at=note.stamp,
            firing=firing,
            resolved=resolved,
            seq=seq,
            open=note.action is not Action.RESOLVE,
            dedup_key=note.dedup_key,
            root=root_name(incident) if incident is not None else "",
            acked_at=acked_at,
        )

    def _held(
        self,
        group: Group,
        incident: Incident | None,
        firing: Mapping[str, None],
        muted: Mapping[str, Mapping[str, None]],
        told: bool,
        stamp: float,
    ) -> list[Effect]:
        """The audit line of a page that was held back; one for each new reason, not one for each tick."""
        reason, text = "", ""
        silent = not group.logs and not told
        alive = incident is None or incident.state in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)
        if told or not self._book.integrations.get(group.receiver):
            pass
        elif not alive:
            if silent and incident is not None and incident.state is IncidentState.RESOLVED and not group.held:
                reason = "late" if incident.late else "short-lived"
                text = "it was over before it could be announced"
        elif not firing and any(muted.values()):
            reason = next(why for why, by in muted.items() if by)
            text = f"by {', '.join(name for by in muted.values() for name in by)}"
        elif firing and silent and group.incident and incident is not None and is_acked(incident, stamp):
            reason, text = "acknowledged", f"by {incident.acked_by}"
        elif group.incident and silent and not firing and any(not group.pages(a) for a in group.alerts.values()):
            reason, text = "anomaly-only", "only anomalies fire, and page_anomalies is off"
        if reason == "":
            group.held = "" if told else group.held
            return []
        if group.held == f"{reason} {text}":
            return []
        group.held = f"{reason} {text}"
        entry = AuditEntry(
            incident=group.incident or (incident.id if incident is not None else ""),
            stamp=stamp,
            kind="suppressed",
            text=f"{group.receiver}: {text}",
            reason=reason,
        )
        return [Audit(entry=entry)]

    def _settle(self, group: Group, incident: Incident | None, again: bool, on_grid: bool, stamp: float) -> None:
        """After a flush: what leaves the group, and when it must be looked at again."""
        over = group.incident and (incident is None or incident.state in (IncidentState.RESOLVED, IncidentState.MERGED))
        if on_grid:
            group.grid = stamp
        if over or not group.incident:
            for fp in [fp for fp, a in group.alerts.items() if a.state is AlertState.RESOLVED]:
                del group.alerts[fp]
                self._book.leave(fp, group.id)
        if over:
            group.grid = 0.0  # if it reopens, it waits like a new one
            return
        if not group.alerts and not group.incident:
            self._book.drop(group)
            if group.logs:
                repeat = self._book.repeat(group)
                self._book.remember(group.id, stamp + 2 * repeat, group.logs)
            self._book.forget_logs(stamp)
            return
        at = stamp if again else self._next_look(group, incident, stamp)
        if at is not None:
            self._book.arm(group, max(self._book.tick(group, at), self._book.next_tick(group, stamp)))

    def _next_look(self, group: Group, incident: Incident | None, stamp: float) -> float | None:
        """The earliest stamp at which something can be due although nothing more arrives; None: never."""
        firing = any(a.state is AlertState.FIRING and group.pages(a) for a in group.alerts.values())
        if not firing or not self._book.integrations.get(group.receiver):
            return None if group.incident or firing else stamp
        repeat = self._book.repeat(group)
        at = min((log.at + repeat for log in group.logs.values()), default=inf)
        if group.incident and incident is not None and is_acked(incident, stamp):
            at = incident.ack_until if incident.ack_until else inf
        return None if at == inf else at
