"""What operators say changes the next decision: causes, merges, splits, noise."""

import json
from typing import Any

import pytest

from aiopsd.config import Config
from aiopsd.correlate.verdicts import HALF_LIFE, MOST, Verdicts
from aiopsd.model import (
    AlertBatch,
    AlertIn,
    Candidate,
    ChangeEvent,
    Edge,
    JournalRecord,
    Tick,
    TopologyUpdate,
    Verdict,
    fingerprint,
)
from aiopsd.pipeline import correlate
from aiopsd.topology import OPERATOR
from simulations import feedback

ROOTS = tuple(Candidate(service=s, confidence=c, score=10 * c) for s, c in (("db", 0.8), ("batch", 0.1), ("web", 0.05)))
SHOWN = {"db": {"Slow"}, "batch": {"JobRunning"}, "web": {"Slow"}}


def first(verdicts: Verdicts, now: float = 0.0, shown: dict[str, set[str]] = SHOWN) -> str:
    return verdicts.corrected(ROOTS, shown, now)[0].service


def test_who_was_named_instead_stands_first_the_next_time() -> None:
    """One word is enough to change the order; confidence moves with the number of words, and its sum stays."""
    verdicts = Verdicts()
    before = first(verdicts)
    verdicts.cause("db", "batch", {"JobRunning"}, 0.0)
    once = verdicts.corrected(ROOTS, SHOWN, 0.0)
    verdicts.cause("db", "batch", {"JobRunning"}, 0.0)
    twice = verdicts.corrected(ROOTS, SHOWN, 0.0)

    assert before == "db"
    assert [c.service for c in once] == ["batch", "db", "web"]
    assert once[0].confidence == pytest.approx(0.6)
    assert twice[0].confidence == pytest.approx(0.72)
    assert sum(c.confidence for c in twice) == pytest.approx(0.95)
    assert "operators named it 2 times where db stood first" in twice[0].reason


def test_a_correction_holds_where_its_situation_comes_again() -> None:
    """Not when the true cause is no suspect, nor when it shows other alerts than it did."""
    verdicts = Verdicts()
    verdicts.cause("db", "batch", {"JobRunning"}, 0.0)

    assert first(verdicts) == "batch"
    assert first(verdicts, shown=SHOWN | {"batch": {"ErrorRateHigh"}}) == "db"
    assert first(verdicts, shown={"db": {"Slow"}}) == "db"
    assert verdicts.corrected(ROOTS[:1], SHOWN, 0.0) == ROOTS[:1]


def test_a_silent_cause_can_be_named() -> None:
    """One that showed nothing then is named when it shows nothing again, and is a candidate by the graph."""
    verdicts = Verdicts()
    verdicts.cause("db", "batch", (), 0.0)

    assert first(verdicts, shown={"db": {"Slow"}}) == "batch"


def test_words_fade_and_are_taken_back() -> None:
    """Half is left after HALF_LIFE; to confirm the first name halves what was said against it; the opposite ends it."""
    verdicts = Verdicts()
    verdicts.cause("db", "batch", {"JobRunning"}, 0.0)
    faded = first(verdicts, 3 * HALF_LIFE)
    for _ in range(3):
        verdicts.cause("db", "db", (), 0.0)
    confirmed = first(verdicts)
    verdicts.cause("db", "batch", {"JobRunning"}, 0.0)
    verdicts.cause("batch", "db", {"Slow"}, 0.0)

    assert (faded, confirmed, first(verdicts)) == ("db", "db", "db")


def test_memory_is_bounded_and_survives_a_snapshot() -> None:
    """The weakest words go first; through JSON and back the rest says the same."""
    verdicts = Verdicts()
    verdicts.cause("db", "batch", {"JobRunning"}, 0.0)
    verdicts.cause("db", "batch", {"JobRunning"}, 0.0)
    for i in range(MOST + 50):
        verdicts.cause(f"s{i}", "x", (), 0.0)
    data = json.loads(json.dumps(verdicts.snapshot()))

    assert len(data["instead"]) == MOST
    assert Verdicts(data).corrected(ROOTS, SHOWN, 9.0) == verdicts.corrected(ROOTS, SHOWN, 9.0)
    assert first(Verdicts(data)) == "batch"


