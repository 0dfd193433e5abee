"""What every handler shares: the injected world, answers and problems, bounded reading of bodies, times on the wire."""

import asyncio
import math
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import aiohttp
import msgspec
from aiohttp import web

from aiopsd import routing
from aiopsd.config import Config
from aiopsd.decode.times import EPOCH, LATEST
from aiopsd.detect.maintenance import Maintenance
from aiopsd.errors import Full, StoreError, StreamError, refused
from aiopsd.metrics import Metrics
from aiopsd.model import Alert, Body, Labels
from aiopsd.projection import Projection
from aiopsd.protocols import Clock, Door, Store
from aiopsd.routing.tree import Route, group_labels, muted_by
from aiopsd.topology import Learned, Topology

BODY_TIMEOUT = 30.0  # s; a sender that trickles its body must not hold a place for ever
LINE = 8  # waiting requests per place: their bodies stay unread on the socket, so the line costs little memory

Muted: TypeAlias = Callable[[Alert, float], tuple[Sequence[str], Sequence[str]]]  # -> (silence ids, fingerprints)


class Problem(Exception):
    """An answer other than success. `where` names the field, record or series that it is about."""

    def __init__(self, status: int, message: str, *, where: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.where = status, message, where
        self.headers = dict(headers or {})


class Gate:
    """At most `places` bodies in memory at once; `LINE` times as many wait their turn, the rest are told 503."""

    def __init__(self, name: str, places: int, metrics: Metrics) -> None:
        self.name, self.places = name, places
        self._semaphore = asyncio.Semaphore(places)
        self._full = metrics.queue_full.labels(name)
        self.waiting = 0

    @asynccontextmanager
    async def place(self, timeout: float) -> AsyncIterator[None]:
        """Hold a place; waits at most `timeout` seconds for it."""
        if self._semaphore.locked():
            self._full.inc()
            if self.waiting >= self.places * LINE:
                raise Problem(503, f"too many {self.name} requests wait already, try again")
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout):
                await self._semaphore.acquire()
        except TimeoutError:
            raise Problem(503, f"no free place for a {self.name} request within {timeout:g} s, try again") from None
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._semaphore.release()


class Site:
    """The injected world of one daemon. The runtime calls `swap` on a reload; the rest lives as long as the app."""

    def __init__(
        self,
        *,
        config: Config,
        door: Door,
        projection: Projection,
        store: Store,
        metrics: Metrics,
        clock: Clock,
        topology: Callable[[], Topology],
        learned: Learned,
        muted: Muted,
        group_of: Callable[[str], str],
        version: str,
    ) -> None:
        self.door, self.projection, self.store = door, projection, store
        self.metrics, self.clock, self.topology, self.learned = metrics, clock, topology, learned
        self.muted, self.version = muted, version
        self._group_of = group_of
        self.swap(config)
        self.base = config.http.route_prefix.rstrip("/")  # the routes are built with it: a reload cannot change it
        if self.base and not self.base.startswith("/"):
            self.base = "/" + self.base
        self.started_at = clock()
        self.metric_gate = Gate("metrics", config.http.max_pushes, metrics)
        self.journal_gate = Gate("journal", config.http.max_pushes, metrics)  # metrics may not starve alerts

    def swap(self, config: Config) -> None:
        """Take over a reloaded configuration; `listen` and `route_prefix` stay as they were at the start."""
        self.config, self.tree = config, routing.routes(config)

    def planned(self) -> list[str]:
        """Names of the planned work that is under way: of the configuration, and what was asked for."""
        return Maintenance(self.config.detect.maintenance, self.projection.windows).active(self.clock())

    @property
    def url(self) -> str:
        """What links to us start with."""
        return (self.config.http.external_url or f"http://{self.config.http.listen}{self.base}").rstrip("/")

    def group(self, alert: Alert) -> str:
        """The group that holds the alert: its incident; of one that opens none, what it is quiet with, or itself."""
        return alert.incident or self._group_of(alert.fingerprint) or alert.fingerprint

    def routes(self, alert: Alert) -> list[tuple[Route, Labels]]:
        """Every route that the alert takes to a receiver, with the labels of its group there, as the dispatcher has."""
        found = []
        for route in self.tree.match(alert.labels):
            labels = group_labels(route, alert.labels)
            if route.group_by is None and alert.incident:
                labels = {"incident": alert.incident}
            if route.receiver:
                found.append((route, labels))
        return found

    def asleep(self, alert: Alert, now: float) -> tuple[str, ...]:
        """Names of the time intervals that mute all of the alert's routes now; (): one of them may tell."""
        return muted_by((route for route, _ in self.routes(alert)), now)

    async def submit(self, bodies: Sequence[Body]) -> int:
        """`Door.submit` with its refusals as 503: what is not safe now may be sent again."""
        with refusals():
            return await self.door.submit(bodies)


