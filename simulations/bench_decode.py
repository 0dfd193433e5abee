"""Benchmark: what decoding costs, and the floors beside it, in one run: CPU time of this process per sample.

`python -m simulations.bench_decode [--json] [--series N]`. Series have six labels, some 110 label bytes; remote-write
bodies hold 500 of them, as Prometheus sends them. The best of several rounds is taken: the rest is the machine's noise.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cramjam
import msgspec
import numpy as np

from aiopsd.config import ServicesConfig
from aiopsd.decode import check_samples, decode_alerts, decode_samples, split_samples
from aiopsd.decode.remote_write_shapes import Request, Series
from aiopsd.decode.series import SeriesIndex
from aiopsd.model import LogRecord
from aiopsd.services import ServiceMapper
from simulations import wire
from simulations.bench_memory import heads

TS = 1_767_571_200.0
ROUNDS = 5


@dataclass(frozen=True)
class Line:
    """One figure; `goal` is what it should be at most, 0: none."""

    name: str
    value: float
    unit: str
    goal: float = 0.0
    kind: str = "ours"  # ours | floor


class Sample(msgspec.Struct):
    """Floor: the least that has to be read of a JSON sample."""

    name: str
    labels: dict[str, str]
    ts: float
    value: float


def cheapest(function: Callable[[], object], items: int, rounds: int = ROUNDS) -> float:
    """CPU microseconds per item of the cheapest of some calls."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return 1e6 * min(times) / items


def records(values: Sequence[bytes], format: str) -> list[LogRecord]:
    """Log records of these bodies."""
    return [LogRecord(source="bench", partition=0, offset=i, value=v, format=format) for i, v in enumerate(values)]


def decoded(given: Sequence[LogRecord], step: int, index: SeriesIndex) -> None:
    """All of it, some records at a time."""
    for i in range(0, len(given), step):
        decode_samples(given[i : i + step], index)


def fresh() -> SeriesIndex:
    """An empty index."""
    return SeriesIndex(ServiceMapper(ServicesConfig()))


def remote_write(series: int) -> Iterator[Line]:
    """Bodies of 500 series, one sample each."""
    rng = np.random.default_rng(1)
    parts = list(heads(series))
    plain = rng.normal(100.0, 5.0, series)
    mixed = np.where(rng.random(series) < 0.3, 0.0, plain)

    def bodies(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[bytes]:
        return [
            wire.remote_write(p, np.array([TS]), values[500 * i : 500 * i + len(p), None]) for i, p in enumerate(parts)
        ]

    values = bodies(plain)
    texts = [bytes(cramjam.snappy.decompress_raw(v)) for v in values]
    floor = cheapest(lambda: [cramjam.snappy.decompress_raw(v) for v in values], series)
    yield Line("snappy alone", floor, "us a sample", kind="floor")
    floor = cheapest(lambda: [Request.FromString(t) for t in texts], series)
    yield Line("snappy and upb, requests left as bytes", floor, "us a sample", kind="floor")
    floor = cheapest(
        lambda: [
            [(m.labels[0].value, m.samples[0].value) for m in map(Series.FromString, Request.FromString(t).timeseries)]
            for t in texts
        ],
        series,
    )
    yield Line("upb, one label and value of each series", floor, "us a sample", kind="floor")
    given = records(values, "remote-write")
    index = fresh()
    yield Line("first sight of a series", cheapest(lambda: decoded(given, 20, index), series, 1), "us a sample")
    yield Line("20 bodies a step", cheapest(lambda: decoded(given, 20, index), series), "us a sample", 0.7)
    yield Line("one body a step", cheapest(lambda: decoded(given, 1, index), series), "us a sample")
    zeros = records(bodies(mixed), "remote-write")
    yield Line("20 bodies a step, 30 % zeros", cheapest(lambda: decoded(zeros, 20, index), series), "us a sample", 0.7)
    odd = records([wire.compressed(t + b"\x1a\x00\x50\x01") for t in texts], "remote-write")
    yield Line(
        "the slow way: one odd field in each body", cheapest(lambda: decoded(odd, 20, index), series), "us a sample"
    )
    count = cheapest(lambda: [check_samples(v, "remote-write").taken for v in values], series)
    yield Line("the check at the door", count, "us a sample")
    mapper = index.services
    parted = cheapest(lambda: [split_samples(v, "remote-write", 4, mapper) for v in values], series)
    yield Line("the split into four partitions", parted, "us a sample")


def metric_json(series: int) -> Iterator[Line]:
    """Our JSON record."""
    rng = np.random.default_rng(2)
    labels = [
        {
            "__name__": "latency_seconds",
            "service": f"service-{i // 50:05d}",
            "instance": f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}:9100",
            "zone": f"zone-{i % 3}",
            "env": "production",
            "job": "node",
        }
        for i in range(series)
    ]
    xs = rng.normal(100.0, 5.0, series).tolist()
    values = [wire.json_sample(x, TS, v) for x, v in zip(labels, xs, strict=True)]
    decoder = msgspec.json.Decoder(Sample)
    yield Line(
        "record to a Struct", cheapest(lambda: [decoder.decode(v) for v in values], series), "us a sample", kind="floor"
    )
    index = fresh()
    given = records(values, "json")
    yield Line("first sight of a series", cheapest(lambda: decoded(given, 5000, index), series, 1), "us a sample")
    yield Line("one sample a record", cheapest(lambda: decoded(given, 5000, index), series), "us a sample", 1.1)
    turned = []
    for x, v in zip(labels, xs, strict=True):
        rest = {k: t for k, t in x.items() if k != "__name__"}
        turned.append(json.dumps({"ts": TS, "value": v, "name": x["__name__"], "labels": rest}).encode())
    other = records(turned, "json")
    decoded(other, 5000, index)
    each = cheapest(lambda: decoded(other, 5000, index), series)
    yield Line("one sample a record, labels last", each, "us a sample")
    few = series // 250 + 1
    packed = []
    for x in labels[:few]:
        rest = {k: t for k, t in x.items() if k != "__name__"}
        points = [[TS + 15 * k, v] for k, v in enumerate(rng.normal(100.0, 5.0, 250).tolist())]
        packed.append(json.dumps({"name": x["__name__"], "labels": rest, "points": points}).encode())
    series_records = records(packed, "json")
    each = cheapest(lambda: decoded(series_records, 20, index), 250 * few)
    yield Line("250 points of a series a record", each, "us a sample")


