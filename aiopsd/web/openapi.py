"""The OpenAPI 3.1 document of our API, generated from the types that the handlers use: it cannot drift from them."""

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from aiopsd.web import api, push
from aiopsd.web.api import incidents, maintenance, state, views
from aiopsd.web.api.requests import MOST
from aiopsd.web.site import SITE, Error, answer

_JSON = "application/json"
_ANSWERS: Mapping[Any, Any] = {
    incidents.get_incidents: views.IncidentList,
    incidents.get_incident: views.IncidentDetail,
    incidents.post_ack: views.IncidentView,
    incidents.post_resolve: views.IncidentView,
    incidents.post_verdict: views.VerdictView,
    state.get_alerts: views.AlertList,
    maintenance.get_maintenance: maintenance.MaintenanceList,
    maintenance.get_window: maintenance.MaintenanceView,
    maintenance.post_maintenance: maintenance.MaintenanceView,
    maintenance.delete_maintenance: maintenance.MaintenanceView,
    state.get_timeline: views.Timeline,
    state.get_topology_changes: views.TopologyChanges,
    state.get_outbox: views.Outbox,
}
_BODIES: Mapping[Any, Any] = {
    incidents.post_ack: incidents.AckRequest,
    incidents.post_resolve: incidents.ResolveRequest,
    incidents.post_verdict: incidents.VerdictRequest,
    maintenance.post_maintenance: maintenance.MaintenanceRequest,
}
_LIMIT = ("limit", {"type": "integer", "minimum": 1, "maximum": MOST, "default": 100}, "How many at most.")
_QUERY: Mapping[Any, tuple[tuple[str, dict[str, Any], str], ...]] = {
    incidents.get_incidents: (
        ("state", {"type": "array", "items": {"enum": list(incidents.STATES)}}, "Only these states; default all."),
        ("service", {"type": "string"}, "Only incidents that affect this service."),
        _LIMIT,
        ("cursor", {"type": "string"}, "`next` of the previous answer."),
    ),
    state.get_alerts: (
        ("service", {"type": "string"}, "Only alerts of this service."),
        ("incident", {"type": "string"}, "Only alerts of this incident; `none`: of no incident."),
        _LIMIT,
        ("cursor", {"type": "string"}, "`next` of the previous answer."),
    ),
    maintenance.delete_maintenance: (("actor", {"type": "string", "minLength": 1}, "Who ends it."),),
    state.get_timeline: (
        ("incident", {"type": "string"}, "Only decisions on this incident."),
        ("kind", {"type": "array", "items": {"type": "string"}}, "Only these kinds: verdict, ack, silence, root, ..."),
        ("actor", {"type": "string"}, "Only what this operator said or asked for."),
        _LIMIT,
        ("cursor", {"type": "string"}, "`next` of the previous answer."),
    ),
    state.get_topology: (("format", {"enum": ["json", "graphml"]}, "Default json."),),
    state.get_topology_changes: (_LIMIT,),
    state.get_outbox: (_LIMIT,),
    push.topology: (("source", {"type": "string"}, "Who says so; default http."),),
}
_PUSHES: Mapping[tuple[str, str], tuple[Any, str]] = {
    ("POST", "/write"): (push.remote_write, "application/x-protobuf"),
    ("POST", "/metrics"): (push.json_metrics, _JSON),
    ("POST", "/alertmanager"): (push.alertmanager, _JSON),
    ("POST", "/topology"): (push.topology, _JSON),
    ("POST", "/changes"): (push.changes, _JSON),
}
_ERRORS = {
    "400": "Malformed; `where` names the field, record or series.",
    "401": "A token is configured and was not given.",
    "404": "No such incident, or window.",
    "409": "It cannot be taken in the state that things are in.",
    "413": "Larger than http.max_body.",
    "415": "Another content type or encoding than this takes.",
    "503": "Not safe now: send it again.",
}


def document(version: str, base: str = "") -> dict[str, Any]:
    """OpenAPI 3.1 as plain data (spec.openapis.org/oas/v3.1.0)."""
    types = [Error, push.Partly, *_ANSWERS.values(), *_BODIES.values()]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for (verb, path), handler in api.ROUTES.items():
        paths.setdefault(f"/api/v1{path}", {})[verb.lower()] = _operation(verb, path, handler)
    for (verb, path), (handler, media) in _PUSHES.items():
        paths.setdefault(f"/api/v1{path}", {})[verb.lower()] = _operation(verb, path, handler, media)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aiopsd",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Incidents, their causes and the reason of every decision. Alertmanager's API v2 is served "
            "beside it under /api/v2 and described by Alertmanager's own document.",
        },
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "http.token"}},
        },
    }


def _operation(verb: str, path: str, handler: Any, media: str = "") -> dict[str, Any]:
    told = " ".join((inspect.getdoc(handler) or "").split())
    told = told.removeprefix(f"{verb} /api/v1{path}").lstrip(": ")
    out: dict[str, Any] = {
        "operationId": handler.__name__ if not media else f"push_{handler.__name__}",
        "summary": told[:1].upper() + told[1:],
    }
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "query", "schema": schema, "description": text}
        for name, schema, text in _QUERY.get(handler, ())
    ]
    if "{id}" in path:
        where = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}, "description": "Its id."}
        parameters.insert(0, where)
    if parameters:
        out["parameters"] = parameters
    if media:
        out["requestBody"] = {"required": True, "content": {media: {}}}
    if handler in _BODIES:
        out["requestBody"] = {"required": True, "content": {_JSON: {"schema": _ref(_BODIES[handler])}}}
    codes = ["400", "404"] if verb == "GET" else ["400", "401", "404", "409", "413", "415", "503"]
    if media:
        codes = ["400", "401", "413", "415", "503"]
    good: dict[str, Any] = {"description": "Safe."} if media else {"description": "Done."}
    if not media:
        good["content"] = {_JSON: {"schema": _ref(_ANSWERS[handler]) if handler in _ANSWERS else {"type": "object"}}}
    out["responses"] = {("204" if media else "200"): good} | {
        code: {"description": _ERRORS[code], "content": {_JSON: {"schema": _ref(Error)}}} for code in codes
    }
    if handler in (push.json_metrics, push.alertmanager):
        told = "Safe, but for what was bad: that is lost, and must not be sent again."
        out["responses"]["200"] = {"description": told, "content": {_JSON: {"schema": _ref(push.Partly)}}}
    if verb != "GET":
        out["security"] = [{}, {"token": []}]  # the token is asked for where one is configured
    return out


def _ref(kind: Any) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


async def get_document(request: web.Request) -> web.Response:
    """GET /api/v1/openapi.json."""
    site = request.app[SITE]
    return answer(document(site.version, site.base))


def setup(app: web.Application) -> None:
    """Add the route of the document."""
    app.router.add_get(f"{app[SITE].base}/api/v1/openapi.json", get_document)
