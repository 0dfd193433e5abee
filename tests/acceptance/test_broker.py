"""Kafka goes away and comes back: paging does not die with it, and no record is lost or taken twice."""

import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from aiopsd.errors import StreamError
from aiopsd.model import Entry
from aiopsd.streams.kafka import KafkaStream
from aiopsd.testing.daemon import RunningDaemon
from aiopsd.testing.kafka import Broker
from aiopsd.testing.receiver import Receiver
from aiopsd.testing.yardstick import Yardstick, undisturbed

pytestmark = [pytest.mark.kafka, pytest.mark.process]

SERVICES = [f"svc-{i}" for i in range(8)]
PARTITIONS = 4
START = 1_760_000_000.0


def configuration(broker: Broker, name: str, receiver: str) -> str:
    servers = f'["{broker.address()}"]'
    return f"""
log: {{level: warning}}
snapshots: {{every: 1s}}
sources:
  - {{name: metrics, kind: metrics, format: json, kafka: {{bootstrap_servers: {servers}, topic: "{name}-metrics",
      session_timeout: 6s}}}}
  - {{name: alerts, kind: alerts, kafka: {{bootstrap_servers: {servers}, topic: "{name}-alerts", session_timeout: 6s}}}}
detect:
  resolve_after: 30s
  thresholds: [{{name: hot, match: {{__name__: heat}}, above: 0.8}}]
route: {{receiver: ops, group_wait: 100ms, group_interval: 1s}}
receivers: [{{name: ops, webhook_configs: [{{url: "{receiver}/hook"}}]}}]
delivery: {{rate: 200, max_backoff: 1s}}
"""


def alert(name: str, service: str) -> dict[str, Any]:
    stamp = "%Y-%m-%dT%H:%M:%SZ"
    now = time.time()
    return {
        "labels": {"alertname": name, "service": service, "severity": "critical"},
        "startsAt": time.strftime(stamp, time.gmtime(now - 1)),
        "endsAt": time.strftime(stamp, time.gmtime(now + 600)),
    }


async def traffic(broker: Broker, name: str, done: asyncio.Event) -> None:
    """Alerts and heat into Kafka until `done`; what the broker did not take is sent again, so it may be there twice."""
    alerts = KafkaStream(broker.config(f"{name}-alerts", request_timeout=2.0), "writer", "prometheus")
    metrics = KafkaStream(broker.config(f"{name}-metrics", request_timeout=2.0), "writer", "json")
    await alerts.start()
    await metrics.start()
    try:
        for round in itertools.count():
            heat = [
                {"name": "heat", "labels": {"service": s}, "value": 0.9 if (round + i) % 8 < 2 else 0.1,
                 "ts": START + 15.0 * round}
                for i, s in enumerate(SERVICES)
            ]  # fmt: skip
            one = json.dumps([alert(f"A{round % 3}", SERVICES[round % 8])]).encode()
            await until_taken(alerts, [Entry(value=one, format="prometheus", partition=round % 2)])
            await until_taken(
                metrics,
                [
                    Entry(value=json.dumps(h).encode(), format="json", partition=i % PARTITIONS)
                    for i, h in enumerate(heat)
                ],
            )
            if done.is_set():
                return
            await asyncio.sleep(0.02)  # the pace of the traffic, not a wait for something
    finally:
        await alerts.stop()
        await metrics.stop()


async def until_taken(stream: KafkaStream, entries: list[Entry]) -> None:
    while True:
        try:
            await stream.append(entries)
            return
        except StreamError:
            await asyncio.sleep(0.1)  # the pace of a sender's attempts


async def taken(daemon: RunningDaemon, source: str, count: int) -> None:
    """Wait until the daemon has read so many records of the source since it started."""
    await daemon.until_metric(f'aiopsd_ingested_records_total{{source="{source}"}}', lambda n: n == count)


async def test_the_broker_dies_under_traffic(tmp_path: Path, kafka: Broker) -> None:
    """The broker is killed and comes back: meanwhile HTTP alerts page, afterwards every record was taken once."""
    name = "broker-dies"
    await kafka.create_topic(f"{name}-metrics", PARTITIONS)
    await kafka.create_topic(f"{name}-alerts", 2)
    async with Receiver() as receiver:
        async with RunningDaemon(tmp_path, configuration(kafka, name, receiver.url)) as daemon:
            assert daemon.process is not None
            pid = daemon.process.pid
            done = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(traffic(kafka, name, done), name="traffic")
                await receiver.got(1)
                await daemon.until_metric('aiopsd_ingested_records_total{source="metrics"}', lambda n: n >= 100)
                kafka.kill()
                try:
                    said = await daemon.waiting_for("source metrics", "source alerts")
                    began = time.monotonic()
                    assert await daemon.post("/api/v2/alerts", [alert("Down", "checkout")]) == 200
                    decided = time.monotonic() - began
                    await receiver.until(lambda r: "checkout" in r.json["data"]["incident"]["services"])
                finally:
                    await kafka.start(60)
                    await kafka.ready()
                await daemon.ready()
                done.set()
            metrics = await kafka.records(f"{name}-metrics", "metrics")
            alerts = await kafka.records(f"{name}-alerts", "alerts")
            await taken(daemon, "metrics", sum(map(len, metrics.values())))
            await taken(daemon, "alerts", sum(map(len, alerts.values())))
            still = daemon.process.pid
            assert await daemon.terminate() == 0

    assert pid == still
    assert str(kafka.ports["PLAINTEXT"]) in said["source metrics"]
    assert decided < 2.0
    journal = Yardstick(daemon.data)
    assert {p: [r.offset for r in part] for p, part in alerts.items()} == journal.origins("alerts")
    expected = undisturbed(daemon.config_file, "metrics", metrics)
    assert expected == journal.anomalies("metrics")
    assert len(expected) == PARTITIONS
    await journal.decisions(daemon.config_file)


async def test_a_topic_that_comes_later(tmp_path: Path, kafka: Broker) -> None:
    """A daemon started before its topics pages from HTTP, says what it waits for, and begins when they are created."""
    name = "later"
    async with Receiver() as receiver:
        async with RunningDaemon(tmp_path, configuration(kafka, name, receiver.url), wait=False) as daemon:
            said = await daemon.waiting_for("source metrics", "source alerts", text="does not exist")
            assert await daemon.post("/api/v2/alerts", [alert("Down", "checkout")]) == 200
            await receiver.got(1)
            await kafka.create_topic(f"{name}-alerts", 2)
            await kafka.create_topic(f"{name}-metrics", PARTITIONS)
            await kafka.fill(f"{name}-alerts", [json.dumps([alert("Slow", "cart")]).encode()])
            await kafka.fill(
                f"{name}-metrics",
                [json.dumps({"name": "heat", "labels": {"service": "a"}, "value": 0.1, "ts": START}).encode()],
            )
            await daemon.ready()
            await taken(daemon, "alerts", 1)
            await taken(daemon, "metrics", 1)
            services = {s for i in (await daemon.get("/api/v1/incidents"))["incidents"] for s in i["services"]}
            assert await daemon.terminate() == 0

    assert f"`{name}-alerts` does not exist" in said["source alerts"]
    assert {"checkout", "cart"} == services
