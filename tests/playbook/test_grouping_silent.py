"""Callers of something that says nothing: one outage is one incident that names it."""

import pytest

from aiopsd.testing.grouping import Desk

SHOP = "cart>db checkout>db stock>db price>db search>db web>cart web>search cart>cache price>mail stock>bus"
CALLERS = ("cart", "checkout", "stock", "price", "search")


def test_callers_of_a_silent_database_are_one_incident() -> None:
    """Five callers of a database without alerts fall within one minute: one incident, and the reason names it."""
    desk = Desk(SHOP)
    fell = [desk.fire(12.0 * k, caller, f"Slow{k}") for k, caller in enumerate(CALLERS)]
    desk.until(60.0)

    assert desk.together(*fell)
    assert any("on db" in desk.reasons[fp] for fp in fell)


def test_a_later_caller_joins_at_once() -> None:
    """Once the database is known to be in trouble, one more caller is placed there, by an edge it did not share."""
    desk = Desk(SHOP + " report>db report>files")
    fell = [desk.fire(8.0 * k, caller) for k, caller in enumerate(CALLERS)]
    late = desk.fire(70.0, "report")

    assert desk.together(*fell, late)
    assert "report depends on db" in desk.reasons[late]


@pytest.mark.parametrize("late", [60.0, 240.0])
def test_a_cause_that_speaks_after_its_callers_takes_over(late: float) -> None:
    """The database's own alert comes minutes after those of its callers: a further symptom of what they hang on."""
    desk = Desk(SHOP)
    fell = [desk.fire(8.0 * k, caller) for k, caller in enumerate(CALLERS)]
    cause = desk.fire(late, "db", "Down")

    assert desk.together(*fell, cause)


def test_another_cause_that_speaks_later_takes_over() -> None:
    """Callers of two things that say nothing fall; then one of the two speaks, and it is no longer a guess."""
    both = " ".join(f"{caller}>{callee}" for caller in CALLERS for callee in ("auth", "db"))
    desk = Desk(both)
    fell = [desk.fire(8.0 * k, caller) for k, caller in enumerate(CALLERS)]
    cause = desk.fire(90.0, "db", "Down")
    desk.until(400.0)

    assert desk.together(*fell, cause)


def test_two_silent_providers_at_once_are_two_incidents() -> None:
    """Each has callers of its own that fall in the same minute: two incidents."""
    desk = Desk(" ".join(f"{side}{k}>{side}" for side in ("mail", "bank") for k in range(6)))
    mail = [desk.fire(7.0 * k, f"mail{k}") for k in range(6)]
    bank = [desk.fire(60.0 + 7.0 * k, f"bank{k}") for k in range(6)]
    desk.until(400.0)

    assert desk.together(*mail)
    assert desk.together(*bank)
    assert desk.of(mail[0]) != desk.of(bank[0])


def test_a_few_of_many_callers_are_no_outage() -> None:
    """Two of fifty callers fall a minute apart, each with an alert of its own kind: two incidents."""
    desk = Desk(" ".join(f"s{k}>db s{k}>own{k}" for k in range(50)))
    one, two = desk.fire(0.0, "s1", "DiskFull"), desk.fire(60.0, "s2", "CertExpires")
    desk.until(400.0)

    assert desk.of(one) != desk.of(two)


def test_callers_that_something_else_explains_are_no_witnesses() -> None:
    """All that fell depends on a service that says so, and all but one on a cache, too: the cache is not accused."""
    desk = Desk(" ".join(f"{caller}>core {caller}>cache" for caller in CALLERS) + " batch>cache")
    core = desk.fire(0.0, "core", "Down")
    fell = [desk.fire(10.0 + 5.0 * k, caller) for k, caller in enumerate(CALLERS)]
    desk.until(400.0)

    assert desk.together(core, *fell)
    assert not any("cache" in desk.reasons[fp] for fp in fell)


@pytest.mark.parametrize("order", [1, -1])
def test_callers_of_one_second_in_any_order(order: int) -> None:
    """The same partition, one incident, whatever the order in which the alerts of a second arrive."""
    desk = Desk(SHOP)
    fell = [desk.fire(10.0, caller, starts=10.0 + 0.1 * k) for k, caller in list(enumerate(CALLERS))[::order]]
    desk.until(60.0)

    assert desk.together(*fell)


@pytest.mark.parametrize(("followers", "incidents"), [(0, 1), (3, 4)])
def test_a_guess_must_be_the_likelier_the_more_it_would_hide(followers: int, incidents: int) -> None:
    """Four of 16 callers of what says nothing are its victims; if each took three others down, they stay apart."""
    desk = Desk(" ".join(f"c{k}>db " + " ".join(f"c{k}u{j}>c{k}" for j in range(3)) for k in range(16)))
    fell = []
    for k in range(4):
        fell.append(desk.fire(25.0 * k, f"c{k}"))
        for j in range(followers):
            desk.fire(25.0 * k + 3.0 + j, f"c{k}u{j}")
    desk.until(130.0)

    assert len({desk.of(fp) for fp in fell}) == incidents
