"""The read model: what the pages and the API show, kept up by the effects of each committed step.

Enters: effects, in the order of their commit, and at start what the store holds. Leaves: incidents, alerts, silences
and a few figures, at once and without a database. It refuses to decide anything: it is a copy of decisions.

Bounded: what is open or firing is bounded by the stage that decided it; resolved incidents and alerts are kept up to
`keep_resolved`, the oldest update first to go (the store still has them).
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence

from msgspec.structs import replace

from aiopsd.model import (
    Alert,
    AlertState,
    Effect,
    Forget,
    Incident,
    IncidentState,
    Maintain,
    Silence,
    Touch,
    Upsert,
    Window,
)

LIVE = (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)


class Projection:
    """Incidents, alerts and silences by id; one instance per daemon, written by the runtime, read by the web."""

    def __init__(self, *, keep_resolved: int = 10_000) -> None:
        self.keep_resolved = keep_resolved
        self._incidents: dict[str, Incident] = {}
        self._alerts: dict[str, Alert] = {}
        self._silences: dict[str, Silence] = {}
        self.windows: tuple[Window, ...] = ()  # of planned work, those that ended lately included
        self._members: dict[str, dict[str, None]] = {}  # incident -> fingerprints
        self._done_incidents: OrderedDict[str, None] = OrderedDict()  # resolved or merged, by their last update
        self._done_alerts: OrderedDict[str, None] = OrderedDict()
        self._incident_counts = dict.fromkeys(IncidentState, 0)
        self._alert_counts = dict.fromkeys(AlertState, 0)

    # ----------------------------------------------------------------- writing

    def load(
        self,
        incidents: Iterable[Incident],
        alerts: Iterable[Alert],
        silences: Iterable[Silence],
        windows: Iterable[Window] = (),
    ) -> None:
        """Start over from what the store holds."""
        for kept in (self._incidents, self._alerts, self._members, self._done_incidents, self._done_alerts):
            kept.clear()
        self._incident_counts = dict.fromkeys(IncidentState, 0)
        self._alert_counts = dict.fromkeys(AlertState, 0)
        for incident in sorted(incidents, key=lambda i: (i.updated_at, i.id)):
            self._put_incident(incident)
        for alert in sorted(alerts, key=lambda a: (a.updated_at, a.fingerprint)):
            self._put_alert(alert)
        self._silences = {s.id: s for s in silences}
        self.windows = tuple(windows)
        self._evict()

    def apply(self, effects: Sequence[Effect]) -> None:
        """Take over the decisions of committed effects; effects that decide nothing kept are ignored."""
        for effect in effects:
            if isinstance(effect, Upsert):
                item = effect.item
                if isinstance(item, Alert):
                    self._put_alert(item)
                elif isinstance(item, Incident):
                    self._put_incident(item)
                else:
                    self._silences[item.id] = item
            elif isinstance(effect, Touch):
                known = self._alerts.get(effect.fingerprint)
                if known is not None:
                    self._alerts[effect.fingerprint] = replace(
                        known, ends_at=effect.ends_at, updated_at=effect.updated_at
                    )
            elif isinstance(effect, Maintain):
                self.windows = effect.windows
            elif isinstance(effect, Forget):
                self._forget(effect.kind, effect.id)
        self._evict()

    def _put_incident(self, item: Incident) -> None:
        before = self._incidents.get(item.id)
        if before is not None:
            self._incident_counts[before.state] -= 1
        self._incident_counts[item.state] += 1
        self._incidents[item.id] = item
        self._done_incidents.pop(item.id, None)
        if item.state not in LIVE:
            self._done_incidents[item.id] = None

    def _put_alert(self, item: Alert) -> None:
        before = self._alerts.get(item.fingerprint)
        if before is not None:
            self._alert_counts[before.state] -= 1
            if before.incident != item.incident:
                self._leave(before)
        self._alert_counts[item.state] += 1
        self._alerts[item.fingerprint] = item
        if item.incident:
            self._members.setdefault(item.incident, {}).setdefault(item.fingerprint, None)
        self._done_alerts.pop(item.fingerprint, None)
        if item.state is AlertState.RESOLVED:
            self._done_alerts[item.fingerprint] = None

    def _leave(self, alert: Alert) -> None:
        members = self._members.get(alert.incident)
        if members is not None:
            members.pop(alert.fingerprint, None)
            if not members:
                del self._members[alert.incident]

    def _forget(self, kind: str, key: str) -> None:
        if kind == "incident" and (incident := self._incidents.pop(key, None)) is not None:
            self._incident_counts[incident.state] -= 1
            self._done_incidents.pop(key, None)
        elif kind == "alert" and (alert := self._alerts.pop(key, None)) is not None:
            self._alert_counts[alert.state] -= 1
            self._done_alerts.pop(key, None)
            self._leave(alert)
        elif kind == "silence":
            self._silences.pop(key, None)

    def _evict(self) -> None:
        while len(self._done_incidents) > self.keep_resolved:
            self._forget("incident", next(iter(self._done_incidents)))
        while len(self._done_alerts) > self.keep_resolved:
            self._forget("alert", next(iter(self._done_alerts)))

    # ----------------------------------------------------------------- reading

    def incidents(self, *, states: Collection[str] = (), service: str = "") -> list[Incident]:
        """Newest first by (opened_at, id); no `states` means every state, `service` one that is affected."""
        found = [
            i
            for i in self._incidents.values()
            if (not states or i.state in states) and (not service or service in i.services)
        ]
        return sorted(found, key=lambda i: (i.opened_at, i.id), reverse=True)

    def incident(self, incident_id: str) -> Incident | None:
        return self._incidents.get(incident_id)

    def alerts(self, *, incident: str = "", firing: bool = False) -> list[Alert]:
        """Alerts by fingerprint; of one incident by their start; `firing` leaves the resolved ones out."""
        if incident:
            found = [self._alerts[f] for f in self._members.get(incident, ())]
            found.sort(key=lambda a: (a.starts_at, a.fingerprint))
        else:
            found = [self._alerts[f] for f in sorted(self._alerts)]
        return [a for a in found if a.state is AlertState.FIRING] if firing else found

    def alert(self, fingerprint: str) -> Alert | None:
        return self._alerts.get(fingerprint)

    def silences(self) -> list[Silence]:
        """By id."""
        return [self._silences[k] for k in sorted(self._silences)]

    def silence(self, silence_id: str) -> Silence | None:
        return self._silences.get(silence_id)

    def figures(self) -> dict[str, dict[str, int]]:
        """How many are kept: {"incidents": {state: n}, "alerts": {state: n}}; counted as they change, not by a scan."""
        return {
            "incidents": {str(k): n for k, n in self._incident_counts.items()},
            "alerts": {str(k): n for k, n in self._alert_counts.items()},
        }
