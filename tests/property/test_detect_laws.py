"""Law 3 for the detect stage: what it says of records does not depend on how they were cut, nor on being resumed."""

import math
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.config import Config, load
from aiopsd.model import Effect, LogRecord, Snapshot
from aiopsd.pipeline.detect import DetectStage, build
from aiopsd.testing.detectors import stored

T0 = 1_700_000_000.0

# everything at once: policies, maintenance, edges from metrics, limits with hysteresis, no-data, models on two metrics,
# drift with error bits, quick eviction, short warm-up and memory so that a few hundred samples reach every branch
EVERYTHING = """
detect:
  warmup: 2m
  resolve_after: 5m
  min_duration: {min_duration}
  no_data: 10m
  join: {join}
  evict_after: 40m
  flatline: 6m
  policies:
    - {{match: {{service: pay, __name__: cpu}}, growth: 0.01, memory: 30m, warmup: 5m, adopt_after: 2h}}
    - {{match: {{__name__: up}}, no_data: 0s}}
    - {{match: {{service: cart}}, no_data: 20m}}
  maintenance:
    - {{match: {{service: shop}}, start: 2023-11-14T23:00:00Z, end: 2023-11-14T23:20:00Z}}
    - {{match: {{__name__: "cpu|requests_total"}}, from: "23:30", to: "23:40", days: [tue, wed]}}
  thresholds:
    - {{name: hot, match: {{__name__: cpu}}, above: 90, clear: 70, min_duration: 1m}}
    - {{name: gone, match: {{__name__: up}}, below: 1, severity: critical}}
  online_budget: 0.00001
  online:
    - {{match: {{service: "cart|pay"}}, features: [cpu, "lat.*", req.*], model: aiopsd.Joint, alone: true, cost: 1}}
    - {{match: {{}}, features: [".*"], by: [__name__, pod], every: 2s, model: anomaly.LODA, cost: 1}}
    - {{match: {{__name__: cpu}}, model: aiopsd.Shape, params: {{window: 4, memory: 120}}, cost: 150, doubt: 0.5}}
    - {{match: {{__name__: up}}, model: aiopsd.Day, alone: true}}
    - {{match: {{__name__: latency}}, model: anomaly.GaussianScorer, params: {{window_size: 40}}, max_series: 2}}
    - {{match: {{__name__: requests_total}}, model: time_series.HoltWinters, params: {{alpha: 0.3}}, lags: 1}}
  drift:
    models: [{{name: ranker, errors: {{__name__: wrong}}, inputs: {{__name__: cpu}}}}]
topology:
  stale_after: 40m
  metrics:
    - {{match: {{__name__: requests_total}}, caller: gateway}}
    - {{match: {{__name__: latency}}, callee: "node-$pod", kind: runs_on, callee_kind: node}}
"""
SERVICES = ("cart", "pay", "shop")
METRICS = ("cpu", "latency", "up", "requests_total", "wrong")


