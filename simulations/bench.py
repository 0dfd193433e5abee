"""Benchmark: floors and ours in one run: decoding, scoring, ranking, memory at 100,000 and a million series, restart.

CPU time of this process (or of a child), never wall-clock, unless a line says so. `python -m simulations bench-daemon`
does the same against the running daemon, over HTTP and Kafka, beside Prometheus, VictoriaMetrics and Alertmanager.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cramjam
import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.config import Config
from aiopsd.decode import check_samples
from aiopsd.detect.bank import Policy, RangeBank
from aiopsd.model import LogRecord
from aiopsd.pipeline import detect
from simulations import wire
from simulations.bench_decode import Line, Sample
from simulations.bench_grouping import grouping
from simulations.bench_maintenance import maintenance
from simulations.bench_memory import START, heads
from simulations.bench_rank import ranking

F64 = NDArray[np.float64]


def cpu(function: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def records(values: Sequence[bytes], format: str, offset: int = 0) -> list[LogRecord]:
    """Log records of these bodies."""
    return [
        LogRecord(source="bench", partition=0, offset=offset + i, value=v, format=format) for i, v in enumerate(values)
    ]


WARM = 44  # rounds of five minutes: past the warm-up of 40 samples and an hour, when envelopes are in use
MEASURED = 4  # rounds after that; the cheapest is taken: the others are the machine's noise
GAP = 300.0  # s between rounds


def rounds(stage: detect.DetectStage, given: Iterator[list[LogRecord]], slice_: int) -> list[float]:
    """CPU seconds of each round, taken in steps of `slice_` records."""
    out = []
    for part in given:
        began = time.process_time()
        for i in range(0, len(part), slice_):
            stage.step(part[i : i + slice_])
        out.append(time.process_time() - began)
    return out


def json_samples(series: int = 10_000) -> Iterator[Line]:
    """One sample a record, as a producer that knows nothing better sends them."""
    labels = [
        {
            "__name__": "latency_seconds",
            "service": f"service-{i // 50:05d}",
            "instance": f"10.0.{i >> 8}.{i & 255}",
            "zone": "zone-a",
        }
        for i in range(series)
    ]

    def given() -> Iterator[list[LogRecord]]:
        rng = np.random.default_rng(1)
        for k in range(WARM + MEASURED):
            values = rng.normal(100.0, 5.0, series).tolist()
            bodies = [wire.json_sample(x, START + GAP * k, v) for x, v in zip(labels, values, strict=True)]
            yield records(bodies, wire.JSON, k * series)

    decoder = msgspec.json.Decoder(Sample)
    plain = [r.value for r in next(given())]
    floor = min(cpu(lambda: [decoder.decode(v) for v in plain]) for _ in range(3))
    yield Line("JSON sample to a Struct", 1e6 * floor / series, "us a sample", kind="floor")
    spent = rounds(detect.build(Config(), "bench", 0), given(), 5000)
    yield Line("JSON one-sample records, first sight of a series", 1e6 * spent[0] / series, "us a sample")
    yield Line("JSON one-sample records, decoded and scored", 1e6 * min(spent[WARM:]) / series, "us a sample", goal=4.0)


def remote_write(series: int = 50_000, slice_: int = 20) -> Iterator[Line]:
    """Bodies of 500 series with six labels, one sample each, twenty bodies a step."""
    parts = list(heads(series))

    def given() -> Iterator[list[LogRecord]]:
        rng = np.random.default_rng(2)
        for k in range(WARM + MEASURED):
            at = np.array([START + GAP * k])
            values = [wire.remote_write(part, at, rng.normal(100.0, 5.0, (len(part), 1))) for part in parts]
            yield records(values, wire.REMOTE_WRITE, k * len(parts))

    bodies = next(given())
    unpack = min(cpu(lambda: [cramjam.snappy.decompress_raw(r.value) for r in bodies]) for _ in range(3))
    yield Line("snappy alone", 1e6 * unpack / series, "us a sample", kind="floor")
    spent = rounds(detect.build(Config(), "bench", 0), given(), slice_)
    yield Line("remote write, first sight of a series", 1e6 * spent[0] / series, "us a sample")
    yield Line("remote write, decoded and scored", 1e6 * min(spent[WARM:]) / series, "us a sample", goal=1.5)


def otlp(series: int = 10_000, slice_: int = 20) -> Iterator[Line]:
    """Bodies of 500 data points as a collector sends them: four resources, each with 25 metrics of five points."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    def attributes(into: Any, **given: str) -> None:
        for name, value in given.items():
            into.add(key=name.replace("__", ".")).value.string_value = value

    requests, points = [], []
    for first in range(0, series, 500):
        request = ExportMetricsServiceRequest()
        for pod in range(first // 125, (first + 500) // 125):
            under = request.resource_metrics.add()
            own = {"service__name": f"service-{pod // 4:05d}", "k8s__pod__name": f"pod-{pod}"}
            attributes(under.resource.attributes, **own, service__instance__id=f"{pod:036d}", k8s__namespace__name="x")
            metrics = under.scope_metrics.add().metrics
            for n in range(25):
                metric = metrics.add(name=f"app.queue.{n}.usage", unit="1")
                for route in range(5):
                    point = metric.gauge.data_points.add()
                    attributes(point.attributes, http__route=f"/api/v1/route-{route}", http__request__method="GET")
                    points.append(point)
        requests.append(request)

    def given() -> Iterator[list[LogRecord]]:
        rng = np.random.default_rng(2)
        for k in range(WARM + MEASURED):
            nanos = round(1e9 * (START + GAP * k))
            for point, value in zip(points, rng.normal(100.0, 5.0, series).tolist(), strict=True):
                point.time_unix_nano, point.as_double = nanos, value
            yield records([r.SerializeToString() for r in requests], "otlp_proto", k * len(requests))

    bodies = [r.value for r in next(given())]
    parse = min(cpu(lambda: [ExportMetricsServiceRequest.FromString(b) for b in bodies]) for _ in range(3))
    yield Line("OTLP: protobuf's parser alone", 1e6 * parse / series, "us a sample", kind="floor")
    door = min(cpu(lambda: [check_samples(b, "otlp_proto") for b in bodies]) for _ in range(3))
    yield Line("OTLP, the look at the door", 1e6 * door / series, "us a sample")
    spent = rounds(detect.build(Config(), "bench", 0), given(), slice_)
    yield Line("OTLP, first sight of a series", 1e6 * spent[0] / series, "us a sample")
    yield Line("OTLP, decoded and scored", 1e6 * min(spent[WARM:]) / series, "us a sample")


def loaded(path: Path) -> Any:
    """A module from a file; what it imports is looked for beside it.

    Raises:
        OSError: there is no such file.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise OSError(f"no Python file at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def bank(peer: Path | None = None) -> Iterator[Line]:
    """Rounds in which every series has one sample.

    `peer`: a file with a scorer of the same kind, `RangeBank(series, channels=LITE)` with `step(ts, values)`, that is
    given the same samples in turns.
    """
    rng = np.random.default_rng(3)
    for n, count in ((200, 400), (100_000, 12)):
        state = [np.zeros(n) for _ in range(6)]
        xs = [rng.normal(100.0, 5.0, n) for _ in range(12)]

        def floor(state: list[F64] = state, xs: list[F64] = xs, count: int = count) -> None:
            mean, var, low, high, last, total = state
            for k in range(count):
                x = xs[k % len(xs)]
                gap = x - mean
                mean += 0.05 * gap
                var += 0.05 * (gap * gap - var)
                np.minimum(low, x, out=low)
                np.maximum(high, x, out=high)
                last[:] = x
                total += x

        spent = cpu(floor) / n / count
        yield Line(f"numpy bank of six arrays, rounds of {n:,}", 1e6 * spent, "us a sample", kind="floor")
        other = loaded(peer) if peer and n > 1000 else None
        banks: list[Callable[[F64, F64], object]] = [
            partial(RangeBank(policy, n).step, np.arange(n)) for policy in (Policy(), Policy(alarms=0))
        ]
        if other:
            banks.append(other.RangeBank(n, channels=other.LITE).step)
        totals = [0.0] * len(banks)
        for k in range(WARM + count):
            ts, x = np.full(n, START + GAP * k), xs[k % len(xs)]
            for i, step in enumerate(banks):
                took = cpu(partial(step, ts, x))
                totals[i] += took if k >= WARM else 0.0
        each = [1e6 * total / count / n for total in totals]
        yield Line(f"bank, rounds of {n:,}", each[0], "us a sample", goal=0.5 if n > 1000 else 0.0)
        yield Line(f"bank without the hour channel, rounds of {n:,}", each[1], "us a sample")
        if other:
            yield Line(f"the peer's bank, rounds of {n:,}", each[2], "us a sample", kind="floor")
            yield Line("bank without the hour channel, of the peer's time", each[1] / each[2], "", goal=0.6)


def child(*arguments: str) -> dict[str, float]:
    """What a process of its own measured."""
    command = [sys.executable, "-m", "simulations", "bench-memory", *arguments]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    result: dict[str, float] = json.loads(answer.stdout)
    return result


def churn(series: int, hours: int = 48) -> Iterator[Line]:
    """Every hour a tenth of the series is replaced: what is held after half of the time is what is held at the end."""
    held = child("--series", str(series), "--churn", str(hours))
    name = f"{series:,} series, a tenth new every hour, after {hours}"
    yield Line(f"series held, {name}", held["late_series"] / held["early_series"], "of halfway", goal=1.0)
    yield Line(f"resident, {name}", held["late_rss_bytes"] / held["early_rss_bytes"], "of halfway", goal=1.02)


def memory(series: int) -> Iterator[Line]:
    """A child process each: fill with the snapshot, then restart."""
    with tempfile.TemporaryDirectory(prefix="aiopsd-bench-") as folder:
        full = child("--data", folder, "--series", str(series))
        back = child("--data", folder, "--resume")
    million = series >= 1_000_000
    name = f"{series:,} series"
    yield Line(f"imports of the daemon ({name})", full["imports_bytes"] / 1e6, "MB", kind="floor")
    yield Line(f"resident, {name}", full["rss_bytes"] / 1e6, "MB")
    yield Line(f"resident a series, {name}", full["bytes_per_series"], "bytes")
    yield Line(f"peak with the snapshot, {name}", full["peak_bytes"] / 1e6, "MB", goal=1300.0 if million else 0.0)
    yield Line(f"snapshot written, {name}", full["snapshot_cpu_seconds"], "s CPU")
    yield Line(
        f"restart from the snapshot, {name}", back["restart_cpu_seconds"], "s CPU", goal=10.0 if million else 0.0
    )
    yield Line(f"restart from the snapshot, {name}", back["restart_wall_seconds"], "s wall-clock")
    yield Line(f"peak after the restart, {name}", back["peak_bytes"] / 1e6, "MB")


SECTIONS: dict[str, Callable[[], Iterator[Line]]] = {
    "json": json_samples,
    "remote-write": remote_write,
    "otlp": otlp,
    "bank": bank,
    "grouping": grouping,
    "rank": ranking,
    "churn": lambda: churn(20_000),
    "churn-1m": lambda: churn(1_000_000),
    "maintenance": lambda: maintenance(100_000),
    "maintenance-1m": lambda: maintenance(1_000_000),
    "memory-100k": lambda: memory(100_000),
    "memory-1m": lambda: memory(1_000_000),
}


def show(lines: Sequence[Line]) -> None:
    """One table."""
    for line in lines:
        goal = ""
        if line.goal:
            goal = f"goal <= {line.goal:g}: " + ("met" if line.value <= line.goal else "missed")
        print(f"{line.kind:6s} {line.name:58s} {line.value:10.3f} {line.unit:12s} {goal}".rstrip(), flush=True)


def main(argv: list[str]) -> int:
    """Exit code 0."""
    p = argparse.ArgumentParser(prog="python -m simulations bench", description=__doc__.split("\n")[0])
    p.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    p.add_argument("--peer", type=Path, metavar="FILE", help="section bank: a Python file with another bank to compare")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(argv)
    lines = []
    for name in args.only:
        for line in bank(args.peer) if name == "bank" else SECTIONS[name]():
            lines.append(line)
            if not args.json:
                show([line])
    if args.json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
    return 0
