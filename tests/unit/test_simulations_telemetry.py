"""The synthetic services of the detection scorecard, and what it says of alarms."""

import numpy as np
import pytest

from simulations import synthetic, telemetry
from simulations.detection import Alarm
from simulations.telemetry import DAY, Service, Span


def one(seed: int) -> Service:
    return telemetry.service(np.random.default_rng(seed), "s", 300.0, 12.0, 3.0)


def test_a_seed_gives_the_same_service_and_another_seed_another() -> None:
    """A seed is all that a service depends on."""
    a, b, c = one(1), one(1), one(2)
    assert a.incidents == b.incidents
    assert np.array_equal(a.values, b.values, equal_nan=True)
    assert a.values.shape != c.values.shape or not np.array_equal(a.values, c.values, equal_nan=True)


def test_incidents_leave_the_time_before_them_and_a_while_after_alone() -> None:
    """No incident begins in the quiet time, none within eight hours of the one before, none outlasts the recording."""
    for seed in range(20):
        s = one(seed)
        starts = [i.start for i in s.incidents]
        ends = [i.end for i in s.incidents]
        assert all(t >= s.ts[0] + s.quiet for t in starts)
        assert all(later - end >= 8 * 3600 for later, end in zip(starts[1:], ends, strict=False))
        assert all(end < s.ts[-1] for end in ends)


@pytest.mark.parametrize("seed", range(5))
def test_values_are_what_an_exporter_could_send(seed: int) -> None:
    """Nothing that counts or measures a size is negative, and a counter falls to what came since its restart."""
    s = one(seed)
    for name, x in zip(s.names, s.values, strict=True):
        x = x[np.isfinite(x)]
        assert len(x) > 0.85 * len(s.ts)
        if name in (telemetry.COUNTER, "queue_depth", "threads", "request_error_ratio"):
            assert x.min() >= 0, name
        if name == telemetry.COUNTER:
            fell = np.flatnonzero(np.diff(x) < 0)
            assert (x[fell + 1] < x[fell]).all()
            assert len(fell) <= len(s.harmless)


def test_an_incident_moves_its_metrics() -> None:
    """A level that an incident has moved is farther from the median than the hours before."""
    rng = np.random.default_rng(0)
    ts = telemetry.START + 300.0 * np.arange(2000)
    values = rng.normal(size=(2, 2000)) + 50.0
    telemetry._strike(rng, values, ["process_cpu_percent"] * 2, ts, Span("level", ts[1000], ts[1100], (1,)), 6.0, 6.0)
    assert abs(values[1, 1000:1100].mean() - 50.0) > 3.0
    assert abs(values[0, 1000:1100].mean() - 50.0) < 1.0
    assert abs(values[1, 1100:].mean() - 50.0) < 1.0


def test_an_alarm_in_an_incident_finds_its_kind_and_one_after_a_deploy_is_laid_to_it() -> None:
    """Recall goes by kind of incident; a false alarm names what harmless thing went on."""
    ts = telemetry.START + 300.0 * np.arange(2000)
    day = telemetry.START + DAY
    s = Service(
        "s", ts, ("threads",), np.zeros((1, 2000)),
        (Span("spike", day, day + 900), Span("ramp", day + 40_000, day + 50_000)),
        (Span("deploy", day + 80_000, day + 80_600),), DAY / 2,
    )  # fmt: skip
    alarms = [Alarm(0, day + 300, day + 900, 0.6), Alarm(0, day + 80_900, day + 82_000, 0.6)]
    kinds = synthetic.by_kind([s], alarms)
    assert {k: f["onset_recall"] for k, f in kinds.items()} == {"spike": 1.0, "ramp": 0.0}
    assert synthetic.by_cause([s], alarms) == {"deploy": 1}
