"""A dispatcher played in virtual time: alerts and incidents in, what was told to whom out.

Every move first fires the timers that are due by then, as the stage does. With `crash`, the dispatcher is thrown away
and built from its snapshot before every move: a play must not notice.
"""

from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from aiopsd.config import load
from aiopsd.matchers import parse_matchers
from aiopsd.model import (
    Alert,
    AlertState,
    Audit,
    AuditEntry,
    Candidate,
    Incident,
    IncidentState,
    Notification,
    Notify,
    NotifyReason,
    PutSilence,
    fingerprint,
)
from aiopsd.routing import Dispatcher
from aiopsd.silences import SilenceBook


class Told(NamedTuple):
    """One notification, as far as most plays care."""

    at: float
    to: str
    action: str
    reason: NotifyReason


class Play:
    """`fire`, `resolve`, `incident`, ... at stamps that do not go back; `told`, `notes` and `held` since last asked."""

    def __init__(self, config: str, *, crash: bool = False) -> None:
        self.config = load(config)
        self.silences = SilenceBook()
        self.dispatcher = Dispatcher(self.config, self.silences)
        self.incidents: dict[str, Incident] = {}
        self.alerts: dict[str, Alert] = {}
        self._crash = crash
        self._notes: list[Notification] = []
        self._held: list[AuditEntry] = []

    # ------------------------------------------------------------------ moves

    def until(self, at: float) -> "Play":
        """Fire every timer due at or before `at`."""
        if self._crash:
            self.restart()
        for effect in self.dispatcher.due(at):
            if isinstance(effect, Notify):
                self._notes.append(effect.notification)
            elif isinstance(effect, Audit):
                self._held.append(effect.entry)
        return self

    def restart(self, config: str = "") -> "Play":
        """Build the dispatcher from its snapshot, as JSON would carry it, perhaps with another configuration."""
        if config:
            self.config = load(config)
        state: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self.dispatcher.snapshot()))
        self.dispatcher = Dispatcher(self.config, self.silences, state)
        return self

    def fire(
        self,
        name: str,
        *,
        at: float,
        incident: str = "",
        starts: float | None = None,
        anomaly: bool = False,
        **more: str,
    ) -> "Play":
        """This alert fires, as a member of that incident when one is named (opened when it is new)."""
        self.until(at)
        labels = {"alertname": name} | more
        alert = Alert(
            fingerprint=fingerprint(labels),
            labels=labels,
            starts_at=at if starts is None else starts,
            ends_at=0.0,
            updated_at=at,
            service=more.get("service", ""),
            anomaly=anomaly,
            incident=incident,
        )
        found = self._member(incident, alert, at)
        self.alerts[name] = alert
        self.dispatcher.alert(alert, found, at)
        return self.until(at)

    def resolve(self, name: str, *, at: float) -> "Play":
        """This alert ends."""
        self.until(at)
        old = self.alerts[name]
        alert = replace(old, state=AlertState.RESOLVED, ends_at=at, updated_at=at)
        self.alerts[name] = alert
        self.dispatcher.alert(alert, self.incidents.get(alert.incident), at)
        return self.until(at)

    def incident(self, key: str, *, at: float, reason: NotifyReason | None = None, **changes: Any) -> "Play":
        """This incident changes its fields, and the dispatcher is told with that reason."""
        self.until(at)
        self.incidents[key] = replace(self.incidents[key], updated_at=at, **changes)
        self._tell(key, at, reason)
        return self.until(at)

    def ack(self, key: str, *, at: float, by: str = "ada", until: float = 0.0) -> "Play":
        return self.incident(
            key,
            at=at,
            reason=NotifyReason.ACKNOWLEDGED,
            state=IncidentState.ACKNOWLEDGED,
            acked_at=at,
            acked_by=by,
            ack_until=until,
        )

    def close(self, key: str, *, at: float) -> "Play":
        """The incident is over."""
        changes = {"state": IncidentState.RESOLVED, "resolved_at": at}
        return self.incident(key, at=at, reason=NotifyReason.ALL_RESOLVED, **changes)

    def root(self, key: str, *candidates: tuple[str, float], at: float) -> "Play":
        """These are the probable causes now: (service, confidence), best first."""
        roots = tuple(Candidate(service=name, confidence=p) for name, p in candidates)
        return self.incident(key, at=at, reason=NotifyReason.ROOT_CHANGED, roots=roots)

    def merge(self, loser: str, survivor: str, *, at: float) -> "Play":
        """In the order that `Dispatcher.incident` asks for: the moved alerts, the loser, the survivor."""
        self.until(at)
        moved = [name for name, a in self.alerts.items() if a.incident == loser]
        for name in moved:
            alert = self.alerts[name] = replace(self.alerts[name], incident=survivor)
            self.dispatcher.alert(alert, self._member(survivor, alert, at), at)
        self.incidents[loser] = replace(self.incidents[loser], state=IncidentState.MERGED, merged_into=survivor)
        self._tell(loser, at, NotifyReason.MERGED)
        self._tell(survivor, at, None)
        return self.until(at)

    def silence(self, matchers: str, *, at: float, until: float) -> str:
        """Its id."""
        self.until(at)
        request_id = f"r{len(self.silences.all())}"
        command = PutSilence(request_id=request_id, matchers=parse_matchers(matchers), starts_at=at, ends_at=until)
        return self.silences.put(command, at)[0].id

    def _member(self, key: str, alert: Alert, at: float) -> Incident | None:
        if not key:
            return None
        old = self.incidents.get(key)
        if old is None:
            old = Incident(id=key, dedup_key=f"key-{key}", started_at=alert.starts_at, opened_at=at, updated_at=at)
            old = replace(old, title=f"trouble {key}")
        if old.state is IncidentState.RESOLVED:
            old = replace(old, state=IncidentState.OPEN, reopened=old.reopened + 1, acked_at=0.0, ack_until=0.0)
        fps = old.alerts if alert.fingerprint in old.alerts else (*old.alerts, alert.fingerprint)
        self.incidents[key] = replace(old, alerts=fps, updated_at=at)
        return self.incidents[key]

    def _tell(self, key: str, at: float, reason: NotifyReason | None) -> None:
        dedup_key = self.dispatcher.incident(self.incidents[key], at, reason)
        self.incidents[key] = replace(self.incidents[key], dedup_key=dedup_key)

    # ------------------------------------------------------------------ what came of it

    def notes(self) -> list[Notification]:
        found, self._notes = self._notes, []
        return found

    def told(self) -> list[Told]:
        return [Told(n.stamp, n.destination, str(n.action), n.reason) for n in self.notes()]

    def held(self) -> list[tuple[float, str]]:
        """(stamp, reason) of pages that were held back."""
        found, self._held = self._held, []
        return [(e.stamp, e.reason) for e in found]
