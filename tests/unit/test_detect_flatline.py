"""A series that goes on speaking and no longer moves."""

import numpy as np

from aiopsd.config import load
from aiopsd.model import Anomaly, Append, Effect
from aiopsd.pipeline.detect import DetectStage, build
from aiopsd.testing.breaks import STEP, T0, noise, record


def flat(effects: list[Effect]) -> list[Anomaly]:
    found = [e.body for e in effects if isinstance(e, Append) and isinstance(e.body, Anomaly)]
    return [e for e in found if e.signal == "flatline"]


def stage(text: str = "flatline: 1h") -> DetectStage:
    return build(load(f"detect: {{{text}}}"), "m", 0)


def play(stage: DetectStage, values: np.ndarray, first: int = 0) -> list[Anomaly]:
    """`m` of db beside `n` of web, which always moves."""
    service = {"m": "db", "n": "web"}
    other = noise(len(values), 9).tolist()
    out: list[Anomaly] = []
    for k, (m, n) in enumerate(zip(values.tolist(), other, strict=True), first):
        given = {"n": n} if m != m else {"m": m, "n": n}
        out += flat(stage.step([record(k, service=service, **given)]))
    return out


def test_a_sensor_that_is_stuck_is_told_and_taken_back() -> None:
    """An hour of the very same value, from a series that never stood still, is one event, over when it moves again."""
    values = 100 + noise(200)
    values[120:150] = values[120]
    events = play(stage(), values)

    assert [(e.service, e.state) for e in events] == [("db", "firing"), ("db", "resolved")]
    assert events[0].onset == T0 + 120 * STEP
    assert T0 + 132 * STEP < events[0].ts < T0 + 145 * STEP
    assert events[0].evidence[0].channel == "flatline"
    assert events[0].evidence[0].metric == "m"
    assert "m exactly" in events[0].summary


def test_standing_still_is_the_series_own() -> None:
    """One that moves once in two hours has not stopped after one; a constant, or a silent series, cannot stop."""
    steps = np.repeat(np.arange(40.0), 24)
    silent = 100 + noise(200)
    silent[120:] = np.nan

    assert play(stage(), steps) == []
    assert play(stage(), np.full(300, 7.0)) == []
    assert play(stage(), silent) == []


def test_it_is_off_by_default_and_by_policy() -> None:
    """Nobody asked, nothing is said; a policy asks for one service, or excuses one."""
    values = 100 + noise(200)
    values[120:] = 100.0
    asked = "policies: [{match: {service: db}, flatline: 1h}]"
    excused = "flatline: 1h, policies: [{match: {service: db}, flatline: 0s}]"

    assert play(stage("memory: 0s"), values) == []
    assert [e.state for e in play(stage(asked), values)] == ["firing"]
    assert play(stage(excused), values) == []


def test_what_was_learned_of_standing_still_survives_a_restart() -> None:
    """The stage goes on where its snapshot was taken, event and all."""
    values = 100 + noise(200)
    values[120:190] = values[120]
    whole = play(stage(), values)
    first = stage()
    before = play(first, values[:140])
    again = build(load("detect: {flatline: 1h}"), "m", 0, first.snapshot())
    other = noise(200, 9).tolist()
    after: list[Anomaly] = []
    for k in range(140, 200):
        after += flat(again.step([record(k, service={"m": "db", "n": "web"}, m=float(values[k]), n=other[k])]))

    assert [(e.id, e.state, e.onset) for e in before + after] == [(e.id, e.state, e.onset) for e in whole]
