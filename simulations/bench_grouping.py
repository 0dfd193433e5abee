"""Benchmark of the grouping alone: what one more alert costs, with few and with many alerts open; CPU time.

`python -m simulations bench --only grouping`.
"""

import gc
import time
from collections.abc import Iterator

import numpy as np

from aiopsd.cli import GC_THRESHOLD
from aiopsd.config import CorrelateConfig
from aiopsd.correlate.grouping import Grouper
from aiopsd.model import Alert
from simulations.bench_decode import Line
from simulations.bench_rank import T0, graph

SERVICES = 2_500
NAMES = 40  # alertnames
APART = 20.0  # s between two alerts of the quiet stream
MEASURED = 1_000
BURST = 400  # alerts within a second, all of one zone


def alert(i: int, service: int, at: float, **labels: str) -> Alert:
    """One that fires from `at` on."""
    names = {"alertname": f"A{i % NAMES}", "service": f"s{service}", "instance": f"i{i}", **labels}
    return Alert(fingerprint=f"f{i}", labels=names, starts_at=at, ends_at=0.0, updated_at=at, service=f"s{service}")


def take(grouper: Grouper, given: Alert, at: float) -> float:
    """CPU seconds of placing an alert, with the second thoughts that had come due before it."""
    began = time.process_time()
    while (due := grouper.wake_at()) is not None and due <= at:
        grouper.reassess(due)
    grouper.place(given, at)
    return time.process_time() - began


def grouping() -> Iterator[Line]:
    """A quiet stream over a graph of 2,500 services; how many alerts are open must not matter. Then a zone fails."""
    gc.set_threshold(*GC_THRESHOLD)  # as in the daemon
    rng = np.random.default_rng(6)
    where = rng.integers(0, SERVICES, 20_000).tolist()
    for opened in (1_000, 10_000):
        grouper = Grouper(CorrelateConfig(), graph(SERVICES, rng))
        spent = [take(grouper, alert(i, where[i], T0 + APART * i), T0 + APART * i) for i in range(opened + MEASURED)]
        cost = 1e6 * float(np.mean(spent[opened:]))
        yield Line(f"group a new alert, {opened:,} open", cost, "us", goal=15.0 if opened == 10_000 else 0.0)
        at = T0 + APART * (opened + MEASURED) + 900.0
        take(grouper, alert(19_999, 0, at), at)
        burst = [alert(15_000 + k, where[k], at + 10.0, zone="z1") for k in range(BURST)]
        spent = [take(grouper, one, at + 10.0) for one in burst]
        began = time.process_time()
        grouper.reassess(at + 12.0)
        whole = sum(spent) + time.process_time() - began
        yield Line(f"group one of {BURST} of a zone within a second, {opened:,} open", 1e6 * whole / BURST, "us")
