"""Planned work is left out: of the scores, of what is learned, of what is missed."""

from datetime import datetime

import numpy as np
import pytest

from aiopsd.config import load
from aiopsd.detect.maintenance import Maintenance, Window
from aiopsd.errors import ConfigError
from aiopsd.model import Anomaly, Append, Effect
from aiopsd.pipeline.detect import build
from aiopsd.testing.breaks import STEP, T0, noise, record

HOUR = 3600.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def window(text: str) -> Window:
    return Window(load(f"detect: {{maintenance: [{{match: {{a: b}}, {text}}}]}}").detect.maintenance[0])


def anomalies(effects: list[Effect]) -> list[Anomaly]:
    return [e.body for e in effects if isinstance(e, Append) and isinstance(e.body, Anomaly)]


def test_a_window_is_once_or_each_week() -> None:
    """Times of day are of the zone that is given, over midnight and through changes of summer time."""
    once = window("start: 2026-01-31T22:00:00+01:00, end: 2026-01-31T22:00:00Z")
    nights = window("days: [sat], from: 22:00, to: 02:00, zone: Europe/Berlin")
    winter = nights.between(at("2026-01-24T00:00:00Z"), at("2026-02-02T00:00:00Z"))
    spring = nights.between(at("2026-03-28T00:00:00Z"), at("2026-03-30T00:00:00Z"))

    assert once.between(0.0, 4e9) == [(at("2026-01-31T21:00:00Z"), at("2026-01-31T22:00:00Z"))]
    assert winter == [
        (at("2026-01-24T21:00:00Z"), at("2026-01-25T01:00:00Z")),
        (at("2026-01-31T21:00:00Z"), at("2026-02-01T01:00:00Z")),
    ]
    assert spring == [(at("2026-03-28T21:00:00Z"), at("2026-03-29T01:00:00Z"))]
    assert window("from: 03:00, to: 24:00").between(T0, T0) == []
    assert len(window("from: 03:00, to: 24:00").between(T0, T0 + 86400.0 * 6.9)) == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x", "either `start` and `end`, or `from`"),
        ("start: 2026-01-31T22:00:00Z", "needs `start` and `end`"),
        ("start: 2026-01-31T22:00:00Z, end: 2026-01-31T21:00:00Z", "`end` is not after `start`"),
        ("start: 2026-01-31T22:00:00, end: 2026-02-01T21:00:00", "with its zone"),
        ("from: '22:00'", "needs `from` and `to`"),
        ("from: '25:00', to: '3:00'", "not a time of day"),
        ("from: '22', to: '3:00'", "not a time of day"),
        ("from: '22:00', to: '23:00', zone: Mars/Olympus", "no time zone"),
        ("start: 2026-01-31T22:00:00Z, end: 2026-02-01T21:00:00Z, days: [mon]", "either"),
    ],
)
def test_a_window_that_means_nothing_is_refused(text: str, said: str) -> None:
    """The configuration is refused with the key and what to write."""
    with pytest.raises(ConfigError, match=said) as caught:
        build(load(f"detect: {{maintenance: [{{match: {{a: b}}, {text}}}]}}"), "m", 0)

    assert "$.detect.maintenance[0]" in str(caught.value)


def test_a_time_of_day_may_stand_without_quotes() -> None:
    """22:00 without quotes is no number to the base 60."""
    bare, quoted = (
        window(text).between(T0, T0 + 86400.0) for text in ("from: 22:00, to: 23:30", "from: '22:00', to: '23:30'")
    )

    assert len(bare) == 1
    assert bare == quoted


def test_several_windows_concern_a_series_together() -> None:
    """A row is under maintenance while any of its rules says so; one without a rule never is."""
    config = load(
        """
detect:
  maintenance:
    - {match: {service: db}, start: 2026-01-01T00:00:00Z, end: 2026-01-01T01:00:00Z}
    - {match: {__name__: cpu}, start: 2026-01-01T02:00:00Z, end: 2026-01-01T03:00:00Z}
"""
    )
    plan = Maintenance(config.detect.maintenance)
    groups = [plan.group({"__name__": n}, s) for n, s in (("cpu", "db"), ("cpu", "web"), ("mem", "db"), ("mem", "web"))]
    base = at("2026-01-01T00:00:00Z")
    rows = np.repeat(np.array(groups, np.int16), 4)
    ts = np.tile(base + HOUR * np.array([0.5, 1.5, 2.5, 3.5]), 4)
    inside = plan.inside(rows, ts)

    assert inside is not None
    assert inside.reshape(4, 4).astype(int).tolist() == [[1, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert plan.inside(rows, ts + 86400) is None
    assert plan.active(base) == ["service=db"]


TWO_HOURS = "{match: {service: db}, start: 2023-11-18T22:00:00Z, end: 2023-11-19T00:00:00Z}"  # the end of four days


@pytest.mark.parametrize("planned", [False, True])
def test_what_is_planned_is_neither_told_nor_learned(planned: bool) -> None:
    """A load test in its window makes no event, and teaches nothing: the same level after the window is one."""
    stage = build(load(f"detect: {{maintenance: [{TWO_HOURS}]}}" if planned else ""), "m", 0)
    values = 100 + noise(5 * 288)
    values[4 * 288 - 24 : 4 * 288] += 300  # in the window
    values[4 * 288 + 100 : 4 * 288 + 103] += 300  # half a day after it
    events = [e for k, v in enumerate(values.tolist()) for e in anomalies(stage.step([record(k, m=v)]))]
    told = [e for e in events if e.state == "firing" and e.revision == 0]

    if planned:
        assert round((told[0].onset - T0) / STEP) == 4 * 288 + 100
        assert stage.skipped == 24
        assert told[0].evidence[0].high < 130
    else:
        assert round((told[0].onset - T0) / STEP) == 4 * 288 - 24


def test_a_counter_does_not_jump_after_the_window() -> None:
    """What a counter counted in the window is in no rate: the first one after it is that of its last step."""
    stage = build(load(f"detect: {{maintenance: [{TWO_HOURS}]}}"), "m", 0)
    steps = 600 + 10 * noise(4 * 288 + 40)
    steps[4 * 288 - 24 : 4 * 288] = 60_000
    effects = [e for k, v in enumerate(np.cumsum(steps).tolist()) for e in stage.step([record(k, m_total=v)])]

    assert anomalies(effects) == []


def test_silence_by_plan_is_no_event() -> None:
    """Who is away in a window is missed only when it does not come back after it, and then since the window's end."""
    config = load(f"detect: {{no_data: 20m, maintenance: [{TWO_HOURS}]}}")
    stage = build(config, "m", 0)
    effects: list[Effect] = []
    for k in range(4 * 288 + 24):
        given = {"n": 50.0} if k >= 4 * 288 - 24 else {"m": 100.0, "n": 50.0}
        effects += stage.step([record(k, service={"m": "db", "n": "web"}, **given)])
    (event,) = anomalies(effects)

    assert (event.signal, event.service) == ("no-data", "db")
    assert event.ts > at("2023-11-19T00:20:00Z")
