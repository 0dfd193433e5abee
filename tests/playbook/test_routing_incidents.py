"""Groups by incident: one problem is one item at the receiver, from its first page to its end."""

import pytest

from aiopsd.model import Action, NotifyReason
from aiopsd.testing.dispatch import Play, Told

CONFIG = """
receivers:
  - {name: oncall, pagerduty_configs: [{routing_key: k}]}
  - {name: db, webhook_configs: [{url: "http://x"}]}
route: {receiver: oncall, group_wait: 30s, group_interval: 5m, repeat_interval: 1h%s}
"""
FIRST, NEW, SOME = NotifyReason.FIRST, NotifyReason.NEW_ALERTS, NotifyReason.SOME_RESOLVED
ALL, REPEAT, MERGED = NotifyReason.ALL_RESOLVED, NotifyReason.REPEAT, NotifyReason.MERGED
PD, DB = "oncall/pagerduty[0]", "db/webhook[0]"
DB_ROUTE = ", routes: [{matchers: ['team=\"db\"'], receiver: db%s}]"


@pytest.fixture(params=[False, True], ids=["straight", "restarted"])
def play(request: pytest.FixtureRequest) -> Play:
    return Play(CONFIG % "", crash=request.param)


def test_one_incident_is_one_item_from_page_to_end(play: Play) -> None:
    """Trigger, update and resolve carry the incident's dedup_key; the end of the incident is told at once."""
    play.fire("A", at=1000, incident="i").fire("B", at=1010, incident="i").until(1030)
    play.fire("C", at=1100, incident="i").until(1330).resolve("A", at=1400).until(1630)
    play.resolve("B", at=1700).resolve("C", at=1700).close("i", at=1800).until(9999)

    notes = play.notes()
    assert [
        (1030, "trigger", FIRST),
        (1330, "trigger", NEW),
        (1630, "trigger", SOME),
        (1800, "resolve", ALL),
    ] == [(n.stamp, n.action, n.reason) for n in notes]
    assert {("key-i", PD)} == {(n.dedup_key, n.destination) for n in notes}
    assert [2, 3, 3, 3] == [len(n.alerts) for n in notes]
    assert play.dispatcher.wake_at() is None


def test_an_incident_over_before_its_page_is_never_announced(play: Play) -> None:
    """It makes no notification and one audit line that says why."""
    play.fire("A", at=1000, incident="i").resolve("A", at=1005).close("i", at=1020).until(9999)

    assert [] == play.told()
    assert [(1020, "short-lived")] == play.held()


def test_a_backlog_is_recorded_and_what_still_fires_pages_once(play: Play) -> None:
    """A late incident that is over is audited as late; one that is open is told like any other."""
    play.fire("A", at=1000, incident="over", starts=10).fire("B", at=1000, incident="open", starts=10).until(1005)
    told = [(n.stamp, n.dedup_key) for n in play.notes()]
    assert [(1005, "key-over"), (1005, "key-open")] == told  # older than group_wait: they wait for a backlog alone

    play.fire("C", at=2000, incident="late").incident("late", at=2000, late=True)
    play.resolve("C", at=2001).close("late", at=2002)
    assert [(2002, "late")] == play.held()


def test_anomalies_alone_do_not_page(play: Play) -> None:
    """An incident of anomalies is held with a reason; the first real alert pages it after its own wait, with them."""
    play.fire("Odd", at=1000, incident="i", anomaly=True).fire("Odd2", at=1400, incident="i", anomaly=True).until(2000)

    assert [] == play.told()
    assert [(1030, "anomaly-only")] == play.held()
    play.fire("A", at=2000, incident="i").until(2100)
    [note] = play.notes()
    assert (2030, FIRST, 3) == (note.stamp, note.reason, len(note.alerts))


