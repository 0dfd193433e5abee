"""Benchmark of correlation: CPU time of one more alert, with few and with many open: grouping alone, the whole stage.

Each alert pays for the second thoughts of earlier ones that had come due before it, so the rows by kind differ only by
what an alert itself costs. An alert that is sent again while it fires never reaches grouping: the stage moves its end.

`python -m simulations bench --only grouping`.
"""

import gc
import time
from collections.abc import Iterator

import numpy as np

from aiopsd.cli import GC_THRESHOLD
from aiopsd.config import Config, CorrelateConfig
from aiopsd.correlate.grouping import Grouper, Placement
from aiopsd.correlate.grouping.reasons import NOTHING
from aiopsd.model import Alert, AlertBatch, AlertIn, Body, Edge, JournalRecord, Tick, TopologyUpdate
from aiopsd.pipeline import correlate
from aiopsd.topology import FILE_PREFIX
from simulations.bench_decode import Line
from simulations.bench_rank import T0, graph

SERVICES = 2_500
NAMES = 40  # alertnames
APART = 20.0  # s between two alerts of the quiet stream
MEASURED = 1_000
FOREVER = 30 * 86400.0  # s; no alert of the quiet stream ends by silence
BURST = 400  # alerts within a second, all of one zone


def alert(i: int, service: int, at: float, **labels: str) -> Alert:
    """One that fires from `at` on."""
    names = {"alertname": f"A{i % NAMES}", "service": f"s{service}", "instance": f"i{i}", **labels}
    return Alert(fingerprint=f"f{i}", labels=names, starts_at=at, ends_at=0.0, updated_at=at, service=f"s{service}")


def think(grouper: Grouper, at: float) -> None:
    """The second thoughts that are due by then."""
    while (due := grouper.wake_at()) is not None and due <= at:
        grouper.reassess(due)


def take(grouper: Grouper, given: Alert, at: float) -> tuple[float, Placement]:
    """(CPU seconds of placing an alert, with the second thoughts that had come due before it; where it went)."""
    began = time.process_time()
    think(grouper, at)
    placed = grouper.place(given, at)
    return time.process_time() - began, placed


def end(grouper: Grouper, fingerprint: str, at: float) -> float:
    """CPU seconds of an alert's end, with the second thoughts that had come due before it."""
    began = time.process_time()
    think(grouper, at)
    grouper.resolved(fingerprint, at)
    return time.process_time() - began


def whole_stage(where: list[int], opened: int) -> float:
    """CPU seconds of one more alert of the quiet stream for the whole stage, with `opened` alerts open before."""
    stage = correlate.build(Config())
    calls = graph(SERVICES, np.random.default_rng(6)).to_json()["edges"]
    edges = tuple(Edge(caller=edge["caller"], callee=edge["callee"]) for edge in calls)
    bodies: list[tuple[float, Body]] = [(T0 - 1.0, TopologyUpdate(source=f"{FILE_PREFIX}bench", edges=edges))]
    for i in range(opened + MEASURED):
        one = alert(i, where[i], T0 + APART * i)
        given = AlertIn(labels=one.labels, annotations={}, starts_at=one.starts_at, ends_at=T0 + FOREVER)
        bodies.append((one.starts_at, AlertBatch(alerts=(given,), sender="bench")))
    offset, began = 0, 0.0
    for n, (at, body) in enumerate(bodies):
        if n == opened + 1:
            began = time.process_time()
        while (due := stage.wake_at()) is not None and due <= at:
            stage.step([JournalRecord(offset=offset, stamp=due, body=Tick())])
            offset += 1
        stage.step([JournalRecord(offset=offset, stamp=at, body=body)])
        offset += 1
    return (time.process_time() - began) / MEASURED


def kind(placed: Placement) -> str:
    """What sort of new alert it was."""
    if not placed.opened:
        return "that joins an incident"
    return "near which nothing is in trouble" if placed.reason == NOTHING else "that what is near does not explain"


def grouping() -> Iterator[Line]:
    """A quiet stream over a graph of 2,500 services; how many alerts are open must not matter. Then a zone fails."""
    gc.set_threshold(*GC_THRESHOLD)  # as in the daemon
    rng = np.random.default_rng(6)
    where = rng.integers(0, SERVICES, 20_000).tolist()
    for opened in (1_000, 10_000):
        cost = whole_stage(where, opened)
        yield Line(f"correlate a new alert: group, rank, ask, route, {opened:,} open", 1e6 * cost, "us")
        grouper = Grouper(CorrelateConfig(), graph(SERVICES, rng))
        taken = [take(grouper, alert(i, where[i], T0 + APART * i), T0 + APART * i) for i in range(opened + MEASURED)]
        taken = taken[opened:]
        cost = 1e6 * float(np.mean([spent for spent, _ in taken]))
        yield Line(f"group a new alert, {opened:,} open", cost, "us", goal=15.0 if opened == 10_000 else 0.0)
        by_kind: dict[str, list[float]] = {}
        for spent, placed in taken:
            by_kind.setdefault(kind(placed), []).append(spent)
        for name, costs in sorted(by_kind.items()):
            share = f"{len(costs) / MEASURED:.0%}"
            yield Line(f"... {name} ({share}), {opened:,} open", 1e6 * float(np.mean(costs)), "us")
        at = T0 + APART * (opened + MEASURED) + 900.0
        ends = [end(grouper, f"f{i}", at + APART * i) for i in range(MEASURED)]
        yield Line(f"take the end of an alert, {opened:,} open", 1e6 * float(np.mean(ends)), "us")
        at += APART * MEASURED + 7_200.0
        take(grouper, alert(19_999, 0, at), at)
        burst = [alert(15_000 + k, where[k], at + 10.0, zone="z1") for k in range(BURST)]
        whole = sum(take(grouper, one, at + 10.0)[0] for one in burst)
        began = time.process_time()
        grouper.reassess(at + 12.0)
        whole += time.process_time() - began
        yield Line(f"group one of {BURST} of a zone within a second, {opened:,} open", 1e6 * whole / BURST, "us")
