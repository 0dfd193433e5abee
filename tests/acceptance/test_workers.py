"""Detection in worker processes: killed, joined by another and left again, stopped; every event once, in order."""

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiopsd.model import Entry, EvidenceDigest, LogRecord
from aiopsd.streams.kafka import KafkaStream
from aiopsd.streams.local import LocalLog
from aiopsd.testing.daemon import RunningDaemon
from aiopsd.testing.kafka import Broker
from aiopsd.testing.receiver import Receiver
from aiopsd.testing.streams import Ledger
from aiopsd.testing.yardstick import Yardstick, undisturbed

pytestmark = [pytest.mark.kafka, pytest.mark.process]

KAFKA_PARTITIONS, PUSH_PARTITIONS = 4, 2
SERVICES = [f"svc-{i}" for i in range(8)]
START = 1_760_000_000.0


def configuration(broker: Broker, name: str, receiver: str, extra: str = "") -> str:
    return f"""
workers: 2
log: {{level: info}}
snapshots: {{every: 1s}}
metric_log: {{partitions: {PUSH_PARTITIONS}}}
sources:
  - name: metrics
    kind: metrics
    format: json
    kafka: {{bootstrap_servers: ["{broker.address()}"], topic: "{name}", session_timeout: 6s{extra}}}
detect:
  resolve_after: 30s
  thresholds: [{{name: hot, match: {{__name__: heat}}, above: 0.8}}]
route: {{receiver: ops, group_wait: 100ms, page_anomalies: true}}
receivers: [{{name: ops, webhook_configs: [{{url: "{receiver}/hook"}}]}}]
delivery: {{rate: 200}}
"""


class Traffic:
    """Heat of eight services, by turns hot, into Kafka and by HTTP, in steps of 15 s of sample time."""

    def __init__(self, daemon: RunningDaemon, broker: Broker, topic: str) -> None:
        self.daemon, self.out = daemon, KafkaStream(broker.config(topic), "writer", "json")
        self.rounds = itertools.count()
        self.sent = 0

    async def round(self) -> None:
        n = next(self.rounds)
        heat = [
            {"name": "heat", "labels": {"service": s}, "value": 0.9 if (n + i) % 8 < 2 else 0.1, "ts": START + 15.0 * n}
            for i, s in enumerate(SERVICES)
        ]
        await self.out.append(
            [
                Entry(value=json.dumps(h).encode(), format="json", partition=i % KAFKA_PARTITIONS)
                for i, h in enumerate(heat)
            ]
        )
        self.sent += len(heat)
        pushed = [h | {"labels": {"service": f"pushed-{i}"}} for i, h in enumerate(heat)]
        assert await self.daemon.post("/api/v1/metrics", {"samples": pushed}) == 204

    async def some(self, rounds: int) -> None:
        for _ in range(rounds):
            await self.round()

    async def until(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self.round()


@asynccontextmanager
async def running(
    folder: Path, broker: Broker, topic: str, receiver: Receiver, extra: str = ""
) -> AsyncIterator[tuple[RunningDaemon, Traffic]]:
    await broker.create_topic(topic, KAFKA_PARTITIONS)
    async with RunningDaemon(folder, configuration(broker, topic, receiver.url, extra)) as daemon:
        traffic = Traffic(daemon, broker, topic)
        await traffic.out.start()
        try:
            yield daemon, traffic
        finally:
            await traffic.out.stop()


def workers(daemon: RunningDaemon) -> dict[int, int]:
    """pid -> index of the worker processes that the daemon started, from /proc."""
    assert daemon.process is not None
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended while we looked
            if parent == daemon.process.pid and b"worker" in command:
                found[int(entry.name)] = int(command[command.index(b"--index") + 1])
    return found


def alive(pid: int) -> bool:
    """False for one that ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def scored(daemon: RunningDaemon, traffic: Traffic, broker: Broker) -> None:
    """Wait until everything that was sent is behind every partition's stage: no lag, and nothing to wait for."""
    await daemon.ready()
    for partition in range(KAFKA_PARTITIONS):
        at = f'aiopsd_detect_watermark_seconds{{partition="{partition}",source="metrics"}}'
        end = max(json.loads(r.value)["ts"] for r in (await broker.records(traffic.out.config.topic))[partition])
        await daemon.until_metric(at, lambda ts, end=end: ts == end, seconds=60)


async def pushed(daemon: RunningDaemon) -> dict[int, list[LogRecord]]:
    """What the local metric log of a stopped daemon holds."""
    found: dict[int, list[LogRecord]] = {p: [] for p in range(PUSH_PARTITIONS)}
    log = LocalLog.reader(daemon.data / "metrics", list(found), lambda: 0.0)
    await log.start(Ledger())
    try:
        while records := await log.poll(1000, 0.0):
            for record in records:
                found[record.partition].append(record)
    finally:
        await log.stop()
    return found


async def compare(daemon: RunningDaemon, broker: Broker, topic: str) -> Yardstick:
    """The journal of the stopped daemon holds each event of an undisturbed pass once, in order."""
    journal = Yardstick(daemon.data)
    expected = undisturbed(daemon.config_file, "metrics", await broker.records(topic, "metrics"))
    assert expected == journal.anomalies("metrics")
    assert len(expected) == KAFKA_PARTITIONS
    expected = undisturbed(daemon.config_file, "push", await pushed(daemon))
    assert expected == journal.anomalies("push")
    assert len(expected) == PUSH_PARTITIONS
    await journal.decisions(daemon.config_file)
    return journal


async def test_a_killed_worker_is_replaced(tmp_path: Path, kafka: Broker) -> None:
    """SIGKILL to a worker under traffic: another takes its place, and each event is in the journal exactly once."""
    async with Receiver() as receiver, running(tmp_path, kafka, "worker-killed", receiver) as (daemon, traffic):
        await traffic.some(20)
        before = workers(daemon)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(traffic.until(over), name="traffic")
            victim = next(pid for pid, index in before.items() if index == 0)
            os.kill(victim, signal.SIGKILL)
            said = await daemon.waiting_for("workers")
            await daemon.ready()
            over.set()
        after = workers(daemon)
        await traffic.some(10)
        await scored(daemon, traffic, kafka)
        assert await daemon.terminate() == 0
        journal = await compare(daemon, kafka, "worker-killed")

    assert [0, 1] == sorted(before.values()) == sorted(after.values())
    assert victim not in after
    assert "1 of 2 not connected" in said["workers"]
    assert any(isinstance(r.body, EvidenceDigest) for r in journal.records)  # workers answer questions, too


async def test_a_second_process_joins_and_leaves(tmp_path: Path, kafka: Broker) -> None:
    """A worker started by hand takes its share of the partitions and gives it back; nothing is lost or doubled."""
    async with Receiver() as receiver, running(tmp_path, kafka, "worker-joins", receiver) as (daemon, traffic):
        await traffic.some(10)
        over = asyncio.Event()
        log = (tmp_path / "third.log").open("wb")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(traffic.until(over), name="traffic")
            third = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "aiopsd", "worker", "--connect", str(daemon.data / "worker.sock")),
                *("--index", "0"), stdout=log, stderr=log, cwd=tmp_path,
            )  # fmt: skip
            try:
                async with asyncio.timeout(40):
                    while "partition taken" not in (tmp_path / "third.log").read_text():
                        assert third.returncode is None, (tmp_path / "third.log").read_text()
                        await asyncio.sleep(0.05)  # another process
                await daemon.ready()
                third.send_signal(signal.SIGTERM)
                code = await asyncio.wait_for(third.wait(), 30)
            finally:
                if third.returncode is None:
                    third.kill()
                    await third.wait()
                log.close()
                over.set()
        await traffic.some(10)
        await scored(daemon, traffic, kafka)
        assert await daemon.terminate() == 0
        await compare(daemon, kafka, "worker-joins")

    said = [json.loads(line) for line in (tmp_path / "third.log").read_text().splitlines()]
    assert code == 0
    taken = {(r["source"], r["partition"]) for r in said if r["event"] == "partition taken"}
    released = {(r["source"], r["partition"]) for r in said if r["event"] == "partition released"}
    assert taken == released
    assert {"metrics"} == {source for source, _ in taken}  # the local log has one reader per partition: the daemon's