def test_anomalies_page_by_policy() -> None:
    """With page_anomalies an incident of anomalies is told like any other."""
    play = Play(CONFIG % ", page_anomalies: true")
    play.fire("Odd", at=1000, incident="i", anomaly=True).until(1100)

    assert [Told(1030, PD, "trigger", FIRST)] == play.told()


def test_an_anomaly_that_joins_is_shown_but_is_no_news(play: Play) -> None:
    """It makes no notification of its own and rides in the next one."""
    play.fire("A", at=1000, incident="i").until(1030)
    play.fire("Odd", at=1100, incident="i", anomaly=True).until(2000)
    assert [FIRST] == [t.reason for t in play.told()]

    play.fire("B", at=2000, incident="i").until(2500)

    [note] = play.notes()
    assert {"A", "Odd", "B"} == {a.labels["alertname"] for a in note.alerts}


def test_an_alert_without_incident_opens_nothing(play: Play) -> None:
    """What the grouping keeps quiet is not notified by incident routes."""
    play.fire("Noise", at=1000).until(9999)

    assert [] == play.told()
    assert play.dispatcher.wake_at() is None


# ------------------------------------------------------------------ acknowledgement


def test_an_acknowledgement_is_told_at_once_and_once(play: Play) -> None:
    """ACKNOWLEDGE goes out immediately, one time, and repeats stop while it holds."""
    play.fire("A", at=1000, incident="i").until(1030).ack("i", at=1100).incident("i", at=1150).until(99999)

    assert [Told(1030, PD, "trigger", FIRST), Told(1100, PD, "acknowledge", NotifyReason.ACKNOWLEDGED)] == play.told()


def test_news_is_told_while_acknowledged(play: Play) -> None:
    """A new alert of an acknowledged incident is an update; the acknowledgement did not swallow it."""
    play.fire("A", at=1000, incident="i").until(1030).fire("B", at=1050, incident="i").ack("i", at=1100).until(1400)

    assert [FIRST, NotifyReason.ACKNOWLEDGED, NEW] == [t.reason for t in play.told()]


def test_an_acknowledgement_that_ends_pages_again(play: Play) -> None:
    """When its time is over and it still fires, the receiver is told at once, then repeats go on."""
    play.fire("A", at=1000, incident="i").until(1030).ack("i", at=1100, until=2000).until(1999)
    play.told()

    play.incident("i", at=2000, state="open").until(2000 + 3900)

    assert [NotifyReason.ACK_ENDED, REPEAT] == [t.reason for t in play.told()]


def test_acknowledged_before_the_page_is_not_paged(play: Play) -> None:
    """Somebody who is already on it is not woken; the reason is audited; the end is not announced either."""
    play.fire("A", at=1000, incident="i").ack("i", at=1010).until(5000)

    assert [] == play.told()
    assert [(1030, "acknowledged")] == play.held()
    play.close("i", at=6000).until(9000)
    assert [] == play.told()


def test_an_early_acknowledgement_that_ends_pages(play: Play) -> None:
    """Not paged because acknowledged, it is paged when the acknowledgement runs out and it still fires."""
    play.fire("A", at=1000, incident="i").ack("i", at=1010, until=2000).until(1999)
    play.incident("i", at=2000, state="open").until(2400)

    assert [FIRST] == [t.reason for t in play.told()]


# ------------------------------------------------------------------ root cause


def test_the_first_correction_of_a_root_is_told_soon_and_the_next_at_the_tick(play: Play) -> None:
    """Another top cause, clearly ahead, is news group_wait after the page; further ones keep group_interval's pace."""
    play.fire("A", at=1000, incident="i").root("i", ("db", 0.6), at=1005).until(1030)
    play.root("i", ("cache", 0.8), ("db", 0.3), at=1040).until(1100)
    play.root("i", ("queue", 0.8), ("cache", 0.3), at=1101).until(2000)

    changed = NotifyReason.ROOT_CHANGED
    assert [(1030, FIRST), (1060, changed), (1330, changed)] == [(t.at, t.reason) for t in play.told()]


