"""Benchmark: the running daemon over HTTP and Kafka, and its peers with the same payload where they are installed.

CPU is utime + stime of the serving process divided by items, for known series and after the last item was worked off.
The delay of alerts is wall-clock, while metrics are pushed at half of the capacity that the same run measured.
Peers on PATH: prometheus, victoria-metrics, prometheus-alertmanager (Debian's names) or alertmanager.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from simulations import wire
from simulations.bench import show
from simulations.bench_decode import Line
from simulations.bench_memory import heads
from simulations.process import Daemon, Failure, Pager, Service, free_port
from simulations.world import iso

SERIES, ROUNDS, STEP = 50_000, 10, 15.0
ALERTS, BATCH, AGAIN = 10_000, 200, 3
LOADED_SECONDS = 20.0
CONFIG = "metric_log: {sync: normal}\n"
PAGED = """\
delivery: {{rate: 1000}}
route: {{receiver: pager, group_wait: 0s, group_interval: 10s}}
receivers: [{{name: pager, webhook_configs: [{{url: "http://127.0.0.1:{port}/page"}}]}}]
"""


def bodies(rounds: int, end: float) -> list[tuple[float, list[bytes]]]:
    """(sample time, bodies of 500 series) of each round, the last one at `end`."""
    rng = np.random.default_rng(4)
    parts = list(heads(SERIES))
    out = []
    for k in range(rounds):
        ts = end - STEP * (rounds - 1 - k)
        out.append((ts, [wire.remote_write(p, np.array([ts]), rng.normal(100.0, 5.0, (len(p), 1))) for p in parts]))
    return out


def written(server: Service, path: str, done: Callable[[int], None]) -> tuple[float, float]:
    """CPU us a sample: (first sight of a series, known series); `done` waits until so many samples are worked off."""
    given = bodies(ROUNDS, float(int(time.time())))
    before = server.cpu
    spent = []
    for k, (_, part) in enumerate(given):
        for body in part:
            server.write(body, path)
        if k in (0, ROUNDS - 1):
            done((k + 1) * SERIES)
            spent.append(server.cpu - before)
            before = server.cpu
    return 1e6 * spent[0] / SERIES, 1e6 * spent[1] / SERIES / (ROUNDS - 1)


def settled(server: Service) -> Callable[[int], None]:
    """For a server that does not say when it is done: until it has used no CPU for a second."""

    def wait(_: int) -> None:
        last = -1.0
        while server.cpu > last:
            last = server.cpu
            time.sleep(1.0)

    return wait


def alerted(server: Service, done: Callable[[int], None]) -> tuple[float, float]:
    """CPU us an alert: (new, sent again)."""

    def batches() -> Iterator[bytes]:
        now = time.time()
        for first in range(0, ALERTS, BATCH):
            yield wire.alerts(
                [
                    {
                        "labels": {
                            "alertname": ("LatencyHigh", "ErrorRateHigh", "CPUHigh", "DiskFull")[i % 4],
                            "service": f"service-{i // 4:05d}",
                            "severity": "warning",
                            "team": f"team-{i % 3}",
                        },
                        "annotations": {"summary": f"service-{i // 4:05d} is in trouble", "runbook_url": "https://r/x"},
                        "startsAt": iso(started),
                        "endsAt": iso(now + 240.0),
                        "generatorURL": "http://prometheus.example.com/graph?g0.expr=up",
                    }
                    for i in range(first, first + BATCH)
                ]
            )

    started = time.time()
    spent = []
    for _ in range(1 + AGAIN):
        given = list(batches())
        before = server.cpu
        for body in given:
            server.json("/api/v2/alerts", body)
        done(0)
        spent.append(server.cpu - before)
    return 1e6 * spent[0] / ALERTS, 1e6 * min(spent[1:]) / ALERTS


def known_services(daemon: Daemon, names: Iterable[str]) -> None:
    """Tell a graph that knows these services and no call: what befalls two of them is no outage of both."""
    daemon.json("/api/v1/topology", msgspec.json.encode({"nodes": [{"name": name} for name in names]}))


def probes(daemon: Daemon, count: int) -> None:
    """Services whose one metric has been calm for an hour and a half: what breaks later is an event at once."""
    now = float(int(time.time()))
    ts = now - 60.0 * np.arange(90, 0, -1, dtype=np.float64)
    values = np.random.default_rng(7).normal(100.0, 1.0, (count, len(ts)))
    daemon.write(wire.remote_write([probe(k) for k in range(count)], ts, values))


def probe(k: int) -> bytes:
    return wire.label_bytes({"__name__": "queue_depth", "service": f"probe-{k:03d}"})


@contextmanager
def pushed(daemon: Daemon, per_second: float) -> Iterator[list[int]]:
    """Metrics come at this pace from a thread, meanwhile; the one number is how many samples so far."""
    rounds, stop, sent = endless(float(int(time.time()))), threading.Event(), [0]

    def push() -> None:
        started = time.monotonic()
        for body in rounds:
            if stop.is_set():
                return
            daemon.write(body)
            sent[0] += 500
            time.sleep(max(0.0, started + sent[0] / per_second - time.monotonic()))

    thread = threading.Thread(target=push, name="pusher")
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def under_load(daemon: Daemon, pager: Pager, us_per_sample: float, note: str = "") -> Iterator[Line]:
    """Alerts and broken metrics, one at a time, while metrics come at half of the capacity of one core."""
    count = int(LOADED_SECONDS)
    probes(daemon, count)
    known_services(daemon, [f"service-{k:05d}" for k in range(1000)] + [f"probe-{k:03d}" for k in range(count)])
    decided: list[float] = []
    alerts_at: dict[str, float] = {}
    broken_at: dict[str, float] = {}
    with pushed(daemon, 0.5e6 / us_per_sample) as sent:
        before, began = daemon.cpu, time.monotonic()
        while (elapsed := time.monotonic() - began) < LOADED_SECONDS:
            service = f"service-{len(decided):05d}"
            alerts_at[service] = time.time()
            asked = time.perf_counter()
            daemon.json("/api/v2/alerts", wire.alerts([{"labels": {"alertname": "Bench", "service": service}}]))
            decided.append(time.perf_counter() - asked)
            if len(broken_at) <= elapsed and len(broken_at) < count:
                n = len(broken_at)
                now = time.time()
                daemon.write(wire.remote_write([probe(n)], np.array([now]), np.array([[500.0]])))
                broken_at[f"probe-{n:03d}"] = now
            time.sleep(0.05)
        used = daemon.cpu - before
    elapsed = time.monotonic() - began
    share = f"at {sent[0] / elapsed / 1000:.0f} k samples/s{note}"
    yield Line(f"share of a core that the daemon's process used meanwhile{note}", used / elapsed, "")
    yield from delays(f"alert to decision {share}", decided, goal=50.0)
    time.sleep(5.0)  # the last pages
    opened = opened_at(daemon)
    events = [opened[s] - at for s, at in broken_at.items() if s in opened]
    yield Line("broken metrics that became events", len(events) / max(len(broken_at), 1), "of all")
    yield from delays(f"sample to event {share}", events)
    paged: dict[str, float] = {}
    for at, page in zip(pager.times, pager.pages, strict=True):
        for alert in page["data"]["alerts"]:
            paged.setdefault(alert["labels"]["service"], at)
    told = [paged[s] - at for s, at in alerts_at.items() if s in paged]
    yield Line("alerts that were paged", len(told) / len(alerts_at), "of all")
    yield from delays(f"alert to page {share}, group_wait 0", told)


def opened_at(daemon: Daemon) -> dict[str, float]:
    """Service -> when the first incident that it is part of opened."""
    opened: dict[str, float] = {}
    cursor = ""
    while True:
        answer = daemon.get(f"/api/v1/incidents?limit=1000{cursor}")
        for incident in answer["incidents"]:
            at = datetime.fromisoformat(incident["opened_at"]).timestamp()
            for service in incident["services"]:
                opened[service] = min(at, opened.get(service, at))
        if not answer["next"]:
            return opened
        cursor = f"&cursor={answer['next']}"


def delays(name: str, seconds: Sequence[float], goal: float = 0.0) -> Iterator[Line]:
    """Median and 99th percentile, wall-clock."""
    if seconds:
        yield Line(f"{name}, median", 1e3 * float(np.median(seconds)), "ms")
        yield Line(f"{name}, p99", 1e3 * float(np.quantile(seconds, 0.99)), "ms", goal=goal)


def endless(ts: float) -> Iterator[bytes]:
    """Bodies of round after round, fifteen seconds of sample time apart, made as they are wanted."""
    rng = np.random.default_rng(5)
    first = [wire.write_request(part, np.array([ts]), rng.normal(100.0, 5.0, (len(part), 1))) for part in heads(SERIES)]
    now = ts
    while True:
        now += STEP
        for request in first:
            yield wire.compressed(wire.at_time(request, ts, now))


def peers(folder: Path) -> Iterator[Line]:
    """The same payload into whoever is installed."""
    program = shutil.which("prometheus")
    if program:
        port = free_port()
        (folder / "prometheus.yml").write_text("global: {scrape_interval: 1h}\n")
        server = Service(
            [
                program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/prometheus",
                f"--web.listen-address=127.0.0.1:{port}", "--web.enable-remote-write-receiver",
            ],
            port,
            folder / "prometheus.log",
        )  # fmt: skip
        try:
            server.ready()
            first, known = written(server, "/api/v1/write", settled(server))
            yield Line("Prometheus, remote write stored, first sight", first, "us a sample", kind="peer")
            yield Line("Prometheus, remote write stored", known, "us a sample", kind="peer")
        finally:
            server.stop()
    program = shutil.which("victoria-metrics")
    if program:
        port = free_port()
        server = Service(
            [program, f"-httpListenAddr=127.0.0.1:{port}", f"-storageDataPath={folder}/victoria"],
            port,
            folder / "victoria.log",
        )
        try:
            server.ready("/health")
            first, known = written(server, "/api/v1/write", settled(server))
            yield Line("VictoriaMetrics, remote write stored, first sight", first, "us a sample", kind="peer")
            yield Line("VictoriaMetrics, remote write stored", known, "us a sample", kind="peer")
        finally:
            server.stop()
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if program:
        port = free_port()
        (folder / "alertmanager.yml").write_text(
            "route: {receiver: nobody, group_by: [alertname]}\nreceivers: [{name: nobody}]\n"
        )
        server = Service(
            [
                program, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alertmanager",
                f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
            ],
            port,
            folder / "alertmanager.log",
        )  # fmt: skip
        try:
            server.ready()
            new, again = alerted(server, settled(server))
            yield Line("Alertmanager, new alert", new, "us an alert", kind="peer")
            yield Line("Alertmanager, alert sent again", again, "us an alert", kind="peer")
        finally:
            server.stop()


def over_http(folder: Path) -> Iterator[Line]:
    """Our daemon: remote write, then alerts under that load, with and without a worker."""
    (folder / "metrics").mkdir()
    pager = Pager()
    daemon = Daemon(folder / "metrics", CONFIG + PAGED.format(port=pager.port))
    try:
        daemon.ready()
        first, known = written(daemon, "/api/v1/write", daemon.wait_until_scored)
        yield Line("daemon, remote write over HTTP, first sight", first, "us a sample")
        yield Line("daemon, remote write over HTTP, logged, scored", known, "us a sample", goal=1.5)
        yield from under_load(daemon, pager, known)
    finally:
        daemon.stop()
        pager.close()
    (folder / "worker").mkdir()
    pager = Pager()
    daemon = Daemon(folder / "worker", CONFIG + "workers: 1\n" + PAGED.format(port=pager.port))
    try:
        daemon.ready()
        for _, part in bodies(2, float(int(time.time()))):
            for body in part:
                daemon.write(body)
        daemon.wait_until_scored(2 * SERIES)
        yield from under_load(daemon, pager, known, " (workers: 1)")
    finally:
        daemon.stop()
        pager.close()


def alerts_alone(folder: Path) -> Iterator[Line]:
    """Many alerts to a fresh daemon: once that it knows the services, once without a graph."""
    for note, names in (("", [f"service-{i:05d}" for i in range(ALERTS // 4)]), (", without a graph", [])):
        (folder / f"alerts{len(names)}").mkdir()
        daemon = Daemon(folder / f"alerts{len(names)}", CONFIG)
        try:
            daemon.ready()
            if names:
                known_services(daemon, names)
            new, again = alerted(daemon, settled(daemon))  # an answer comes after the decision; snapshots settle
            yield Line(f"daemon, new alert, journalled, grouped, routed{note}", new, "us an alert")
            yield Line(f"daemon, alert sent again{note}", again, "us an alert")
        finally:
            daemon.stop()


def over_kafka(folder: Path, series: int = 10_000, rounds: int = 20) -> Iterator[Line]:
    """One-sample JSON records from a real Apache Kafka."""
    from aiopsd.testing.kafka import Broker  # starts Java; only when asked for

    labels = [
        {"__name__": "latency_seconds", "service": f"service-{i // 50:05d}", "instance": f"10.0.{i >> 8}.{i & 255}"}
        for i in range(series)
    ]
    now = float(int(time.time()))
    rng = np.random.default_rng(6)

    async def produce(broker: Broker, topic: str, first: int, count: int) -> None:
        for k in range(first, first + count):
            ts = now - STEP * (rounds - 1 - k)
            values = rng.normal(100.0, 5.0, series).tolist()
            await broker.fill(topic, [wire.json_sample(x, ts, v) for x, v in zip(labels, values, strict=True)])

    async def start() -> Broker:
        broker = Broker(folder / "kafka")
        await broker.start()
        await broker.ready()
        await broker.create_topic("metrics", 1)
        return broker

    broker = asyncio.run(start())
    (folder / "consumer").mkdir()
    source = (
        "sources:\n  - {name: metrics, kind: metrics, keyed_by: service, kafka: "
        f'{{bootstrap_servers: ["{broker.address()}"], topic: metrics}}}}\n'
    )
    daemon = Daemon(folder / "consumer", CONFIG + source)
    try:
        daemon.ready()
        asyncio.run(produce(broker, "metrics", 0, 1))
        daemon.wait_until_scored(series)
        before = daemon.cpu
        asyncio.run(produce(broker, "metrics", 1, rounds - 1))
        daemon.wait_until_scored(series * rounds)
        used = daemon.cpu - before
        cost = 1e6 * used / series / (rounds - 1)
        yield Line("daemon, JSON one-sample records from Kafka", cost, "us a sample", goal=4.0)
    finally:
        daemon.stop()
        broker.stop()


SECTIONS: dict[str, Callable[[Path], Iterator[Line]]] = {
    "http": over_http,
    "alerts": alerts_alone,
    "kafka": over_kafka,
    "peers": peers,
}


def main(argv: list[str]) -> int:
    """0; 1 when a server did not do what was asked of it."""
    p = argparse.ArgumentParser(prog="python -m simulations bench-daemon", description=__doc__.split("\n")[0])
    p.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    p.add_argument("--json", action="store_true")
    args = p.parse_args(argv)
    lines, failed = [], []
    with tempfile.TemporaryDirectory(prefix="aiopsd-bench-") as folder:
        for name in args.only:
            try:
                for line in SECTIONS[name](Path(folder)):
                    lines.append(line)
                    if not args.json:
                        show([line])
            except (Failure, OSError) as e:
                failed.append(f"{name}: {e}")
    if args.json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
    for text in failed:
        print(f"gave up on {text}", file=sys.stderr)
    return 1 if failed else 0
