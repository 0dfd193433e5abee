"""One real break of each kind, from samples through the detect stage: what pages have to draw."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.config import load
from aiopsd.model import Anomaly, Append, Evidence, LogRecord
from aiopsd.pipeline.detect import DetectStage, build

T0 = 1_700_006_400.0  # a midnight
STEP = 300.0  # s between samples
N = 4 * 288  # samples: four days
Values = NDArray[np.float64]


def noise(n: int = N, seed: int = 1) -> Values:
    """Standard normal, the same for the same seed."""
    return np.random.default_rng(seed).normal(0, 1, n)


def _jump() -> Values:
    values = 100 + noise()
    values[-6:] += 40
    return values


def _noon_at_midnight() -> Values:
    values: Values = 100 + 60 * np.sin(2 * np.pi * np.arange(N) / 288) + noise()
    values[-6:] = 150
    return values


def _silent() -> Values:
    values = 100 + noise()
    values[-12:] = np.nan
    return values


def _above_the_limit() -> Values:
    values = 100 + noise()
    values[-4:] = 104.5  # within what is usual, and above what the operator wants
    return values


BREAKS: Mapping[str, tuple[str, Callable[[], Values]]] = {
    "jump": ("", _jump),
    "wrong hour": ("", _noon_at_midnight),
    "threshold": ("detect: {thresholds: [{name: hot, match: {__name__: m}, above: 103.8}]}", _above_the_limit),
    "no-data": ("detect: {no_data: 20m}", _silent),
}
"""Kind of break -> (configuration, values of the metric `m` of the service `db`)."""


def record(k: int, *, service: str | Mapping[str, str] = "db", **values: float) -> LogRecord:
    """The k-th record: a sample of each metric; `service` is that of all, or by metric."""
    ts = T0 + STEP * k
    body = [
        {"name": name, "service": service if isinstance(service, str) else service[name], "ts": ts, "value": v}
        for name, v in values.items()
    ]
    return LogRecord(source="m", partition=0, offset=k, value=msgspec.json.encode(body), format="json", stamp=ts)


def play(stage: DetectStage, values: Values) -> list[Anomaly]:
    """`m` beside an undisturbed series `n`, a record every STEP; NaN: no sample."""
    events: list[Anomaly] = []
    for k, (m, n) in enumerate(zip(values.tolist(), (50 + noise(len(values), 2)).tolist(), strict=True)):
        given = record(k, **{name: v for name, v in (("m", m), ("n", n)) if v == v})
        events += [e.body for e in stage.step([given]) if isinstance(e, Append) and isinstance(e.body, Anomaly)]
    return events


def broken(kind: str) -> tuple[Evidence, list[Evidence]]:
    """(what the event of this break says of `m`, what the bank answers when the incident asks)."""
    text, make = BREAKS[kind]
    stage: Any = build(load(text), "m", 0)
    events = play(stage, make())
    mine = [e for event in events for e in event.evidence if e.metric == "m" and event.state == "firing"]
    return mine[-1], stage.evidence(["db"], mine[-1].onset)
