"""Incidents: how they open, take alerts in, come together, come apart and end."""

import math
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from aiopsd import incidents as lifecycle
from aiopsd.config import CorrelateConfig
from aiopsd.correlate.grouping import Placement, Revision
from aiopsd.correlate.pieces import Pieces
from aiopsd.evidence import about
from aiopsd.incidents import IllegalMove, Move
from aiopsd.model import AckIncident, Alert, AlertState, Incident, IncidentState, NotifyReason, ResolveIncident
from aiopsd.pipeline.correlate.causes import Causes
from aiopsd.pipeline.correlate.ledger import ACK, ACTIVE, FORGET_INCIDENT, QUIET, Ledger
from aiopsd.pipeline.correlate.pages import Pages

MANUAL = "resolved by an operator"


class Incidents:
    """The life of every incident, as grouping, operators and time would have it."""

    def __init__(self, config: CorrelateConfig, ledger: Ledger, pages: Pages, causes: Causes, pieces: Pieces) -> None:
        self.config = config
        self._ledger = ledger
        self._pages = pages
        self._causes = causes
        self._pieces = pieces

    # ------------------------------------------------------------------ alerts in

    def join(self, alert: Alert, placement: Placement, late: bool) -> None:
        """A firing alert goes where grouping placed it."""
        ledger = self._ledger
        for source, target in placement.merged:
            self._merge(source, ledger.living(target), placement.reason)
        incident_id = ledger.living(placement.incident)
        if incident_id != alert.incident:
            alert = replace(alert, incident=incident_id)
            ledger.keep(alert)
        if not incident_id:
            ledger.audit("", "suppressed", f"{name(alert)}: {placement.reason}", reason="kept quiet")
            self._pages.news(alert.fingerprint)
            return
        incident = ledger.incidents.get(incident_id)
        if incident is None:
            incident = self._opened(incident_id, alert.starts_at, math.floor(ledger.now), late)
            ledger.put(incident)
            ledger.audit(incident_id, "opened", f"{name(alert)} opened the incident", reason=placement.reason)
        else:
            ledger.audit(incident_id, "grouped", f"{name(alert)} joined", reason=placement.reason)
            if not late and incident.late and incident.state is not IncidentState.RESOLVED:
                incident = replace(incident, late=False)
        reopened = incident.state is IncidentState.RESOLVED
        if not incident.alerts or reopened or not (alert.anomaly or self._has_page(incident)):
            self._causes.ask_first(incident_id)
        incident = replace(
            incident,
            state=lifecycle.move(incident.state, Move.ALERT),
            started_at=min(incident.started_at, alert.starts_at) if not reopened else incident.started_at,
            resolved_at=0.0,
            reopened=incident.reopened + reopened,
            acked_at=0.0 if reopened else incident.acked_at,
            acked_by="" if reopened else incident.acked_by,
            ack_until=0.0 if reopened else incident.ack_until,
        )
        ledger.put(ledger.summed(incident, alert))
        if reopened:
            ledger.audit(incident_id, "reopened", f"{name(alert)} fires again", reason=placement.reason)
            self._pages.reopened(incident_id)
        self._pages.news(alert.fingerprint)
        self._causes.want(incident_id)

    def _opened(self, incident_id: str, started: float, second: float, late: bool = False) -> Incident:
        now = self._ledger.now
        key = f"aiopsd-{incident_id}"
        self._pieces.opened(incident_id, second)
        return Incident(id=incident_id, dedup_key=key, started_at=started, opened_at=now, updated_at=now, late=late)

    def _has_page(self, incident: Incident) -> bool:
        """It holds an alert that somebody else decided, not only our anomalies."""
        alerts = self._ledger.alerts  # one after the other: mostly the first tells, and there may be thousands
        return any(not a.anomaly for fp in incident.alerts if (a := alerts.get(fp)) is not None)

    def alert_ended(self, alert: Alert) -> None:
        """One of its alerts fires no more."""
        incident = self._ledger.incidents.get(alert.incident)
        if incident is not None:
            self._ledger.put(self._ledger.summed(incident))
            self._ledger.audit(incident.id, "alert", f"{name(alert)} resolved")
            self._settle(incident.id)

    def alert_changed(self, alert: Alert) -> None:
        """One of its alerts says something new of itself."""
        incident = self._ledger.incidents.get(alert.incident)
        if incident is not None:
            self._ledger.put(self._ledger.summed(incident))
            self._causes.want(incident.id)

    # ------------------------------------------------------------------ second thoughts

    def revise(self, revisions: Iterable[Revision]) -> None:
        """Second thoughts of the grouper: whole incidents that are one, or alerts that belong elsewhere."""
        for revision in revisions:
            if revision.kind == "merge":
                self._merge(revision.source, self._ledger.living(revision.target), revision.reason)
            elif revision.kind == "why":
                for alert in filter(None, map(self._ledger.alerts.get, revision.fingerprints)):
                    self._ledger.keep(replace(alert, group_reason=revision.reason))
            else:
                self._move(revision)

    def _move(self, revision: Revision) -> None:
        ledger = self._ledger
        target_id = ledger.living(revision.target)
        moved = [a for fp in revision.fingerprints if (a := ledger.alerts.get(fp)) is not None]
        moved = [a for a in moved if a.incident != target_id]
        if not moved:
            return
        # not what the revision takes for its source: what comes and goes within one second may be moved twice
        left = dict.fromkeys(ledger.living(a.incident) for a in moved if a.incident)
        for alert in moved:
            ledger.keep(replace(alert, incident=target_id, group_reason=revision.reason))
        if target_id:
            started = min(a.starts_at for a in moved)
            target = ledger.incidents.get(target_id)
            if target is None:
                target = self._opened(target_id, started, math.ceil(ledger.now) - 1)  # the second that is over
                of = ledger.incidents.get(revision.source)
                origin = called(of) if of is not None else revision.source
                ledger.audit(target_id, "opened", f"split from {origin}", reason=revision.reason)
            if any(a.state is AlertState.FIRING for a in moved):
                target = replace(target, state=lifecycle.move(target.state, Move.ALERT), resolved_at=0.0)
            fps = tuple(dict.fromkeys((*target.alerts, *(a.fingerprint for a in moved))))
            ledger.put(ledger.recounted(replace(target, started_at=min(target.started_at, started)), fps))
            self._settle(target_id)
        for source in [ledger.incidents[i] for i in left if i in ledger.incidents and i != target_id]:
            gone = {a.fingerprint for a in moved if ledger.living(a.incident) == source.id}
            ledger.put(ledger.recounted(source, tuple(fp for fp in source.alerts if fp not in gone)))
            where = called(ledger.incidents[target_id]) if target_id in ledger.incidents else "no incident"
            text = f"{len(gone)} alert{'s' if len(gone) != 1 else ''} moved to {where}"
            ledger.audit(source.id, "split", text, revision.reason)
            self._settle(source.id)
        self._pages.regrouped(a.fingerprint for a in moved)
        for incident_id in (target_id, *left):
            if incident_id in ledger.incidents:
                self._pages.tell(incident_id)
                self._causes.want(incident_id)

    def _merge(self, source_id: str, target_id: str, reason: str) -> None:
        ledger = self._ledger
        source, target = ledger.incidents.get(source_id), ledger.incidents.get(target_id)
        if source is None or target is None or source_id == target_id or source.state is IncidentState.MERGED:
            return
        for alert in ledger.members(source):
            if alert.incident == source_id:
                ledger.keep(replace(alert, incident=target_id, group_reason=f"merged: {reason}"))
        if source.state in ACTIVE:  # else its end has been counted
            self._pieces.ended(source_id, ledger.now, merged=True)
        started = min(source.started_at, target.started_at)
        told = target if target.said else source
        state = target.state
        if state is IncidentState.RESOLVED and source.firing:
            state = lifecycle.move(state, Move.ALERT)
        target = ledger.recounted(
            replace(
                target,
                state=state,
                resolved_at=0.0 if state is not IncidentState.RESOLVED else target.resolved_at,
                merged_from=(*target.merged_from, source_id),
                said=told.said,
                said_by=told.said_by,
                started_at=started,
            ),
            tuple(dict.fromkeys((*target.alerts, *source.alerts))),
        )
        source = replace(
            source,
            state=lifecycle.move(source.state, Move.MERGE),
            merged_into=target_id,
            firing=0,
            resolved_at=source.resolved_at or ledger.now,
        )
        self._causes.merged(source, target, started)
        ledger.put(source)
        ledger.put(target)
        ledger.timer(ledger.now + self.config.retention, FORGET_INCIDENT, source_id)
        ledger.audit(source_id, "merged", f"merged into {called(target)}", reason=reason)
        ledger.audit(target_id, "merged", f"{called(source)} merged into this incident", reason=reason)
        self._pages.regrouped(source.alerts)
        self._pages.tell(source_id, NotifyReason.MERGED)
        self._pages.tell(target_id)
        self._causes.want(target_id)

    # ------------------------------------------------------------------ the end

    def _settle(self, incident_id: str) -> None:
        """Start the quiet period of an incident in which nothing fires any more."""
        ledger = self._ledger
        incident = ledger.incidents[incident_id]
        if not incident.firing:
            ledger.put(replace(incident, quiet_since=ledger.now))
            ledger.timer(ledger.now + self.config.resolve_after, QUIET, incident_id)

    def on_quiet(self, incident_id: str) -> None:
        """A quiet period may be over."""
        incident = self._ledger.incidents.get(incident_id)
        if incident is None or incident.firing or incident.state not in ACTIVE:
            return
        if incident.quiet_since + self.config.resolve_after <= self._ledger.now:
            self._close(incident, Move.QUIET, "nothing fired for correlate.resolve_after")

    def _close(self, incident: Incident, what: Move, reason: str, actor: str = "") -> None:
        ledger = self._ledger
        ledger.put(replace(incident, state=lifecycle.move(incident.state, what), resolved_at=ledger.now))
        self._causes.settled(incident.id)
        self._pieces.ended(incident.id, ledger.now, merged=False)
        ledger.timer(ledger.now + self.config.retention, FORGET_INCIDENT, incident.id)
        ledger.audit(incident.id, "resolved", "incident resolved", reason=reason, actor=actor)
        self._pages.tell(incident.id, NotifyReason.ALL_RESOLVED)

    def to_forget(self, incident_id: str) -> bool:
        """Retention is over; an incident that still fires, because an operator resolved it, is kept on."""
        ledger, keep = self._ledger, self.config.retention
        incident = ledger.incidents.get(incident_id)
        if incident is None or incident.state in ACTIVE:
            return False
        end = incident.updated_at + keep
        if end > ledger.now or incident.firing:
            again = max(end, ledger.now + keep) if incident.firing else end
            ledger.timer(again, FORGET_INCIDENT, incident_id)
            return False
        return True

    def forget(self, incident_id: str) -> Incident:
        """It leaves the stage's memory; the incident that it was."""
        self._causes.forget(incident_id)
        return self._ledger.forget(incident_id)

    # ------------------------------------------------------------------ operators

    def on_ack(self, command: AckIncident) -> None:
        """Somebody has it."""
        ledger = self._ledger
        incident = self._commanded(command.incident, Move.ACK, command.actor)
        if incident is None:
            return
        ledger.put(
            replace(
                incident,
                state=lifecycle.move(incident.state, Move.ACK),
                acked_at=ledger.now,
                acked_by=command.actor,
                ack_until=command.until,
            )
        )
        if command.until:
            ledger.timer(command.until, ACK, incident.id)
        ledger.audit(incident.id, "ack", command.comment or "acknowledged", actor=command.actor)
        self._pages.tell(incident.id, NotifyReason.ACKNOWLEDGED)

    def on_ack_ended(self, incident_id: str) -> None:
        """The time of an acknowledgement may be over."""
        ledger = self._ledger
        incident = ledger.incidents.get(incident_id)
        if incident is None or incident.state is not IncidentState.ACKNOWLEDGED:
            return
        if 0 < incident.ack_until <= ledger.now:
            ledger.put(replace(incident, state=lifecycle.move(incident.state, Move.ACK_ENDED)))
            ledger.audit(incident_id, "ack", "acknowledgement ended and it still fires", reason="ack ended")
            self._pages.tell(incident_id)

    def on_resolve(self, command: ResolveIncident) -> None:
        """Somebody says that it is over."""
        incident = self._commanded(command.incident, Move.RESOLVE, command.actor)
        if incident is not None:
            self._close(incident, Move.RESOLVE, command.comment or MANUAL, command.actor)

    def _commanded(self, incident_id: str, what: Move, actor: str) -> Incident | None:
        """The incident that a command means, or None and an audit line that says why it was refused."""
        ledger = self._ledger
        incident = ledger.incidents.get(ledger.living(incident_id))
        if incident is None:
            ledger.audit("", "refused", f"{what}: unknown incident {incident_id}", actor=actor)
            return None
        try:
            lifecycle.move(incident.state, what)
        except IllegalMove as e:
            ledger.audit(incident.id, "refused", str(e), actor=actor)
            return None
        return incident

    # ------------------------------------------------------------------ snapshot

    def resume(self, meta: dict[str, Any]) -> None:
        """The ledger has its incidents again: a quiet period may be longer or shorter by now than when it began."""
        ledger = self._ledger
        for incident_id, since in meta.get("last_fired", {}).items():  # up to version 7 it stood beside the incidents
            incident = ledger.incidents.get(incident_id)
            if incident is not None and not incident.firing:
                ledger.incidents[incident_id] = replace(incident, quiet_since=since)
        set_ = set(ledger.timers)
        for incident in ledger.incidents.values():
            timer = (incident.quiet_since + self.config.resolve_after, QUIET, incident.id)
            if incident.quiet_since and incident.state in ACTIVE and timer not in set_:
                ledger.timer(*timer)


def called(incident: Incident) -> str:
    """An incident in the timeline of another: by its title, and the id to find it by."""
    return f"{incident.title} ({incident.id})" if incident.title else incident.id


def name(alert: Alert) -> str:
    """An alert in few words: what, and where."""
    where = alert.service or alert.labels.get("instance", "")
    what = alert.labels.get("alertname", "alert")
    if alert.anomaly:
        what = f"anomaly of {about(alert.labels.get('signal', ''))}"
    return f"{what} ({where})" if where else what
