"""Silences: made, edited, shown and ended."""

import re
import uuid
from typing import Any

import msgspec
from aiohttp import web

from aiopsd.model import ExpireSilence, Matcher, PutSilence, Silence
from aiopsd.silences import SilenceState, problem, silence_id, sorted_silences, state_of
from aiopsd.web.alertmanager.wire import Refused, filters, invalid, moment_of, read_json
from aiopsd.web.site import SITE, answer, rfc3339

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")


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
        "status": {"state": state_of(s, now)},
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


async def read_silence(request: web.Request) -> PutSilence:
    """The silence of the body.

    Raises:
        Problem: 415, 422 or 400: a field is missing, empty or none of its type.
    """
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
    return PutSilence(
        request_id=request.headers.get("Idempotency-Key", "")[:200] or uuid.uuid4().hex,
        id=given.id or "",
        matchers=tuple(matchers),
        starts_at=moment_of(given.startsAt, "startsAt"),
        ends_at=moment_of(given.endsAt, "endsAt"),
        created_by=given.createdBy or "",
        comment=given.comment or "",
    )


async def post_silence(request: web.Request) -> web.Response:
    """POST /api/v2/silences: creates or, with an id, edits; answers with the id that holds from now on."""
    site = request.app[SITE]
    async with site.journal_gate.place(site.config.http.commit_timeout):
        put = await read_silence(request)
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
    if state_of(found, site.clock()) is not SilenceState.EXPIRED:
        await site.submit([ExpireSilence(id=found.id)])
    return web.Response()
