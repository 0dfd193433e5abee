"""The pages: what is open, and one incident from symptom to cause. Rendered here, no build step, no script needed.

Labels and annotations are hostile input: the templates escape everything, links are http or https only, and the
Content-Security-Policy forbids inline script. A form is taken from our own pages only (Fetch Metadata, Origin).
"""

import hashlib
import hmac
import uuid
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import jinja2
from aiohttp import web
from msgspec.structs import replace

from aiopsd.evidence import about
from aiopsd.incidents import ADVICE, Move, advice, rank_of, span
from aiopsd.matchers import matcher_text
from aiopsd.model import (
    AckIncident,
    Alert,
    Candidate,
    Evidence,
    Incident,
    IncidentState,
    ResolveIncident,
    Verdict,
    labels_text,
)
from aiopsd.projection import LIVE
from aiopsd.web import drawing
from aiopsd.web.api.incidents import alerts_of, command, deliveries_of, find_incident, followed, say, timeline_of
from aiopsd.web.api.maintenance import windows
from aiopsd.web.api.views import resolves_at
from aiopsd.web.site import SITE, Problem, Site, moment

HERE = Path(__file__).parent
CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
KINDS = ("cause", "split", "merge", "noise")
SESSION = "aiopsd_session"
ACTOR = "aiopsd_actor"
RULER = {  # channel -> what was out of its range, where it is not the value itself
    "resid": "a sudden change",
    "season": "against this hour of other days",
    "hour": "its mean of an hour",
    "still": "how much it moves",
    "online": "as its own model sees it",
}
MOST_EVIDENCE = 12  # drawings on one page; the API has the rest
MOST_OTHERS = 50  # incidents that one may be merged with by the page, the newest; the API takes any
MOST_OPEN = 200  # rows of the first page, the worst; the API has the rest
MOST_ALERTS = 500  # rows of the page of alerts; the API has the rest
MOST_ROWS = 200  # of the outbox, counted for the first page; above it says 200+
MOST_LINES = 300  # of a timeline on the page, the newest; the API has the rest


# --------------------------------------------------------------------------- words and numbers


def stamp(ts: float, now: float) -> str:
    """A time of day in UTC, with the date when it is not today's."""
    at = moment(ts)
    if at is None:
        return ""
    today = moment(now)
    return f"{at:%H:%M:%S}" if today is not None and at.date() == today.date() else f"{at:%Y-%m-%d %H:%M:%S}"


def iso(ts: float) -> str:
    at = moment(ts)
    return at.isoformat() if at else ""


def safe_url(text: str) -> str:
    """The link when a browser may follow it (http, https), else ""."""
    try:
        parts = urlsplit(text.strip())
    except ValueError:
        return ""
    return text.strip() if parts.scheme in ("http", "https") and parts.netloc else ""


def percent(share: float) -> str:
    """
    >>> percent(0.97), percent(0.004), percent(0.0)
    ('97%', '<1%', '0%')
    """
    return "<1%" if 0.0 < share < 0.005 else f"{100 * min(1.0, max(0.0, share)):.0f}%"


def level(severity: str) -> str:
    """critical, warning or info: the colour class of a severity word."""
    return ("info", "info", "warning", "critical", "critical", "critical")[rank_of(severity)]