async def test_a_graceful_stop_leaves_snapshots(tmp_path: Path, kafka: Broker) -> None:
    """After SIGTERM each partition's snapshot is at the end of what was read, and the next start begins there."""
    static = ", group_instance_id: me"
    async with Receiver() as receiver, running(tmp_path, kafka, "worker-stops", receiver, static) as (daemon, traffic):
        await traffic.some(20)
        await scored(daemon, traffic, kafka)
        assert await daemon.terminate() == 0
        stopped = len(daemon.log())
        ends = {p: r[-1].offset for p, r in (await kafka.records("worker-stops")).items()}
        local = {p: r[-1].offset for p, r in (await pushed(daemon)).items()}
        await daemon.start()
        await traffic.some(10)
        await scored(daemon, traffic, kafka)
        assert await daemon.terminate() == 0
        await compare(daemon, kafka, "worker-stops")

    said = [json.loads(line) for line in daemon.log()[stopped:].splitlines() if line.startswith("{")]
    begun = {(r["source"], r["partition"]): r["position"] for r in said if r["event"] == "partition taken"}
    assert {("metrics", p): end for p, end in ends.items()} | {("push", p): end for p, end in local.items()} == begun


async def test_workers_end_with_their_daemon(tmp_path: Path, kafka: Broker) -> None:
    """Workers whose daemon was killed end by themselves: nobody scores for a journal that is gone."""
    async with Receiver() as receiver, running(tmp_path, kafka, "worker-orphans", receiver) as (daemon, traffic):
        await traffic.some(5)
        orphans = list(workers(daemon))
        assert daemon.process is not None
        os.kill(daemon.process.pid, signal.SIGKILL)
        await daemon.process.wait()
        async with asyncio.timeout(30):
            while any(alive(pid) for pid in orphans):
                await asyncio.sleep(0.05)  # other processes

    assert len(orphans) == 2
    assert "Traceback" not in daemon.log()
