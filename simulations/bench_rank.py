"""Benchmark of the ranking alone: 1,000 services, 5,000 series, some of them in trouble; CPU time of each call.

`python -m simulations bench --only rank`.
"""

import gc
import time
from collections.abc import Iterator

import numpy as np

from aiopsd.cli import GC_THRESHOLD
from aiopsd.correlate.rootcause import Heard, rank
from aiopsd.model import Alert, Edge, Evidence, TopologyUpdate
from aiopsd.topology import Topology
from simulations.bench_decode import Line

T0 = 1_700_000_000.0
KINDS = (
    ("latency_seconds", "latency"),
    ("errors_ratio", "errors"),
    ("requests_per_second", "traffic"),
    ("cpu_usage", "resource"),
    ("memory_bytes", "resource"),
)
INCIDENTS, WARM = 40, 4


def graph(services: int, rng: np.random.Generator) -> Topology:
    """Three calls a service on average, to what comes later in order: about as deep as it is wide."""
    edges = {
        (f"s{i}", f"s{j}")
        for i in range(services - 1)
        for j in rng.integers(i + 1, min(services, i + 200), size=int(rng.integers(1, 6)))
    }
    topology = Topology(1e9)
    topology.apply(TopologyUpdate(source="bench", edges=tuple(Edge(caller=a, callee=b) for a, b in sorted(edges))), T0)
    return topology


def digest(services: int, sick: set[int], rng: np.random.Generator) -> list[Evidence]:
    """Five series a service, sixteen samples each; those of a sick service left their normal range at T0."""
    out = []
    times = [T0 - 60.0 * (12 - k) for k in range(16)]
    for i in range(services):
        for metric, kind in KINDS:
            values = rng.normal(1.0, 0.05, 16)
            hit = i in sick and kind != "traffic" and rng.random() < 0.7
            if hit:
                values[12:] += rng.uniform(0.3, 3.0)
            off = (values[12:] - 1.0) / 0.05
            deviation = float(max(0.0, np.sort(off)[-1]))
            out.append(
                Evidence(
                    service=f"s{i}", metric=metric, kind=kind, level=float(values[-1]), normal=1.0, scale=0.05,
                    deviation=deviation, lead_in=float(abs(rng.normal(0.0, 0.5))), onset=T0 if hit else 0.0,
                    traffic=100.0 if kind == "traffic" else 0.0, recent=tuple(zip(times, values.tolist(), strict=True)),
                )
            )  # fmt: skip
    return out


def ranking(services: int = 1000) -> Iterator[Line]:
    """Incidents that grow alert by alert, ranked at each, with the evidence of all services.

    Evidence is arranged when an answer comes, and ranked as often as the incident changes, as the stage does. A page
    that comes minutes late has all of it judged anew, once.
    """
    gc.set_threshold(*GC_THRESHOLD)  # as in the daemon
    rng = np.random.default_rng(5)
    topology = graph(services, rng)
    for share in (0.05, 0.3):
        sick = set(rng.choice(services, int(share * services), replace=False).tolist())
        evidence = digest(services, sick, rng)
        alerts = [
            Alert(
                fingerprint=f"a{i}", labels={"alertname": "Slow", "service": f"s{i}", "severity": "warning"},
                starts_at=T0 + float(rng.uniform(0.0, 60.0)), ends_at=0.0, updated_at=T0, service=f"s{i}",
            )
            for i in sorted(sick)[:50]
        ]  # fmt: skip
        arranged, spent, late = [], [], []
        for k in range(WARM + INCIDENTS):
            began = time.process_time()
            heard = Heard(evidence)
            arranged.append(time.process_time() - began)
            page = alerts[k % len(alerts)]
            for n in range(1, len(alerts) + 1, 5):
                began = time.process_time()
                rank([page, *alerts[:n]], topology, heard, onset=T0, page=page)
                if n > 1:  # the first one works out what the answer says: with the arranging
                    spent.append(time.process_time() - began)
                else:
                    arranged[-1] += time.process_time() - began
            began = time.process_time()
            rank(alerts, topology, heard, onset=T0 + 120.0, page=page)
            late.append(time.process_time() - began)
        name = f"rank {services:,} services, {len(evidence):,} series, {share:.0%} sick"
        times = 1e3 * np.array(spent[WARM * (len(spent) // (WARM + INCIDENTS)) :])
        yield Line(f"{name}, median", float(np.median(times)), "ms")
        yield Line(f"{name}, p99", float(np.quantile(times, 0.99)), "ms", goal=2.0 if share < 0.1 else 0.0)
        yield Line(f"{name}, an answer's first", 1e3 * float(np.median(arranged[WARM:])), "ms")
        yield Line(f"{name}, of a late page", 1e3 * float(np.median(late[WARM:])), "ms")
