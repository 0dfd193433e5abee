"""The drift scorecard: what it writes of the drifts that it saw."""

import numpy as np

from aiopsd.config import Config
from simulations import drift


def two_steps(rng: np.random.Generator):  # type: ignore[no-untyped-def]  # as drift.values
    """Noise, and noise that rises by five deviations."""
    noise = rng.normal(size=drift.N)
    yield "calm", noise, False
    yield "step", noise + 5.0 * (np.arange(drift.N) >= drift.CHANGE), True


def test_every_drift_is_a_line_that_names_its_stream_and_seed() -> None:
    """A stream that changes once is one line, after its change; one that does not change is none."""
    seeds = range(3, 5)
    figures, out = drift.suite(two_steps, Config(), seeds, "value")
    lines = drift.told(two_steps, seeds, out)

    assert sorted(line["series"] for line in lines) == ["step #3", "step #4"]
    assert all(line["ts"] >= drift.START + drift.CHANGE * drift.STEP for line in lines)
    assert all(0.5 <= line["score"] < 1.0 for line in lines)
    assert (figures["step"]["found"], figures["calm"]["false_per_10k"]) == (1.0, 0.0)
