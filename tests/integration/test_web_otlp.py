"""OpenTelemetry's metrics over HTTP: from the real SDK's exporter, and the answers that exporters act upon."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # comes with the exporter, without types
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from aiopsd.decode import decode_samples
from aiopsd.errors import StreamError
from aiopsd.testing.decode import index, records
from aiopsd.testing.web import START, TestSite, running

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def site() -> AsyncIterator[TestSite]:
    async with running() as started:
        yield started


def request(*metrics: dict[str, Any]) -> dict[str, Any]:
    return {"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]}


def gauge(**point: Any) -> dict[str, Any]:
    return {"name": "load", "gauge": {"dataPoints": [{"asDouble": 1.0, **point}]}}


NOW = {"timeUnixNano": str(int(START * 1e9))}
DELTA = {"name": "hits", "sum": {"aggregationTemporality": 1, "dataPoints": [{"asDouble": 1.0, **NOW}]}}


def wire(given: dict[str, Any]) -> bytes:
    return bytes(json_format.ParseDict(given, ExportMetricsServiceRequest()).SerializeToString())


def export(endpoint: str, compression: Compression) -> None:
    """One export of the SDK: a counter, a histogram and a gauge of the service `cart`."""
    exporter = OTLPMetricExporter(endpoint=endpoint, compression=compression)
    provider = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)],
        resource=Resource.create({"service.name": "cart", "service.instance.id": "cart-1"}),
    )
    meter = provider.get_meter("test")
    meter.create_counter("orders", unit="{order}").add(3, {"kind": "web"})
    meter.create_histogram("http.server.request.duration", unit="s").record(0.2)
    meter.create_gauge("queue.depth").set(7.0)
    assert provider.force_flush()
    provider.shutdown()


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
@pytest.mark.parametrize("path", ["/v1/metrics", "/api/v1/otlp/v1/metrics"])
async def test_the_sdk_is_understood(site: TestSite, path: str, compression: Compression) -> None:
    """What the SDK sends is kept as it came, and read as the series that Prometheus would have."""
    await asyncio.to_thread(export, site.url + path, compression)

    bodies = [body for body, format in site.door.pushed if format == "otlp_proto"]
    ix = index()
    columns = decode_samples(records(bodies, "otlp_proto"), ix)
    found = {
        (ix.metric(row), ix.service(row), ix.labels(row).get("le")): value
        for row, value in zip(columns.rows.tolist(), columns.values.tolist(), strict=True)
    }
    assert columns.rejects == []
    assert found["orders_total", "cart", None] == 3.0
    assert found["queue_depth", "cart", None] == 7.0
    assert found["http_server_request_duration_seconds_count", "cart", None] == 1.0
    assert found["http_server_request_duration_seconds_bucket", "cart", "+Inf"] == 1.0


async def test_deltas_of_the_sdk_are_rates(site: TestSite) -> None:
    """With the preference for deltas the SDK says since when; what an up-and-down counter holds comes as it is."""

    def send() -> None:
        exporter = OTLPMetricExporter(
            endpoint=f"{site.url}/v1/metrics",
            preferred_temporality=dict.fromkeys((Counter, Histogram), AggregationTemporality.DELTA),
        )
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
        provider = MeterProvider(metric_readers=[reader])
        meter = provider.get_meter("test")
        meter.create_counter("orders").add(3)
        meter.create_histogram("took", unit="s").record(0.2)
        meter.create_up_down_counter("open").add(2)
        assert provider.force_flush()
        provider.shutdown()

    await asyncio.to_thread(send)

    ix = index()
    columns = decode_samples(records([body for body, _ in site.door.pushed], "otlp_proto"), ix)
    found = dict(zip(map(ix.metric, columns.rows.tolist()), columns.values.tolist(), strict=True))
    temporality = {ix.metric(row): ix.labels(row).get("__temporality__") for row in columns.rows.tolist()}
    assert columns.rejects == []
    assert found["orders_total"] > 0
    assert found["took_seconds_count"] == pytest.approx(5 * found["took_seconds_sum"])
    assert (found["open"], temporality["open"], temporality["orders_total"]) == (2.0, None, "delta")


async def post(site: TestSite, data: bytes, headers: dict[str, str]) -> tuple[int, str, bytes, dict[str, str]]:
    """(status, content type, body, headers) of the answer."""
    async with site.http.post("/v1/metrics", data=data, headers=headers) as answer:
        return answer.status, answer.content_type, await answer.read(), dict(answer.headers)


async def test_the_answer_speaks_as_the_sender_does(site: TestSite) -> None:
    """200 with an ExportMetricsServiceResponse in the encoding of the request; refused points are a partial success."""
    partly = request(gauge(**NOW), DELTA)

    assert (200, "application/x-protobuf", b"") == (await post(site, wire(request(gauge(**NOW))), PROTOBUF))[:3]
    status, kind, body, _ = await post(site, wire(partly), PROTOBUF)
    response = ExportMetricsServiceResponse.FromString(body)
    assert (200, "application/x-protobuf", 1) == (status, kind, response.partial_success.rejected_data_points)
    assert "delta temporality" in response.partial_success.error_message

    packed = JSON | {"Content-Encoding": "gzip"}
    status, kind, body, _ = await post(site, gzip.compress(json.dumps(partly).encode()), packed)
    said = json.loads(body)["partialSuccess"]
    assert (200, "application/json", "1") == (status, kind, said["rejectedDataPoints"])
    assert (await post(site, b"{}", JSON))[2] == b"{}"


@pytest.mark.parametrize("headers", [PROTOBUF, JSON])
async def test_errors_are_a_status(site: TestSite, headers: dict[str, str]) -> None:
    """What can never be taken is 400, what is not safe now is 503 with Retry-After; the body is a google.rpc.Status."""
    bad = b"\xff" if headers is PROTOBUF else b"{"
    good = wire(request(gauge(**NOW))) if headers is PROTOBUF else json.dumps(request(gauge(**NOW))).encode()
    status, kind, body, _ = await post(site, bad, headers)
    assert (400, headers["Content-Type"]) == (status, kind)
    assert b"not " in body
    if headers is JSON:
        assert "not JSON" in json.loads(body)["message"]
    else:
        assert b"malformed: not an OTLP" in Status.FromString(body).message.encode()

    site.door.refusal = StreamError("broker away")
    status, _, body, answered = await post(site, good, headers)
    assert (503, "5") == (status, answered["Retry-After"])
    assert b"broker away" in body


async def test_other_content_types_are_415(site: TestSite) -> None:
    """Text and grpc's own type are not taken."""
    for kind in ("text/plain", "application/grpc"):
        assert (await post(site, b"", {"Content-Type": kind}))[0] == 415


async def test_writes_need_the_token() -> None:
    """OTLP is a write like any other."""
    async with running("http: {token: secret}") as site:
        assert (await post(site, b"{}", JSON))[0] == 401
        assert (await post(site, b"{}", JSON | {"Authorization": "Bearer secret"}))[0] == 200
