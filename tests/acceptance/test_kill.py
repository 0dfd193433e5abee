"""SIGKILL at random moments, with real Kafka and a slow receiver: nothing lost, nothing doubled, nothing decided anew.

The yardstick is the journal: the incidents and notifications of the tormented daemon equal those of one undisturbed
pass over the same journal, its anomalies equal those of one undisturbed pass of detection over the same topic, and the
receiver saw each key's notifications in the order of the outbox.
"""

import asyncio
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiopsd.config import read
from aiopsd.model import AlertBatch, Anomaly, Append, Entry, LogRecord, Notification, PutSilence
from aiopsd.pipeline import detect
from aiopsd.replay import decide
from aiopsd.stores.sqlite import SqliteStore
from aiopsd.streams.journal import recorded
from aiopsd.streams.kafka import KafkaStream
from aiopsd.testing.daemon import RunningDaemon
from aiopsd.testing.kafka import Broker
from aiopsd.testing.receiver import Received, Receiver, Reply

pytestmark = [pytest.mark.kafka, pytest.mark.process]

SERVICES = [f"svc-{i}" for i in range(12)]
PARTITIONS = 4


def configuration(broker: Broker, name: str, receiver: str, workers: int, topology: Path) -> str:
    servers = f'["{broker.address()}"]'
    return f"""
workers: {workers}
topology: {{files: ["{topology}"]}}
log: {{level: warning}}
snapshots: {{every: 1s}}
sources:
  - {{name: metrics, kind: metrics, format: json, kafka: {{bootstrap_servers: {servers}, topic: "{name}-metrics",
      group_id: "{name}", session_timeout: 6s}}}}
  - {{name: alerts, kind: alerts, kafka: {{bootstrap_servers: {servers}, topic: "{name}-alerts", group_id: "{name}-a",
      session_timeout: 6s}}}}
detect:
  resolve_after: 30s
  thresholds: [{{name: hot, match: {{__name__: heat}}, above: 0.8}}]
correlate: {{resolve_after: 2s, resolve_timeout: 8s, reopen_within: 3s}}
route: {{receiver: ops, group_wait: 500ms, group_interval: 1s, repeat_interval: 4s, page_anomalies: true}}
receivers: [{{name: ops, webhook_configs: [{{url: "{receiver}/hook"}}]}}]
delivery: {{rate: 200, max_backoff: 1s}}
"""