def environment() -> jinja2.Environment:
    """The templates; everything that is not Markup of `drawing` is escaped."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        span=span, iso=iso, safe_url=safe_url, percent=percent, number=drawing.number, level=level, path=_quote
    )
    env.globals.update(labels_text=labels_text, matcher_text=matcher_text)
    env.globals.update(figures=drawing.figures, advice_of=advice, about=about)
    return env


def _quote(text: str) -> str:
    return quote(text, safe="")


ENVIRONMENT = web.AppKey("environment", jinja2.Environment)


def render(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
    """An HTML answer."""
    site = request.app[SITE]
    now = site.clock()
    waits = site.door.readiness()
    text = (
        request.app[ENVIRONMENT]
        .get_template(template)
        .render(
            base=site.base,
            version=site.version,
            now=now,
            waits=waits,
            stamp=lambda ts: stamp(ts, now),
            kind_of=partial(kind_of, site),
            token_wanted=site.config.http.token is not None and not session_ok(request),
            actor=unquote(request.cookies.get(ACTOR, "")),
            **values,
        )
    )
    return web.Response(
        text=text,
        status=status,
        content_type="text/html",
        headers={"Content-Security-Policy": CSP, "Referrer-Policy": "same-origin", "Cache-Control": "no-store"},
    )


# --------------------------------------------------------------------------- reading


def kind_of(site: Site, root: Candidate) -> str:
    """What a cause is, as the graph has it: the ranking tells hosts and what is outside from services, and no more."""
    if root.kind == "unknown":
        return "not in the graph"
    return site.topology().kind(root.service) or root.kind if root.kind == "service" else root.kind


def hushed(site: Site, alert: Alert, now: float) -> list[tuple[str, str]]:
    """(word, by whom or what) of each reason for which nobody is told of a firing alert now."""
    silences, sources = site.muted(alert, now)
    found = [s for i in silences if (s := site.projection.silence(i)) is not None]
    words = [f"{s.created_by}: {s.comment}" if s.comment else s.created_by for s in found]
    louder = [a for i in sources if (a := site.projection.alert(i)) is not None]
    names = [f"{a.labels.get('alertname', 'alert')} of {a.service}" for a in louder]
    said = [("silenced", silences, words), ("inhibited", sources, names), ("muted", (), list(site.asleep(alert, now)))]
    return [(word, ", ".join(by)) for word, ids, by in said if ids or by]


def titles(site: Site, incidents: Iterable[str]) -> dict[str, str]:
    """What incidents are called; "" for one that is past its retention."""
    return {i: found.title if (found := site.projection.incident(i)) is not None else "" for i in incidents}


async def index(request: web.Request) -> web.Response:
    """GET /: what is open now, what ended lately, and whether pages reach their receivers."""
    site = request.app[SITE]
    now = site.clock()
    live = sorted(
        site.projection.incidents(states=LIVE),
        key=lambda i: (i.state is not IncidentState.OPEN, -rank_of(i.severity), -i.opened_at, i.id),
    )
    done = site.projection.incidents(states=(IncidentState.RESOLVED, IncidentState.MERGED))
    done.sort(key=lambda i: (i.updated_at, i.id), reverse=True)
    figures = site.projection.figures()
    failed = await site.store.outbox(states=("failed",), limit=MOST_ROWS)
    waiting = await site.store.outbox(states=("pending",), limit=MOST_ROWS)
    return render(
        request,
        "index.html",
        resolves_at=partial(resolves_at, site),
        live=live[:MOST_OPEN],
        opened=len(live),
        done=done[:15],
        titles=titles(site, (i.merged_into for i in done[:15])),
        planned=[w for w in windows(site) if w.ends_at > now],
        firing=figures["alerts"]["firing"],
        folded=sum(i.firing for i in live),
        services=len({s for i in live for s in i.services}),
        waiting=len(waiting),
        failed=failed,
    )


async def alerts(request: web.Request) -> web.Response:
    """GET /alerts: what fires, with its group and the reason of its place; those that nobody is told of first."""
    site = request.app[SITE]
    now = site.clock()
    firing = site.projection.alerts(firing=True)
    firing.sort(key=lambda a: (bool(a.incident), -rank_of(a.labels.get("severity", "warning")), -a.starts_at))
    shown = firing[:MOST_ALERTS]
    return render(
        request,
        "alerts.html",
        alerts=[(a, site.group(a), hushed(site, a, now)) for a in shown],
        firing=len(firing),
        alone=sum(not a.incident for a in firing),
        titles=titles(site, (a.incident for a in shown)),
    )


async def incident(request: web.Request) -> web.Response:
    """GET /incidents/{id}: the chain, the evidence, the graph around it, the timeline, the pages sent."""
    site = request.app[SITE]
    item = await find_incident(site, request.match_info["id"])
    alerts = await alerts_of(site, item.id)
    entries = await timeline_of(site, item.id)
    deliveries = await deliveries_of(site, item.id)
    firing = Counter(a.service for a in alerts if a.state == "firing")
    view = drawing.neighbourhood(site.topology(), item, firing)
    shown = evidence_of(item, [e for a in alerts for e in a.evidence])
    said = request.query.get("said", "")
    others = [i for i in site.projection.incidents(states=LIVE) if i.id != item.id]
    return render(
        request,
        "incident.html",
        item=item,
        resolves_at=resolves_at(site, item),
        open=item.state in LIVE,
        root=item.root,
        alerts=[(a, hushed(site, a, site.clock()) if a.state == "firing" else []) for a in alerts],
        timeline=entries[-MOST_LINES:][::-1],
        earlier=max(0, len(entries) - MOST_LINES),
        deliveries=deliveries,
        verdicts=[e for e in entries if e.kind == "verdict"],
        followed=await followed(site, int(said)) if said.isascii() and said.isdigit() else [],
        others=sorted(others, key=lambda i: (-i.started_at, i.id))[:MOST_OTHERS],
        advice={key: advice(alerts, item.root, key) for key in ADVICE},
        view=view,
        graph=drawing.graph(view),
        suspects=list(dict.fromkeys([*(r.service for r in item.roots if r.service), *item.services])),
        evidence=[(e, drawing.series(e)) for e in shown[:MOST_EVIDENCE]],
        ruler=RULER,
        more_evidence=max(0, len(shown) - MOST_EVIDENCE),
    )


def evidence_of(item: Incident, more: list[Evidence]) -> list[Evidence]:
    """What speaks for the causes, best candidate first, then that of the alerts; one entry per signal.

    Where both know a signal, the alert's words hold: they say which range broke, and what it was before the break. The
    values are those that either has seen.
    """
    found: dict[tuple[str, str, str], Evidence] = {}
    broke = {(e.service, e.metric, labels_text(e.labels)): e for e in reversed(more)}
    for e in [*(e for root in item.roots for e in root.evidence), *more]:
        key = (e.service, e.metric, labels_text(e.labels))
        known = found.get(key) or broke.get(key, e)
        if e is not known:
            points = {round(t): (t, v) for t, v in (*e.recent, *known.recent)}  # the ring keeps whole seconds
            known = replace(known, recent=tuple(sorted(points.values())))
        found[key] = known  # a dict keeps the place of the first
    return list(found.values())


# --------------------------------------------------------------------------- writing


def session_value(site: Site) -> str:
    """What the session's cookie holds: proof of the token, not the token."""
    token = site.config.http.token
    return hmac.new(token.reveal().encode(), b"aiopsd page session", hashlib.sha256).hexdigest() if token else ""


