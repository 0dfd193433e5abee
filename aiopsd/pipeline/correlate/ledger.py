"""The ledger: alerts and incidents as decided so far, what of it is not written yet, timers, and the stage's clock."""

import heapq
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from aiopsd import incidents as lifecycle
from aiopsd.model import (
    Alert,
    AlertState,
    Audit,
    AuditEntry,
    Effect,
    Incident,
    IncidentState,
    Upsert,
)

ACTIVE = (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)

# kinds of timers, in the order in which they fire when due together
END, QUIET, ACK, RANK, FORGET_ALERT, FORGET_INCIDENT, SWEEP, ASK = range(8)


class Ledger:
    """What all parts of the stage read and write. Rows that changed leave once a flush, however often they did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.offset = -1
        self.alerts: dict[str, Alert] = {}
        self.incidents: dict[str, Incident] = {}
        self.out: list[Effect] = []
        self.timers: list[tuple[float, int, str]] = []  # due, kind, key
        self._touched_alerts: dict[str, None] = {}
        self._touched_incidents: dict[str, None] = {}
        self._firing: dict[str, dict[str, int]] = {}  # incident -> severity -> alerts that fire; follows from alerts
        self._members: dict[str, set[str]] = {}  # incident -> its fingerprints, as a set; follows from incidents

    def timer(self, due: float, kind: int, key: str) -> None:
        """Wake the stage at `due`."""
        heapq.heappush(self.timers, (due, kind, key))

    # ------------------------------------------------------------------ rows

    def touch(self, fingerprint: str) -> None:
        """Its row is written with the next flush."""
        self._touched_alerts[fingerprint] = None

    def keep(self, alert: Alert) -> None:
        """This is what the alert is from now on."""
        old = self.alerts.get(alert.fingerprint)
        if old is not None:
            self._count(old, -1)
        self._count(alert, 1)
        self.alerts[alert.fingerprint] = alert
        self.touch(alert.fingerprint)

    def _count(self, alert: Alert, by: int) -> None:
        if alert.state is not AlertState.FIRING or not alert.incident:
            return
        words = self._firing.setdefault(alert.incident, {})
        word = alert.labels.get("severity", "warning")
        words[word] = words.get(word, 0) + by
        if not words[word]:
            del words[word]
            if not words:
                del self._firing[alert.incident]

    def put(self, incident: Incident) -> None:
        """This is what the incident is from now on."""
        self.incidents[incident.id] = incident
        self._touched_incidents[incident.id] = None

    def forget(self, incident_id: str) -> Incident:
        """Take an incident out; the one that it was."""
        self._members.pop(incident_id, None)
        return self.incidents.pop(incident_id)

    def flush(self) -> None:
        """One row per changed alert and incident, in the order in which they changed first."""
        if self._touched_alerts:
            for fp in self._touched_alerts:
                if fp in self.alerts:
                    self.out.append(Upsert(item=self.alerts[fp]))
            self._touched_alerts.clear()
        if self._touched_incidents:
            for key in self._touched_incidents:
                incident = self.incidents.get(key)
                if incident is not None:
                    incident = replace(incident, revision=incident.revision + 1, updated_at=self.now)
                    self.incidents[key] = incident
                    self.out.append(Upsert(item=incident))
            self._touched_incidents.clear()

    def audit(self, incident: str, kind: str, text: str, reason: str = "", actor: str = "") -> None:
        """A line of the story, for people."""
        self.out.append(
            Audit(
                entry=AuditEntry(
                    incident=incident,
                    stamp=self.now,
                    kind=kind,
                    text=text,
                    reason=reason,
                    actor=actor,
                    offset=self.offset,
                )
            )
        )

    # ------------------------------------------------------------------ what follows from rows

    def living(self, incident_id: str) -> str:
        """The incident into which this one was merged, or itself."""
        while (found := self.incidents.get(incident_id)) is not None and found.merged_into:
            incident_id = found.merged_into
        return incident_id

    def members(self, incident: Incident) -> list[Alert]:
        """Its alerts, as far as they are remembered."""
        return [a for fp in incident.alerts if (a := self.alerts.get(fp)) is not None]

    def summed(self, incident: Incident, new: Alert | None = None) -> Incident:
        """The incident with what follows from its alerts, and with a new one: at the cost of the new one alone."""
        fps, services, runbook = incident.alerts, incident.services, incident.runbook
        if new is not None:
            members = self._members.get(incident.id)
            if members is None:
                members = self._members[incident.id] = set(fps)
            if new.fingerprint not in members:
                members.add(new.fingerprint)
                fps = (*fps, new.fingerprint)
            if new.service and new.service not in services:
                services = (*services, new.service)
            runbook = runbook or new.annotations.get("runbook_url", "")
        speaks = lifecycle.speaker((a for fp in fps if (a := self.alerts.get(fp)) is not None), incident.root)
        if speaks is not None:
            runbook = speaks.annotations.get("runbook_url", "") or runbook
        firing = self._firing.get(incident.id, {})
        return replace(
            incident,
            alerts=fps,
            services=services,
            firing=sum(firing.values()),
            quiet_since=0.0 if firing else incident.quiet_since,
            severity=lifecycle.worst(firing) if firing else incident.severity,
            title=lifecycle.title(speaks, services, incident.root),
            runbook=runbook,
        )

    def recounted(self, incident: Incident, fps: Iterable[str]) -> Incident:
        """The incident with exactly these alerts, services and runbook anew: after some left it or came together."""
        alerts = [a for fp in fps if (a := self.alerts.get(fp)) is not None]
        runbook = next((a.annotations["runbook_url"] for a in alerts if a.annotations.get("runbook_url")), "")
        services = tuple(dict.fromkeys(a.service for a in alerts if a.service))
        self._members.pop(incident.id, None)
        return self.summed(replace(incident, alerts=tuple(fps), services=services, runbook=runbook))

    # ------------------------------------------------------------------ snapshot

    def snapshot(self) -> dict[str, Any]:
        """Plain data for `resume`; nothing is unwritten between records."""
        return {
            "offset": self.offset,
            "now": self.now,
            "alerts": msgspec.to_builtins(list(self.alerts.values())),
            "incidents": msgspec.to_builtins(list(self.incidents.values())),
            "timers": [list(t) for t in self.timers],
        }

    def resume(self, meta: dict[str, Any]) -> None:
        """Take over what `snapshot` returned."""
        self.offset, self.now = meta["offset"], meta["now"]
        self.alerts = {a.fingerprint: a for a in msgspec.convert(meta["alerts"], list[Alert])}
        for alert in self.alerts.values():
            self._count(alert, 1)
        self.incidents = {i.id: i for i in msgspec.convert(meta["incidents"], list[Incident])}
        self.timers = [(float(d), int(k), str(key)) for d, k, key in meta["timers"]]