class Traffic:
    """Seeded alerts, metrics and silences, sent until `stop`; remembers what was promised to be safe."""

    def __init__(self, daemon: RunningDaemon, broker: Broker, name: str, seed: int) -> None:
        self.daemon, self.broker, self.name = daemon, broker, name
        self.random = random.Random(seed)
        self.done = asyncio.Event()
        self.accepted_alerts = 0
        self.accepted_silences: set[str] = set()
        self.metrics: dict[int, list[LogRecord]] = defaultdict(list)

    def alert(self) -> dict[str, Any]:
        now = time.time()
        labels = {
            "alertname": self.random.choice(("Slow", "Errors", "Down")),
            "service": self.random.choice(SERVICES),
            "severity": self.random.choice(("warning", "critical")),
        }
        ends = now + self.random.choice((3.0, 6.0, 20.0, -1.0))
        stamp = "%Y-%m-%dT%H:%M:%SZ"
        return {
            "labels": labels,
            "startsAt": time.strftime(stamp, time.gmtime(now - 1)),
            "endsAt": time.strftime(stamp, time.gmtime(ends)),
        }

    async def kafka(self) -> None:
        """Alerts and metrics into Kafka, whether the daemon lives or not."""
        alerts = KafkaStream(self.broker.config(f"{self.name}-alerts"), "w", "prometheus")
        metrics = KafkaStream(self.broker.config(f"{self.name}-metrics"), "w", "json")
        await alerts.start()
        await metrics.start()
        ts = 1_760_000_000.0
        try:
            while not self.done.is_set():
                batch = [self.alert() for _ in range(self.random.randint(1, 5))]
                value = json.dumps(batch).encode()
                await alerts.append([Entry(value=value, format="prometheus", partition=self.random.randint(0, 1))])
                ts += 15.0
                await self._heat(metrics, ts, 0.15)
                await self._rest(0.05)
            for _ in range(10):  # it cools down: what is firing resolves
                ts += 15.0
                await self._heat(metrics, ts, 0.0)
        finally:
            await alerts.stop()
            await metrics.stop()

    async def _heat(self, metrics: KafkaStream, ts: float, share: float) -> None:
        entries, values = [], []
        for service in SERVICES:
            hot = self.random.random() < share
            sample = {"name": "heat", "labels": {"service": service}, "value": 0.9 if hot else 0.1, "ts": ts}
            values.append(json.dumps(sample).encode())
            entries.append(Entry(value=values[-1], format="json", partition=SERVICES.index(service) % PARTITIONS))
        for pos, value in zip(await metrics.append(entries), values, strict=True):
            self.metrics[pos.partition].append(
                LogRecord(source="metrics", partition=pos.partition, offset=pos.offset, value=value, format="json")
            )

    async def _rest(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.done.wait(), seconds)
        except TimeoutError:
            return

    async def http(self) -> None:
        """Alerts and silences over HTTP; what was answered 200 must be in the journal."""
        n = 0
        while not self.done.is_set():
            if await self.daemon.post("/api/v2/alerts", [self.alert()]) == 200:
                self.accepted_alerts += 1
            n += 1
            if n % 10 == 0:
                await self._silence(n)
            await self._rest(0.05)

    async def _silence(self, n: int) -> None:
        stamp = "%Y-%m-%dT%H:%M:%SZ"
        body = {
            "matchers": [{"name": "service", "value": self.random.choice(SERVICES), "isRegex": False, "isEqual": True}],
            "startsAt": time.strftime(stamp, time.gmtime(time.time() - 2)),
            "endsAt": time.strftime(stamp, time.gmtime(time.time() + 5)),
            "createdBy": "test",
            "comment": f"silence {n}",
        }
        if await self.daemon.post("/api/v2/silences", body) == 200:
            self.accepted_silences.add(body["comment"])


def slow_and_shaky(seed: int) -> Receiver:
    dice = random.Random(seed)

    def answer(_: Received) -> Reply:
        if dice.random() < 0.1:
            return Reply(status=503, delay=0.05)
        return Reply(status=202, delay=dice.random() * 0.3)

    return Receiver(answer=answer)


async def torment(folder: Path, broker: Broker, *, kills: int, seed: int, workers: int = 0) -> None:
    """Traffic and kills, then peace, then the comparison."""
    print(f"seed {seed}")
    name = f"kill-{seed}-{workers}"
    dice = random.Random(seed)
    await broker.create_topic(f"{name}-metrics", PARTITIONS)
    await broker.create_topic(f"{name}-alerts", 2)
    async with slow_and_shaky(seed) as receiver:
        topology = folder / "topology.yaml"
        pairs = zip(SERVICES[::2], SERVICES[1::2], strict=True)  # six small systems: incidents beside each other
        chain = "".join(f"  {a}: {{calls: [{b}]}}\n" for a, b in pairs)
        topology.write_text(f"services:\n{chain}")
        daemon = RunningDaemon(folder, configuration(broker, name, receiver.url, workers, topology))
        async with daemon:
            traffic = Traffic(daemon, broker, name, seed)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(traffic.kafka(), name="kafka")
                tasks.create_task(traffic.http(), name="http")
                for _ in range(kills):
                    await asyncio.sleep(dice.uniform(0.3, 3.5))  # the random moment of the kill is the test
                    await daemon.kill()
                    await daemon.start(wait=dice.random() < 0.7)
                await daemon.ready()
                await asyncio.sleep(3.0)  # some undisturbed traffic at the end
                traffic.done.set()
            await daemon.until("/api/v1/incidents?state=open", lambda a: not a["incidents"], seconds=90)
            await daemon.until("/api/v1/outbox", lambda a: not a["deliveries"], seconds=60)
            assert await daemon.terminate() == 0
        await compare(daemon, traffic, receiver.received)


