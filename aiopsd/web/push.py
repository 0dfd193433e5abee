"""What senders push over HTTP: metrics, Alertmanager's webhook, topology, changes. The answer means that it is safe.

Overload, a full disk and a decision that takes too long are 503, never 429: Prometheus drops samples on 429 and sends
them again on 503. 400 is for what can never be accepted. Remote write 2.0 is 415, which tells a sender to speak 1.0.
"""

from collections.abc import Sequence

import cramjam
from aiohttp import web

from aiopsd.decode import decode_alerts, decode_changes, decode_topology
from aiopsd.errors import DecodeError, DecodeReason
from aiopsd.model import AlertBatch, Checked
from aiopsd.topology import FILE_PREFIX
from aiopsd.web.site import SITE, Problem, Site, View, answer, media_type, need_json, read_body, refusals

REMOTE_WRITE = "remote-write"  # formats of aiopsd.decode
JSON = "json"
TOLD = 3  # faults that an answer names


def refused(site: Site, source: str, error: DecodeError) -> Problem:
    """A body that can never be accepted: counted, and said so."""
    site.metrics.rejects.labels(source, error.reason).inc()
    return Problem(413 if error.reason is DecodeReason.TOO_LARGE else 400, str(error), where="body")


class Partly(View, frozen=True, kw_only=True):
    """The answer to a push of which a part was bad: that part is lost, the rest is safe. `errors`: the first few."""

    accepted: int
    rejected: int
    errors: list[str]


async def push_metrics(request: web.Request, format: str, raw_encodings: tuple[str, ...] = ()) -> Checked:
    """Put the body of a request into the metric log, as it came.

    Raises:
        Problem: 400 and 413 for what can never be accepted, 503 for what may be sent again.
    """
    site = request.app[SITE]
    async with site.metric_gate.place(site.config.http.commit_timeout):
        body = await read_body(request, raw_encodings=raw_encodings)
        if raw_encodings and declared_size(body) > site.config.http.max_body:
            raise Problem(413, f"the body unpacks to more than {site.config.http.max_body} bytes (http.max_body)")
        try:
            with refusals():
                return await site.door.push_metrics(body, format)
        except DecodeError as e:
            raise refused(site, "push", e) from None


async def _metrics(request: web.Request, format: str, raw_encodings: tuple[str, ...] = ()) -> web.Response:
    checked = await push_metrics(request, format, raw_encodings)
    return taken(checked.taken, checked.refused, checked.why)


def taken(accepted: int, rejected: int, why: Sequence[str]) -> web.Response:
    """204 when all was good; 200 with what was not, for good and bad ones together: it must not be sent again."""
    if not rejected:
        return web.Response(status=204)
    return answer(Partly(accepted=accepted, rejected=rejected, errors=list(why)))


def declared_size(body: bytes) -> int:
    """Bytes that a snappy block says it unpacks to; 0 when it does not say (the decoder will refuse it)."""
    try:
        return int(cramjam.snappy.decompress_raw_len(body))
    except cramjam.DecompressionError:
        return 0


async def remote_write(request: web.Request) -> web.Response:
    """POST /api/v1/write: Prometheus remote write 1.0, snappy in block format."""
    kind = request.headers.get("Content-Type", "application/x-protobuf")
    parameters = kind.replace(" ", "").lower().split(";")[1:]
    proto = next((p.removeprefix("proto=").strip('"') for p in parameters if p.startswith("proto=")), "")
    if media_type(request) not in ("", "application/x-protobuf") or proto not in ("", "prometheus.writerequest"):
        raise Problem(415, f"{kind!r}: this takes remote write 1.0 (application/x-protobuf)", where="Content-Type")
    encoding = request.headers.get("Content-Encoding", "snappy").strip().lower()
    if encoding != "snappy":
        raise Problem(415, f"{encoding!r}: this takes snappy", where="Content-Encoding")
    return await _metrics(request, REMOTE_WRITE, ("snappy",))


async def json_metrics(request: web.Request) -> web.Response:
    """POST /api/v1/metrics: our own JSON, one sample or a list."""
    need_json(request)
    return await _metrics(request, JSON)


async def alertmanager(request: web.Request) -> web.Response:
    """POST /api/v1/alertmanager: the body of Alertmanager's webhook receiver, version 4.

    Good alerts beside bad ones are taken, the bad ones counted and named in a 200: a webhook sender never sends a 4xx
    again.
    """
    need_json(request)
    site = request.app[SITE]
    async with site.journal_gate.place(site.config.http.commit_timeout):
        body = await read_body(request)
        try:
            alerts, bad = decode_alerts(body, "alertmanager")
        except DecodeError as e:
            raise refused(site, "http", e) from None
        for _, reason, _ in bad:
            site.metrics.rejects.labels("http", reason).inc()
        if bad and not alerts:
            index, reason, detail = bad[0]
            raise Problem(400, f"{reason}: {detail}", where=f"alerts[{index}]")
        if alerts:
            await site.submit([AlertBatch(alerts=tuple(alerts), sender="alertmanager")])
    return taken(len(alerts), len(bad), [f"{reason}: {detail}" for _, reason, detail in bad[:TOLD]])


async def topology(request: web.Request) -> web.Response:
    """POST /api/v1/topology: edge records of one source, named in the record or by ?source=."""
    need_json(request)
    site = request.app[SITE]
    async with site.journal_gate.place(site.config.http.commit_timeout):
        body = await read_body(request)
        try:
            update = decode_topology(body, request.query.get("source", "http")[:100])
        except DecodeError as e:
            raise refused(site, "http", e) from None
        if update.source.startswith(FILE_PREFIX):
            raise Problem(400, f"{update.source!r}: only the operator's own files may be called so", where="source")
        await site.submit([update])
    return web.Response(status=204)


async def changes(request: web.Request) -> web.Response:
    """POST /api/v1/changes: one change record or a list."""
    need_json(request)
    site = request.app[SITE]
    async with site.journal_gate.place(site.config.http.commit_timeout):
        body = await read_body(request)
        try:
            found = decode_changes(body)
        except DecodeError as e:
            raise refused(site, "http", e) from None
        if found:
            await site.submit(list(found))
    return web.Response(status=204)


def setup(app: web.Application) -> None:
    """Add the routes of the pushes."""
    v1 = f"{app[SITE].base}/api/v1"
    app.router.add_post(f"{v1}/write", remote_write)
    app.router.add_post(f"{v1}/metrics", json_metrics)
    app.router.add_post(f"{v1}/alertmanager", alertmanager)
    app.router.add_post(f"{v1}/topology", topology)
    app.router.add_post(f"{v1}/changes", changes)