def test_a_near_tie_is_no_news(play: Play) -> None:
    """Two candidates that swap within the margin, or a confidence that moves, notify nobody."""
    play.fire("A", at=1000, incident="i").root("i", ("db", 0.6), ("cache", 0.55), at=1005).until(1030)
    play.root("i", ("cache", 0.61), ("db", 0.58), at=1100).until(1500)
    play.root("i", ("db", 0.9), at=1600).until(2000)

    assert [FIRST] == [t.reason for t in play.told()]


def test_a_root_found_after_the_page_is_told(play: Play) -> None:
    """A page without a cause is followed by one with it."""
    play.fire("A", at=1000, incident="i").until(1030)
    play.incident("i", at=1031)
    play.root("i", ("db", 0.6), at=1100).until(2000)

    assert [FIRST, NotifyReason.ROOT_CHANGED] == [t.reason for t in play.told()]


def test_a_root_that_changes_back_before_it_is_told_is_no_news(play: Play) -> None:
    """What the receiver would be told is what it knows already."""
    play.fire("A", at=1000, incident="i").root("i", ("db", 0.6), at=1005).until(1030)
    play.root("i", ("cache", 0.8), at=1040).root("i", ("db", 0.8), at=1050).until(2000)

    assert [FIRST] == [t.reason for t in play.told()]


def test_a_cause_is_not_corrected_while_nothing_fires(play: Play) -> None:
    """What is over is not paged about again: the end names the newest cause, or the page does when it fires again."""
    play.fire("A", at=1000, incident="i").root("i", ("db", 0.6), at=1005).until(1030)
    play.resolve("A", at=1100).root("i", ("cache", 0.8), at=1110).until(2000)
    assert [FIRST] == [t.reason for t in play.told()]

    play.fire("A", at=2001, incident="i").until(2400)
    assert [NotifyReason.ROOT_CHANGED] == [t.reason for t in play.told()]

    play.resolve("A", at=2500).root("i", ("queue", 0.8), at=2510).close("i", at=2800)
    [end] = play.notes()
    assert end.incident is not None
    assert end.incident.root is not None
    assert (2800, ALL, "queue") == (end.stamp, end.reason, end.incident.root.service)


def test_a_cause_is_corrected_while_an_anomaly_fires(play: Play) -> None:
    """Anomalies alone page nobody, but trouble that goes on is worth the right cause."""
    play.fire("A", at=1000, incident="i").fire("Odd", at=1001, incident="i", anomaly=True).until(1030)
    play.resolve("A", at=1100).root("i", ("cache", 0.8), at=1110).until(2000)

    assert [FIRST, NotifyReason.ROOT_CHANGED] == [t.reason for t in play.told()]


# ------------------------------------------------------------------ life


def test_a_reopened_incident_opens_its_item_again(play: Play) -> None:
    """After the resolve, the same trouble is a trigger of the same dedup_key, after group_wait."""
    play.fire("A", at=1000, incident="i").until(1030).resolve("A", at=1100).close("i", at=1400)
    play.fire("A", at=1500, incident="i").incident("i", at=1500, reason=NotifyReason.REOPENED).until(3000)

    found = [(n.stamp, n.action, n.reason, n.dedup_key) for n in play.notes()]
    assert [
        (1030, "trigger", FIRST, "key-i"),
        (1400, "resolve", ALL, "key-i"),
        (1530, "trigger", NotifyReason.REOPENED, "key-i"),
    ] == found


def test_a_short_reopening_is_not_announced(play: Play) -> None:
    """Reopened and over within group_wait: the closed item stays closed."""
    play.fire("A", at=1000, incident="i").until(1030).resolve("A", at=1100).close("i", at=1400)
    play.told()

    play.fire("A", at=1500, incident="i").resolve("A", at=1510).close("i", at=1520).until(9000)

    assert [] == play.told()


