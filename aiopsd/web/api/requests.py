"""What handlers read of a request: numbers of a query, a body with its actor, times, the key of a retry."""

import uuid
from datetime import datetime
from typing import Any

from aiohttp import web

from aiopsd.web.site import Problem, decode, need_json, read_body

MOST = 1000  # largest `limit` of a list


def number_of(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number from 1 to `most` from the query."""
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= most:
        raise Problem(400, f"{name}={text[:40]!r}: expected a whole number from 1 to {most}", where=name)
    return int(text)


async def read_request(request: web.Request, kind: Any) -> Any:
    """A JSON body as `kind`, with an actor."""
    need_json(request)
    given = decode(await read_body(request), kind)
    if not given.actor.strip():
        raise Problem(400, "say who you are", where="actor")
    return given


def seconds(at: datetime | None, where: str) -> float:
    """UTC seconds of a time that was given with its zone; 0 for none."""
    if at is None:
        return 0.0
    if at.tzinfo is None:
        raise Problem(400, "give the time with its zone, as 2026-01-31T12:00:00Z", where=where)
    return at.timestamp()


def request_id(request: web.Request) -> str:
    """The caller's Idempotency-Key, so that a retry is the same command; else a new one."""
    return request.headers.get("Idempotency-Key", "")[:200] or uuid.uuid4().hex
