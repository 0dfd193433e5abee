"""Load that runs down from one sender: what it breaks is one incident with who sent it."""

import pytest

from aiopsd.testing.grouping import Desk

BELOW = ("ads", "cart", "media", "pay", "search")
OTHERS = "".join(f" other{k}>other{k}-db" for k in range(100))
SHOP = " ".join(f"web>{name} {name}>{name}-db" for name in BELOW) + OTHERS


def test_what_a_surge_breaks_is_one_incident() -> None:
    """Five that one entry calls get into trouble within a minute, and nothing below any of them: one incident."""
    desk = Desk(SHOP)
    fell = [desk.fire(12.0 * k, name, "Slow") for k, name in enumerate(BELOW)]
    desk.until(400.0)

    assert desk.together(*fell)
    assert any("get their load from web" in desk.reasons[fp] for fp in fell)


@pytest.mark.parametrize("late", [0.0, 30.0, 100.0])
def test_who_sends_the_load_is_in_it(late: float) -> None:
    """The entry's own alert comes before, among or after those of what its load breaks."""
    desk = Desk(SHOP)
    fired = sorted([(5.0 + 12.0 * k, name) for k, name in enumerate(BELOW)] + [(late, "web")])
    fell = [desk.fire(at, name) for at, name in fired]
    desk.until(400.0)

    assert desk.together(*fell)


def test_what_breaks_later_joins_at_once() -> None:
    """Once it is known that load runs down, a store two steps below that its caller alone loads is placed there."""
    desk = Desk(SHOP)
    fell = [desk.fire(8.0 * k, name) for k, name in enumerate(BELOW[:4])]
    late = desk.fire(70.0, "search-db", "Full")

    assert desk.together(*fell, late)
    assert "gets most of its load from web" in desk.reasons[late]


def test_what_others_call_as_much_is_not_broken_by_one() -> None:
    """The same five, called by three entries alike: the load of one of these is a third, and they stay apart."""
    desk = Desk(" ".join(f"{entry}>{name}" for name in BELOW for entry in ("web", "app", "api")))
    fell = [desk.fire(12.0 * k, name, "Slow") for k, name in enumerate(BELOW)]
    desk.until(400.0)

    assert not any("load from" in reason for reason in desk.reasons.values())
    assert len({desk.of(fp) for fp in fell}) > 1


def test_a_few_of_many_callees_are_no_surge() -> None:
    """Three of forty that an entry calls fall within two minutes, each with an alert of its own kind: three faults."""
    desk = Desk(" ".join(f"web>s{k}" for k in range(40)))
    fell = [desk.fire(50.0 * k, f"s{k}", name) for k, name in enumerate(("DiskFull", "CertExpires", "ClockSkew"))]
    desk.until(600.0)

    assert len({desk.of(fp) for fp in fell}) == 3


def test_what_is_below_explains_before_load_does() -> None:
    """All that an entry calls depends on a database that says so: nobody needs to be accused of load."""
    desk = Desk(" ".join(f"web>{name} {name}>db" for name in BELOW))
    cause = desk.fire(0.0, "db", "Down")
    fell = [desk.fire(10.0 + 5.0 * k, name) for k, name in enumerate(BELOW)]
    desk.until(400.0)

    assert desk.together(cause, *fell)
    assert not any("load from" in reason for reason in desk.reasons.values())


@pytest.mark.parametrize("order", [1, -1])
def test_a_surge_of_one_second_in_any_order(order: int) -> None:
    """The same partition, one incident, whatever the order in which the alerts of a second arrive."""
    desk = Desk(SHOP)
    fell = [desk.fire(10.0, name, starts=10.0 + 0.1 * k) for k, name in list(enumerate(BELOW))[::order]]
    desk.until(60.0)

    assert desk.together(*fell)


def test_a_restart_remembers_the_load() -> None:
    """A snapshot between what fell first and what fell later: the later one joins all the same."""
    desk = Desk(SHOP)
    fell = [desk.fire(8.0 * k, name) for k, name in enumerate(BELOW[:4])]
    desk.restart()
    late = desk.fire(70.0, "search-db", "Full")

    assert desk.together(*fell, late)
