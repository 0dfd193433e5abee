"""PetShop through a real Kafka into the running daemon: which incidents opened, and where the true root ranked.

`python -m simulations petshop-kafka --data DIR [--issues N] [--only NAME]`; DIR holds scenario folders (low_traffic,
...). The daemon runs in this process, whole (sources, journal, store, HTTP), under its shipped configuration and a
clock that is the data's: the fault-free days in steps of a quarter of an hour, then it is stopped. Each issue begins
with a copy of that data folder (and of the topic), shifted by whole days to follow the fault-free ones, row by row. The
alert is the data set's own target (PetSite's latency or availability at the given time), through Kafka as well.
"page" is the rank of the true root in the first notification of that alert, as a webhook received it; "soon" in the
last one within five minutes of the alert; "end" in the API after the issue's last row.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import structlog
import yaml

from aiopsd.app import Daemon
from aiopsd.model import Entry, Tick
from aiopsd.pipeline.correlate.causes import ASK_AGAIN
from aiopsd.routing import GROUP_WAIT
from aiopsd.streams.kafka import KafkaStream
from aiopsd.testing.kafka import Broker
from aiopsd.web.site import rfc3339
from simulations.petshop_data import Frame, Issue, Scenario, days_after, scenarios
from simulations.process import Pager

STEP_ROWS = 3  # rows of the fault-free days at once: their anomalies are stamped up to 10 minutes late
TARGET = "TargetAlert"
PARTITIONS = 4
SOON = 300.0  # s after an alert: somebody is at work on it
SETTLED = 0.5  # s without a new journal record: evidence was asked for and answered
WAIT = 120.0  # s for anything that the daemon is waited for


@dataclass(frozen=True)
class Outcome:
    """What the daemon made of one issue. Ranks begin at 1; 0: not among the causes, or no incident."""

    issue: Issue
    page: int
    soon: int
    end: int
    incidents: tuple[str, ...]  # those that opened in the issue, one line each
    seconds: float


def configuration(broker: Broker, topic: str, data: Path, topology: Path, pager: int) -> str:
    """The shipped defaults, where things are, and one receiver."""
    servers = f'["{broker.address()}"]'
    return f"""
data_dir: "{data}"
http: {{listen: "127.0.0.1:0"}}
snapshots: {{every: 7d}}
topology: {{files: ["{topology}"]}}
route: {{receiver: oncall}}
receivers: [{{name: oncall, webhook_configs: [{{url: "http://127.0.0.1:{pager}/page"}}]}}]
sources:
  - {{name: metrics, kind: metrics, kafka: {{bootstrap_servers: {servers}, topic: "{topic}-metrics",
      group_id: "{topic}"}}}}
  - {{name: alerts, kind: alerts, kafka: {{bootstrap_servers: {servers}, topic: "{topic}-alerts",
      group_id: "{topic}-alerts"}}}}
