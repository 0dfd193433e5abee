"""Alertmanager's API v2, as its senders and amtool use it: alerts in and out, groups, silences, status.

The contract was recorded from Alertmanager 0.25 and read from its newer sources; a test plays the same requests to
both. Where versions differ we follow the newer one: label names are UTF-8 (since 0.27), deleting an unknown silence is
404. A POST takes every good alert of a body that also has bad ones, and then says 400, as Alertmanager does.

`wire` is how it speaks, errors above all; `alerts`, `silences` and `status` are what it speaks of.
"""

from aiohttp import web

from aiopsd.web.alertmanager import alerts, silences, status
from aiopsd.web.alertmanager.status import COMPATIBLE
from aiopsd.web.alertmanager.wire import problem_answer
from aiopsd.web.site import SITE

__all__ = ("COMPATIBLE", "problem_answer", "setup")


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
        "/status": {"GET": status.get_status},
        "/receivers": {"GET": status.get_receivers},
        "/alerts": {"GET": alerts.get_alerts, "POST": alerts.post_alerts},
        "/alerts/groups": {"GET": alerts.get_groups},
        "/silences": {"GET": silences.get_silences, "POST": silences.post_silence},
        "/silence/{id}": {"GET": silences.get_silence, "DELETE": silences.delete_silence},
    }.items():
        resource = app.router.add_resource(v2 + path)
        for verb, handler in verbs.items():
            resource.add_route(verb, handler)
        resource.add_route("OPTIONS", preflight)