def test_repeats_go_on_while_it_fires_and_stop_when_nothing_does(play: Play) -> None:
    """repeat_interval counts from the last notification; an open incident without firing alerts is not repeated."""
    play.fire("A", at=1000, incident="i").until(4700)
    assert [FIRST, REPEAT] == [t.reason for t in play.told()]

    play.resolve("A", at=4800).until(20000)

    assert [] == play.told()


def test_a_forgotten_incident_leaves_nothing() -> None:
    """After `forget` the snapshot holds nothing of it."""
    play = Play(CONFIG % "")
    empty = play.dispatcher.snapshot()
    play.fire("A", at=1000, incident="i").until(1030).resolve("A", at=1100).close("i", at=1400)

    play.dispatcher.forget(play.incidents["i"])

    assert empty | {"order": 1} == play.dispatcher.snapshot()


# ------------------------------------------------------------------ several receivers


def test_an_incident_is_one_item_per_receiver_whatever_routes_lead_there() -> None:
    """Two routes to one receiver are one group, and one receiver's alerts do not page the other."""
    play = Play(CONFIG % ", routes: [{matchers: ['team=\"db\"'], receiver: db}, {matchers: ['x=\"y\"']}]")
    play.fire("A", at=1000, incident="i").fire("B", at=1000, incident="i", x="y")
    play.fire("C", at=1000, incident="i", team="db").until(1030)

    counts = {n.destination: len(n.alerts) for n in play.notes()}
    assert {PD: 2, DB: 1} == counts
    play.close("i", at=2000)
    assert {PD, DB} == {t.to for t in play.told()}


def test_the_shortest_wait_of_the_routes_counts() -> None:
    """A critical alert with group_wait 0s ends the wait of the warnings that came before it."""
    play = Play(CONFIG % ", routes: [{matchers: ['severity=\"critical\"'], group_wait: 0s}]")
    play.fire("A", at=1000, incident="i", severity="warning").fire("B", at=1005, incident="i", severity="critical")

    [note] = play.notes()
    assert (1005, 2) == (note.stamp, len(note.alerts))


def test_a_moved_alert_leaves_its_old_group(play: Play) -> None:
    """An alert that belongs to another incident now is shown there and no longer here."""
    play.fire("A", at=1000, incident="i").fire("B", at=1000, incident="i").until(1030)
    play.told()

    play.fire("B", at=1100, starts=1000, incident="j").until(1105)

    [note] = play.notes()
    assert ("key-j", ["B"]) == (note.dedup_key, [a.labels["alertname"] for a in note.alerts])
    assert ["A"] == [a.labels["alertname"] for a in play.dispatcher.groups()[0][2]]


# ------------------------------------------------------------------ muting


def test_a_silenced_incident_is_held_and_its_end_is_still_told(play: Play) -> None:
    """Silenced alerts make no page; but what was opened is closed, silence or not."""
    play.fire("A", at=1000, incident="i").until(1030)
    play.silence('alertname="A"', at=1100, until=99999)
    play.until(20000).resolve("A", at=20000).close("i", at=20400)

    assert [(1030, "trigger"), (20400, "resolve")] == [(t.at, t.action) for t in play.told()]


def test_a_silence_holds_a_correction_until_it_ends(play: Play) -> None:
    """Another cause of an incident of which all is silenced is told at the first tick after the silence, not within."""
    play.fire("A", at=1000, incident="i").root("i", ("db", 0.5), at=1001).until(1030)
    assert [FIRST] == [t.reason for t in play.told()]
    play.silence('alertname="A"', at=1100, until=2000)
    play.root("i", ("cart", 0.9), at=1200).until(1999)
    assert [] == play.told()

    assert [(2230, NotifyReason.ROOT_CHANGED)] == [(t.at, t.reason) for t in play.until(3000).told()]


def test_when_the_silence_ends_the_incident_pages(play: Play) -> None:
    """It is told at the next tick, and the hold was audited once."""
    play.silence('alertname="A"', at=900, until=2000)
    play.fire("A", at=1000, incident="i").until(2300)

    assert [(2230, FIRST)] == [(t.at, t.reason) for t in play.told()]
    assert [(1030, "silenced")] == play.held()