"""


class Player:
    """A daemon in this process whose clock is `now`, and the topics that feed it."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.topic, self.now, self.sent = topic, 0.0, 0
        self.metrics = KafkaStream(broker.config(f"{topic}-metrics"), "out", "json")
        self.alerts = KafkaStream(broker.config(f"{topic}-alerts"), "out", "prometheus")
        self.daemon: Daemon
        self.session: aiohttp.ClientSession

    async def get(self, path: str) -> Any:
        async with self.session.get(f"http://{self.daemon.address}{path}") as answer:
            assert answer.status == 200, f"{path}: {answer.status} {await answer.text()}"
            return await answer.json()

    async def feed(self, batch: "Batch") -> None:
        """Write records, move the clock, and wait until they are scored and what came of them is decided."""
        await self.metrics.append(batch.entries)
        self.sent += batch.samples
        self.now = batch.now
        async with asyncio.timeout(WAIT):
            while not self._scored():  # noqa: ASYNC110 - a counter tells by being read
                await asyncio.sleep(0.005)
            await self.decided()

    def _scored(self) -> bool:
        found = self.daemon.metrics.registry.get_sample_value("aiopsd_ingested_samples_total", {"source": "metrics"})
        return (found or 0) >= self.sent

    async def decided(self) -> None:
        """Wait until everything in the journal is decided."""
        while self.daemon.correlate.position + 1 < self.daemon.journal.end():  # noqa: ASYNC110 - a position tells by being read
            await asyncio.sleep(0.005)

    async def settled(self) -> None:
        """Wait until everything is decided and nothing has been added for a while."""
        last, since = -1, time.monotonic()
        while time.monotonic() - since < SETTLED:
            await self.decided()
            if self.daemon.journal.end() != last:
                last, since = self.daemon.journal.end(), time.monotonic()
            await asyncio.sleep(0.02)

    async def tick(self, now: float) -> None:
        """Let what is due by `now` happen: the daemon's own timers sleep in real time."""
        self.now = now
        await self.daemon.journal.append([Tick()])
        await self.settled()

    async def incidents(self) -> dict[str, dict[str, Any]]:
        """Every incident as the API lists it, by id."""
        found: dict[str, dict[str, Any]] = {}
        cursor = ""
        while True:
            answer = await self.get(f"/api/v1/incidents?limit=1000&cursor={cursor}")
            found |= {incident["id"]: incident for incident in answer["incidents"]}
            cursor = answer["next"]
            if not cursor:
                return found

    async def rank(self, issue: Issue) -> int:
        """Where the true root stands in the incident that holds the target's alert."""
        for alert in (await self.get(f"/api/v1/alerts?service={issue.node}&limit=1000"))["alerts"]:
            if alert["labels"].get("alertname") == TARGET and alert["incident"]:
                causes = [c["service"] for c in (await self.get(f"/api/v1/incidents/{alert['incident']}"))["causes"]]
                return causes.index(issue.root) + 1 if issue.root in causes else 0
        return 0


@asynccontextmanager
async def running(player: Player, config: Path, now: float) -> AsyncIterator[None]:
    """The daemon, ready, until the end of the block; then stopped, everything saved."""
    player.now = now
    player.daemon = Daemon(config, clock=lambda: player.now)
    stop = asyncio.Event()
    await player.metrics.start()
    await player.alerts.start()
    try:
        async with aiohttp.ClientSession() as player.session, asyncio.TaskGroup() as tasks:
            tasks.create_task(player.daemon.run(stop), name="daemon")
            async with asyncio.timeout(WAIT):
                await player.daemon.ready.wait()
                while True:
                    async with player.session.get(f"http://{player.daemon.address}/-/ready") as answer:
                        if answer.status == 200:
                            break
                    await asyncio.sleep(0.02)
            yield
            stop.set()
    finally:
        await player.metrics.stop()
        await player.alerts.stop()


@dataclass(frozen=True)
class Batch:
    """Records that are written together: the samples in them, and the time of the last."""

    entries: list[Entry]
    samples: int
    now: float


def batch(frame: Frame, rows: Sequence[int], shift: float) -> Batch:
    """JSON records of these rows, one per row and service."""
    entries, samples = [], 0
    for row in rows:
        ts = float(frame.ts[row]) + shift
        by_node: dict[str, list[dict[str, Any]]] = {}
        for (node, metric, statistic), value in zip(frame.columns, frame.values[row].tolist(), strict=True):
            if value == value:
                name = f"{metric}_{statistic}".lower()
                sample = {"name": name, "labels": {"service": node}, "ts": ts, "value": value}
                by_node.setdefault(node, []).append(sample)
                samples += 1
        for node, found in by_node.items():
            value = json.dumps(found).encode()
            entries.append(Entry(value=value, format="json", partition=zlib.crc32(node.encode()) % PARTITIONS))
    return Batch(entries, samples, float(frame.ts[rows[-1]]) + shift)


def topology(scenario: Scenario) -> str:
    """The graph as an operator's topology file, which says what was only seen from the other end of a call."""
    services: dict[str, dict[str, Any]] = {node: {} for node in scenario.nodes}
    for caller, callee in scenario.edges:
        services[caller].setdefault("calls", []).append(callee)
    for node in services:
        if scenario.inferred(node):
            services[node]["labels"] = {"inferred": "true"}
    return yaml.safe_dump({"services": services})