def session_ok(request: web.Request) -> bool:
    return hmac.compare_digest(request.cookies.get(SESSION, "").encode(), session_value(request.app[SITE]).encode())


def same_origin(request: web.Request) -> bool:
    """Whether a form came from our own pages: Fetch Metadata where the browser sends it, else Origin, else Referer."""
    fetch = request.headers.get("Sec-Fetch-Site")
    if fetch is not None:
        return fetch == "same-origin"
    told = request.headers.get("Origin") or request.headers.get("Referer", "")
    site = request.app[SITE]
    ours = {request.host, urlsplit(site.config.http.external_url).netloc}
    return bool(urlsplit(told).netloc) and urlsplit(told).netloc in ours


async def act(request: web.Request) -> web.Response:
    """POST /incidents/{id}/{ack,resolve,verdict}: the buttons of the page; answers 303 back to it."""
    site = request.app[SITE]
    if not same_origin(request):
        raise Problem(403, "this form did not come from our own page", where="Origin")
    form = await request.post()
    token = site.config.http.token
    entered = False
    if token is not None and not session_ok(request):
        entered = hmac.compare_digest(str(form.get("token", "")).encode(), token.reveal().encode())
        if not entered:
            raise Problem(401, "the token is missing or wrong", where="token")
    actor = str(form.get("actor", "")).strip()[:100]
    comment = str(form.get("comment", "")).strip()[:2000]
    if not actor:
        raise Problem(400, "say who you are", where="actor")
    incident_id, after = request.match_info["id"], ""
    if request.match_info["verb"] == "ack":
        await command(site, incident_id, Move.ACK, AckIncident(incident=incident_id, actor=actor, comment=comment))
    elif request.match_info["verb"] == "verdict":
        kind = str(form.get("kind", ""))
        if kind not in KINDS:
            raise Problem(400, f"expected one of {', '.join(KINDS)}", where="kind")
        said = Verdict(
            request_id=uuid.uuid4().hex,
            incident=incident_id,
            kind=kind,
            actor=actor,
            service=str(form.get("service", ""))[:500] if kind == "cause" else "",
            other=str(form.get("other", ""))[:100] if kind == "merge" else "",
            fingerprints=tuple(str(f)[:100] for f in form.getall("fingerprint", [])) if kind == "split" else (),
            comment=comment,
        )
        after = f"?said={await say(site, said)}#said"
    else:
        await command(
            site, incident_id, Move.RESOLVE, ResolveIncident(incident=incident_id, actor=actor, comment=comment)
        )
    back = web.Response(status=303, headers={"Location": f"{site.base}/incidents/{_quote(incident_id)}{after}"})
    cookie: dict[str, Any] = {"httponly": True, "samesite": "Strict", "secure": request.secure}
    cookie["path"] = site.base or "/"
    back.set_cookie(ACTOR, quote(actor), max_age=90 * 86400, **cookie)
    if entered:
        back.set_cookie(SESSION, session_value(site), **cookie)
    return back


# --------------------------------------------------------------------------- static files

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def files() -> dict[str, tuple[bytes, str]]:
    """Name to (content, media type) of everything in static/; read once: nothing is opened while serving."""
    return {
        p.name: (p.read_bytes(), _TYPES[p.suffix]) for p in sorted((HERE / "static").iterdir()) if p.suffix in _TYPES
    }


FILES = web.AppKey("files", dict[str, tuple[bytes, str]])


async def static(request: web.Request) -> web.Response:
    """GET /static/{name}."""
    found = request.app[FILES].get(request.match_info["name"])
    if found is None:
        raise Problem(404, f"no file {request.match_info['name']!r}")
    return web.Response(body=found[0], content_type=found[1], headers={"Cache-Control": "max-age=300"})


def setup(app: web.Application) -> None:
    """Add the routes of the pages."""
    site = app[SITE]
    app[ENVIRONMENT] = environment()
    app[FILES] = files()
    app.router.add_get(f"{site.base}/", index, name="page-index")
    if site.base:
        app.router.add_get(site.base, index, name="page-index-bare")
    app.router.add_get(f"{site.base}/alerts", alerts, name="page-alerts")
    app.router.add_get(f"{site.base}/incidents/{{id}}", incident, name="page-incident")
    app.router.add_post(f"{site.base}/incidents/{{id}}/{{verb:ack|resolve|verdict}}", act, name="page-act")
    app.router.add_get(f"{site.base}/static/{{name}}", static, name="page-static")
