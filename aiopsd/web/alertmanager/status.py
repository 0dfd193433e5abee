"""What there is to know of us: the status, with our routing in Alertmanager's words, and the receivers."""

from typing import Any

import msgspec
import yaml
from aiohttp import web

from aiopsd.config import Config, InhibitRule, RouteConfig, Section
from aiopsd.matchers import conditions, matcher_text
from aiopsd.web.site import SITE, answer, rfc3339

COMPATIBLE = "0.28.0"  # the Alertmanager whose API this is: the first with mutedBy; karma and amtool compare it


async def get_receivers(request: web.Request) -> web.Response:
    """GET /api/v2/receivers."""
    return answer([{"name": r["name"]} for r in request.app[SITE].config.receivers])


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
    """Routes, receivers' names, inhibition, time intervals as Alertmanager's YAML: what `amtool config routes` reads.

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
        if matchers := _texts(node):
            out["matchers"] = matchers
        for name in ("group_wait", "group_interval", "repeat_interval"):
            value = getattr(node, name)
            if value is not None:
                out[name] = length(value)
        for name in ("mute_time_intervals", "active_time_intervals"):
            if getattr(node, name):
                out[name] = list(getattr(node, name))
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
                "source_matchers": _texts(rule, "source_"),
                "target_matchers": _texts(rule, "target_"),
                "equal": list(rule.equal),
            }
            for rule in config.inhibit_rules
        ]
    if named := (*config.time_intervals, *config.mute_time_intervals):
        shown["time_intervals"] = [_given(interval) for interval in named]
    return yaml.safe_dump(shown, sort_keys=False)


def _texts(given: RouteConfig | InhibitRule, side: str = "") -> list[str]:
    return [matcher_text(m) for m in conditions(given, "$", side)]


def _given(section: Section) -> dict[str, Any]:
    """What of a section is not its default, as it stood in the configuration."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if value != field.default:
            parts = isinstance(value, tuple)
            found[field.encode_name] = [_given(v) if isinstance(v, Section) else v for v in value] if parts else value
    return found
