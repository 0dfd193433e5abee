"""Alertmanager's API v2, as its senders and amtool use it: alerts in and out, groups, silences, status.

The contract was recorded from Alertmanager 0.25 and read from its newer sources; a test plays the same requests to
both. Where versions differ we follow the newer one: label names are UTF-8 (since 0.27), deleting an unknown silence is
404. A POST takes every good alert of a body that also has bad ones, and then says 400, as Alertmanager does.
"""

import asyncio
import re
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import yaml
from aiohttp import web

from aiopsd.config import Config, RouteConfig
from aiopsd.decode.alerts import BadAlert, decode_alerts
from aiopsd.decode.times import parse_time
from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.matchers import BadPattern, Matchers, anchored, matcher_text, parse_matcher
from aiopsd.model import Alert, AlertBatch, AlertIn, ExpireSilence, Labels, Matcher, PutSilence, Silence
from aiopsd.silences import SilenceState, problem, silence_id, sorted_silences
from aiopsd.silences import state_of as silence_state
from aiopsd.web.site import SITE, Problem, Site, answer, media_type, read_body, rfc3339

COMPATIBLE = "0.28.0"  # the Alertmanager whose API this is: the first with mutedBy; karma and amtool compare it
SLICE = 1000  # alerts looked at before the event loop gets its turn
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")
_TRUE = frozenset({"true", "1", "yes", "ok", "y", "on", "selected", "checked", "t", "enabled"})  # go-openapi's swag


class Refused(Problem):
    """A 400 or 404 whose body is a JSON string, as amtool reads it."""


def text_answer(status: int, message: str) -> web.Response:
    """A JSON string: the body of Alertmanager's own (not go-openapi's) errors."""
    return answer(message, status)


def problem_answer(p: Problem) -> web.Response:
    """go-openapi's error object, or a bare string for what Alertmanager itself refuses."""
    if isinstance(p, Refused):
        return text_answer(p.status, p.message)
    code = p.where if p.where.isdigit() else ""  # 601, 602, 612: go-openapi numbers its validations
    body = {"code": int(code) if code else p.status, "message": p.message}
    return answer(body, p.status, p.headers)


def invalid(code: int, message: str) -> Problem:
    """422 with go-openapi's number: 601 wrong type, 602 required, 612 too few items."""
    return Problem(422, message, where=str(code))


async def read_json_bytes(request: web.Request, what: str) -> bytes:
    """The body.

    Raises:
        Problem: 415, 422 for an empty one.
    """
    given = media_type(request) or "application/octet-stream"
    if given != "application/json":
        raise Problem(415, f'unsupported media type "{given}", only [application/json] are allowed')
    body = await read_body(request)
    if not body.strip():
        raise invalid(602, f"{what} in body is required")
    return body


async def read_json(request: web.Request, kind: Any, what: str) -> Any:
    """The body as `kind`; None for a JSON null.

    Raises:
        Problem: 415, 422 for an empty body, 400 naming the field.
    """
    body = await read_json_bytes(request, what)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Problem(400, f"parsing {what} body failed, because {e}") from None


def moment_of(text: str | None, what: str) -> float:
    try:
        return parse_time(text) if text else 0.0
    except ValueError as e:
        raise Problem(400, f"parsing {what} failed, because {e}") from None


# --------------------------------------------------------------------------- alerts in


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


# --------------------------------------------------------------------------- alerts out


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


def flag(request: web.Request, name: str) -> bool:
    """A boolean parameter as go-openapi reads it: what is not a yes is a no; absent is yes."""
    given = request.query.get(name)
    return True if given is None else given.lower() in _TRUE


def filters(request: web.Request) -> Matchers:
    """The `filter` parameters together.

    Raises:
        Refused: 400 with the matcher's fault.
    """
    found = []
    for text in request.query.getall("filter", []):
        if text.lstrip().startswith("{"):  # one matcher each, never a set
            raise Refused(400, f"bad matcher format: {text}")
        try:
            found.append(parse_matcher(text))
        except ValueError as e:
            raise Refused(400, str(e)) from None
    return Matchers(found)


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


async def chosen(request: web.Request) -> list[tuple[GettableAlert, list[tuple[str, Labels]]]]:
    """Firing alerts that pass the request's filters, by fingerprint, each with its routes."""
    site, now = request.app[SITE], request.app[SITE].clock()
    matchers, receiver = filters(request), receiver_filter(request)
    active, silenced, inhibited = flag(request, "active"), flag(request, "silenced"), flag(request, "inhibited")
    out = []
    for i, alert in enumerate(site.projection.alerts(firing=True)):
        if i % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        if (alert.ends_at and alert.ends_at < now) or not matchers.matches(alert.labels):
            continue
        routes = [(name, labels) for name, labels in site.routes(alert) if receiver(name)]
        if not routes and "receiver" in request.query:
            continue
        item = gettable(site, alert, list(dict.fromkeys(name for name, _ in routes)), now)
        if item.status.state == "active" and not active:
            continue
        if (item.status.silencedBy and not silenced) or (item.status.inhibitedBy and not inhibited):
            continue
        out.append((item, routes))
    return out


