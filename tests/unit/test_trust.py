"""How sure first causes are at one place: what operators said of the last ones moves what is given of the next."""

import math
import random

import pytest

from aiopsd.config import Config
from aiopsd.correlate.trust import Trust
from aiopsd.model import AlertBatch, AlertIn, JournalRecord, Tick, Verdict
from aiopsd.pipeline import correlate
from aiopsd.pipeline.correlate import CorrelateStage


def moved(given: float, shift: float) -> float:
    return 1.0 / (1.0 + math.exp(-math.log(given / (1.0 - given)) - shift))


@pytest.mark.parametrize("right", [0.4, 0.6, 0.95])
def test_what_is_given_comes_to_what_is_right(right: float) -> None:
    """Where .8 is given and another share is right, the hundredth verdict has brought the two within .1."""
    trust, rng = Trust(), random.Random(1)
    given = []
    for _ in range(300):
        given.append(moved(0.8, trust.shift))
        trust.learn(given[-1], rng.random() < right)

    assert sum(given[100:]) / 200 == pytest.approx(right, abs=0.1)


def test_one_verdict_says_little_and_an_expected_one_less() -> None:
    """A wrong first cause of which .9 was said makes the next one a .66; a right one hardly adds anything."""
    wrong, right = Trust(), Trust()
    wrong.learn(0.9, False)
    right.learn(0.9, True)

    assert 0.6 < moved(0.9, wrong.shift) < 0.7
    assert 0.9 < moved(0.9, right.shift) < 0.92


def test_what_was_learned_survives() -> None:
    """A memory from plain data goes on as if it had never stopped."""
    trust = Trust()
    trust.learn(0.7, False)
    again = Trust(trust.snapshot())
    for each in (trust, again):
        each.learn(0.6, True)

    assert trust.snapshot() == again.snapshot()


def played(stage: CorrelateStage, offset: int, service: str, verdict: str = "") -> float:
    """Confidence of an incident of one alert, its cause judged when `verdict` names one."""
    at = 1_700_000_000.0 + 10_000.0 * offset
    labels = {"alertname": "Down", "service": service, "severity": "critical"}
    batch = AlertBatch(alerts=(AlertIn(labels=labels, starts_at=at, ends_at=at + 600.0),))
    list(stage.step([JournalRecord(offset=10 * offset, stamp=at, body=batch)]))
    list(stage.step([JournalRecord(offset=10 * offset + 1, stamp=at + 60.0, body=Tick())]))
    (incident,) = (i for i in stage.incidents.values() if service in i.services)
    assert incident.root is not None
    if verdict:
        body = Verdict(request_id=str(offset), incident=incident.id, kind="cause", actor="ann", service=verdict)
        list(stage.step([JournalRecord(offset=10 * offset + 2, stamp=at + 70.0, body=body)]))
    return incident.root.confidence


def test_verdicts_move_the_confidence_of_other_incidents() -> None:
    """Causes that were wrong here make the next one elsewhere less sure, after a restart too; confirmed ones surer."""
    doubted, trusted = correlate.build(Config()), correlate.build(Config())
    first = played(doubted, 0, "a", "z")
    assert played(trusted, 0, "a", "a") == first
    for k in range(1, 4):
        played(doubted, k, f"b{k}", "z")
        played(trusted, k, f"b{k}", f"b{k}")
    restarted = correlate.build(Config(), doubted.snapshot())

    assert played(doubted, 5, "c") == played(restarted, 5, "c") < first - 0.1
    assert played(trusted, 5, "c") > first