def world(seed: int, trouble: float, gap: int, stamped: bool, per_record: int, minutes: int = 130) -> list[LogRecord]:
    """Some hundred records of a small world, with everything that goes wrong with samples on their way."""
    rng = random.Random(seed)
    totals = dict.fromkeys(SERVICES, 0.0)
    records: list[LogRecord] = []
    batch: list[dict[str, Any]] = []

    def flush(now: float) -> None:
        if batch:
            stamp = now + 1.0 if stamped else 0.0
            value = msgspec.json.encode(batch)
            records.append(
                LogRecord(source="m", partition=0, offset=3 * len(records), value=value, format="json", stamp=stamp)
            )
            batch.clear()

    silent = rng.choice(SERVICES)
    for minute in range(minutes):
        now = T0 + 60.0 * (minute + (gap if minute > 70 else 0))
        fault = 90 <= minute < 105
        for service in SERVICES:
            if service == silent and 40 <= minute < 85:
                continue
            totals[service] += 600 + rng.gauss(0, 20)
            if rng.random() < trouble / 5:
                totals[service] = 0.0
            values = {
                "cpu": 50
                + (rng.gauss(0, 2) if service != "shop" or minute < 50 else 0.0)
                + (45 if fault and service == "pay" else 0),
                "latency": 0.2 + rng.gauss(0, 0.01) + (1.0 if fault and service != "cart" else 0),
                "up": 0.0 if fault and service == "pay" else 1.0,
                "requests_total": totals[service],
                "wrong": float(rng.random() < (0.9 if minute > 80 else 0.05)),
            }
            for metric, value in values.items():
                ts = now
                if rng.random() < trouble:
                    ts += rng.choice((-300.0, 7200.0, 3e6, -60.0))
                if rng.random() < trouble:
                    value = rng.choice((1e300, -1e300, 0.0))
                pod = str(minute // 45) if metric == "latency" else "0"  # churn
                sample = {"name": metric, "labels": {"service": service, "pod": pod}, "ts": ts, "value": value}
                batch.append(sample)
                if rng.random() < trouble:
                    batch.append(sample)
                if len(batch) >= per_record:
                    flush(now)
    flush(now)
    return records


def config(join: str = "service", min_duration: str = "0s") -> Config:
    return load(EVERYTHING.format(join=join, min_duration=min_duration))


def fresh(c: Config, snapshot: Snapshot | None = None) -> DetectStage:
    return build(c, "m", 0, snapshot)


seeds = st.integers(0, 2**32 - 1)
# troubled share of samples, minutes of silence in the middle, receipt times, samples per record
worlds = st.tuples(
    seeds, st.sampled_from((0.0, 0.02, 0.1)), st.sampled_from((0, 20, 70, 600)), st.booleans(), st.integers(1, 7)
)


@settings(max_examples=12, deadline=None)
@given(worlds, seeds, st.sampled_from(("service", "series")), st.sampled_from(("0s", "3m")))
def test_effects_do_not_depend_on_the_cut(what: Any, cut: int, join: str, min_duration: str) -> None:
    """step(a + b) is step(a) then step(b), bit for bit, for any cut and with snapshots stored and resumed between."""
    records, rng = world(*what), random.Random(cut)
    c = config(join, min_duration)
    whole = fresh(c).step(records)

    stage = fresh(c)
    parts: list[Effect] = []
    at = 0
    while at < len(records):
        to = at + rng.randint(1, 40)
        parts += stage.step(records[at:to])
        at = to
        if rng.random() < 0.2:
            stage = fresh(c, stored(stage.snapshot()))

    assert whole == parts


def test_the_world_reaches_every_branch() -> None:
    """The stream of the law above makes events of every kind, else the law would prove little."""
    stage = fresh(config())
    effects = stage.step(world(1, 0.02, 0, True, 3))
    kinds = {type(e).__name__ for e in effects}
    bodies = [e.body for e in effects if hasattr(e, "body")]
    signals = {getattr(b, "signal", "drift") for b in bodies}
    states = {getattr(b, "state", "") for b in bodies}
    channels = {e.channel for b in bodies for e in getattr(b, "evidence", ())}
    assert kinds == {"Append", "Reject"}
    assert {"no-data", "cpu", "up", "drift"} <= signals
    assert {"firing", "resolved"} <= states
    assert {"threshold", "x", "no-data"} <= channels
    assert stage.late > 0
    assert all(any(row.said for row in d._rows.values()) for d in stage._online.detectors[:3])


@settings(max_examples=6, deadline=None)
@given(worlds)
def test_effects_are_ordered_and_placed(what: Any) -> None:
    """Effects come in the order of the records that caused them, each with the place of its record."""
    records = world(*what)
    effects = fresh(config()).step(records)
    offsets = [e.origin.offset if hasattr(e, "origin") else e.pos.offset for e in effects]  # type: ignore[union-attr]  # one of the two
    assert offsets == sorted(offsets)
    assert set(offsets) <= {r.offset for r in records}
    for e in effects:
        if hasattr(e, "body") and hasattr(e.body, "pos"):
            assert e.body.pos == e.origin
            assert math.isfinite(e.body.ts)


@settings(max_examples=4, deadline=None)
@given(worlds)
def test_resuming_is_bit_exact(what: Any) -> None:
    """A stage built from a stored snapshot has that snapshot, to the bit."""
    stage = fresh(config())
    stage.step(world(*what))
    one = stage.snapshot()
    two = fresh(config(), stored(one)).snapshot()
    assert msgspec.msgpack.encode(one.meta) == msgspec.msgpack.encode(two.meta)
    assert {k: a.tobytes() for k, a in one.arrays.items()} == {k: a.tobytes() for k, a in two.arrays.items()}


def test_a_snapshot_of_another_kind_is_refused() -> None:
    """Resuming from what is no snapshot of this stage raises, naming both."""
    with pytest.raises(ValueError, match="not a detect snapshot"):
        fresh(config(), Snapshot(kind="correlate", version=1, meta={}))
