"""Alerts in and out, and their groups."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from aiohttp import web
from msgspec.structs import replace

from aiopsd.decode.alerts import BadAlert, decode_alerts
from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.matchers import BadPattern, anchored
from aiopsd.model import Alert, AlertBatch, AlertIn, Labels
from aiopsd.routing.tree import Route, muted_by
from aiopsd.web.alertmanager.wire import Refused, filters, flag, invalid, read_json_bytes
from aiopsd.web.site import SITE, Problem, Site, answer, rfc3339

SLICE = 1000  # alerts looked at before the event loop gets its turn

# --------------------------------------------------------------------------- in


async def read_alerts(request: web.Request) -> tuple[list[AlertIn], list[BadAlert]]:
    """(alerts of the body, those that Alertmanager does not store).

    Raises:
        Problem: 400, 415 or 422 for what is refused whole, nothing of the body is taken: no JSON, a field of the wrong
            type, a time or a URL that is none, an alert without labels.
    """
    body = await read_json_bytes(request, "alerts")
    try:
        good, bad = decode_alerts(body, "prometheus")
    except DecodeError as e:
        raise Problem(400, f"parsing alerts body failed, because {e.detail}") from None
    for _, reason, detail in bad:
        if reason in _NUMBERS:
            raise invalid(_NUMBERS[reason], detail)
        if reason is DecodeReason.MALFORMED:
            raise Problem(400, f"parsing alerts body failed, because {detail}")
    return good, bad


_NUMBERS = {DecodeReason.SCHEMA: 602, DecodeReason.VALUE: 601}  # what go-openapi checks before Alertmanager looks


async def post_alerts(request: web.Request) -> web.Response:
    """POST /api/v2/alerts: answers 200 with nothing when every alert is decided upon."""
    site = request.app[SITE]
    async with site.journal_gate.place(site.config.http.commit_timeout):
        good, bad = await read_alerts(request)
        for _, reason, _ in bad:
            site.metrics.rejects.labels("http", reason).inc()
        if good:
            await site.submit([AlertBatch(alerts=tuple(good), sender="prometheus")])
    if bad:
        several = len(good) + len(bad) > 1
        raise Refused(400, "; ".join(f"{detail} (alert {i})" if several else detail for i, _, detail in bad))
    return web.Response()


# --------------------------------------------------------------------------- out


class Name(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class AlertStatus(msgspec.Struct, frozen=True, kw_only=True):
    inhibitedBy: Sequence[str]
    mutedBy: Sequence[str]
    silencedBy: Sequence[str]
    state: str  # active | suppressed


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Ours: which incident ("": none) and which group holds the alert, and why. Alertmanager's clients pass over it."""

    incident: str
    group: str
    reason: str


class GettableAlert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    annotations: Labels
    endsAt: str
    fingerprint: str
    receivers: Sequence[Name]
    startsAt: str
    status: AlertStatus
    updatedAt: str
    generatorURL: str = ""
    labels: Labels
    aiopsd: Place


class AlertGroup(msgspec.Struct, frozen=True, kw_only=True):
    alerts: list[GettableAlert]
    labels: Labels
    receiver: Name


def receiver_filter(request: web.Request) -> Any:
    """A predicate on receiver names from the `receiver` parameter, an anchored RE2."""
    text = request.query.get("receiver")
    if not text:
        return lambda name: True
    try:
        return anchored(text).fullmatch
    except BadPattern as e:
        raise Refused(400, f"failed to parse receiver param: error parsing regexp: {e.why}") from None


def gettable(site: Site, alert: Alert, receivers: Sequence[str], now: float) -> GettableAlert:
    """`alert` on the wire; an open end is given the resolve timeout from now, because clients compare it with now."""
    silenced, inhibited = site.muted(alert, now)
    return GettableAlert(
        labels=alert.labels,
        annotations=alert.annotations,
        startsAt=rfc3339(alert.starts_at),
        endsAt=rfc3339(alert.ends_at or now + site.config.correlate.resolve_timeout),
        updatedAt=rfc3339(alert.updated_at),
        fingerprint=alert.fingerprint,
        receivers=[Name(name=r) for r in receivers],
        status=AlertStatus(
            state="suppressed" if silenced or inhibited else "active",
            silencedBy=tuple(silenced),
            inhibitedBy=tuple(inhibited),
            mutedBy=(),
        ),
        generatorURL=alert.generator_url,
        aiopsd=Place(incident=alert.incident, group=site.group(alert), reason=alert.group_reason),
    )


async def chosen(request: web.Request) -> list[tuple[GettableAlert, list[tuple[Route, Labels]]]]:
    """Firing alerts that pass the request's filters, by fingerprint, each with those of its routes that do."""
    site, now = request.app[SITE], request.app[SITE].clock()
    matchers, receiver = filters(request), receiver_filter(request)
    active, silenced, inhibited = flag(request, "active"), flag(request, "silenced"), flag(request, "inhibited")
    out = []
    for i, alert in enumerate(site.projection.alerts(firing=True)):
        if i % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        if (alert.ends_at and alert.ends_at < now) or not matchers.matches(alert.labels):
            continue
        every = site.routes(alert)
        routes = [(route, labels) for route, labels in every if receiver(route.receiver)]
        if not routes and "receiver" in request.query:
            continue
        item = gettable(site, alert, list(dict.fromkeys(route.receiver for route, _ in every)), now)
        if item.status.state == "active" and not active:
            continue
        if (item.status.silencedBy and not silenced) or (item.status.inhibitedBy and not inhibited):
            continue
        out.append((item, routes))
    return out


async def get_alerts(request: web.Request) -> web.Response:
    """GET /api/v2/alerts: sorted by fingerprint."""
    return answer([item for item, _ in await chosen(request)])


_Key: TypeAlias = tuple[int, tuple[tuple[str, str], ...], str, str]


def _key(route: Route, labels: Labels) -> _Key:
    """Of a group, in Alertmanager's order: few labels first. All routes of an incident to a receiver are one group."""
    return len(labels), tuple(sorted(labels.items())), route.receiver, "" if route.group_by is None else route.key


async def get_groups(request: web.Request) -> web.Response:
    """GET /api/v2/alerts/groups: as the dispatcher groups them, each alert with what mutes its route now."""
    now, muted = request.app[SITE].clock(), flag(request, "muted")
    groups: dict[_Key, AlertGroup] = {}
    for item, routes in await chosen(request):
        receivers = [Name(name=name) for name in dict.fromkeys(route.receiver for route, _ in routes)]
        taken: dict[_Key, list[Route]] = {}
        for route, labels in routes:
            taken.setdefault(_key(route, labels), []).append(route)
        for key, through in taken.items():
            by = muted_by(through, now)
            if by and not muted:
                continue
            _, pairs, receiver, _ = key
            group = groups.setdefault(key, AlertGroup(alerts=[], labels=dict(pairs), receiver=Name(name=receiver)))
            status = replace(item.status, mutedBy=by, state="suppressed") if by else item.status
            group.alerts.append(replace(item, receivers=receivers, status=status))
    return answer([groups[key] for key in sorted(groups)])
