"""The HTTP application: middlewares, management endpoints, and the assembly of the rest.

Everything comes injected; this package starts no task and opens nothing but its listening socket.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import hdrs, web
from prometheus_client.exposition import choose_encoder

from aiopsd.errors import ConfigError
from aiopsd.web import alertmanager, api, openapi, otlp, pages, push
from aiopsd.web.site import SITE, Error, Problem, Site, answer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = SAFE | {"POST", "PUT", "DELETE", "PATCH"}  # a label's values: whatever else a client invents is "other"


def build_app(site: Site) -> web.Application:
    """The application over this site, not yet listening. On a reload call `site.swap(config)`."""
    app = web.Application(middlewares=[problems, authorize])
    app[SITE] = site
    site.metrics.alertmanager_build_info.labels(alertmanager.COMPATIBLE).set(1)
    for path, handler in (("/-/healthy", healthy), ("/-/ready", ready), ("/metrics", exposition)):
        app.router.add_get(site.base + path, handler)
    app.router.add_post(site.base + "/-/reload", reload)
    push.setup(app)
    otlp.setup(app)
    alertmanager.setup(app)
    api.setup(app)
    openapi.setup(app)
    pages.setup(app)
    app.on_response_prepare.append(_headers)
    return app


def split_listen(listen: str) -> tuple[str | None, int]:
    """Host (None: every interface) and port of `host:port`, `:port` or `[v6]:port`.

    Raises:
        ConfigError: no port, or no number.
    """
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{listen!r}: expected host:port", "$.http.listen")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ConfigError(f"{listen!r}: not an IPv6 address", "$.http.listen") from None
    return host or None, int(port)


async def serve(app: web.Application, listen: str) -> web.AppRunner:
    """Listen; `runner.addresses` says where, `await runner.cleanup()` ends it.

    Raises:
        ConfigError: `listen` cannot be read.
        OSError: the address is taken.
    """
    host, port = split_listen(listen)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=5.0,
        auto_decompress=False,  # `site.read_body` does it: bounded, and an unknown encoding is 415 instead of 400
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner


# --------------------------------------------------------------------------- middlewares


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error becomes an answer in the manner of its part of the site, and every answer is counted."""
    site = request.app[SITE]
    headers: dict[str, str] = {}
    try:
        response = await handler(request)
    except Problem as e:
        response = _answer(request, e)
    except web.HTTPException as e:
        if e.status < 400:
            raise
        if isinstance(e, web.HTTPMethodNotAllowed):
            allowed = ",".join(sorted(e.allowed_methods - {"HEAD", "OPTIONS"}))
            text, headers = f"method {e.method} is not allowed, but [{allowed}] are", {"Allow": allowed}
        elif e.status == 404:
            text = f"path {request.path} was not found"
        else:
            text = e.text or e.reason
        response = _answer(request, Problem(e.status, text, headers=headers))
    except ConnectionError:
        raise  # the client went away: nobody reads an answer
    except Exception as e:  # the top of a request: a bug is logged and counted, the daemon lives on
        structlog.get_logger("web").exception("request failed", path=request.path, method=request.method)
        response = _answer(request, Problem(500, f"internal error ({type(e).__name__}): see the log"))
    resource = request.match_info.route.resource
    method = request.method if request.method in _METHODS else "other"
    site.metrics.http_requests.labels(method, resource.canonical if resource else "unknown", response.status).inc()
    return response


def _answer(request: web.Request, p: Problem) -> web.StreamResponse:
    path = request.path.removeprefix(request.app[SITE].base)
    if path.startswith("/api/v2/"):
        return alertmanager.problem_answer(p)
    if not path.startswith(("/api/", "/-/", "/metrics")) and "text/html" in request.headers.get("Accept", ""):
        return pages.render(request, "problem.html", status=p.status, problem=p)
    return answer(Error(code=p.status, message=p.message, where=p.where), p.status, p.headers)


@web.middleware
async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Writes need the bearer token where one is configured; the page's forms prove it themselves."""
    token = request.app[SITE].config.http.token
    name = request.match_info.route.name or ""
    if token is not None and request.method not in SAFE and not name.startswith("page-"):
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), token.reveal().encode())
        if scheme.lower() != "bearer" or not right:
            raise Problem(401, "writes need the bearer token", headers={"WWW-Authenticate": "Bearer"})
    return await handler(request)


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "aiopsd"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if request.path.startswith(request.app[SITE].base + "/api/"):
        response.headers.setdefault("Cache-Control", "no-store")
    if request.path.startswith(request.app[SITE].base + "/api/v2/"):
        response.headers.setdefault("Vary", "Origin")
        if "Origin" in request.headers and request.method != "OPTIONS":
            response.headers["Access-Control-Allow-Origin"] = "*"


# --------------------------------------------------------------------------- management


async def healthy(request: web.Request) -> web.Response:
    """GET /-/healthy: the process serves."""
    return web.Response(text="OK")


async def ready(request: web.Request) -> web.Response:
    """GET /-/ready: 200, or 503 with what we wait for."""
    waits = request.app[SITE].door.readiness()
    if not waits:
        return web.Response(text="OK")
    told = "; ".join(f"{part}: {reason}" for part, reason in waits.items())
    return answer({"code": 503, "message": f"not ready: {told}", "waiting_for": waits}, 503)


async def reload(request: web.Request) -> web.Response:
    """POST /-/reload: 200, or 500 with the reason; the old configuration then stays."""
    try:
        await request.app[SITE].door.reload()
    except ConfigError as e:
        raise Problem(500, f"failed to reload config: {e}", where=e.path) from None
    return web.Response()


async def exposition(request: web.Request) -> web.Response:
    """GET /metrics: Prometheus text, or OpenMetrics when asked for; gzip for who takes it, as Prometheus does."""
    encode: Any
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    response = web.Response(body=encode(request.app[SITE].metrics.registry), headers={"Content-Type": content_type})
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        response.enable_compression(web.ContentCoding.gzip)
    return response
