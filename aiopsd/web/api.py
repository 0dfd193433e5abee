"""Our own API, version 1: incidents with the reason of every decision, commands, the graph, the outbox, the status.

Times are RFC 3339 in UTC, absent when unset. A write answers when its decision is committed, so a read after it sees
it. Writes are application/json and carry the bearer token where one is configured.
"""

import base64
import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from aiohttp import web

from aiopsd.incidents import IllegalMove, Move, move
from aiopsd.maintenance import MOST as MOST_WINDOWS
from aiopsd.maintenance import problem, window_id
from aiopsd.model import (
    AckIncident,
    Alert,
    AuditEntry,
    Candidate,
    ChangeEvent,
    EndMaintenance,
    Evidence,
    Incident,
    IncidentState,
    Labels,
    Matcher,
    Notification,
    PutMaintenance,
    ResolveIncident,
    Verdict,
    Window,
)
from aiopsd.projection import LIVE
from aiopsd.protocols import OutboxRow
from aiopsd.silences import SilenceState, state_of
from aiopsd.topology import Change as TopologyChange
from aiopsd.web.site import SITE, Problem, Site, View, answer, decode, moment, need_json, read_body

MOST = 1000  # largest `limit` of a list
STATES = tuple(str(s) for s in IncidentState)
ENDED = ("pending", "delivered", "superseded", "failed")


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
    """One problem, as a list shows it."""

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


class IncidentList(View, frozen=True, kw_only=True):
    """`next` is the cursor of the following page, "" on the last."""

    incidents: list[IncidentView]
    next: str


class AlertList(View, frozen=True, kw_only=True):
    """`next` is the cursor of the following page, "" on the last."""

    alerts: list[AlertView]
    next: str


class Timeline(View, frozen=True, kw_only=True):
    timeline: list[TimelineView]


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


class MatcherBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition on the labels of a series, as a silence has them; `service` is the service that it belongs to."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True


class MaintenanceView(View, frozen=True, kw_only=True):
    """Planned work: what these series say in it is neither scored nor learned nor missed."""

    id: str
    state: Literal["active", "pending", "expired"]
    matchers: list[MatcherBody]
    starts_at: datetime | None
    ends_at: datetime | None
    actor: str
    comment: str


class MaintenanceList(View, frozen=True, kw_only=True):
    windows: list[MaintenanceView]


class MaintenanceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `matchers` must hold; without `starts_at` it starts now, and it never starts earlier."""

    actor: str
    matchers: tuple[MatcherBody, ...]
    ends_at: datetime
    starts_at: datetime | None = None
    comment: str = ""


class AckRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`until` ends the acknowledgement by itself; without it, it holds until the incident resolves."""

    actor: str
    comment: str = ""
    until: datetime | None = None


class ResolveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    actor: str
    comment: str = ""


class VerdictRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator says of a decision: `cause` names the true `service`, `split` the `fingerprints` that do not
    belong here, `merge` the `other` incident; `noise` needs nothing more."""

    kind: Literal["cause", "split", "merge", "noise"]
    actor: str
    service: str = ""
    other: str = ""
    fingerprints: tuple[str, ...] = ()
    comment: str = ""


# --------------------------------------------------------------------------- to views


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


def _incident_fields(site: Site, i: Incident) -> dict[str, Any]:
    root = i.root
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
    return IncidentView(**_incident_fields(site, i))


def alert_view(site: Site, a: Alert, now: float) -> AlertView:
    silenced, inhibited = site.muted(a, now) if a.state == "firing" else ((), ())
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
        inhibited_by=tuple(inhibited),
        evidence=[evidence_view(e) for e in a.evidence],
    )


def maintenance_view(w: Window, now: float) -> MaintenanceView:
    return MaintenanceView(
        id=w.id,
        state=str(state_of(w, now)),  # type: ignore[arg-type]  # the words of SilenceState are these three
        matchers=[
            MatcherBody(name=m.name, value=m.value, is_regex=m.is_regex, is_equal=m.is_equal) for m in w.matchers
        ],
        starts_at=moment(w.starts_at),
        ends_at=moment(w.ends_at),
        actor=w.created_by,
        comment=w.comment,
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


async def detail_view(site: Site, i: Incident) -> IncidentDetail:
    now = site.clock()
    return IncidentDetail(
        **_incident_fields(site, i),
        causes=[candidate_view(c) for c in i.roots],
        members=[alert_view(site, a, now) for a in await alerts_of(site, i.id)],
        timeline=[timeline_view(e) for e in await timeline_of(site, i.id)],
        deliveries=[delivery_view(r) for r in await deliveries_of(site, i.id)],
    )


# --------------------------------------------------------------------------- what pages and API both ask


async def find_incident(site: Site, incident_id: str) -> Incident:
    """From memory, else from the store.

    Raises:
        Problem: 404.
    """
    found = site.projection.incident(incident_id) or await site.store.incident(incident_id)
    if found is None:
        raise Problem(404, f"no incident {incident_id!r}", where="id")
    return found


async def alerts_of(site: Site, incident_id: str) -> list[Alert]:
    """By their start."""
    kept = site.projection.alerts(incident=incident_id)
    if kept or site.projection.incident(incident_id) is not None:
        return kept
    return sorted(await site.store.alerts(incident=incident_id), key=lambda a: (a.starts_at, a.fingerprint))


async def timeline_of(site: Site, incident_id: str) -> list[AuditEntry]:
    """Oldest first."""
    return await site.store.timeline(incident_id)


async def deliveries_of(site: Site, incident_id: str) -> list[OutboxRow]:
    """Oldest first."""
    return await site.store.outbox(states=ENDED, incident=incident_id)


async def command(site: Site, incident_id: str, what: Move, body: AckIncident | ResolveIncident) -> Incident:
    """Submit an operator's command on an incident; the incident after it.

    Raises:
        Problem: 404 unknown, 409 when the incident cannot take it now, 503 when it cannot be made safe.
    """
    item = await find_incident(site, incident_id)
    try:
        wanted = move(item.state, what)
    except IllegalMove as e:
        told = f"; it lives on as {item.merged_into}" if item.merged_into else ""
        raise Problem(409, f"{e}{told}", where="state") from None
    await site.submit([body])
    after = await find_incident(site, incident_id)
    if after.state is not wanted:
        raise Problem(409, f"the incident became {after.state} meanwhile", where="state")
    return after


# --------------------------------------------------------------------------- reading


def number_of(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number from 1 to `most` from the query."""
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= most:
        raise Problem(400, f"{name}={text[:40]!r}: expected a whole number from 1 to {most}", where=name)
    return int(text)


def cursor_of(incident: Incident) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((incident.opened_at, incident.id))).decode().rstrip("=")


def read_cursor(text: str) -> tuple[float, str]:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=tuple[float, str])
    except (ValueError, msgspec.DecodeError):
        raise Problem(400, "cursor: take it from `next` of the previous answer", where="cursor") from None


async def get_incidents(request: web.Request) -> web.Response:
    """GET /api/v1/incidents: newest first; `state` (repeatable or with commas), `service`, `limit`, `cursor`."""
    site = request.app[SITE]
    states = tuple(s for given in request.query.getall("state", []) for s in given.split(",") if s)
    unknown = [s for s in states if s not in STATES]
    if unknown:
        raise Problem(400, f"state={unknown[0][:40]!r}: expected one of {', '.join(STATES)}", where="state")
    service, limit = request.query.get("service", ""), number_of(request, "limit", 100, MOST)
    after = read_cursor(request.query["cursor"]) if request.query.get("cursor") else None
    found: list[Incident] = []
    if states and all(s in LIVE for s in states):
        found = [
            i
            for i in site.projection.incidents(states=[IncidentState(s) for s in states], service=service)
            if after is None or (i.opened_at, i.id) < after
        ]
    else:  # what ended may be older than memory goes; several may share one moment, so ask until the page is full
        ask = limit + 1
        while True:
            before = math.nextafter(after[0], math.inf) if after else None
            rows = await site.store.incidents(states=states, limit=ask, before=before, service=service)
            found = [i for i in rows if after is None or (i.opened_at, i.id) < after]
            if len(found) > limit or len(rows) < ask:
                break
            ask *= 2
    page = found[:limit]
    more = cursor_of(page[-1]) if len(found) > limit else ""
    return answer(IncidentList(incidents=[incident_view(site, i) for i in page], next=more))


async def get_incident(request: web.Request) -> web.Response:
    """GET /api/v1/incidents/{id}: evidence, chain, alerts, timeline with the reason of every decision, deliveries."""
    site = request.app[SITE]
    return answer(await detail_view(site, await find_incident(site, request.match_info["id"])))


async def get_alerts(request: web.Request) -> web.Response:
    """GET /api/v1/alerts: firing alerts by fingerprint, each with its incident or group and the reason of its place."""
    site, now = request.app[SITE], request.app[SITE].clock()
    limit, after = number_of(request, "limit", 100, MOST), request.query.get("cursor", "")
    service, of = request.query.get("service", ""), request.query.get("incident", "")
    found = [
        a
        for a in site.projection.alerts(firing=True)
        if a.fingerprint > after
        and (not service or a.service == service)
        and (not of or a.incident == ("" if of == "none" else of))
    ]
    page = found[:limit]
    more = page[-1].fingerprint if len(found) > limit else ""
    return answer(AlertList(alerts=[alert_view(site, a, now) for a in page], next=more))