async def create(broker: Broker, topic: str) -> None:
    await broker.create_topic(f"{topic}-metrics", PARTITIONS)
    await broker.create_topic(f"{topic}-alerts")


async def fault_free(folder: Path, broker: Broker, scenario: Scenario, pager: Pager) -> list[Batch]:
    """Play the fault-free days into `folder`/data; what was written."""
    topic, frame = scenario.name, scenario.normal
    await create(broker, topic)
    (folder / "topology.yaml").write_text(topology(scenario), encoding="utf-8")
    config = folder / "aiopsd.yaml"
    config.write_text(
        configuration(broker, topic, folder / "data", folder / "topology.yaml", pager.port), encoding="utf-8"
    )
    rows = range(len(frame.ts))
    batches = [batch(frame, rows[at : at + STEP_ROWS], 0.0) for at in range(0, len(rows), STEP_ROWS)]
    player = Player(broker, topic)
    began = time.monotonic()
    async with running(player, config, float(frame.ts[0])):
        for each in batches:
            await player.feed(each)
        await player.settled()
        found = await player.incidents()
    days = (frame.ts[-1] - frame.ts[0]) / 86400.0
    left = sum(i["state"] == "open" for i in found.values())
    print(
        f"{scenario.name}: {days:.1f} fault-free days, {len(scenario.nodes)} services, {player.sent:,} samples in"
        f" {time.monotonic() - began:.0f} s; {len(found)} incidents, {left} open at the end",
        flush=True,
    )
    return batches


async def play(
    folder: Path, broker: Broker, scenario: Scenario, issue: Issue, normal: list[Batch], pager: Pager
) -> Outcome:
    """One issue on a copy of the state after the fault-free days."""
    began = time.monotonic()
    topic = f"{scenario.name}-{issue.name.replace('/', '-')}"
    await create(broker, topic)
    data = folder / topic
    shutil.copytree(folder / "data", data)
    config = folder / f"{topic}.yaml"
    config.write_text(configuration(broker, topic, data, folder / "topology.yaml", pager.port), encoding="utf-8")
    player = Player(broker, topic)
    shift = days_after(scenario.normal, issue)
    alert = {
        "labels": {"alertname": TARGET, "service": issue.node, "severity": "critical"},
        "annotations": {"summary": f"{issue.metric} of {issue.node}"},
        "startsAt": rfc3339(issue.ts + shift),
        "endsAt": rfc3339(issue.ts + shift + 3600.0),
    }
    await player.metrics.start()
    for each in normal:  # the same records at the same offsets: the copied state stands behind them
        await player.metrics.append(each.entries)
    rows = range(len(issue.frame.ts))
    async with running(player, config, float(issue.frame.ts[0]) + shift - 1.0):
        before = await player.incidents()
        for row in (r for r in rows if issue.frame.ts[r] <= issue.ts):
            await player.feed(batch(issue.frame, [row], shift))
        player.now = issue.ts + shift
        await player.alerts.append([Entry(value=json.dumps([alert]).encode(), format="prometheus")])
        async with asyncio.timeout(WAIT):
            while not target((await player.get("/api/v1/alerts?limit=1000"))["alerts"]):  # noqa: ASYNC110 - as a client asks
                await asyncio.sleep(0.02)
        begin = len(pager.pages)
        rest = [r for r in rows if issue.frame.ts[r] > issue.ts]
        given = [issue.ts, *(float(issue.frame.ts[r]) for r in rest)]
        moments: dict[float, int | None] = {
            t + after: None for t in given for after in (1.0, GROUP_WAIT - 2.0, GROUP_WAIT)
        }
        moments |= dict.fromkeys(issue.ts + after for after in ASK_AGAIN)
        moments |= {float(issue.frame.ts[r]): r for r in rest}
        for t in sorted(moments):
            if (found := moments[t]) is not None:
                await player.feed(batch(issue.frame, [found], shift))
            await player.tick(t + shift)
        told = [page for page in pager.pages[begin:] if target(page["data"]["alerts"])]
        end = await player.rank(issue)
        after = await player.incidents()
    shutil.rmtree(data)
    opened = [line(i) for key, i in after.items() if key not in before]
    until = issue.ts + shift + SOON
    soon = [page for page in told if datetime.fromisoformat(page["time"]).timestamp() <= until]
    return Outcome(
        issue=issue,
        page=place(told[0], issue) if told else 0,
        soon=place(soon[-1], issue) if soon else 0,
        end=end,
        incidents=tuple(opened),
        seconds=time.monotonic() - began,
    )


