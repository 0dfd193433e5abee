"""What handlers read of a request: numbers and cursors of a query, a body with its actor, times, the key of a retry."""

import base64
import uuid
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from aiopsd.web.site import Problem, decode, need_json, read_body

MOST = 1000  # largest `limit` of a list
T = TypeVar("T")


def number_of(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number from 1 to `most` from the query."""
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= most:
        raise Problem(400, f"{name}={text[:40]!r}: expected a whole number from 1 to {most}", where=name)
    return int(text)


def cursor_of(*place: Any) -> str:
    """Where a list goes on, as text that nobody has to read."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def read_cursor(request: web.Request, kind: type[T]) -> T | None:
    """The place that `cursor_of` wrote; None on the first page."""
    text = request.query.get("cursor", "")
    if not text:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=kind)
    except (ValueError, msgspec.DecodeError):
        raise Problem(400, "cursor: take it from `next` of the previous answer", where="cursor") from None


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
