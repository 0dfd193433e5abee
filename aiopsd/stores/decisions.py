"""What a commit's effects mean for a store, whichever it is: pure, shared by every implementation."""

from collections.abc import Sequence
from typing import NamedTuple

from aiopsd.model import (
    Alert,
    Audit,
    AuditEntry,
    Effect,
    Forget,
    Incident,
    IncidentState,
    Notification,
    Notify,
    Retrain,
    RetrainRequest,
    Silence,
    Touch,
    Upsert,
)

ENDED = (IncidentState.RESOLVED, IncidentState.MERGED)
PENDING = "pending"


class Delivery(NamedTuple):
    """An outbox row to be, in the order of the effects."""

    id: str
    destination: str
    dedup_key: str
    incident: str
    item: Notification | RetrainRequest


class Decisions(NamedTuple):
    """The net result of the effects of one commit; None: forgotten. Later effects win by id."""

    incidents: dict[str, Incident]
    alerts: dict[str, Alert | None]
    silences: dict[str, Silence | None]
    deliveries: list[Delivery]
    audit: list[AuditEntry]


def fold(effects: Sequence[Effect]) -> Decisions:
    """Upserts by id with the last one winning, deliveries and audit entries in order; other effects are not stored.

    Forget means the stage's memory. It drops silences and alerts without an incident; an incident and its alerts are
    the record of what happened and stay for the store's own retention.
    """
    decided = Decisions({}, {}, {}, [], [])
    for effect in effects:
        if type(effect) is Touch:  # the most frequent one, and not stored
            continue
        match effect:
            case Upsert(item=Alert() as alert):
                decided.alerts[alert.fingerprint] = alert
            case Upsert(item=Incident() as incident):
                decided.incidents[incident.id] = incident
            case Upsert(item=Silence() as silence):
                decided.silences[silence.id] = silence
            case Forget(kind="alert", id=key):
                known = decided.alerts.get(key)
                if known is None or not known.incident:  # one with an incident stays with it until the prune
                    decided.alerts[key] = None
            case Forget(kind="silence", id=key):
                decided.silences[key] = None
            case Notify(notification=item):
                incident_id = item.incident.id if item.incident is not None else ""
                decided.deliveries.append(Delivery(item.id, item.destination, item.dedup_key, incident_id, item))
            case Retrain(trainer=trainer, request=request):
                decided.deliveries.append(Delivery(request.id, f"trainer/{trainer}", request.dedup_key, "", request))
            case Audit(entry=entry):
                decided.audit.append(entry)
    return decided


def ended_at(incident: Incident) -> float:
    """When it left the open ones: the age that its retention counts from; 0 while it lives."""
    return max(incident.updated_at, incident.resolved_at) if incident.state in ENDED else 0.0
