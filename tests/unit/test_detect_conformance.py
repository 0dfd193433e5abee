"""Every detector that is shipped keeps what `protocols.Detector` promises.

What has no rows of its own to score (join, limits, silence, models of a service) is put through the same stream as part
of the stage. Drift and what stands still need longer than it lasts: they are in tests/property/test_detect_laws.py.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from aiopsd.config import Config, load
from aiopsd.detect.bank import Policy, RangeBank
from aiopsd.model import Append, Effect, LogRecord
from aiopsd.pipeline.detect import build
from aiopsd.testing import detectors
from aiopsd.testing.detectors import Candidate


def bank(name: str, policy: Policy) -> Candidate:
    return Candidate(name=name, make=lambda: RangeBank(policy, 8), resume=lambda s: RangeBank.resume(policy, s))


def named(name: str, *args: Any, **more: Any) -> Candidate:
    return msgspec.structs.replace(detectors.model(*args, **more), name=name)


TREES = {
    "steps": [
        {"model": "preprocessing.MinMaxScaler"},
        {"model": "anomaly.HalfSpaceTrees", "params": {"n_trees": 10, "height": 6, "window_size": 60}},
    ]
}
CANDIDATES = [
    bank("bank", Policy()),
    bank("bank, memory in time", Policy(memory=7 * 86400.0, growth=0.1)),
    named("sad", "anomaly.StandardAbsoluteDeviation", {}),
    named("gaussian window", "anomaly.GaussianScorer", {"window_size": 50, "grace_period": 10}),
    named("holt-winters", "time_series.HoltWinters", {"alpha": 0.3, "beta": 0.05}),
    named("snarimax", "time_series.SNARIMAX", {"p": 3, "d": 0, "q": 1}),
    named("trees", "compose.Pipeline", TREES, lags=2),
    named("loda", "anomaly.LODA", {"n_random_cuts": 40}, lags=2),
    named("predictive", "anomaly.PredictiveAnomalyDetection", {"predictive_model": {"model": "time_series.HoltWinters",
          "params": {"alpha": 0.3, "beta": 0.05}}}),
    named("shape memory", "aiopsd.Shape", {"window": 8, "memory": 200}, length=300),
    named("shape memory with its level", "aiopsd.Shape", {"window": 4, "memory": 150, "level": True}, length=300),
    named("day memory", "aiopsd.Day", {"hours": 6, "days": 4}, length=1700),
    named("filter without protection", "anomaly.ThresholdFilter", {"anomaly_detector": {"model":
          "anomaly.GaussianScorer"}, "threshold": 0.9, "protect_anomaly_detector": False}),
]  # fmt: skip


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda c: c.name)
@pytest.mark.parametrize("check", detectors.CHECKS, ids=lambda c: c.__name__)
def test_detector_conforms(check: Callable[[Candidate], None], candidate: Candidate) -> None:
    """Each check over each detector; the check's docstring is the property."""
    check(candidate)


# --------------------------------------------------------------------------- what works only as part of the stage

MUTE = "signals: [{match: {}, harm: none}]"  # the bank says nothing of these series
STAGES = {
    "join by service": "",
    "join by series": "join: series",
    "join after a minimum duration": "min_duration: 10m",
    "fixed limits": f"{MUTE}, thresholds: [{{name: hot, match: {{}}, above: 62, clear: 55, min_duration: 10m}}]",
    "silence": f"{MUTE}, no_data: 15m",
    "joint model of a service": "online: [{features: ['.*'], by: [series], model: aiopsd.Joint, alone: true}]",
    "river's model of a service": "online: [{features: ['.*'], by: [series], model: anomaly.LODA, alone: true}]",
    "model of each series": "online: [{model: anomaly.StandardAbsoluteDeviation, alone: true, doubt: 0.5}]",
}


def log_of(seed: int, length: int) -> list[LogRecord]:
    """The stream of the suite as records of up to five samples; rows 0 to 3 are one service, the rest another."""
    rows, ts, values = detectors.stream(seed, length)
    body = [
        {"name": "m", "labels": {"series": str(row), "service": "ab"[row > 3]}, "ts": t, "value": str(v)}
        for row, t, v in zip(rows.tolist(), ts.tolist(), values.tolist(), strict=True)
    ]
    return [
        LogRecord(source="m", partition=0, offset=i, value=msgspec.json.encode(body[at : at + 5]), format="json")
        for i, at in enumerate(range(0, len(body), 5))
    ]


def staged(name: str) -> Config:
    return load(f"detect: {{{STAGES[name]}}}")


@pytest.mark.parametrize("name", STAGES)
def test_part_of_the_stage_does_not_depend_on_the_cut(name: str) -> None:
    """It says something, and the same for any cut of the log, with snapshots stored and resumed between."""
    log, rng = log_of(1, 700), np.random.default_rng(2)
    whole = build(staged(name), "m", 0).step(log)
    stage, at, parts = build(staged(name), "m", 0), 0, list[Effect]()
    while at < len(log):
        to = at + int(rng.integers(1, 200))
        parts += stage.step(log[at:to])
        at = to
        stage = build(staged(name), "m", 0, detectors.stored(stage.snapshot()))

    assert whole == parts
    assert any(isinstance(e, Append) for e in whole)


@pytest.mark.parametrize("name", [name for name in STAGES if name != "fixed limits"])
def test_part_of_the_stage_says_nothing_in_warm_up(name: str) -> None:
    """However wild a service begins, in its first hour nobody is told; a fixed limit needs no warm-up."""
    rng = np.random.default_rng(3)
    log = []
    for i in range(239):
        values = np.exp(9 * rng.normal(size=6)).tolist()
        body = [
            {"name": "m", "labels": {"series": str(k), "service": "s"}, "ts": detectors.START + 15.0 * i, "value": v}
            for k, v in enumerate(values)
        ]
        log.append(LogRecord(source="m", partition=0, offset=i, value=msgspec.json.encode(body), format="json"))
    assert build(staged(name), "m", 0).step(log) == []
