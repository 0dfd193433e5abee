"""How samples are judged: level, lead-in, onset, ruler."""

import pytest
from msgspec.structs import replace

from aiopsd.detect.evidence import sentence
from aiopsd.evidence import joined, judge, rate_ruler, rejudged
from aiopsd.model import Direction, Evidence

T0 = 1_700_000_000.0


def series(
    *values: float, kind: str = "latency", normal: float = 1.0, scale: float = 0.1, step: float = 60.0
) -> Evidence:
    """Samples a minute apart, the last one at T0, not judged yet."""
    recent = tuple((T0 - step * (len(values) - 1 - i), v) for i, v in enumerate(values))
    return Evidence(service="web", metric="m", kind=kind, normal=normal, scale=scale, recent=recent)


def test_the_level_is_one_that_a_quarter_reaches() -> None:
    """One wild sample of eight is not the level; two of them are."""
    calm = [1.0] * 4
    times = [float(t) for t in range(12)]

    assert judge(times, calm + [1.0] * 7 + [9.0], 1.0, 0.1, "high", 4.0).level == 1.0
    assert judge(times, calm + [1.0] * 6 + [9.0] * 2, 1.0, 0.1, "high", 4.0).level == 9.0


def test_the_onset_is_where_the_run_of_bad_samples_begins() -> None:
    """It may lie before the time that is asked about; a calm sample between ends the run."""
    found = judge([0, 1, 2, 3, 4, 5, 6], [1, 5, 1, 1, 2, 5, 5], 1.0, 0.1, "high", 5.0)

    assert found.onset == 4
    assert judge([0, 1], [1, 1], 1.0, 0.1, "high", 0.0).onset == 0.0


def test_what_was_there_before_is_the_lead_in() -> None:
    """The median of the samples before; with fewer than two nobody knows."""
    assert judge([0, 1, 2, 3], [3, 3, 1, 5], 1.0, 1.0, "high", 3.0).lead == 2.0
    assert judge([0, 1], [3, 5], 1.0, 1.0, "high", 1.0).lead is None


def test_harmless_directions_do_not_count() -> None:
    """A latency that falls is calm, an availability that falls is not."""
    assert judge([0, 1], [1, 0.1], 1.0, 0.1, "high", 1.0).deviation == 0.0
    assert judge([0, 1], [1, 0.1], 1.0, 0.1, "low", 1.0).deviation == pytest.approx(9.0)


def test_the_direction_is_that_of_the_level_that_is_told() -> None:
    """Judged since another time a signal may be off the other way: nobody reads `fell to 9, normal 1`."""
    told = replace(series(1.0, 1.0, 1.0, 1.0, 9.0, 9.0), direction=Direction.LOW, harm="both")

    assert rejudged(told, T0 - 60).direction == Direction.HIGH


def test_a_share_of_requests_has_a_ruler_of_its_own() -> None:
    """Two percent of failures are an outage where there were none, though 5 % of the level would be no deviation."""
    e = rejudged(series(*[100.0] * 9, 98.0, kind="availability", normal=100.0, scale=5.0), T0)

    assert e.deviation == pytest.approx(20.0)
    assert e.scale == 0.1


def test_a_share_that_is_never_calm_keeps_its_spread() -> None:
    """Where failures come and go, as many again are no news."""
    before = [99.0, 97.0, 100.0, 98.0, 99.5, 96.0, 99.0, 100.0]

    assert rate_ruler(99.0, before, 5.0) > 0.9


def test_joined_answers_keep_the_first_ruler_and_all_samples() -> None:
    """What the series has learned of its trouble meanwhile does not make it calm."""
    old = rejudged(series(*[1.0] * 8, 5.0), T0)
    later = series(5.0, 5.0, 5.0, normal=4.0, scale=2.0)
    new = Evidence(
        **{f: getattr(later, f) for f in later.__struct_fields__}
        | {"recent": tuple((t + 120.0, v) for t, v in later.recent)}
    )

    both = joined(old, new, T0)

    assert both.deviation == pytest.approx(40.0)
    assert both.lead_in == 0.0
    assert [t for t, _ in both.recent] == sorted({*(t for t, _ in old.recent), *(t for t, _ in new.recent)})


def test_a_sentence_has_the_unit_that_the_name_of_the_metric_tells() -> None:
    """Seconds, bytes and rates of counters read as such, in one unit for value and range; a number alone stays one."""

    def said(metric: str, level: float, low: float, high: float, *, rate: bool = False) -> str:
        e = Evidence(service="s", metric=metric, level=level, low=low, high=high, rate=rate)
        return sentence(e, 8070.0).removesuffix(", since 02:14:30 UTC").removeprefix(metric).strip()

    assert said("request_duration_seconds_p99", 0.6395, 0.1734, 0.241) == "639.5 ms, normally 173.4..241 ms"
    assert said("resident_memory_bytes", 2.433e9, 7.818e8, 8.436e8) == "2.433 GB, normally 0.7818..0.8436 GB"
    assert said("errors_total", 0.3984, 2.9e-6, 0.1679, rate=True) == "0.3984/s, normally 0..0.1679/s"
    assert said("sent_bytes_total", 4096.0, 1024.0, 2048.0, rate=True) == "4.096 kB/s, normally 1.024..2.048 kB/s"
    assert said("cpu_seconds_total", 0.9, 0.1, 0.2, rate=True) == "0.9 s/s, normally 0.1..0.2 s/s"
    assert said("last_success_seconds", 1.7e9, 0.0, 1.8e9) == "1.7e+09, normally 0..1.8e+09"
    assert said("orders", 80.0, 30.0, 60.0) == "80, normally 30..60"


def test_a_value_inside_its_range_is_told_by_what_its_model_says() -> None:
    """Where the shape is strange and not the value, the sentence does not claim that the value is."""
    told = "aiopsd.Shape: 3.1, until now at most 1.2"
    inside = Evidence(service="s", metric="orders", level=42.0, low=30.0, high=60.0, opinion=told)
    assert sentence(inside, 8070.0) == f"orders 42 ({told}), since 02:14:30 UTC"
    assert sentence(replace(inside, level=80.0), 8070.0) == "orders 80, normally 30..60, since 02:14:30 UTC"
