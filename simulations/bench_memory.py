"""Benchmark: resident memory of a detect stage with many live series, its snapshot's peak, and its restart.

One process does one thing, so that the high-water mark (VmHWM) means it: without --resume it takes three rounds of
samples of `--series` series as remote-write bodies, then writes a snapshot through the SQLite store into `--data`;
with --resume it loads that snapshot and goes on; with --churn it watches series come and go. It prints one JSON object.
"""

import argparse
import asyncio
import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aiopsd.config import Config, DetectConfig, Duration
from aiopsd.model import LogRecord
from aiopsd.pipeline import detect
from aiopsd.stores.sqlite import SqliteStore
from simulations import wire

NAME = "detect/bench/0"
BODY = 500  # series a request, as Prometheus sends them
START, STEP = 1_767_571_200.0, 15.0


def heads(series: int, hour: int | None = None) -> Iterator[list[bytes]]:
    """Label bytes of all series, a body's worth at a time: six labels each, some 110 bytes.

    `hour`: as of that hour, when every hour a tenth of them is replaced by new ones (that are in another zone).
    """
    for first in range(0, series, BODY):
        yield [
            wire.label_bytes(
                {
                    "__name__": ("http_requests", "queue_depth", "latency_seconds", "cpu_ratio", "memory_ratio")[i % 5],
                    "service": f"service-{i // 50:05d}",
                    "instance": f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}:9100",
                    "zone": f"zone-{i % 3 if hour is None else (hour + i % 10) // 10}",
                    "env": "production",
                    "job": "node",
                }
            )
            for i in range(first, min(first + BODY, series))
        ]


def bodies(series: int, ts: float, seed: int) -> Iterator[bytes]:
    """One round: a sample of every series."""
    rng = np.random.default_rng(seed)
    for part in heads(series):
        yield wire.remote_write(part, np.array([ts]), rng.normal(100.0, 5.0, (len(part), 1)))


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


async def fill(series: int, data: Path) -> dict[str, float]:
    """Take the samples, then the snapshot."""
    imports = status("VmRSS")
    stage = detect.build(Config(), "bench", 0)
    offset, cpu = 0, 0.0
    for k in range(3):
        cpu = 0.0
        for body in bodies(series, START + STEP * k, k):
            record = LogRecord(source="bench", partition=0, offset=offset, value=body, format=wire.REMOTE_WRITE)
            offset += 1
            began = time.process_time()
            stage.step([record])
            cpu += time.process_time() - began
    loaded, before = status("VmRSS"), status("VmHWM")
    began, wall = time.process_time(), time.perf_counter()
    store = SqliteStore(data / "store.db", time.time)
    await store.start()
    reference = await store.put_snapshot(NAME, offset - 1, "bench", stage.snapshot())
    await store.stop()
    return {
        "series": stage.series,
        "imports_bytes": imports,
        "rss_bytes": loaded,
        "peak_before_snapshot_bytes": before,
        "peak_bytes": status("VmHWM"),
        "bytes_per_series": (loaded - imports) / series,
        "last_round_us_per_sample": 1e6 * cpu / series,
        "snapshot_bytes": reference.size,
        "snapshot_cpu_seconds": time.process_time() - began,
        "snapshot_wall_seconds": time.perf_counter() - wall,
    }


def churn(series: int, hours: int) -> dict[str, float]:
    """A sample an hour of every series, of which a tenth is replaced; who is silent for a lifetime is forgotten."""
    stage = detect.build(Config(detect=DetectConfig(evict_after=Duration(3 * 3600.0))), "bench", 0)
    rng = np.random.default_rng(4)
    rss, rows = [], []
    offset = 0
    for hour in range(hours):
        for part in heads(series, hour):
            at = np.array([START + 3600.0 * hour])
            body = wire.remote_write(part, at, rng.normal(100.0, 5.0, (len(part), 1)))
            stage.step([LogRecord(source="bench", partition=0, offset=offset, value=body, format=wire.REMOTE_WRITE)])
            offset += 1
        rss.append(status("VmRSS"))
        rows.append(stage.series)
    return {
        "series": series,
        "seen": series + (hours - 1) * series / 10,
        "early_series": rows[hours // 2],
        "late_series": rows[-1],
        "early_rss_bytes": rss[hours // 2],
        "late_rss_bytes": rss[-1],
    }


async def resume(data: Path) -> dict[str, float]:
    """Load the snapshot and take one more round."""
    began, wall = time.process_time(), time.perf_counter()
    store = SqliteStore(data / "store.db", time.time)
    await store.start()
    found = await store.snapshot(NAME)
    if found is None:
        raise SystemExit(f"no snapshot in {data}: run without --resume first")
    reference, snapshot = found
    stage = detect.build(Config(), "bench", 0, snapshot)
    del snapshot, found
    cpu, wall = time.process_time() - began, time.perf_counter() - wall
    series = stage.series
    for k, body in enumerate(bodies(series, START + STEP * 3, 3)):
        at = reference.position + 1 + k
        stage.step([LogRecord(source="bench", partition=0, offset=at, value=body, format=wire.REMOTE_WRITE)])
    await store.stop()
    return {
        "series": stage.series,
        "restart_cpu_seconds": cpu,
        "restart_wall_seconds": wall,
        "rss_bytes": status("VmRSS"),
        "peak_bytes": status("VmHWM"),
    }


def main(argv: list[str]) -> int:
    """Exit code 0."""
    p = argparse.ArgumentParser(prog="python -m simulations bench-memory", description=__doc__.split("\n")[0])
    p.add_argument("--series", type=int, default=100_000)
    p.add_argument("--data", type=Path, default=Path("."), metavar="DIR", help="folder for the snapshot")
    p.add_argument("--resume", action="store_true")
    p.add_argument(
        "--churn", type=int, default=0, metavar="HOURS", help="no snapshot: so many hours of coming and going"
    )
    args = p.parse_args(argv)
    importlib.import_module("aiopsd.app")  # what a daemon has imported is part of its memory
    if args.churn:
        print(json.dumps(churn(args.series, args.churn)))
        return 0
    print(json.dumps(asyncio.run(resume(args.data) if args.resume else fill(args.series, args.data))))
    return 0
