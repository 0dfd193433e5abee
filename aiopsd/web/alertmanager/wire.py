"""How Alertmanager speaks: go-openapi's errors and its own, bodies, and the parameters that several requests share."""

from typing import Any

import msgspec
from aiohttp import web

from aiopsd.decode.times import parse_time
from aiopsd.matchers import Matchers, parse_matcher
from aiopsd.web.site import Problem, answer, media_type, read_body

_TRUE = frozenset({"true", "1", "yes", "ok", "y", "on", "selected", "checked", "t", "enabled"})  # go-openapi's swag


class Refused(Problem):
    """A 400 or 404 whose body is a JSON string, as amtool reads it."""


def problem_answer(p: Problem) -> web.Response:
    """go-openapi's error object, or a bare string for what Alertmanager itself refuses."""
    if isinstance(p, Refused):
        return answer(p.message, p.status)
    code = p.where if p.where.isdigit() else ""  # 601, 602, 612: go-openapi numbers its validations
    body = {"code": int(code) if code else p.status, "message": p.message}
    return answer(body, p.status, p.headers)


def invalid(code: int, message: str) -> Problem:
    """422 with go-openapi's number: 601 wrong type, 602 required, 612 too few items."""
    return Problem(422, message, where=str(code))


async def read_json_bytes(request: web.Request, what: str) -> bytes:
    """The body.

    Raises:
        Problem: 415, 422 for an empty one.
    """
    given = media_type(request) or "application/octet-stream"
    if given != "application/json":
        raise Problem(415, f'unsupported media type "{given}", only [application/json] are allowed')
    body = await read_body(request)
    if not body.strip():
        raise invalid(602, f"{what} in body is required")
    return body


async def read_json(request: web.Request, kind: Any, what: str) -> Any:
    """The body as `kind`; None for a JSON null.

    Raises:
        Problem: 415, 422 for an empty body, 400 naming the field.
    """
    body = await read_json_bytes(request, what)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Problem(400, f"parsing {what} body failed, because {e}") from None


def moment_of(text: str | None, what: str) -> float:
    try:
        return parse_time(text) if text else 0.0
    except ValueError as e:
        raise Problem(400, f"parsing {what} failed, because {e}") from None


def flag(request: web.Request, name: str) -> bool:
    """A boolean parameter as go-openapi reads it: what is not a yes is a no; absent is yes."""
    given = request.query.get(name)
    return True if given is None else given.lower() in _TRUE


def filters(request: web.Request) -> Matchers:
    """The `filter` parameters together.

    Raises:
        Refused: 400 with the matcher's fault.
    """
    found = []
    for text in request.query.getall("filter", []):
        if not text.strip() or text.lstrip().startswith("{"):  # one matcher each, never none or a set
            raise Refused(400, f"bad matcher format: {text}")
        try:
            found.append(parse_matcher(text))
        except ValueError as e:
            raise Refused(400, str(e)) from None
    return Matchers(found)