class Desk:
    """A stage, its journal and an operator."""

    def __init__(self) -> None:
        self.stage = correlate.build(Config())
        self.offset = 0
        edges = (Edge(caller="shipping", callee="carrier"), Edge(caller="ledger", callee="books"))
        self.step(TopologyUpdate(source="file:t", edges=edges), 1e9)

    def step(self, body: Any, at: float) -> None:
        while (due := self.stage.wake_at()) is not None and due < at:
            self._one(Tick(), due)
        self._one(body, at)

    def _one(self, body: Any, at: float) -> None:
        self.stage.step([JournalRecord(offset=self.offset, stamp=at, body=body)])
        self.offset += 1

    def fire(self, at: float, *services: str) -> list[str]:
        """One alert of each, ten seconds apart; the incidents they are in two minutes later."""
        labels = [{"alertname": "Fails", "service": s} for s in services]
        for k, one in enumerate(labels):
            given = AlertIn(labels=one, starts_at=at + 10 * k, ends_at=at + 600)
            self.step(AlertBatch(alerts=(given,), sender="prometheus"), at + 10 * k)
        self.step(Tick(), at + 120)
        return [self.stage.alerts[fingerprint(one)].incident for one in labels]

    def say(self, at: float, kind: str, incident: str, **more: Any) -> None:
        self.step(Verdict(request_id=str(at), kind=kind, incident=incident, actor="ann", **more), at)


def test_the_cause_that_an_operator_named_stands_first() -> None:
    """For that incident, suspect or not, with the person's name; through later rankings, a merge and a restart."""
    desk = Desk()
    one, *_ = desk.fire(1e9 + 100, "carrier", "shipping")
    (other,) = desk.fire(1e9 + 250, "ledger")
    desk.say(1e9 + 380, "cause", other, service="depot")
    named = desk.stage.incidents[other].roots
    desk.say(1e9 + 400, "merge", one, other=other)
    desk.stage = correlate.build(Config(), desk.stage.snapshot())
    desk.step(ChangeEvent(id="c", ts=1e9 + 90, service="carrier", kind="deploy"), 1e9 + 410)
    desk.step(Tick(), 1e9 + 420)
    (last,) = [i for i in desk.stage.incidents.values() if i.state == "open"]

    assert (named[0].service, named[0].reason) == ("depot", "ann named it")
    assert named[0].confidence == 0.95
    assert 0.0 < sum(c.confidence for c in named[1:]) <= 0.05 + 1e-9
    assert last.root is not None
    assert (last.root.service, last.root.reason) == ("depot", "ann named it")
    assert last.roots[1].changes  # it was ranked since

    desk.say(1e9 + 450, "cause", last.id, service="carrier")
    changed = desk.stage.incidents[last.id].root
    assert changed is not None
    assert changed.service == "carrier"
    assert changed.reason.startswith("ann named it; ")


def test_a_merge_draws_an_edge_and_a_split_takes_it_back() -> None:
    """What an operator calls one is near from then on, for all to see in the graph; until one says that it is two."""
    desk = Desk()
    one, two = desk.fire(1e9 + 100, "shipping", "ledger")
    desk.say(1e9 + 300, "merge", one, other=two)
    drawn = desk.stage.topology.edge("ledger", "shipping")
    later = 1e9 + 10 * 86400
    desk.step(Tick(), later)
    again = desk.fire(later + 100, "shipping", "ledger")
    aged = desk.stage.topology.edge("ledger", "shipping")
    desk.say(later + 300, "split", again[0], fingerprints=(fingerprint({"alertname": "Fails", "service": "ledger"}),))

    assert one != two
    assert drawn is not None
    assert (drawn.sources, drawn.kind) == ((OPERATOR,), "related")
    assert aged is not None  # a person's word does not grow stale
    assert again[0] == again[1] != ""
    assert desk.stage.topology.edge("ledger", "shipping") is None


def test_a_merge_of_neighbours_draws_nothing() -> None:
    """Where the graph has a way already, it lacks no edge."""
    desk = Desk()
    (one,) = desk.fire(1e9 + 100, "shipping")
    (two,) = desk.fire(1e9 + 5000, "carrier")
    desk.say(1e9 + 5200, "merge", one, other=two)

    assert desk.stage.topology.edge("carrier", "shipping") is None


def test_what_was_learned_survives_a_restart() -> None:
    """Corrections are part of the stage's snapshot."""
    desk = Desk()
    desk.stage.parts.verdicts.cause("a", "b", {"X"}, 5.0)
    again = correlate.build(Config(), desk.stage.snapshot())

    assert again.parts.verdicts.snapshot() == {"instead": [["a", "b", "X", 1.0, 5.0]]}


def test_the_scorecard_shows_that_feedback_helps() -> None:
    """Recurring trouble that is told wrong without an operator is told right after one word of each kind."""
    without = feedback.run(11, 20.0, 6, operator=False)
    helped = feedback.run(11, 20.0, 6, operator=True)
    table = dict(feedback.figures(without, helped))

    for kind in feedback.KINDS:
        assert table[kind]["without"] <= 0.2, kind
        assert table[kind]["after 1"] >= 0.8, kind
    assert table["ordinary"]["without"] >= 0.9
    assert table["ordinary"]["after 0"] >= 0.9  # and what was right stays right
