"""A metric topic that is keyed by nothing: a service's series still meet in one stage, across kills."""

import json
from pathlib import Path

import pytest

from aiopsd.model import Entry
from aiopsd.streams.kafka import KafkaStream
from aiopsd.testing.daemon import RunningDaemon
from aiopsd.testing.kafka import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.process]

SIGNALS = ("errors_ratio", "latency_p99_seconds")


async def test_series_of_one_service_are_scored_together(tmp_path: Path, kafka: Broker) -> None:
    """Two signals of a service arrive on different partitions and break together: one anomaly names both."""
    topic = await kafka.create_topic("unkeyed-metrics", 2)
    config = f"""
snapshots: {{every: 1s}}
metric_log: {{partitions: 2}}
sources: [{{name: unkeyed, kind: metrics, keyed_by: none,
  kafka: {{bootstrap_servers: ["{kafka.address()}"], topic: {topic}}}}}]
"""
    writer = KafkaStream(kafka.config(topic), "w", "json")
    await writer.start()
    async with RunningDaemon(tmp_path, config) as daemon:
        ts = 1_760_000_000.0
        for step in range(400):
            broken = step >= 396
            entries = []
            for partition, name in enumerate(SIGNALS):
                value = 5.0 if broken else 0.1 + 0.01 * (step % 7)
                sample = {"name": name, "labels": {"service": "pay"}, "value": value, "ts": ts}
                entries.append(Entry(value=json.dumps(sample).encode(), format="json", partition=partition))
            await writer.append(entries)
            ts += 15
            if step == 200:
                await daemon.kill()
                await daemon.start()
        found = await daemon.until("/api/v1/incidents?state=open", lambda a: a["incidents"])
        shown = await daemon.until(
            f"/api/v1/incidents/{found['incidents'][0]['id']}",
            lambda a: {e["metric"] for m in a["members"] for e in m["evidence"]} >= set(SIGNALS),
        )
    await writer.stop()

    assert ["pay"] == list(shown["services"])
    assert 1 == len(found["incidents"])
