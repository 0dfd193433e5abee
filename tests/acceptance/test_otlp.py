"""From OpenTelemetry's SDK to a page, through the real daemon."""

import asyncio
import time
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from aiopsd.testing.daemon import RunningDaemon
from aiopsd.testing.receiver import Receiver

pytestmark = pytest.mark.process


def configuration(receiver: str) -> str:
    return f"""
log: {{level: warning}}
metric_log: {{partitions: 3}}
detect:
  thresholds: [{{name: full, match: {{__name__: queue_depth}}, above: 0.8}}]
route: {{receiver: ops, group_wait: 100ms, page_anomalies: true}}
receivers: [{{name: ops, webhook_configs: [{{url: "{receiver}/hook"}}]}}]
"""


def send(url: str, values: list[float]) -> None:
    """Two services send their queue depth by the SDK's own exporter, once a second."""
    meters = []
    for service in ("cart", "search"):
        exporter = OTLPMetricExporter(endpoint=f"{url}/v1/metrics")
        provider = MeterProvider(
            metric_readers=[PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)],
            resource=Resource.create({"service.name": service}),
        )
        meters.append((provider, provider.get_meter("test").create_gauge("queue.depth")))
    for value in values:
        for i, (provider, gauge) in enumerate(meters):
            gauge.set(value if i == 0 else 0.1)
            assert provider.force_flush()
        time.sleep(1.0)  # the pace of the samples: the SDK stamps them itself
    for provider, _ in meters:
        provider.shutdown()


async def test_a_service_that_speaks_otlp_is_paged_for(tmp_path: Path) -> None:
    """Its resource names the service; a broken threshold pages for that service and for no other."""
    async with Receiver() as receiver, RunningDaemon(tmp_path, configuration(receiver.url)) as daemon:
        sending = asyncio.create_task(asyncio.to_thread(send, daemon.url, [0.1, 0.95, 0.96, 0.97]))
        page = (await receiver.got(1))[0].json["data"]
        await sending
        await daemon.until_metric('aiopsd_ingested_samples_total{source="push"}', lambda n: n == 8)
        assert await daemon.terminate() == 0

    assert ["cart"] == page["incident"]["services"]
    assert "queue_depth" in page["title"]
