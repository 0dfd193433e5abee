"""Routes that are muted or active at times: nothing is told meanwhile, and what still fires is told afterwards."""

import pytest

from aiopsd.model import Action, NotifyReason
from aiopsd.testing.dispatch import Play, Told

# The plays begin at noon of 1970-01-02, a Friday: DAY + 12 h.
NOON = 86400 + 12 * 3600
CONFIG = """
time_intervals:
  - {name: noon, time_intervals: [{times: [{start_time: 12:00, end_time: 13:00}]}]}
  - {name: morning, time_intervals: [{times: [{start_time: 00:00, end_time: 12:00}]}]}
receivers:
  - {name: oncall, pagerduty_configs: [{routing_key: k}]}
  - {name: db, webhook_configs: [{url: "http://x"}]}
route:
  receiver: oncall
  group_wait: 30s
  group_interval: 5m
  routes: [{receiver: db, matchers: ['team="db"'], %s}]
"""
MUTED, INACTIVE = "mute_time_intervals: [noon]", "active_time_intervals: [morning]"
DB = "db/webhook[0]"
FIRST, ALL = NotifyReason.FIRST, NotifyReason.ALL_RESOLVED


@pytest.fixture(params=[False, True], ids=["straight", "restarted"])
def crash(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("incident", ["", "i"])
def test_a_muted_route_tells_when_its_time_is_over(crash: bool, incident: str) -> None:
    """Nothing is told within the interval, one audit line says so; what still fires is told at the tick after."""
    group_by = "" if incident else ", group_by: [team]"
    play = Play(CONFIG % (MUTED + group_by), crash=crash)
    play.fire("A", at=NOON, incident=incident, team="db").until(NOON + 3599)

    assert [] == play.told()
    assert [(NOON + 30, "muted")] == play.held()
    assert [Told(NOON + 30 + 3600, DB, "trigger", FIRST)] == play.until(NOON + 4000).told()


def test_a_route_is_quiet_while_it_is_not_active() -> None:
    """`active_time_intervals`: it tells while one of them holds, and only then."""
    play = Play(CONFIG % INACTIVE)
    play.fire("A", at=NOON - 3600, incident="i", team="db").until(NOON - 3000)
    play.fire("B", at=NOON + 60, incident="j", team="db").until(NOON + 3600)

    assert [Told(NOON - 3570, DB, "trigger", FIRST)] == play.told()
    assert [(NOON + 90, "muted")] == play.held()


def test_only_the_muted_route_is_quiet() -> None:
    """Another receiver, reached by `continue`, is told all the same."""
    play = Play(CONFIG % f"{MUTED}, continue: true}}, {{receiver: oncall")
    play.fire("A", at=NOON, incident="i", team="db").until(NOON + 60)

    assert ["oncall/pagerduty[0]"] == [t.to for t in play.told()]


def test_an_alert_by_another_route_is_told_alone() -> None:
    """Of an incident's alerts at a receiver, those by a muted route are left out, and the others make the page."""
    play = Play(CONFIG % f"{MUTED}}}, {{receiver: db, matchers: ['team=\"web\"']")
    play.fire("A", at=NOON, incident="i", team="db").fire("B", at=NOON, incident="i", team="web").until(NOON + 60)

    [note] = play.notes()
    assert ["B"] == [a.labels["alertname"] for a in note.alerts]


def test_what_was_opened_is_closed_and_nothing_else_is_told() -> None:
    """In a muted hour an open incident has no updates and no corrections; its end closes the item at once."""
    play = Play(CONFIG % MUTED)
    play.fire("A", at=NOON - 600, incident="i", team="db").until(NOON - 1)
    assert [Told(NOON - 570, DB, "trigger", FIRST)] == play.told()
    play.fire("B", at=NOON, incident="i", team="db").root("i", ("cart", 0.9), at=NOON + 300).until(NOON + 1800)
    assert [] == play.told()

    play.resolve("A", at=NOON + 1900).resolve("B", at=NOON + 1900).close("i", at=NOON + 2000)
    assert [(NOON + 2000, Action.RESOLVE, ALL)] == [(n.stamp, n.action, n.reason) for n in play.notes()]


def test_a_correction_waits_for_the_end_of_the_interval() -> None:
    """The cause that was found within the muted hour is told at the first tick after it."""
    play = Play(CONFIG % MUTED)
    play.fire("A", at=NOON - 600, incident="i", team="db").until(NOON - 1)
    assert [Told(NOON - 570, DB, "trigger", FIRST)] == play.told()
    play.root("i", ("cart", 0.9), at=NOON + 300).until(NOON + 3599)
    assert [] == play.told()

    assert [NotifyReason.ROOT_CHANGED] == [t.reason for t in play.until(NOON + 4000).told()]