async def get_alerts(request: web.Request) -> web.Response:
    """GET /api/v2/alerts: sorted by fingerprint."""
    return answer([item for item, _ in await chosen(request)])


async def get_groups(request: web.Request) -> web.Response:
    """GET /api/v2/alerts/groups: by receiver and group labels, as the dispatcher groups them."""
    groups: dict[tuple[str, str], AlertGroup] = {}
    for item, routes in await chosen(request):
        if not flag(request, "muted") and item.status.mutedBy:
            continue
        for receiver, labels in routes:
            key = (str(sorted(labels.items())), receiver)
            group = groups.setdefault(key, AlertGroup(alerts=[], labels=labels, receiver=Name(name=receiver)))
            group.alerts.append(item)
    return answer([groups[key] for key in sorted(groups)])


async def get_receivers(request: web.Request) -> web.Response:
    """GET /api/v2/receivers."""
    return answer([{"name": r["name"]} for r in request.app[SITE].config.receivers])


# --------------------------------------------------------------------------- silences


class PostableMatcher(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    value: str | None = None
    isRegex: bool | None = None
    isEqual: bool | None = None


class PostableSilence(msgspec.Struct, frozen=True, kw_only=True):
    id: str | None = None
    comment: str | None = None
    createdBy: str | None = None
    startsAt: str | None = None
    endsAt: str | None = None
    matchers: list[PostableMatcher] | None = None


def gettable_silence(s: Silence, now: float) -> dict[str, Any]:
    return {
        "id": s.id,
        "status": {"state": silence_state(s, now)},
        "updatedAt": rfc3339(s.updated_at),
        "comment": s.comment,
        "createdBy": s.created_by,
        "endsAt": rfc3339(s.ends_at),
        "matchers": [
            {"isEqual": m.is_equal, "isRegex": m.is_regex, "name": m.name, "value": m.value} for m in s.matchers
        ],
        "startsAt": rfc3339(s.starts_at),
    }


async def get_silences(request: web.Request) -> web.Response:
    """GET /api/v2/silences: a `filter` compares name, type and value of matchers, it does not match labels."""
    site, now = request.app[SITE], request.app[SITE].clock()
    wanted = filters(request).matchers
    found = [s for s in site.projection.silences() if all(m in s.matchers for m in wanted)]
    return answer([gettable_silence(s, now) for s in sorted_silences(found, now)])


async def post_silence(request: web.Request) -> web.Response:
    """POST /api/v2/silences: creates or, with an id, edits; answers with the id that holds from now on."""
    site = request.app[SITE]
    async with site.journal_gate.place(site.config.http.commit_timeout):
        given = await read_json(request, PostableSilence | None, "silence") or PostableSilence()
        for name in ("comment", "createdBy", "endsAt", "matchers", "startsAt"):
            if getattr(given, name) is None:
                raise invalid(602, f"{name} in body is required")
        if not given.matchers:
            raise invalid(612, "matchers in body should have at least 1 items")
        matchers = []
        for i, m in enumerate(given.matchers):
            if m.name is None or m.value is None or m.isRegex is None:
                missing = next(n for n in ("isRegex", "name", "value") if getattr(m, n) is None)
                raise invalid(602, f"matchers.{i}.{missing} in body is required")
            matchers.append(Matcher(name=m.name, value=m.value, is_regex=m.isRegex, is_equal=m.isEqual is not False))
        put = PutSilence(
            request_id=request.headers.get("Idempotency-Key", "")[:200] or uuid.uuid4().hex,
            id=given.id or "",
            matchers=tuple(matchers),
            starts_at=moment_of(given.startsAt, "startsAt"),
            ends_at=moment_of(given.endsAt, "endsAt"),
            created_by=given.createdBy or "",
            comment=given.comment or "",
        )
        wrong = problem(put, site.clock())
        if wrong is not None:
            raise Refused(400, wrong)
        if put.id and site.projection.silence(put.id) is None:
            raise Refused(404, "silence not found")
        await site.submit([put])
    made = silence_id(put)
    if site.projection.silence(made) is None:
        made = put.id  # edited in place
    if not made:
        raise Refused(400, "Failed to create silence: end time can't be in the past")  # it passed while we waited
    return answer({"silenceID": made})


def _silence_of(request: web.Request) -> Silence | None:
    key = request.match_info["id"]
    if not _UUID.fullmatch(key):
        raise invalid(601, f'silenceID in path must be of type uuid: "{key}"')
    return request.app[SITE].projection.silence(key.lower())


async def get_silence(request: web.Request) -> web.Response:
    """GET /api/v2/silence/{id}."""
    found = _silence_of(request)
    if found is None:
        return web.Response(status=404, content_type="application/json")
    return answer(gettable_silence(found, request.app[SITE].clock()))


async def delete_silence(request: web.Request) -> web.Response:
    """DELETE /api/v2/silence/{id}: ends it now; ending it twice is fine."""
    site = request.app[SITE]
    found = _silence_of(request)
    if found is None:
        raise Refused(404, "silence not found")
    if silence_state(found, site.clock()) is not SilenceState.EXPIRED:
        await site.submit([ExpireSilence(id=found.id)])
    return web.Response()


# --------------------------------------------------------------------------- status


async def get_status(request: web.Request) -> web.Response:
    """GET /api/v2/status: one node without a cluster; `config.original` is our routing in Alertmanager's words."""
    site = request.app[SITE]
    return answer(
        {
            "cluster": {"name": "", "peers": [], "status": "disabled"},
            "config": {"original": routing_text(site.config)},
            "uptime": rfc3339(site.started_at),
            "versionInfo": {
                "branch": "aiopsd",
                "buildDate": "",
                "buildUser": "",
                "goVersion": "",
                "revision": f"aiopsd {site.version}",
                "version": COMPATIBLE,
            },
        }
    )


def routing_text(config: Config) -> str:
    """Routes, receivers' names and inhibition as Alertmanager's YAML: what `amtool config routes` reads.

    Integrations are left out: they hold secrets and options that Alertmanager does not know. Grouping by incident has
    no word there; it is shown as a label of that name.
    """
    nobody = "none"

    def length(seconds: float) -> str:
        return f"{round(seconds * 1000)}ms" if seconds % 1 else f"{round(seconds)}s"

    def route(node: RouteConfig, root: bool) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if node.receiver or root:
            out["receiver"] = node.receiver or nobody
        if node.group_by is not None or root:
            out["group_by"] = list(node.group_by) if node.group_by is not None else ["incident"]
        if node.matchers:
            out["matchers"] = [matcher_text(parse_matcher(m)) for m in node.matchers]
        for name in ("group_wait", "group_interval", "repeat_interval"):
            value = getattr(node, name)
            if value is not None:
                out[name] = length(value)
        if node.continue_:
            out["continue"] = True
        if node.routes:
            out["routes"] = [route(sub, False) for sub in node.routes]
        return out

    names = [r["name"] for r in config.receivers]
    if not config.route.receiver and nobody not in names:
        names.append(nobody)
    shown: dict[str, Any] = {
        "global": {"resolve_timeout": length(config.correlate.resolve_timeout)},
        "route": route(config.route, True),
        "receivers": [{"name": n} for n in names],
    }
    if config.inhibit_rules:
        shown["inhibit_rules"] = [
            {
                "source_matchers": list(rule.source_matchers),
                "target_matchers": list(rule.target_matchers),
                "equal": list(rule.equal),
            }
            for rule in config.inhibit_rules
        ]
    return yaml.safe_dump(shown, sort_keys=False)


# --------------------------------------------------------------------------- routes


async def preflight(request: web.Request) -> web.Response:
    """OPTIONS: simple methods from anywhere, as Alertmanager's CORS middleware answers; DELETE is not offered."""
    wanted = request.headers.get("Access-Control-Request-Method", "")
    headers = {"Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
    if request.headers.get("Origin") and wanted in ("GET", "HEAD", "POST"):
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Access-Control-Allow-Methods"] = wanted
        if request.headers.get("Access-Control-Request-Headers", "").strip().lower() == "content-type":
            headers["Access-Control-Allow-Headers"] = "Content-Type"
    return web.Response(headers=headers)


def setup(app: web.Application) -> None:
    """Add the routes of API v2."""
    v2 = f"{app[SITE].base}/api/v2"
    for path, verbs in {
        "/status": {"GET": get_status},
        "/receivers": {"GET": get_receivers},
        "/alerts": {"GET": get_alerts, "POST": post_alerts},
        "/alerts/groups": {"GET": get_groups},
        "/silences": {"GET": get_silences, "POST": post_silence},
        "/silence/{id}": {"GET": get_silence, "DELETE": delete_silence},
    }.items():
        resource = app.router.add_resource(v2 + path)
        for verb, handler in verbs.items():
            resource.add_route(verb, handler)
        resource.add_route("OPTIONS", preflight)
