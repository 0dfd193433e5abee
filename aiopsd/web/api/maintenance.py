"""Planned work: the windows that operators asked for, listed, asked for, called off."""

from datetime import datetime
from typing import Literal

import msgspec
from aiohttp import web

from aiopsd.maintenance import MOST, problem, window_id
from aiopsd.model import EndMaintenance, Matcher, PutMaintenance, Window
from aiopsd.silences import SilenceState, state_of
from aiopsd.web.api.requests import read_request, request_id, seconds
from aiopsd.web.site import SITE, Problem, Site, View, answer, moment


class MatcherBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition on the labels of a series, as a silence has them; `service` is the service that it belongs to."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True


class MaintenanceView(View, frozen=True, kw_only=True):
    """Planned work: what these series say in it is neither scored nor learned nor missed."""

    id: str
    state: Literal["active", "pending", "expired"]
    matchers: list[MatcherBody]
    starts_at: datetime | None
    ends_at: datetime | None
    actor: str
    comment: str


class MaintenanceList(View, frozen=True, kw_only=True):
    windows: list[MaintenanceView]


class MaintenanceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `matchers` must hold; without `starts_at` it starts now, and it never starts earlier."""

    actor: str
    matchers: tuple[MatcherBody, ...]
    ends_at: datetime
    starts_at: datetime | None = None
    comment: str = ""


def maintenance_view(w: Window, now: float) -> MaintenanceView:
    return MaintenanceView(
        id=w.id,
        state=str(state_of(w, now)),  # type: ignore[arg-type]  # the words of SilenceState are these three
        matchers=[
            MatcherBody(name=m.name, value=m.value, is_regex=m.is_regex, is_equal=m.is_equal) for m in w.matchers
        ],
        starts_at=moment(w.starts_at),
        ends_at=moment(w.ends_at),
        actor=w.created_by,
        comment=w.comment,
    )


def windows(site: Site) -> list[Window]:
    """Those that hold, those to come, those that ended; each by their beginning."""
    now, order = site.clock(), list(SilenceState)
    return sorted(site.projection.windows, key=lambda w: (order.index(state_of(w, now)), w.starts_at, w.id))


def window(site: Site, key: str) -> Window:
    """
    Raises:
        Problem: 404.
    """
    found = next((w for w in site.projection.windows if w.id == key), None)
    if found is None:
        raise Problem(404, f"no maintenance {key!r}", where="id")
    return found


async def get_maintenance(request: web.Request) -> web.Response:
    """GET /api/v1/maintenance: windows of planned work that operators asked for; the status has the file's, too."""
    site = request.app[SITE]
    return answer(MaintenanceList(windows=[maintenance_view(w, site.clock()) for w in windows(site)]))


async def get_window(request: web.Request) -> web.Response:
    """GET /api/v1/maintenance/{id}."""
    site = request.app[SITE]
    return answer(maintenance_view(window(site, request.match_info["id"]), site.clock()))


async def post_maintenance(request: web.Request) -> web.Response:
    """POST /api/v1/maintenance: {actor, matchers, ends_at, starts_at?, comment?}: planned work, until it ends."""
    site = request.app[SITE]
    given: MaintenanceRequest = await read_request(request, MaintenanceRequest)
    command = PutMaintenance(
        request_id=request_id(request),
        matchers=tuple(
            Matcher(name=m.name, value=m.value, is_regex=m.is_regex, is_equal=m.is_equal) for m in given.matchers
        ),
        starts_at=seconds(given.starts_at, "starts_at"),
        ends_at=seconds(given.ends_at, "ends_at"),
        created_by=given.actor.strip(),
        comment=given.comment,
    )
    wrong = problem(command, site.clock())
    if wrong is not None:
        raise Problem(400, wrong[1], where=wrong[0])
    if len(site.projection.windows) >= MOST:
        raise Problem(409, f"there are {MOST} windows already: they are kept for 30 days after their end")
    await site.submit([command])
    return answer(maintenance_view(window(site, window_id(command)), site.clock()))


async def delete_maintenance(request: web.Request) -> web.Response:
    """DELETE /api/v1/maintenance/{id}: ends it now, or calls it off; `actor` says who. Ending it twice is fine."""
    site, actor = request.app[SITE], request.query.get("actor", "").strip()
    found = window(site, request.match_info["id"])
    if not actor:
        raise Problem(400, "say who you are", where="actor")
    if state_of(found, site.clock()) is not SilenceState.EXPIRED:
        await site.submit([EndMaintenance(id=found.id, actor=actor)])
    return answer(maintenance_view(window(site, found.id), site.clock()))
