"""Policies as configuration: is a repeat an incident, follow or resist a shift, whose silence counts."""

import numpy as np
import pytest

from aiopsd.config import load
from aiopsd.errors import ConfigError
from aiopsd.model import Anomaly, Append, Effect
from aiopsd.pipeline.detect import build
from aiopsd.testing.breaks import STEP, T0, noise, record

DAY = 288  # samples


def anomalies(effects: list[Effect]) -> list[Anomaly]:
    return [e.body for e in effects if isinstance(e, Append) and isinstance(e.body, Anomaly)]


def told(text: str, values: np.ndarray, **service: str) -> dict[str, list[int]]:
    """Service -> samples at which an event of it began; both services say the same."""
    stage = build(load(text), "m", 0)
    events: list[Anomaly] = []
    for k, v in enumerate(values.tolist()):
        events += anomalies(stage.step([record(k, service={"m": "db", "n": "web"}, m=v, n=v)]))
    found: dict[str, list[int]] = {"db": [], "web": []}
    for e in events:
        if e.state == "firing" and e.revision == 0:
            found[e.service].append(round((e.ts - T0) / STEP))
    return found


def test_a_repeat_is_an_incident_where_the_policy_says_so() -> None:
    """The same peak every half day: by itself it is learned as usual; with hardly any growth it is told each time."""
    values = 100 + noise(8 * DAY)
    for peak in range(3 * DAY, 8 * DAY, DAY // 2):
        values[peak : peak + 2] += 30
    found = told("detect: {growth: 0.25, policies: [{match: {service: db}, growth: 0.002}]}", values)

    assert len(found["db"]) >= 9
    assert len(found["web"]) <= len(found["db"]) / 2


def test_a_shift_is_followed_or_resisted() -> None:
    """A level that stays: its event ends once it is adopted; where the policy resists it fires as long as it lasts."""
    values = 100 + noise(5 * DAY)
    values[3 * DAY :] += 60
    stage = build(load("detect: {policies: [{match: {service: db}, adopt_after: 30d}]}"), "m", 0)
    events: list[Anomaly] = []
    for k, v in enumerate(values.tolist()):
        events += anomalies(stage.step([record(k, service={"m": "db", "n": "web"}, m=v, n=v)]))
    over = {e.service: e.ts for e in reversed(events) if e.state == "resolved"}  # of each service, the first end

    assert {e.id for e in events if e.service == "db"} == {events[0].id}
    assert "db" not in over
    assert T0 + 3 * DAY * STEP < over["web"] < T0 + 4 * DAY * STEP


@pytest.mark.parametrize("shift", [6.0, 15.0, 60.0])
def test_a_shift_that_stays_is_told_once(shift: float) -> None:
    """However far a level goes, and stays: one event, which ends when it is adopted; none of its hours is another."""
    values = 100 + noise(6 * DAY)
    values[3 * DAY :] += shift

    assert {name: len(at) for name, at in told("{}", values).items()} == {"db": 1, "web": 1}


def test_the_bar_and_the_life_of_an_event_are_by_policy() -> None:
    """Where a policy asks for more, a break is no event; where it asks for time, a short one is none, a long one late;
    where it waits longer, the event ends later."""
    values = 100 + noise(6 * DAY)
    values[4 * DAY : 4 * DAY + 3] += 12
    values[5 * DAY : 5 * DAY + 24] += 40
    common = told("{}", values)
    higher = told("detect: {policies: [{match: {service: db}, threshold: 0.999}]}", values)
    later = told("detect: {policies: [{match: {service: db}, min_duration: 30m}]}", values)

    assert common["db"] == common["web"] == higher["web"] == later["web"] == [4 * DAY, 5 * DAY]
    assert higher["db"] == []
    assert later["db"] == [5 * DAY + 6]

    def ends(text: str) -> dict[str, float]:
        stage = build(load(text), "m", 0)
        events: list[Anomaly] = []
        for k, v in enumerate(values.tolist()):
            events += anomalies(stage.step([record(k, service={"m": "db", "n": "web"}, m=v, n=v)]))
        return {e.service: e.ts for e in reversed(events) if e.state == "resolved"}

    over = ends("detect: {policies: [{match: {service: db}, resolve_after: 2h}]}")
    assert over["db"] - over["web"] == 7200 - 900


def test_the_score_of_a_lone_series_keeps_its_order_at_the_top() -> None:
    """Of breaks that are each more than one width of the range, the farther has the higher score, below 1."""
    scores = []
    for far in (30, 100, 1000, 1e6):
        values = 100 + noise(5 * DAY)
        values[4 * DAY : 4 * DAY + 3] += far
        stage = build(load("{}"), "m", 0)
        events: list[Anomaly] = []
        for k, v in enumerate(values.tolist()):
            events += anomalies(stage.step([record(k, m=v)]))
        scores.append(max(e.score for e in events))
    assert scores == sorted(set(scores))
    assert 0.8 < scores[0]
    assert scores[-1] < 1.0


def test_memory_is_by_policy() -> None:
    """What was usual a week ago is usual still, or not: the half-life of the range is that of the policy."""
    values = 100 + noise(12 * DAY)
    values[2 * DAY : 2 * DAY + 12] += 30
    values[10 * DAY : 10 * DAY + 12] += 30
    found = told("detect: {growth: 1, policies: [{match: {service: db}, memory: 12h}]}", values)

    assert any(k >= 10 * DAY for k in found["db"])
    assert len(found["db"]) >= len(found["web"])


def test_whose_silence_counts_is_by_policy() -> None:
    """One service is missed after twenty minutes, another never; the rest as the whole says."""
    stage = build(
        load(
            """
detect:
  policies:
    - {match: {service: db}, no_data: 20m}
    - {match: {service: web}, no_data: 0s}
"""
        ),
        "m",
        0,
    )
    effects: list[Effect] = []
    service = {"m": "db", "n": "web", "o": "shop", "p": "cart", "q": "pay", "r": "api"}
    for k in range(200):
        given = dict.fromkeys(service, 1.0 + k)
        if k > 100:
            del given["m"], given["n"]
        if k > 150:
            del given["o"]
        effects += stage.step([record(k, service=service, **given)])

    assert [(e.service, e.signal) for e in anomalies(effects) if e.state == "firing"] == [("db", "no-data")]


def test_policies_follow_the_configuration_on_resume() -> None:
    """A snapshot holds what was learned, not the rules: under others the series obey those."""
    values = (100 + noise(3 * DAY)).tolist()
    stage = build(load("detect: {policies: [{match: {service: db}, growth: 0.01}]}"), "m", 0)
    for k, v in enumerate(values):
        stage.step([record(k, m=v)])
    again = build(
        load("detect: {policies: [{match: {a: b}}, {match: {__name__: m}, growth: 0.5}]}"), "m", 0, stage.snapshot()
    )

    assert stage._bank.rule[:1].tolist() == [1]
    assert again._bank.rule[:1].tolist() == [2]


def test_a_broken_policy_names_its_key() -> None:
    """What is not RE2 is refused before it is used."""
    with pytest.raises(ConfigError, match=r"\$\.detect\.policies\[0\]\.match\.service"):
        build(load("detect: {policies: [{match: {service: '('}}]}"), "m", 0)