SITE = web.AppKey("site", Site)


@contextmanager
def refusals() -> Iterator[None]:
    """Turns what the door may raise into 503 with the reason."""
    try:
        yield
    except TimeoutError as e:
        raise Problem(503, "safe in the journal, but not decided in time: see /-/ready") from e
    except Full as e:
        raise Problem(503, f"no space left, nothing was written: {e}") from e
    except (StreamError, StoreError) as e:
        raise Problem(503, f"not now: {e}") from e


# --------------------------------------------------------------------------- requests


def media_type(request: web.Request) -> str:
    """The media type without parameters, lower case; "" when the request names none."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def need_json(request: web.Request) -> None:
    """Only application/json: a foreign page cannot send that without asking first (no CORS on our own API)."""
    if media_type(request) != "application/json":
        raise Problem(415, f"Content-Type is {media_type(request) or 'missing'}, send application/json")


async def read_body(request: web.Request, *, raw_encodings: Sequence[str] = ()) -> bytes:
    """The body after gzip or deflate; encodings in `raw_encodings` are left as they are.

    Raises:
        Problem: 413 above http.max_body, 415 for an encoding that we do not read, 400 when broken, 408 when too slow.
    """
    limit = request.app[SITE].config.http.max_body
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate", *raw_encodings):
        raise Problem(415, f"Content-Encoding {encoding!r} is not read here", where="Content-Encoding")
    if (request.content_length or 0) > limit:
        raise Problem(413, f"the body has {request.content_length} bytes, the limit is {limit} (http.max_body)")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for part in request.content.iter_any():
                size += len(part)
                if size > limit:
                    raise Problem(413, f"the body has more than {limit} bytes (http.max_body)")
                parts.append(part)
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {BODY_TIMEOUT:g} s") from None
    except (web.RequestPayloadError, aiohttp.ClientPayloadError) as e:
        raise Problem(400, f"the body cannot be read: {e}") from None
    body = b"".join(parts)
    return inflate(body, limit) if encoding in ("gzip", "deflate") else body


def inflate(body: bytes, limit: int) -> bytes:
    """gzip (of several members too), zlib or raw deflate, never more than `limit` bytes in memory.

    Raises:
        Problem: 413 above the limit, 400 when broken or cut short.
    """
    out = b""
    kind = 47 if body[:1] in (b"\x1f", b"\x78") else -15  # zlib's window bits: 47 tells gzip and zlib apart by itself
    while True:
        stream = zlib.decompressobj(kind)
        try:
            out += stream.decompress(body, limit + 1 - len(out))
        except zlib.error as e:
            raise Problem(400, f"the body does not decompress: {e}") from None
        if len(out) > limit:
            raise Problem(413, f"the body has more than {limit} bytes after decompression (http.max_body)")
        if not stream.eof:
            raise Problem(400, "the compressed body is cut short")
        body = stream.unused_data
        if not body or kind == -15:
            return out


_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(.+)`")


def decode(body: bytes, kind: Any) -> Any:
    """JSON as `kind`.

    Raises:
        Problem: 400; the message names the field.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as e:
        text, place = refused(e, kind)
        field = _FIELD.fullmatch(text)  # msgspec says where the object is that lacks it, or has it too many
        where = ".".join(filter(None, (place.removeprefix("$").lstrip("."), field[1] if field else "")))
        raise Problem(400, text, where=where) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Problem(400, f"not JSON: {e}") from None


# --------------------------------------------------------------------------- answers


class Error(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every error of our own API. `where` names the field, record or series."""

    code: int
    message: str
    where: str = ""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what we answer; every field is always there, so that a reader need not know our defaults."""


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`data` as JSON."""
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json", headers=headers)


# --------------------------------------------------------------------------- times


def moment(ts: float) -> datetime | None:
    """UTC datetime of seconds since the epoch; None for 0 (unset) and for what no calendar holds."""
    if ts == 0 or not math.isfinite(ts) or not -62135596800.0 <= ts < LATEST:
        return None
    return EPOCH + timedelta(seconds=ts)


def rfc3339(ts: float) -> str:
    """Milliseconds and Z, as Alertmanager writes times; Go's zero time for what is unset.

    >>> rfc3339(1.5)
    '1970-01-01T00:00:01.500Z'
    """
    at = moment(ts)
    if at is None:
        return "0001-01-01T00:00:00.000Z"
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z".rjust(24, "0")
