"""How things stand: what fires, what was decided, the graph and its changes, what waits to be sent, the status."""

import math
from collections.abc import AsyncIterator

from aiohttp import web

from aiopsd.model import AuditEntry
from aiopsd.protocols import Store
from aiopsd.web.api.requests import MOST, cursor_of, number_of, read_cursor
from aiopsd.web.api.views import (
    AlertList,
    Outbox,
    Timeline,
    TopologyChanges,
    alert_view,
    delivery_view,
    timeline_view,
    topology_change_view,
)
from aiopsd.web.site import SITE, Problem, answer, moment

CHUNK = 1000  # entries of the timeline that are read at once
SCANNED = 50_000  # ... and looked through for one answer: an actor who never said anything costs no more


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


async def _backwards(store: Store, incident: str, before: float) -> AsyncIterator[list[AuditEntry]]:
    """The timeline from `before` on back, newest first, some CHUNK at a time; entries of one moment stay together."""
    ask = CHUNK
    while True:
        rows = await store.timeline(incident, limit=ask, before=before)
        last = len(rows) < ask
        whole = rows if last else [e for e in rows if e.stamp > rows[0].stamp]
        if whole:
            yield whole[::-1]
            before, ask = whole[0].stamp, CHUNK
        else:
            ask *= 2
        if last:
            return


async def get_timeline(request: web.Request) -> web.Response:
    """GET /api/v1/timeline: decisions of all incidents and of none (silences, topology), newest first; `incident`,
    `kind` (repeatable or with commas), `actor`, `limit`, `cursor`."""
    site, limit = request.app[SITE], number_of(request, "limit", 100, MOST)
    kinds = {k for given in request.query.getall("kind", []) for k in given.split(",") if k}
    incident, actor = request.query.get("incident", ""), request.query.get("actor", "")
    stamp, shown = read_cursor(request, tuple[float, int]) or (math.inf, 0)  # so many of that moment were shown before
    found: list[AuditEntry] = []
    read, following = 0, ""
    async for entries in _backwards(site.store, incident, math.nextafter(stamp, math.inf)):
        found += [e for e in entries if (not kinds or e.kind in kinds) and (not actor or e.actor == actor)]
        read += len(entries)
        if len(found) > limit + shown or read >= SCANNED:
            following = cursor_of(math.nextafter(entries[-1].stamp, -math.inf), 0)
            break
    found = found[shown:]
    page = found[:limit]
    if len(found) > limit:
        same = sum(e.stamp == page[-1].stamp for e in page) + (shown if page[-1].stamp == stamp else 0)
        following = cursor_of(page[-1].stamp, same)
    return answer(Timeline(timeline=[timeline_view(e) for e in page], next=following))


async def get_topology(request: web.Request) -> web.Response:
    """GET /api/v1/topology: the graph as JSON, or ?format=graphml."""
    site = request.app[SITE]
    graph = site.topology()
    kind = request.query.get("format", "json")
    if kind == "json":
        data = graph.to_json(site.learned)
        for edge in data["edges"]:
            edge.update({name: moment(edge[name] or 0.0) for name in ("first_seen", "last_seen", "stale_at")})
        return answer(data)
    if kind == "graphml":
        return web.Response(text=graph.to_graphml(site.learned), content_type="application/graphml+xml")
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