def place(page: dict[str, Any], issue: Issue) -> int:
    """Rank of the true root in a notification; 0: it is not named."""
    causes = [c["service"] for c in page["data"]["incident"].get("roots", ())]
    return causes.index(issue.root) + 1 if issue.root in causes else 0


def target(found: list[dict[str, Any]]) -> bool:
    """Is the target's alert among these?"""
    return any(alert["labels"].get("alertname") == TARGET for alert in found)


def line(incident: dict[str, Any]) -> str:
    """One incident in one line."""
    cause = incident["cause"]
    blamed = f"{cause['service'] or 'unknown upstream'} {cause['confidence']:.0%}" if cause else "nobody"
    return f"{incident['state']:9s} blames {blamed}; {', '.join(incident['services'])}"[:150]


async def run(data: Path, issues: int, only: str) -> list[Outcome]:
    """Play and print, issue by issue."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    outcomes = []
    pager = Pager()
    with tempfile.TemporaryDirectory(prefix="petshop-") as name:
        broker = Broker(Path(name) / "kafka")
        await broker.start(60)
        try:
            await broker.ready()
            for scenario in scenarios(data):
                chosen = [i for i in scenario.issues if only in i.name][: issues or None]
                folder = Path(name) / scenario.name
                folder.mkdir()
                normal = await fault_free(folder, broker, scenario, pager)
                for issue in chosen:
                    outcome = await play(folder, broker, scenario, issue, normal, pager)
                    outcomes.append(outcome)
                    print(
                        f"{issue.name:14s} {issue.metric:12s} {issue.root}:"
                        f" rank {outcome.page or '-'} paged,"
                        f" {outcome.soon or '-'} soon, {outcome.end or '-'} end;"
                        f" {len(outcome.incidents)} incidents opened, {outcome.seconds:.0f} s"
                    )
                    for said in outcome.incidents:
                        print(f"    {said}", flush=True)
        finally:
            broker.stop()
            pager.close()
    return outcomes


def share(ranks: Sequence[int], most: int) -> float:
    """Share of the issues whose root is among the first `most`."""
    return sum(0 < r <= most for r in ranks) / len(ranks)


def main(argv: list[str]) -> int:
    """Exit code 1 when there was nothing to play."""
    parser = argparse.ArgumentParser(prog="petshop-kafka", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder with the scenario folders of the data set")
    parser.add_argument("--issues", type=int, default=0, help="at most so many of each scenario; 0: all")
    parser.add_argument("--only", default="", help="only issues whose name contains this, e.g. test/issue_1")
    args = parser.parse_args(argv)
    outcomes = asyncio.run(run(args.data, args.issues, args.only))
    if not outcomes:
        print(f"no scenario with issues and fault-free days in {args.data}")
        return 1
    print(f"{'top-1, top-3':16s}{'issues':>8s}{'page':>14s}{'soon':>14s}{'end':>14s}")
    for metric in (*sorted({o.issue.metric for o in outcomes}), ""):
        part = [o for o in outcomes if metric in ("", o.issue.metric)]
        line = f"{metric or 'all':16s}{len(part):8d}"
        for ranks in ([o.page for o in part], [o.soon for o in part], [o.end for o in part]):
            line += f"{share(ranks, 1):8.3f}{share(ranks, 3):6.2f}"
        print(line)
    return 0
