"""What incidents, alerts and decisions look like on the wire, and how they are made from what we keep.

Times are RFC 3339 in UTC, absent when unset; JSON has no NaN and no infinity, so those are null.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from aiopsd.model import Alert, AuditEntry, Candidate, ChangeEvent, Evidence, Incident, Labels, Notification
from aiopsd.projection import LIVE
from aiopsd.protocols import OutboxRow
from aiopsd.topology import Change as TopologyChange
from aiopsd.web.site import Site, View, moment


class EvidenceView(View, frozen=True, kw_only=True):
    """One signal: which range it left, by how many robust scales, since when; `recent` is [[seconds, value], ...].

    `opinion` is what a model of the second tier says of it, in words.
    """

    service: str
    metric: str
    kind: str
    labels: Labels
    channel: str
    direction: str
    level: float | None
    normal: float | None
    low: float | None
    high: float | None
    scale: float | None
    deviation: float | None
    score: float | None
    onset: datetime | None
    lead_in: float | None
    traffic: float | None
    recent: list[tuple[float, float | None]]
    opinion: str


class LinkView(View, frozen=True, kw_only=True):
    """One step of the explanation, from what `symptom` shows to `cause`."""

    symptom: str
    cause: str
    edge: str
    share: float
    text: str


class ChangeView(View, frozen=True, kw_only=True):
    id: str
    service: str
    kind: str
    at: datetime | None
    summary: str
    version: str
    actor: str
    link: str


class CandidateView(View, frozen=True, kw_only=True):
    """A possible root cause; `confidence` is a probability."""

    service: str
    kind: str
    score: float
    confidence: float
    metric: str
    reason: str
    chain: list[LinkView]
    evidence: list[EvidenceView]
    changes: list[ChangeView]


class CauseView(View, frozen=True, kw_only=True):
    """The first candidate in short."""

    service: str
    kind: str
    metric: str
    confidence: float
    reason: str


class IncidentView(View, frozen=True, kw_only=True):
    """One problem, as a list shows it.

    Once nothing of it fires any more, `quiet_since` says since when, and `resolves_at` when it resolves unless
    something comes back.
    """

    id: str
    dedup_key: str
    state: Literal["open", "acknowledged", "resolved", "merged"]
    title: str
    severity: str
    services: Sequence[str]
    firing: int
    alerts: int
    cause: CauseView | None
    started_at: datetime | None
    opened_at: datetime | None
    updated_at: datetime | None
    quiet_since: datetime | None
    resolves_at: datetime | None
    resolved_at: datetime | None
    acked_at: datetime | None
    acked_by: str
    ack_until: datetime | None
    merged_into: str
    merged_from: Sequence[str]
    reopened: int
    paged: bool
    late: bool
    runbook: str
    url: str


class AlertView(View, frozen=True, kw_only=True):
    """One alert; `incident` is "" when it opens none, `group` holds it even so; `reason` says why it is there."""

    fingerprint: str
    incident: str
    group: str
    state: Literal["firing", "resolved"]
    labels: Labels
    annotations: Labels
    service: str
    anomaly: bool
    reason: str
    started_at: datetime | None
    ends_at: datetime | None
    updated_at: datetime | None
    generator_url: str
    silenced_by: Sequence[str]
    muted_by: Sequence[str]  # time intervals that mute all of its routes
    inhibited_by: Sequence[str]
    evidence: list[EvidenceView]


class TimelineView(View, frozen=True, kw_only=True):
    """One decision: when, what, why, by whom, and the journal record that caused it (-1: none)."""

    at: datetime | None
    incident: str
    kind: str
    text: str
    reason: str
    actor: str
    offset: int


class DeliveryView(View, frozen=True, kw_only=True):
    """One row of the outbox."""

    id: str
    destination: str
    dedup_key: str
    incident: str
    state: Literal["pending", "delivered", "superseded", "failed"]
    action: str
    reason: str
    attempts: int
    error: str
    created_at: datetime | None
    next_at: datetime | None
    done_at: datetime | None


class IncidentDetail(IncidentView, frozen=True, kw_only=True):
    """One problem with everything that led to it."""

    causes: list[CandidateView]
    members: list[AlertView]
    timeline: list[TimelineView]
    deliveries: list[DeliveryView]


class VerdictView(IncidentView, frozen=True, kw_only=True):
    """The incident after a verdict, and the decisions that followed from it at once; the verdict is the first.

    `hint` says when nothing has the name that was given, which may be misspelled; else it is "".
    """

    decisions: list[TimelineView]
    hint: str


class IncidentList(View, frozen=True, kw_only=True):
    """`next` is the cursor of the following page, "" on the last."""

    incidents: list[IncidentView]
    next: str


class AlertList(View, frozen=True, kw_only=True):
    """`next` is the cursor of the following page, "" on the last."""

    alerts: list[AlertView]
    next: str


class Timeline(View, frozen=True, kw_only=True):
    """`next` is the cursor of the following page, of what came before; "" on the last."""

    timeline: list[TimelineView]
    next: str


class EdgeView(View, frozen=True, kw_only=True):
    caller: str
    callee: str


class TopologyChangeView(View, frozen=True, kw_only=True):
    """One change of the graph; `more` counts edges and nodes beyond the 200 of each kind that are listed."""

    version: int
    at: datetime | None
    source: str
    added: list[EdgeView]
    removed: list[EdgeView]
    new_nodes: Sequence[str]
    gone_nodes: Sequence[str]
    more: int


class TopologyChanges(View, frozen=True, kw_only=True):
    changes: list[TopologyChangeView]


class Outbox(View, frozen=True, kw_only=True):
    deliveries: list[DeliveryView]


# --------------------------------------------------------------------------- from what we keep


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity: null."""
    return value if math.isfinite(value) else None


