"""Troubles between which the graph knows no path: what is one incident all the same, and what is not."""

import pytest

from aiopsd.correlate.grouping.company import PARTNERS, ROWS, Company
from aiopsd.correlate.grouping.state import State, Trouble
from aiopsd.testing.grouping import Desk

FULL = "disk {} of {} is {} % full"


def test_the_same_text_within_a_minute_is_one_problem() -> None:
    """No topology: what several instances say in the same words at the same time is one incident, with the reason."""
    desk = Desk()
    fps = [
        desk.fire(20 * k, f"vm{k}", "Volume", says=FULL.format(f"/dev/sd{k}", f"vm{k}", 90 + k), instance=f"vm{k}:9100")
        for k in range(4)
    ]

    assert desk.last is not None
    assert "say the same" in desk.last.reason
    desk.until(300)
    assert desk.together(*fps)
    assert len(desk.opened) == 1


def test_other_words_are_other_problems() -> None:
    """No topology: alerts of two services that say different things at the same time are two incidents."""
    desk = Desk()
    one = desk.fire(0, "mail", "Alert", says="outgoing queue is growing")
    other = desk.fire(10, "ledger", "Alert", says="certificate expires in 3 days")
    desk.until(300)

    assert desk.of(one) != desk.of(other)


def test_the_same_text_hours_apart_is_two_problems() -> None:
    """No topology: likeness without nearness is nothing."""
    desk = Desk()
    one = desk.fire(0, "vm1", "Volume", says=FULL.format("sda", "vm1", 91))
    other = desk.fire(7200, "vm2", "Volume", says=FULL.format("sda", "vm2", 92))
    desk.until(7500)

    assert desk.of(one) != desk.of(other)


def test_what_everybody_says_all_the_time_is_no_likeness() -> None:
    """A rare text in two places at once joins them where a text that is heard everywhere all day does not."""
    desk = Desk()
    for k in range(400):
        fp = desk.fire(300 * k, f"vm{k % 37}", "Busy", says="CPU is busy")
        desk.end(300 * k + 200, fp)
    at = 300 * 400
    one = desk.fire(at, "vm38", "Busy", says="CPU is busy")
    other = desk.fire(at + 60, "vm39", "Busy", says="CPU is busy")
    this = desk.fire(at + 20000, "vm8", "Rot", says="a checksum is wrong")
    that = desk.fire(at + 20060, "vm9", "Rot", says="a checksum is wrong")
    desk.until(at + 21000)

    assert desk.together(this, that)
    assert not desk.together(one, other)


def test_a_graph_that_knows_both_is_believed() -> None:
    """Two services without a path say the same in the same minute: the graph knows better than their texts."""
    desk = Desk("web>cart cart>db billing>ledger")
    one = desk.fire(0, "db", "Volume", says="disk is full")
    other = desk.fire(20, "ledger", "Volume", says="disk is full")
    desk.until(300)

    assert desk.of(one) != desk.of(other)


def test_an_alert_of_nobody_joins_those_that_say_the_same() -> None:
    """An alert whose labels name nothing that the graph knows is at home with what says the same."""
    desk = Desk("web>cart cart>db")
    one = desk.fire(0, "db", "Volume", says="disk is full")
    other = desk.fire(20, "", "Volume", says="disk is full", rack="r7")
    desk.until(300)

    assert desk.together(one, other)


@pytest.mark.parametrize("width", [400, 2000])
def test_a_storm_of_strangers_compares_a_bounded_number(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many alert within a second, each is compared with a bounded number of others."""
    from aiopsd.correlate.grouping import strangers
    from aiopsd.correlate.grouping.state import LATEST

    compared = 0
    alike = strangers.alike

    def counted(one: str, other: str) -> float:
        nonlocal compared
        compared += 1
        return alike(one, other)

    monkeypatch.setattr(strangers, "alike", counted)
    desk = Desk()
    for k in range(width):
        desk.fire(0, f"vm{k}", f"A{k % 10}", says=f"it is {k} o'clock")
    desk.until(2)

    assert 0 < compared <= 2 * width * LATEST


def came_together(desk: Desk, times: int) -> None:
    """Once a day two services without a path are in trouble at once, and an operator merges what was two incidents."""
    for k in range(times):
        at = k * 86400.0
        one, other = desk.fire(at, "db", "Down"), desk.fire(at + 20, "ledger", "Late")
        desk.until(at + 60)
        if desk.of(one) != desk.of(other):
            desk.say(at + 100, "merge", desk.of(one), other=desk.of(other))
        desk.end(at + 1500, one, other)
    desk.until(times * 86400.0 - 1)


def test_who_came_together_before_comes_together_again() -> None:
    """The graph lacks an edge: after a few incidents that both were in, the second one joins at once, and says why."""
    desk = Desk("web>cart cart>db billing>ledger")
    came_together(desk, 4)
    at = 4 * 86400.0
    one, other = desk.fire(at, "db", "Down"), desk.fire(at + 20, "ledger", "Late")

    assert desk.together(one, other)
    assert desk.last is not None
    assert "before" in desk.last.reason


def test_history_is_of_alertnames_not_only_of_services() -> None:
    """The same two services with another alert have no history together."""
    desk = Desk("web>cart cart>db billing>ledger")
    came_together(desk, 4)
    at = 4 * 86400.0
    one, other = desk.fire(at, "db", "Down"), desk.fire(at + 20, "ledger", "CertExpires")

    assert desk.of(one) != desk.of(other)


def test_company_fades() -> None:
    """Four times together is a chance of a half; half a year later it is none."""
    s = State()
    company = Company(s)
    one = Trouble(id=1, vertex="db", onset=0.0, group="", names={"Down": 0.0})
    other = Trouble(id=2, vertex="ledger", onset=0.0, group="", names={"Late": 0.0})
    for _ in range(4):
        company.learn(one, [other])

    assert company.chance("ledger", ["Late"], one) == pytest.approx(0.5)
    assert company.chance("ledger", ["CertExpires"], one) == 0.0
    s.now = 180 * 86400.0
    assert company.chance("ledger", ["Late"], one) < 1e-6


def test_company_that_seldom_comes_is_seldom_expected() -> None:
    """Who was in one incident of ten is expected less than who was in all of them: popular is not related."""
    company = Company(State())
    hub = Trouble(id=1, vertex="hub", onset=0.0, group="", names={"Down": 0.0})
    true, chance = (Trouble(id=2, vertex=v, onset=0.0, group="", names={"Slow": 0.0}) for v in ("true", "chance"))
    for k in range(10):
        company.learn(hub, [true, chance] if k == 5 else [true])

    assert company.chance("true", ["Slow"], hub) > 5 * company.chance("chance", ["Slow"], hub)


def test_company_is_bounded() -> None:
    """Ever new pairs in ever new incidents: rows and partners stay within their bounds, the often seen stay."""
    s = State()
    company = Company(s)
    often = Trouble(id=1, vertex="often", onset=0.0, group="", names={"A": 0.0})
    for k in range(2 * ROWS):
        one = Trouble(id=2, vertex=f"v{k}", onset=0.0, group="", names={"A": 0.0})
        company.learn(one, [often])
        company.learn(often, [one])

    assert len(s.met) <= ROWS
    assert all(len(row) <= PARTNERS + 1 for row in s.met.values())
    assert "often|A" in s.met
