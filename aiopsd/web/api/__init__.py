"""Our own API, version 1: incidents with the reason of every decision, commands, the graph, the outbox, the status.

Times are RFC 3339 in UTC, absent when unset. A write answers when its decision is committed, so a read after it sees
it. Writes are application/json and carry the bearer token where one is configured.
"""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from aiopsd.web.api import incidents, maintenance, state
from aiopsd.web.site import SITE

ROUTES: Mapping[tuple[str, str], Any] = {
    ("GET", "/incidents"): incidents.get_incidents,
    ("GET", "/incidents/{id}"): incidents.get_incident,
    ("POST", "/incidents/{id}/ack"): incidents.post_ack,
    ("POST", "/incidents/{id}/resolve"): incidents.post_resolve,
    ("POST", "/incidents/{id}/verdict"): incidents.post_verdict,
    ("GET", "/maintenance"): maintenance.get_maintenance,
    ("POST", "/maintenance"): maintenance.post_maintenance,
    ("GET", "/maintenance/{id}"): maintenance.get_window,
    ("DELETE", "/maintenance/{id}"): maintenance.delete_maintenance,
    ("GET", "/alerts"): state.get_alerts,
    ("GET", "/timeline"): state.get_timeline,
    ("GET", "/topology"): state.get_topology,
    ("GET", "/topology/changes"): state.get_topology_changes,
    ("GET", "/outbox"): state.get_outbox,
    ("GET", "/status"): state.get_status,
}


def setup(app: web.Application) -> None:
    """Add the routes of API v1 but the pushes."""
    for (verb, path), handler in ROUTES.items():
        app.router.add_route(verb, f"{app[SITE].base}/api/v1{path}", handler)