def evidence_view(e: Evidence) -> EvidenceView:
    return EvidenceView(
        service=e.service,
        metric=e.metric,
        kind=e.kind,
        labels=e.labels,
        channel=e.channel,
        direction=e.direction,
        level=finite(e.level),
        normal=finite(e.normal),
        low=finite(e.low),
        high=finite(e.high),
        scale=finite(e.scale),
        deviation=finite(e.deviation),
        score=finite(e.score),
        onset=moment(e.onset),
        lead_in=finite(e.lead_in),
        traffic=finite(e.traffic),
        recent=[(t, finite(v)) for t, v in e.recent],
        opinion=e.opinion,
    )


def change_view(c: ChangeEvent) -> ChangeView:
    return ChangeView(
        id=c.id,
        service=c.service,
        kind=c.kind,
        at=moment(c.ts),
        summary=c.summary,
        version=c.version,
        actor=c.actor,
        link=c.link,
    )


def candidate_view(c: Candidate) -> CandidateView:
    return CandidateView(
        service=c.service,
        kind=c.kind,
        score=c.score,
        confidence=c.confidence,
        metric=c.metric,
        reason=c.reason,
        chain=[LinkView(symptom=k.symptom, cause=k.cause, edge=k.edge, share=k.share, text=k.text) for k in c.chain],
        evidence=[evidence_view(e) for e in c.evidence],
        changes=[change_view(x) for x in c.changes],
    )


def resolves_at(site: Site, i: Incident) -> float:
    """When an open incident in which nothing fires any more resolves unless something comes back; 0 for any other."""
    quiet = i.state in LIVE and not i.firing and i.quiet_since > 0
    return i.quiet_since + site.config.correlate.resolve_after if quiet else 0.0


def incident_fields(site: Site, i: Incident) -> dict[str, Any]:
    root, ends = i.root, resolves_at(site, i)
    return {
        "id": i.id,
        "dedup_key": i.dedup_key,
        "state": str(i.state),
        "title": i.title,
        "severity": i.severity,
        "services": i.services,
        "firing": i.firing,
        "alerts": len(i.alerts),
        "cause": CauseView(
            service=root.service,
            kind=root.kind,
            metric=root.metric,
            confidence=root.confidence,
            reason=root.reason,
        )
        if root
        else None,
        "started_at": moment(i.started_at),
        "opened_at": moment(i.opened_at),
        "updated_at": moment(i.updated_at),
        "quiet_since": moment(i.quiet_since if ends else 0.0),
        "resolves_at": moment(ends),
        "resolved_at": moment(i.resolved_at),
        "acked_at": moment(i.acked_at),
        "acked_by": i.acked_by,
        "ack_until": moment(i.ack_until),
        "merged_into": i.merged_into,
        "merged_from": i.merged_from,
        "reopened": i.reopened,
        "paged": i.paged,
        "late": i.late,
        "runbook": i.runbook,
        "url": f"{site.url}/incidents/{i.id}",
    }


def incident_view(site: Site, i: Incident) -> IncidentView:
    return IncidentView(**incident_fields(site, i))


def alert_view(site: Site, a: Alert, now: float) -> AlertView:
    firing = a.state == "firing"
    silenced, inhibited = site.muted(a, now) if firing else ((), ())
    return AlertView(
        fingerprint=a.fingerprint,
        incident=a.incident,
        group=site.group(a),
        state=a.state.value,
        labels=a.labels,
        annotations=a.annotations,
        service=a.service,
        anomaly=a.anomaly,
        reason=a.group_reason,
        started_at=moment(a.starts_at),
        ends_at=moment(a.ends_at),
        updated_at=moment(a.updated_at),
        generator_url=a.generator_url,
        silenced_by=tuple(silenced),
        muted_by=site.asleep(a, now) if firing else (),
        inhibited_by=tuple(inhibited),
        evidence=[evidence_view(e) for e in a.evidence],
    )


def timeline_view(entry: AuditEntry) -> TimelineView:
    return TimelineView(
        at=moment(entry.stamp),
        incident=entry.incident,
        kind=entry.kind,
        text=entry.text,
        reason=entry.reason,
        actor=entry.actor,
        offset=entry.offset,
    )


def topology_change_view(c: TopologyChange) -> TopologyChangeView:
    return TopologyChangeView(
        version=c.version,
        at=moment(c.stamp),
        source=c.source,
        added=[EdgeView(caller=u, callee=v) for u, v in c.added],
        removed=[EdgeView(caller=u, callee=v) for u, v in c.removed],
        new_nodes=c.nodes,
        gone_nodes=c.gone,
        more=c.more,
    )


def delivery_view(row: OutboxRow) -> DeliveryView:
    page = row.item if isinstance(row.item, Notification) else None
    return DeliveryView(
        id=row.id,
        destination=row.destination,
        dedup_key=row.dedup_key,
        incident=row.incident,
        state=row.state,  # type: ignore[arg-type]  # the store's words are these four
        action=str(page.action) if page else "retrain",
        reason=str(page.reason) if page else row.item.reason,
        attempts=row.attempts,
        error=row.error,
        created_at=moment(row.created_at),
        next_at=moment(row.next_at) if row.state == "pending" else None,
        done_at=moment(row.done_at),
    )
