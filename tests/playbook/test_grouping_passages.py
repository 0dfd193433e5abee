"""What incidents teach of edges: how often trouble crosses each of them, and after what time."""

import pytest

from aiopsd.correlate.grouping import passages
from aiopsd.correlate.grouping.passages import HOP_MEAN, Passages
from aiopsd.correlate.grouping.state import State
from aiopsd.testing.grouping import Desk

DAY = 86400.0
SHOP = "report>db cart>db pay>db cart>stock web>cart web>report search>index ads>index billing>ledger"


def slow(desk: Desk, at: float) -> None:
    """The database fails; the cart follows at once, the report that reads it in batches five minutes later."""
    fps = [desk.fire(at, "db", "Down"), desk.fire(at + 20, "cart"), desk.fire(at + 300, "report")]
    desk.end(at + 1200, *fps)


def quick(desk: Desk, at: float) -> None:
    """The database fails; all that use it follow at once but the report, which never does."""
    fps = [desk.fire(at, "db", "Down"), desk.fire(at + 20, "cart"), desk.fire(at + 25, "pay")]
    desk.end(at + 1200, *fps)


def bad_hour(desk: Desk, at: float, after: float) -> tuple[str, str]:
    """The database fails, then something else, then the report `after` seconds later: (of the database, of it)."""
    db = desk.fire(at, "db", "Down")
    desk.fire(at + 20, "cart")
    desk.fire(at + after - 70, "index", "Down")
    desk.fire(at + after - 50, "search")
    return db, desk.fire(at + after, "report")


def test_a_slow_edge_is_learned_and_groups_from_then_on() -> None:
    """Five minutes late in a bad hour is an incident of its own, until history knows that this edge takes so long."""
    fresh, taught = Desk(SHOP), Desk(SHOP)
    for day in range(5):
        slow(taught, day * DAY)
    taught.until(6 * DAY)
    taught.restart()

    db, report = bad_hour(fresh, 7 * DAY, 300)
    assert not fresh.together(db, report)
    db, report = bad_hour(taught, 7 * DAY, 300)
    assert taught.together(db, report)
    assert taught.reasons[report] == "report depends on db and started 300 s after it; " + (
        "usually 300 s after it, in 4 of 4 troubles"
    )


def test_an_edge_that_trouble_never_crosses_is_learned_to_separate() -> None:
    """What never followed its callee does not follow it today: what begins 45 s later in a bad hour is its own."""
    fresh, taught = Desk(SHOP), Desk(SHOP)
    for day in range(20):
        quick(taught, day * DAY)

    db, report = bad_hour(fresh, 21 * DAY, 45)
    assert fresh.together(db, report)
    db, report = bad_hour(taught, 21 * DAY, 45)
    assert not taught.together(db, report)


def test_what_was_learned_of_an_edge_fades() -> None:
    """A year later nobody knows any more that the edge was slow."""
    desk = Desk(SHOP)
    for day in range(5):
        slow(desk, day * DAY)
    desk.until(6 * DAY)
    assert desk.grouper.passages.of("db", "report", True).mean > 150.0

    db, report = bad_hour(desk, 370 * DAY, 300)
    assert not desk.together(db, report)
    assert desk.grouper.passages.of("db", "report", True).mean == pytest.approx(HOP_MEAN, abs=2.0)


def test_what_fires_alone_all_the_time_teaches_nothing_of_its_edges() -> None:
    """A database whose alert means nothing: that no caller follows it is no news of the edges."""
    desk = Desk(SHOP)
    for k in range(200):
        fp = desk.fire(3600.0 * k, "db", "Full")
        desk.end(3600.0 * k + 300, fp)

    assert "db" not in desk.grouper.s.up


def test_a_split_says_that_trouble_did_not_cross() -> None:
    """An operator takes the report out of the incident of the database: the edge is believed in less from then on."""
    desk = Desk(SHOP)
    db, report = desk.fire(0, "db", "Down"), desk.fire(20, "report")
    desk.end(900, db, report)
    desk.until(4000)
    assert desk.together(db, report)
    before = desk.grouper.passages.of("db", "report", True)

    desk.say(4000, "split", desk.of(db), fingerprints=[report])

    assert before.odds > 1.0 > desk.grouper.passages.of("db", "report", True).odds


def test_a_merge_says_that_trouble_crossed() -> None:
    """An operator makes one of two incidents: that counts for more than one that we took for one ourselves."""
    desk = Desk(SHOP)
    db, report = desk.fire(0, "db", "Down"), desk.fire(430, "report")
    desk.end(700, db)
    desk.end(1900, report)
    desk.until(4000)
    assert not desk.together(db, report)

    desk.say(4000, "merge", desk.of(report), other=desk.of(db))

    assert desk.together(db, report)
    assert desk.grouper.s.up["db"]["report"].crossed > 1.0
    assert desk.grouper.passages.of("db", "report", True).mean > 150.0


def test_lessons_of_one_second_have_no_order() -> None:
    """What several troubles teach of one edge in the same second gives the same sums in any order."""
    lessons = [(0.25, 17.125), (0.984375, 301.5), (1.0, -12.75)]
    told = []
    for order in (lessons, lessons[::-1]):
        passages_ = Passages(State(now=1e9))
        for likely, gap in order:
            passages_.crossed("db", "report", True, gap, likely)
        told.append(passages_.of("db", "report", True))

    assert told[0] == told[1]


def test_what_was_seen_least_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more edges than are kept those go of which least is known; what all of them show stays."""
    monkeypatch.setattr(passages, "MOST", 100)
    state = State(now=1e9)
    learned = Passages(state)
    for k in range(150):
        for _ in range(1 + (k % 10 == 0)):
            learned.stayed(f"s{k}", "web", True, 1.0)
    learned.bound()

    assert sum(map(len, state.up.values())) == 75
    assert {f"s{k}" for k in range(0, 150, 10)} < state.up.keys()
    assert passages.ALL in state.up
