"""A disk that is really full below the data folder: what is not safe is refused, nothing is lost, and it goes on alone.

As root on Linux the disk is a small tmpfs of its own; elsewhere the test cannot run (CI=true as root: it must).
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiopsd.model import AlertBatch
from aiopsd.streams.local import LocalLog
from aiopsd.testing.daemon import RunningDaemon
from aiopsd.testing.receiver import Receiver
from aiopsd.testing.services import unavailable
from aiopsd.testing.yardstick import Yardstick, undisturbed

pytestmark = pytest.mark.process

SIZE = 24 * 1024 * 1024  # bytes of the disk: snapshots and logs fit many times over, the ballast takes the rest
START = 1_760_000_000.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of SIZE bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        unavailable("mounting a small file system needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "aiopsd-test", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        unavailable(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Take all space but `leave` bytes; the file to delete to have it back."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"\0" * 65536)
        except OSError:
            pass
        try:
            while True:
                out.write(b"\0" * 512)
        except OSError:
            pass
    size = ballast.stat().st_size
    os.truncate(ballast, max(0, size - leave))
    return ballast


def configuration(receiver: str) -> str:
    return f"""
log: {{level: warning}}
snapshots: {{every: 1s}}
detect:
  resolve_after: 30s
  thresholds: [{{name: hot, match: {{__name__: heat}}, above: 0.8}}]
route: {{receiver: ops, group_wait: 100ms, group_interval: 1s}}
receivers: [{{name: ops, webhook_configs: [{{url: "{receiver}/hook"}}]}}]
delivery: {{rate: 200, max_backoff: 1s}}
"""


class Sender:
    """Alerts, metrics, changes and silences, numbered; remembers which were acknowledged."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.daemon = daemon
        self.number = 0
        self.acknowledged: dict[str, list[int]] = {"alert": [], "metrics": []}
        self.answers: dict[str, list[int]] = {"alert": [], "metrics": []}

    async def send(self, kind: str) -> int:
        n = self.number
        self.number += 1
        if kind == "alert":
            status = await self.daemon.post("/api/v2/alerts", [self._alert(n)])
            good = 200
        else:
            sample = {"name": "heat", "labels": {"service": "a"}, "value": 0.9 if n % 10 < 2 else 0.1, "ts": START + n}
            status = await self.daemon.post(
                "/api/v1/metrics", {**sample, "labels": {"service": "a", "pad": "x" * 2000}}
            )
            good = 204
        self.answers[kind].append(status)
        if status == good:
            self.acknowledged[kind].append(n)
        return status

    @staticmethod
    def _alert(n: int) -> dict[str, Any]:
        stamp = "%Y-%m-%dT%H:%M:%SZ"
        now = time.time()
        return {
            "labels": {"alertname": f"A{n}", "service": f"svc-{n % 20}", "severity": "critical"},
            "annotations": {"summary": "y" * 3000},
            "startsAt": time.strftime(stamp, time.gmtime(now - 1)),
            "endsAt": time.strftime(stamp, time.gmtime(now + 600)),
        }

    async def until(self, kind: str, statuses: set[int], seconds: float = 60.0) -> None:
        """Send until an answer is one of these."""
        async with asyncio.timeout(seconds):
            while await self.send(kind) not in statuses:
                pass


async def test_writes_are_refused_until_there_is_room(tmp_path: Path, disk: Path) -> None:
    """On a full disk every write is answered 503 and the operator is told; with room again it goes on, nothing lost."""
    async with Receiver() as receiver:
        data, http = disk / "data", "commit_timeout: 2s"
        async with RunningDaemon(tmp_path, configuration(receiver.url), data=data, http=http) as daemon:
            assert daemon.process is not None
            pid = daemon.process.pid
            sender = Sender(daemon)
            for _ in range(20):
                await sender.send("alert")
                await sender.send("metrics")
            ballast = fill(disk)
            said: dict[str, str] = {}
            async with asyncio.timeout(90):
                while not {"writing journal", "writing metrics"} <= said.keys():  # the last pages take a while to go
                    assert await sender.send("alert") in (200, 503)
                    assert await sender.send("metrics") in (204, 503)
                    said = await daemon.readiness()
            errors = {
                w: await daemon.metric(f'aiopsd_write_errors_total{{what="{w}"}}') for w in ("journal", "metrics")
            }
            before = len(receiver.received)
            healthy = await daemon.text("/-/healthy")
            shown = await daemon.get("/api/v1/incidents")  # reads go on

            ballast.unlink()
            await sender.until("alert", {200})
            await sender.until("metrics", {204})
            await receiver.got(before + 1)
            await daemon.ready()
            for _ in range(20):
                await sender.send("alert")
                await sender.send("metrics")
            taken = 'aiopsd_ingested_records_total{source="push"}'
            async with asyncio.timeout(30):  # what was pushed last is scored before the daemon is asked to stop
                while await daemon.metric(taken) < len(sender.acknowledged["metrics"]):
                    await asyncio.sleep(0.05)
            still = daemon.process.pid
            assert await daemon.terminate() == 0
        journal = Yardstick(daemon.data)
        await journal.decisions(daemon.config_file)
        kept = LocalLog.reader(daemon.data / "metrics", [0], time.time)

    assert pid == still
    assert set(sender.answers["alert"]) == {200, 503}
    assert set(sender.answers["metrics"]) == {204, 503}
    assert "no space left" in said["writing journal"]
    assert "no space left" in said["writing metrics"]
    assert all(errors.values()), errors
    assert "OK" == healthy
    assert shown["incidents"]
    batches = [r.body for r in journal.records if isinstance(r.body, AlertBatch)]
    alerts = {int(dict(a.labels)["alertname"][1:]) for batch in batches for a in batch.alerts}
    assert set(sender.acknowledged["alert"]) <= alerts
    records = await everything(kept)
    pushed = {round(json.loads(r.value)["ts"] - START) for r in records}
    assert set(sender.acknowledged["metrics"]) <= pushed
    assert undisturbed(daemon.config_file, "push", {0: records}) == journal.anomalies("push")


async def everything(log: Any) -> list[Any]:
    """All records of a reader's partitions."""

    class FromTheStart:
        async def assigned(self, partitions: Any) -> dict[int, int | None]:
            return dict.fromkeys(partitions)

        async def revoked(self, partitions: Any) -> None: ...

    await log.start(FromTheStart())
    try:
        found: list[Any] = []
        while part := await log.poll(1000, 0.0):
            found += part
        return found
    finally:
        await log.stop()