async def get_timeline(request: web.Request) -> web.Response:
    """GET /api/v1/timeline: the newest decisions of all incidents and of none (silences, topology), newest first."""
    entries = await request.app[SITE].store.timeline(limit=number_of(request, "limit", 100, MOST))
    return answer(Timeline(timeline=[timeline_view(e) for e in reversed(entries)]))


async def get_topology(request: web.Request) -> web.Response:
    """GET /api/v1/topology: the graph as JSON, or ?format=graphml."""
    graph = request.app[SITE].topology()
    kind = request.query.get("format", "json")
    if kind == "json":
        return answer(graph.to_json())
    if kind == "graphml":
        return web.Response(text=graph.to_graphml(), content_type="application/graphml+xml")
    raise Problem(400, f"format={kind[:40]!r}: expected json or graphml", where="format")


async def get_topology_changes(request: web.Request) -> web.Response:
    """GET /api/v1/topology/changes: what changed in the graph, newest first: edges and nodes, when, by whose word."""
    limit = number_of(request, "limit", 100, MOST)
    changes = [topology_change_view(c) for c in reversed(request.app[SITE].topology().history)]
    return answer(TopologyChanges(changes=changes[:limit]))


async def get_outbox(request: web.Request) -> web.Response:
    """GET /api/v1/outbox: what waits and what failed, oldest first; `limit`."""
    site = request.app[SITE]
    rows = await site.store.outbox(states=("pending", "failed"), limit=number_of(request, "limit", 100, MOST))
    return answer(Outbox(deliveries=[delivery_view(r) for r in rows]))


async def get_status(request: web.Request) -> web.Response:
    """GET /api/v1/status: positions, lag, sources, what we wait for, maintenance in force."""
    site = request.app[SITE]
    return answer(
        {
            **{k: v for k, v in site.door.status().items() if k != "config"},  # its text may hold secrets
            "version": site.version,
            "started_at": moment(site.started_at),
            "waiting_for": site.door.readiness(),
            "maintenance": site.planned(),
            "figures": site.projection.figures(),
        }
    )


# --------------------------------------------------------------------------- writing


async def read_request(request: web.Request, kind: Any) -> Any:
    """A JSON body as `kind`, with an actor."""
    need_json(request)
    given = decode(await read_body(request), kind)
    if not given.actor.strip():
        raise Problem(400, "say who you are", where="actor")
    return given


def seconds(at: datetime | None, where: str) -> float:
    """UTC seconds of a time that was given with its zone; 0 for none."""
    if at is None:
        return 0.0
    if at.tzinfo is None:
        raise Problem(400, "give the time with its zone, as 2026-01-31T12:00:00Z", where=where)
    return at.timestamp()


def windows(site: Site) -> list[Window]:
    """Those that hold, those to come, those that ended; each by their beginning."""
    now, order = site.clock(), list(SilenceState)
    return sorted(site.projection.windows, key=lambda w: (order.index(state_of(w, now)), w.starts_at, w.id))


def window(site: Site, key: str) -> Window:
    """
    Raises:
        Problem: 404.
    """
    found = next((w for w in site.projection.windows if w.id == key), None)
    if found is None:
        raise Problem(404, f"no maintenance {key!r}", where="id")
    return found


async def get_maintenance(request: web.Request) -> web.Response:
    """GET /api/v1/maintenance: windows of planned work that operators asked for; the status has the file's, too."""
    site = request.app[SITE]
    return answer(MaintenanceList(windows=[maintenance_view(w, site.clock()) for w in windows(site)]))


async def get_window(request: web.Request) -> web.Response:
    """GET /api/v1/maintenance/{id}."""
    site = request.app[SITE]
    return answer(maintenance_view(window(site, request.match_info["id"]), site.clock()))


async def post_maintenance(request: web.Request) -> web.Response:
    """POST /api/v1/maintenance: {actor, matchers, ends_at, starts_at?, comment?}: planned work, until it ends."""
    site = request.app[SITE]
    given: MaintenanceRequest = await read_request(request, MaintenanceRequest)
    command = PutMaintenance(
        request_id=request_id(request),
        matchers=tuple(
            Matcher(name=m.name, value=m.value, is_regex=m.is_regex, is_equal=m.is_equal) for m in given.matchers
        ),
        starts_at=seconds(given.starts_at, "starts_at"),
        ends_at=seconds(given.ends_at, "ends_at"),
        created_by=given.actor.strip(),
        comment=given.comment,
    )
    wrong = problem(command, site.clock())
    if wrong is not None:
        raise Problem(400, wrong[1], where=wrong[0])
    if len(site.projection.windows) >= MOST_WINDOWS:
        raise Problem(409, f"there are {MOST_WINDOWS} windows already: they are kept for 30 days after their end")
    await site.submit([command])
    return answer(maintenance_view(window(site, window_id(command)), site.clock()))


