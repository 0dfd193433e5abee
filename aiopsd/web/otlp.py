"""OTLP over HTTP: metrics of OpenTelemetry's SDKs and collector, as protobuf or JSON, answered in the same encoding.

503 is what an exporter sends again; what can never be taken is 400, and data points refused beside good ones are a
partial success, which must not be sent again. https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import msgspec
from aiohttp import web

from aiopsd.decode.series import varint
from aiopsd.web.push import push_metrics
from aiopsd.web.site import SITE, Problem, media_type

PROTOBUF, JSON = "application/x-protobuf", "application/json"
FORMATS = {PROTOBUF: "otlp_proto", JSON: "otlp_json"}  # content type -> format of aiopsd.decode
RETRY_AFTER = "5"  # seconds; exporters back off further by themselves


async def metrics(request: web.Request) -> web.Response:
    """POST /v1/metrics: an ExportMetricsServiceRequest."""
    kind = media_type(request)
    try:
        return await _take(request, kind)
    except Problem as problem:
        if kind not in FORMATS:
            raise
        return _status(problem, kind)


async def _take(request: web.Request, kind: str) -> web.Response:
    if kind not in FORMATS:
        raise Problem(415, f"{kind or 'missing'!r}: this takes {PROTOBUF} or {JSON}", where="Content-Type")
    checked = await push_metrics(request, FORMATS[kind])
    return web.Response(body=_answer(checked.refused, "; ".join(checked.why), kind), content_type=kind)


def _answer(rejected: int, why: str, kind: str) -> bytes:
    """An ExportMetricsServiceResponse; `partial_success` is there when something was refused."""
    from google.protobuf import json_format  # loaded by those whose senders speak OTLP
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    answer = ExportMetricsServiceResponse()
    if rejected:
        answer.partial_success.rejected_data_points = rejected
        answer.partial_success.error_message = why
    return json_format.MessageToJson(answer).encode() if kind == JSON else bytes(answer.SerializeToString())


def _status(problem: Problem, kind: str) -> web.Response:
    """The google.rpc.Status that the specification wants in the body of an error."""
    headers = dict(problem.headers)
    if problem.status == web.HTTPServiceUnavailable.status_code:
        headers["Retry-After"] = RETRY_AFTER
    text = problem.message.encode()
    body = msgspec.json.encode({"message": problem.message}) if kind == JSON else b"\x12" + varint(len(text)) + text
    return web.Response(status=problem.status, body=body, content_type=kind, headers=headers)


def setup(app: web.Application) -> None:
    """Add the routes: the path that exporters append to their endpoint, and Prometheus' own path."""
    base = app[SITE].base
    app.router.add_post(f"{base}/v1/metrics", metrics)
    app.router.add_post(f"{base}/api/v1/otlp/v1/metrics", metrics)
