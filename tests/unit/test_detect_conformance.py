"""Every detector that is shipped keeps what `protocols.Detector` promises."""

from collections.abc import Callable
from typing import Any

import pytest

from aiopsd.detect.bank import Policy, RangeBank
from aiopsd.detect.calibrate import ModelDetector
from aiopsd.model import Snapshot
from aiopsd.testing import detectors
from aiopsd.testing.detectors import Candidate


def bank(name: str, policy: Policy) -> Candidate:
    return Candidate(name=name, make=lambda: RangeBank(policy, 8), resume=lambda s: RangeBank.resume(policy, s))


def river(name: str, model: str, params: dict[str, Any], lags: int = 0, length: int = 250) -> Candidate:
    def make() -> ModelDetector:
        return ModelDetector(model, params, lags=lags)

    def resume(snapshot: Snapshot) -> ModelDetector:
        detector = make()
        detector.load(snapshot)
        return detector

    return Candidate(name=name, make=make, resume=resume, length=length)


TREES = {
    "steps": [
        {"model": "preprocessing.MinMaxScaler"},
        {"model": "anomaly.HalfSpaceTrees", "params": {"n_trees": 10, "height": 6, "window_size": 60}},
    ]
}
CANDIDATES = [
    bank("bank", Policy()),
    bank("bank, memory in time", Policy(memory=7 * 86400.0, growth=0.1)),
    river("sad", "anomaly.StandardAbsoluteDeviation", {}),
    river("gaussian window", "anomaly.GaussianScorer", {"window_size": 50, "grace_period": 10}),
    river("holt-winters", "time_series.HoltWinters", {"alpha": 0.3, "beta": 0.05}),
    river("snarimax", "time_series.SNARIMAX", {"p": 3, "d": 0, "q": 1}),
    river("trees", "compose.Pipeline", TREES, lags=2),
    river("loda", "anomaly.LODA", {"n_random_cuts": 40}, lags=2),
    river("predictive", "anomaly.PredictiveAnomalyDetection", {"predictive_model": {"model": "time_series.HoltWinters",
          "params": {"alpha": 0.3, "beta": 0.05}}}),
    river("shape memory", "aiopsd.Shape", {"window": 8, "memory": 200}, length=300),
    river("shape memory with its level", "aiopsd.Shape", {"window": 4, "memory": 150, "level": True}, length=300),
    river("day memory", "aiopsd.Day", {"hours": 6, "days": 4}, length=1700),
    river("filter without protection", "anomaly.ThresholdFilter", {"anomaly_detector": {"model":
          "anomaly.GaussianScorer"}, "threshold": 0.9, "protect_anomaly_detector": False}),
]  # fmt: skip


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda c: c.name)
@pytest.mark.parametrize("check", detectors.CHECKS, ids=lambda c: c.__name__)
def test_detector_conforms(check: Callable[[Candidate], None], candidate: Candidate) -> None:
    """Each check over each detector; the check's docstring is the property."""
    check(candidate)