async def delete_maintenance(request: web.Request) -> web.Response:
    """DELETE /api/v1/maintenance/{id}: ends it now, or calls it off; `actor` says who. Ending it twice is fine."""
    site, actor = request.app[SITE], request.query.get("actor", "").strip()
    found = window(site, request.match_info["id"])
    if not actor:
        raise Problem(400, "say who you are", where="actor")
    if state_of(found, site.clock()) is not SilenceState.EXPIRED:
        await site.submit([EndMaintenance(id=found.id, actor=actor)])
    return answer(maintenance_view(window(site, found.id), site.clock()))


async def post_ack(request: web.Request) -> web.Response:
    """POST /api/v1/incidents/{id}/ack: {actor, comment?, until?}; repeats stop until then."""
    site, key = request.app[SITE], request.match_info["id"]
    given: AckRequest = await read_request(request, AckRequest)
    until = seconds(given.until, "until")
    if given.until is not None and until <= site.clock():
        raise Problem(400, "lies in the past", where="until")
    body = AckIncident(incident=key, actor=given.actor.strip(), comment=given.comment, until=until)
    return answer(incident_view(site, await command(site, key, Move.ACK, body)))


async def post_resolve(request: web.Request) -> web.Response:
    """POST /api/v1/incidents/{id}/resolve: {actor, comment?}."""
    site, key = request.app[SITE], request.match_info["id"]
    given: ResolveRequest = await read_request(request, ResolveRequest)
    body = ResolveIncident(incident=key, actor=given.actor.strip(), comment=given.comment)
    return answer(incident_view(site, await command(site, key, Move.RESOLVE, body)))


async def post_verdict(request: web.Request) -> web.Response:
    """POST /api/v1/incidents/{id}/verdict: kept, audited, and used by later decisions."""
    site, key = request.app[SITE], request.match_info["id"]
    given: VerdictRequest = await read_request(request, VerdictRequest)
    await find_incident(site, key)
    if given.kind == "cause" and not given.service:
        raise Problem(400, "name the service that was the cause", where="service")
    if given.kind == "merge":
        if not given.other or given.other == key:
            raise Problem(400, "name the other incident", where="other")
        if site.projection.incident(given.other) is None and await site.store.incident(given.other) is None:
            raise Problem(400, f"no incident {given.other!r}", where="other")
    if given.kind == "split":
        members = {a.fingerprint for a in await alerts_of(site, key)}
        strange = [f for f in given.fingerprints if f not in members]
        if strange or not given.fingerprints:
            told = f"alert {strange[0]!r} is not of this incident" if strange else "name the alerts to split off"
            raise Problem(400, told, where="fingerprints")
    await site.submit(
        [
            Verdict(
                request_id=request_id(request),
                incident=key,
                kind=given.kind,
                actor=given.actor.strip(),
                service=given.service,
                other=given.other,
                fingerprints=given.fingerprints,
                comment=given.comment,
            )
        ]
    )
    return answer(incident_view(site, await find_incident(site, key)))


def request_id(request: web.Request) -> str:
    """The caller's Idempotency-Key, so that a retry is the same command; else a new one."""
    return request.headers.get("Idempotency-Key", "")[:200] or uuid.uuid4().hex


ROUTES: Mapping[tuple[str, str], Any] = {
    ("GET", "/incidents"): get_incidents,
    ("GET", "/incidents/{id}"): get_incident,
    ("POST", "/incidents/{id}/ack"): post_ack,
    ("POST", "/incidents/{id}/resolve"): post_resolve,
    ("POST", "/incidents/{id}/verdict"): post_verdict,
    ("GET", "/maintenance"): get_maintenance,
    ("POST", "/maintenance"): post_maintenance,
    ("GET", "/maintenance/{id}"): get_window,
    ("DELETE", "/maintenance/{id}"): delete_maintenance,
    ("GET", "/alerts"): get_alerts,
    ("GET", "/timeline"): get_timeline,
    ("GET", "/topology"): get_topology,
    ("GET", "/topology/changes"): get_topology_changes,
    ("GET", "/outbox"): get_outbox,
    ("GET", "/status"): get_status,
}


def setup(app: web.Application) -> None:
    """Add the routes of API v1 but the pushes."""
    for (verb, path), handler in ROUTES.items():
        app.router.add_route(verb, f"{app[SITE].base}/api/v1{path}", handler)