async def compare(daemon: RunningDaemon, traffic: Traffic, received: list[Received]) -> None:
    assert '"event": "bug"' not in daemon.log()
    config, _ = read(daemon.config_file)
    journal = list(recorded(daemon.data / "journal.db"))
    store = SqliteStore(daemon.data / "store.db", time.time)
    await store.start()
    try:
        committed, _, _ = await store.position()  # a tick may be in the journal that a stop left for the next start
        incidents = {i.id: i for i in await store.incidents(limit=100_000)}
        outbox = await store.outbox(states=("pending", "delivered", "superseded", "failed"), limit=100_000)
    finally:
        await store.stop()
    expected = decide(config, (r for r in journal if r.offset <= committed))

    # decisions: those of an undisturbed pass over the same journal
    assert expected.incidents == incidents
    assert len(incidents) > 3
    notes = [row.item for row in outbox if isinstance(row.item, Notification)]
    assert list(expected.notifications.values()) == notes

    # alerts and silences: what was promised is there; what came through Kafka is there once
    origins: dict[int, list[int]] = defaultdict(list)
    posted = 0
    silences = set()
    for record in journal:
        if isinstance(record.body, AlertBatch):
            if record.origin is None:
                posted += 1
            else:
                origins[record.origin.partition].append(record.origin.offset)
        elif isinstance(record.body, PutSilence):
            silences.add(record.body.comment)
    assert posted >= traffic.accepted_alerts > 0
    assert traffic.accepted_silences <= silences
    for offsets in origins.values():
        assert offsets == list(range(len(offsets)))

    # detection: every event of an undisturbed pass, once, in order, per partition
    for partition, records in traffic.metrics.items():
        stage = detect.build(config, "metrics", partition)
        wanted = [e.body for e in stage.step(records) if isinstance(e, Append)]
        got = [
            r.body
            for r in journal
            if isinstance(r.body, Anomaly) and r.origin is not None and r.origin.partition == partition
        ]
        assert [msgspec.to_builtins(b) for b in wanted] == [msgspec.to_builtins(b) for b in got]
        assert got

    # pages: nothing lost, per key in the order of the outbox, repeats only of one and the same notification
    assert {row.state for row in outbox} <= {"delivered", "superseded"}
    came: dict[str, list[str]] = defaultdict(list)
    key_of = {note.id: note.dedup_key for note in notes}
    for request in received:
        note_id = request.headers["idempotency-key"]
        sequence = came[key_of[note_id]]
        if not sequence or sequence[-1] != note_id:
            sequence.append(note_id)
    wanted_ids: dict[str, list[str]] = defaultdict(list)
    delivered = {row.id for row in outbox if row.state == "delivered"}
    for note in notes:
        wanted_ids[note.dedup_key].append(note.id)
    for key, sequence in came.items():
        order = [wanted_ids[key].index(n) for n in sequence]
        assert order == sorted(set(order)), f"{key}: out of order or repeated after a newer one"
    assert delivered <= {n for sequence in came.values() for n in sequence}


async def test_three_kills(tmp_path: Path, kafka: Broker) -> None:
    """Killed three times under traffic, the daemon decides and sends what an undisturbed one would have."""
    await torment(tmp_path, kafka, kills=3, seed=11)


async def test_a_kill_with_workers(tmp_path: Path, kafka: Broker) -> None:
    """The same with detection in two worker processes of the consumer group."""
    await torment(tmp_path, kafka, kills=2, seed=12, workers=2)


@pytest.mark.soak
async def test_many_kills(tmp_path: Path, kafka: Broker) -> None:
    """Twenty kills."""
    await torment(tmp_path, kafka, kills=20, seed=int(time.time()) % 100_000)