def alerts(count: int = 20_000) -> Iterator[Line]:
    """Bodies of 64 alerts as Prometheus sends them."""
    one = [
        {
            "annotations": {"summary": f"errors of service-{i:05d}", "runbook_url": "https://runbooks.example/errors"},
            "endsAt": "2026-01-05T00:04:00.123Z",
            "startsAt": f"2026-01-05T00:{i // 60 % 60:02d}:{i % 60:02d}.123Z",
            "generatorURL": "http://prometheus.example:9090/graph?g0.expr=errors&g0.tab=1",
            "labels": {"alertname": "Errors", "service": f"service-{i:05d}", "severity": "page", "job": "shop"},
        }
        for i in range(count)
    ]
    bodies = [wire.alerts(one[i : i + 64]) for i in range(0, count, 64)]
    yield Line(
        "alerts to dicts",
        cheapest(lambda: [msgspec.json.decode(b) for b in bodies], count),
        "us an alert",
        kind="floor",
    )
    each = cheapest(lambda: [decode_alerts(b, "prometheus") for b in bodies], count)
    yield Line("alerts decoded and checked", each, "us an alert")


def memory(series: int) -> Iterator[Line]:
    """Resident memory of the index alone, the growth of its snapshot, and its way back."""

    def resident() -> int:
        text = Path("/proc/self/statm").read_text()
        return int(text.split()[1]) * 4096

    index = fresh()
    before = resident()
    for part in heads(series):
        decode_samples(
            records([wire.remote_write(part, np.array([TS]), np.ones((len(part), 1)))], "remote-write"), index
        )
    index.take_new()
    yield Line("index", (resident() - before) / series, "bytes a series", 260.0)
    began = time.process_time()
    data = msgspec.msgpack.encode(index.snapshot())
    yield Line("snapshot, encoded", len(data) / series, "bytes a series")
    yield Line("snapshot", 1e6 * (time.process_time() - began) / series, "us a series")
    plain = msgspec.msgpack.decode(data)
    began = time.process_time()
    SeriesIndex.resume(index.services, plain)
    yield Line("resume", 1e6 * (time.process_time() - began) / series, "us a series")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    p = argparse.ArgumentParser(prog="python -m simulations.bench_decode", description=__doc__.split("\n")[0])
    p.add_argument("--series", type=int, default=50_000)
    p.add_argument("--json", action="store_true")
    args = p.parse_args(argv)
    sections: list[tuple[str, Iterator[Line]]] = [
        ("series index", memory(2 * args.series)),  # first: later, pages freed by others would be taken for its own
        ("remote write", remote_write(args.series)),
        ("JSON", metric_json(args.series)),
        ("alerts", alerts()),
    ]
    out = []
    for name, lines in sections:
        for line in lines:
            out.append({"section": name} | asdict(line))
            if not args.json:
                goal = (
                    f"goal <= {line.goal:g}: " + ("met" if line.value <= line.goal else "missed") if line.goal else ""
                )
                print(
                    f"{line.kind:6s}{name:13s}{line.name:42s}{line.value:9.3f} {line.unit:15s}{goal}".rstrip(),
                    flush=True,
                )
    if args.json:
        print(json.dumps(out, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