# ------------------------------------------------------------------ merges


def test_merged_before_any_page_is_one_page(play: Play) -> None:
    """Two incidents that merge within the wait are told once, at the earlier end of the waits."""
    play.fire("A", at=1000, incident="i").fire("B", at=1010, incident="j").merge("i", "j", at=1015).until(2000)

    [note] = play.notes()
    assert (1030, "key-j", 2) == (note.stamp, note.dedup_key, len(note.alerts))
    assert "key-j" == play.incidents["j"].dedup_key


def test_both_paged_the_survivor_keeps_its_key_and_the_other_is_resolved(play: Play) -> None:
    """The other item gets a resolve that names the key that lives on; the survivor tells of its new alerts."""
    play.fire("A", at=1000, incident="i").fire("B", at=1010, incident="j").until(1050)
    play.notes()

    play.merge("j", "i", at=1100).until(1400)

    resolve, update = play.notes()
    assert (1100, Action.RESOLVE, MERGED) == (resolve.stamp, resolve.action, resolve.reason)
    assert ("key-j", "key-i") == (resolve.dedup_key, resolve.supersedes)
    assert resolve.into == "trouble i"
    assert (1330, NEW, "key-i") == (update.stamp, update.reason, update.dedup_key)


def test_only_the_other_paged_the_survivor_adopts_its_key(play: Play) -> None:
    """No second item is opened and none is resolved: the page that is out becomes the survivor's."""
    play.fire("A", at=1000, incident="i").until(1035).fire("B", at=1040, incident="j")
    play.notes()

    play.merge("i", "j", at=1050).until(1400)

    assert "key-i" == play.incidents["j"].dedup_key
    [update] = play.notes()
    assert (1330, NEW, "key-i") == (update.stamp, update.reason, update.dedup_key)
    assert "j" == (update.incident.id if update.incident else "")
    play.close("j", at=3000)
    assert [("resolve", ALL)] == [(t.action, t.reason) for t in play.told()]


def test_a_receiver_that_knew_only_the_other_hears_of_the_survivor_first() -> None:
    """Where only the merged-away incident was told, the survivor's page precedes its resolve, at the same stamp."""
    play = Play(CONFIG % (DB_ROUTE % ""))
    play.fire("A", at=1000, incident="i").fire("B", at=1000, incident="j", team="db").until(1040)
    play.notes()

    play.merge("j", "i", at=1100)

    notes = [n for n in play.notes() if n.destination == DB]
    assert [("trigger", "key-i"), ("resolve", "key-j")] == [(n.action, n.dedup_key) for n in notes]
    assert {1100} == {n.stamp for n in notes}


def test_merging_twice_leads_to_the_last_survivor(play: Play) -> None:
    """After i into j and j into k, all paged, the items of i and j are resolved and k lives."""
    for n, key in enumerate("ijk"):
        play.fire(key.upper(), at=1000 + n, incident=key)
    play.until(1040).notes()

    play.merge("i", "j", at=1100).merge("j", "k", at=1200).until(1200)

    resolves = [(n.dedup_key, n.supersedes) for n in play.notes() if n.action is Action.RESOLVE]
    assert [("key-i", "key-j"), ("key-j", "key-k")] == resolves


def test_a_quiet_survivor_takes_the_firing_alerts_over(play: Play) -> None:
    """Alerts of the merged-away incident count as the survivor's from then on."""
    play.fire("A", at=1000, incident="i").fire("B", at=1000, incident="j").until(1030).resolve("A", at=1100)
    play.notes()

    play.merge("j", "i", at=1200).until(1330)

    shown = {a.labels["alertname"]: str(a.state) for a in play.notes()[-1].alerts}
    assert {"A": "resolved", "B": "firing"} == shown
