"""Incidents: listed, whole, and what operators do with them: acknowledge, resolve, say what was wrong."""

import math
from datetime import datetime
from difflib import get_close_matches
from typing import Literal

import msgspec
from aiohttp import web

from aiopsd.incidents import IllegalMove, Move, move
from aiopsd.model import AckIncident, Alert, AuditEntry, Incident, IncidentState, ResolveIncident, Verdict
from aiopsd.projection import LIVE
from aiopsd.protocols import OutboxRow
from aiopsd.web.api.requests import MOST, cursor_of, number_of, read_cursor, read_request, request_id, seconds
from aiopsd.web.api.views import (
    IncidentDetail,
    IncidentList,
    VerdictView,
    alert_view,
    candidate_view,
    delivery_view,
    incident_fields,
    incident_view,
    timeline_view,
)
from aiopsd.web.site import SITE, Problem, Site, answer

STATES = tuple(str(s) for s in IncidentState)
ENDED = ("pending", "delivered", "superseded", "failed")

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


async def get_incidents(request: web.Request) -> web.Response:
    """GET /api/v1/incidents: newest first; `state` (repeatable or with commas), `service`, `limit`, `cursor`."""
    site = request.app[SITE]
    states = tuple(s for given in request.query.getall("state", []) for s in given.split(",") if s)
    unknown = [s for s in states if s not in STATES]
    if unknown:
        raise Problem(400, f"state={unknown[0][:40]!r}: expected one of {', '.join(STATES)}", where="state")
    service, limit = request.query.get("service", ""), number_of(request, "limit", 100, MOST)
    after = read_cursor(request, tuple[float, str])
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
    more = cursor_of(page[-1].opened_at, page[-1].id) if len(found) > limit else ""
    return answer(IncidentList(incidents=[incident_view(site, i) for i in page], next=more))


async def get_incident(request: web.Request) -> web.Response:
    """GET /api/v1/incidents/{id}: evidence, chain, alerts, timeline with the reason of every decision, deliveries."""
    site = request.app[SITE]
    return answer(await detail_view(site, await find_incident(site, request.match_info["id"])))


async def detail_view(site: Site, i: Incident) -> IncidentDetail:
    """All that is known of the incident; asks the store for what is no longer in memory."""
    now = site.clock()
    return IncidentDetail(
        **incident_fields(site, i),
        causes=[candidate_view(c) for c in i.roots],
        members=[alert_view(site, a, now) for a in await alerts_of(site, i.id)],
        timeline=[timeline_view(e) for e in await timeline_of(site, i.id)],
        deliveries=[delivery_view(r) for r in await deliveries_of(site, i.id)],
    )


# --------------------------------------------------------------------------- writing


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


async def say(site: Site, verdict: Verdict) -> int:
    """Submit an operator's verdict; the offset of its record, which what follows from it names.

    Raises:
        Problem: 404 unknown incident; 400 something that the kind needs is missing, or names what is not there.
    """
    incident = await find_incident(site, verdict.incident)
    if verdict.kind == "cause" and not verdict.service:
        raise Problem(400, "name the service that was the cause", where="service")
    if verdict.kind == "merge":
        if not verdict.other or verdict.other == incident.id:
            raise Problem(400, "name the other incident", where="other")
        if site.projection.incident(verdict.other) is None and await site.store.incident(verdict.other) is None:
            raise Problem(400, f"no incident {verdict.other!r}", where="other")
    if verdict.kind == "split":
        members = {a.fingerprint for a in await alerts_of(site, incident.id)}
        strange = [f for f in verdict.fingerprints if f not in members]
        if strange or not verdict.fingerprints:
            told = f"alert {strange[0]!r} is not of this incident" if strange else "name the alerts to split off"
            raise Problem(400, told, where="fingerprints")
        if members == set(verdict.fingerprints):
            raise Problem(400, "these are all of its alerts: leave one here, or say `noise`", where="fingerprints")
    return await site.submit([verdict])


def hint_of(site: Site, incident: Incident, service: str) -> str:
    """What to say of a name that nothing has: it lies outside of the graph, or is misspelled; "" for a known one."""
    graph = site.topology()
    suspects = {r.service for r in incident.roots if r.service != incident.said}
    names = {*graph.names, *incident.services, *suspects}
    if not service or service in names or graph.resolve(service) in names:
        return ""
    near = get_close_matches(service, sorted(names), 1)
    return f"nothing here or in the graph is called {service}{f': did you mean {near[0]}?' if near else ''}"


async def followed(site: Site, offset: int) -> list[AuditEntry]:
    """The decisions that followed from one record of the journal, oldest first; those of long ago are not found."""
    return [e for e in await site.store.timeline() if e.offset == offset]


async def post_verdict(request: web.Request) -> web.Response:
    """POST /api/v1/incidents/{id}/verdict: kept, audited, used by later decisions; answers with what it changed."""
    site, key = request.app[SITE], request.match_info["id"]
    given: VerdictRequest = await read_request(request, VerdictRequest)
    offset = await say(
        site,
        Verdict(
            request_id=request_id(request),
            incident=key,
            kind=given.kind,
            actor=given.actor.strip(),
            service=given.service,
            other=given.other,
            fingerprints=given.fingerprints,
            comment=given.comment,
        ),
    )
    incident = await find_incident(site, key)
    return answer(
        VerdictView(
            **incident_fields(site, incident),
            decisions=[timeline_view(e) for e in await followed(site, offset)],
            hint=hint_of(site, incident, given.service),
        )
    )
