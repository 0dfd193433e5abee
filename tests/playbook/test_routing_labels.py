"""Groups by label: Alertmanager's timing, as timelines."""

from hashlib import sha256

import pytest

from aiopsd.model import Action, NotifyReason
from aiopsd.routing import routes
from aiopsd.testing.dispatch import Play, Told

CONFIG = """
receivers:
  - {name: team, webhook_configs: [{url: "http://x"}]}
  - {name: quiet, webhook_configs: [{url: "http://x", send_resolved: false}]}
  - {name: nobody}
route: {receiver: team, group_by: [job], group_wait: 30s, group_interval: 5m, repeat_interval: 1h%s}
%s
"""
FIRST, NEW, SOME = NotifyReason.FIRST, NotifyReason.NEW_ALERTS, NotifyReason.SOME_RESOLVED
ALL, REPEAT = NotifyReason.ALL_RESOLVED, NotifyReason.REPEAT
HOOK = "team/webhook[0]"


@pytest.fixture(params=[False, True], ids=["straight", "restarted"])
def play(request: pytest.FixtureRequest) -> Play:
    return Play(CONFIG % ("", ""), crash=request.param)


def test_a_group_waits_and_tells_all_of_it_at_once(play: Play) -> None:
    """Alerts that arrive within group_wait are one notification, counted from the first of them."""
    play.fire("A", at=1000, job="api").fire("B", at=1020, job="api").fire("C", at=1025, job="db").until(1100)

    first, second = play.notes()
    assert (1030, {"job": "api"}, 2) == (first.stamp, first.group_labels, len(first.alerts))
    assert (1055, {"job": "db"}, 1) == (second.stamp, second.group_labels, len(second.alerts))


def test_what_is_older_than_group_wait_does_not_wait(play: Play) -> None:
    """An alert whose startsAt lies further back than group_wait is told at once."""
    play.fire("A", at=1000, starts=969, job="api")

    assert [Told(1000, HOOK, "trigger", FIRST)] == play.told()


def test_what_ends_within_group_wait_is_never_announced(play: Play) -> None:
    """An alert that resolves before the first flush makes no notification, then or later."""
    play.fire("A", at=1000, job="api").resolve("A", at=1010).until(9000)

    assert [] == play.told()
    assert play.dispatcher.wake_at() is None


def test_new_alerts_are_told_at_the_next_tick(play: Play) -> None:
    """A change is told on the group_interval grid that started at the flush, and names what is new."""
    play.fire("A", at=1000, job="api").fire("B", at=1040, job="api").fire("C", at=1329, job="api").until(1330)

    _, second = play.notes()
    assert (1330, NEW) == (second.stamp, second.reason)
    assert (play.alerts["B"].fingerprint, play.alerts["C"].fingerprint) == second.changed


def test_an_alert_on_the_tick_itself_waits_for_the_next(play: Play) -> None:
    """What arrives at the very stamp of a tick comes after it."""
    play.fire("A", at=1000, job="api").fire("B", at=1330, job="api").until(2000)

    assert [1030, 1630] == [t.at for t in play.told()]


def test_resolved_alerts_are_told_and_leave(play: Play) -> None:
    """Some, then all resolved; the group ends with its last alert and asks for no timer."""
    play.fire("A", at=1000, job="api").fire("B", at=1000, job="api").until(1030)
    play.resolve("A", at=1100).resolve("B", at=1400).until(5000)

    assert [
        Told(1030, HOOK, "trigger", FIRST),
        Told(1330, HOOK, "trigger", SOME),
        Told(1630, HOOK, "resolve", ALL),
    ] == play.told()
    assert [] == play.dispatcher.groups()
    assert play.dispatcher.wake_at() is None


def test_a_repeat_comes_on_the_grid(play: Play) -> None:
    """Nothing new is repeated at the first tick at which repeat_interval has elapsed since the last notification."""
    play.fire("A", at=1000, job="api").until(1030 + 7200)

    assert [(1030, FIRST), (4630, REPEAT), (8230, REPEAT)] == [(t.at, t.reason) for t in play.told()]


def test_a_repeat_rounds_up_to_the_tick() -> None:
    """With a repeat_interval that is no multiple of group_interval, the next multiple counts."""
    play = Play((CONFIG % ("", "")).replace("1h", "7m"))
    play.fire("A", at=1000, job="api").until(1700)

    assert [1030, 1630] == [t.at for t in play.told()]


def test_idle_ticks_are_not_asked_for(play: Play) -> None:
    """Between the flush and the repeat a group at rest wants no timer."""
    play.fire("A", at=1000, job="api").until(1030)

    assert 4630 == play.dispatcher.wake_at()


def test_firing_again_within_a_known_group_is_new(play: Play) -> None:
    """An alert that comes back after its group ended waits again, and is told as new: the log remembers the group."""
    play.fire("A", at=1000, job="api").until(1030).resolve("A", at=1100).until(1330)
    play.fire("A", at=1400, job="api").until(1500)

    assert [(1030, FIRST), (1330, ALL), (1430, NEW)] == [(t.at, t.reason) for t in play.told()]


def test_the_log_of_an_ended_group_expires() -> None:
    """After two repeat intervals the group is new again."""
    play = Play(CONFIG % ("", ""))
    play.fire("A", at=1000, job="api").until(1030).resolve("A", at=1100).until(1330)
    play.fire("A", at=1330 + 7200, job="api").until(9000)

    assert [(1030, FIRST), (1330, ALL), (8560, FIRST)] == [(t.at, t.reason) for t in play.told()]


def test_send_resolved_false_updates_the_log_and_sends_nothing() -> None:
    """Without send_resolved the end is not sent, no resolved alert is shown, and firing again is told."""
    config = CONFIG % ("", "")
    play = Play(config.replace("route: {receiver: team", "route: {receiver: quiet"))
    play.fire("A", at=1000, job="api").fire("B", at=1000, job="api").until(1030).resolve("A", at=1100).until(1330)
    play.fire("C", at=1400, job="api").until(1630)

    first, second = play.notes()
    assert (FIRST, NEW) == (first.reason, second.reason)
    assert ["C", "B"] == [a.labels["alertname"] for a in second.alerts]

    play.resolve("B", at=1700).resolve("C", at=1700).until(1930)
    assert [] == play.told()
    play.fire("B", at=2000, job="api").until(2100)
    assert [(2030, NEW)] == [(t.at, t.reason) for t in play.told()]


def test_keys_are_alertmanagers() -> None:
    """groupKey is route path and labels in Alertmanager's writing; dedup_key is its SHA-256."""
    play = Play(CONFIG % (", routes: [{matchers: ['team=~\"a|b\"'], group_by: [alertname, quote]}]", ""))
    play.fire("Al\nways", at=1000, team="a", quote='"').until(1030)

    [note] = play.notes()
    assert r'{}/{team=~"a|b"}:{alertname="Al\nways", quote="\""}' == note.group_key
    assert sha256(note.group_key.encode()).hexdigest() == note.dedup_key


def test_group_by_all_and_by_nothing() -> None:
    """["..."] makes a group of every label set, [] one group of everything."""
    for group_by, groups in (("['...']", 2), ("[]", 1)):
        play = Play((CONFIG % ("", "")).replace("[job]", group_by))
        play.fire("A", at=1000, job="api").fire("A", at=1000, job="db").until(1100)

        assert groups == len(play.told())


def test_a_silence_mutes_and_its_end_is_told_at_the_next_tick(play: Play) -> None:
    """A silenced group stays quiet with one audit line; when the silence ends, the next tick tells."""
    key = play.silence('job="api"', at=990, until=2000)
    play.fire("A", at=1000, job="api").until(1999)

    assert [] == play.told()
    assert [(1030, "silenced")] == play.held()
    assert ((key,), ()) == play.dispatcher.muted(play.alerts["A"], 1500)
    assert [Told(2230, HOOK, "trigger", FIRST)] == play.until(2300).told()


def test_a_silenced_alert_is_left_out_of_its_group(play: Play) -> None:
    """Only what is not muted is shown, and it alone decides."""
    play.silence('alertname="A"', at=990, until=9000)
    play.fire("A", at=1000, job="api").fire("B", at=1000, job="api").until(1030)

    [note] = play.notes()
    assert ["B"] == [a.labels["alertname"] for a in note.alerts]


def test_routes_take_the_first_match_and_more_with_continue() -> None:
    """The deepest first match wins; continue goes on to the next sibling."""
    below = """, routes: [
      {matchers: ['severity="page"'], receiver: quiet, continue: true},
      {matchers: ['severity=~".+"'], receiver: nobody, routes: [{matchers: ['job="db"'], receiver: team}]}]"""
    play = Play(CONFIG % (below, ""))

    def receivers(**labels: str) -> list[str]:
        return [route.receiver for route in routes(play.config).match(labels)]

    assert ["team"] == receivers(job="api")
    assert ["quiet", "nobody"] == receivers(severity="page", job="api")
    assert ["team"] == receivers(severity="warn", job="db")
    play.fire("A", at=1000, severity="page", job="db").until(1100)
    assert {"quiet/webhook[0]", HOOK} == {t.to for t in play.told()}


def test_an_anomaly_pages_a_label_group_only_by_policy() -> None:
    """Anomalies stay out of label groups unless page_anomalies is on."""
    for policy, pages in (("", 0), (", page_anomalies: true", 1)):
        play = Play(CONFIG % (policy, ""))
        play.fire("AiopsdAnomaly", at=1000, anomaly=True, job="api").until(1100)

        assert pages == len(play.told())


# ------------------------------------------------------------------ inhibition

INHIBIT = """inhibit_rules:
  - {source_matchers: ['severity="critical"'], target_matchers: ['severity=~"warning|critical"'], equal: [cluster]}"""


def test_a_firing_source_mutes_and_its_end_unmutes() -> None:
    """The target is told at the first tick after its source ended."""
    play = Play(CONFIG % ("", INHIBIT))
    play.fire("Source", at=1000, job="s", severity="critical", cluster="a")
    play.fire("Target", at=1000, job="t", severity="warning", cluster="a").until(1100)

    assert [{"job": "s"}] == [n.group_labels for n in play.notes()]
    assert [(1030, "inhibited")] == play.held()
    assert ((), (play.alerts["Source"].fingerprint,)) == play.dispatcher.muted(play.alerts["Target"], 1100)
    play.resolve("Source", at=1200).until(1330)
    assert [("resolve", 1330), ("trigger", 1330)] == [(t.action, t.at) for t in play.told()]


def test_other_values_of_equal_labels_do_not_mute_and_missing_is_empty() -> None:
    """`equal` compares values, and a missing label equals an empty and another missing one."""
    play = Play(CONFIG % ("", INHIBIT))
    play.fire("Source", at=1000, severity="critical")
    play.fire("Elsewhere", at=1000, severity="warning", cluster="b").fire("Here", at=1000, severity="warning")

    muted = {name: bool(play.dispatcher.muted(play.alerts[name], 1000)[1]) for name in ("Elsewhere", "Here")}
    assert {"Elsewhere": False, "Here": True} == muted


def test_two_sided_alerts_do_not_inhibit_each_other() -> None:
    """An alert that matches both sides of a rule is not inhibited by another such one, nor by itself."""
    play = Play(CONFIG % ("", INHIBIT))
    play.fire("A", at=1000, severity="critical", cluster="a").fire("B", at=1000, severity="critical", cluster="a")

    assert () == play.dispatcher.muted(play.alerts["A"], 1000)[1]


@pytest.mark.parametrize("order", [("Two", "Pure"), ("Pure", "Two")])
def test_a_source_that_may_not_inhibit_hides_no_other(order: tuple[str, str]) -> None:
    """Every source of the equal key is asked, whichever came first, and a resolved one frees nobody else's slot."""
    rules = """inhibit_rules:
      - {source_matchers: ['kind=~"pure|two"'], target_matchers: ['kind=~"two|target"'], equal: [cluster]}"""
    play = Play(CONFIG % ("", rules))
    for name in order:
        play.fire(name, at=1000, kind=name.lower(), cluster="a")
    play.fire("Two2", at=1000, kind="two", cluster="a").fire("T", at=1000, kind="target", cluster="a")

    pure = play.alerts["Pure"].fingerprint
    assert (pure,) == play.dispatcher.muted(play.alerts["Two2"], 1000)[1]
    play.resolve("Two2", at=1010)
    assert (pure,) == play.dispatcher.muted(play.alerts["Two"], 1010)[1]
    play.resolve("Pure", at=1020)
    assert (play.alerts["Two"].fingerprint,) == play.dispatcher.muted(play.alerts["T"], 1020)[1]


# ------------------------------------------------------------------ notifications


def test_a_storm_is_cut_and_counted() -> None:
    """At most 100 alerts ride in one notification, what changed first; the rest is a number."""
    play = Play(CONFIG % ("", ""))
    for n in range(130):
        play.fire(f"A{n}", at=1000, job="api")
    play.until(1030).fire("Late", at=1040, job="api").until(1330)

    first, second = play.notes()
    assert (100, 30) == (len(first.alerts), first.truncated)
    assert ("Late", 31) == (second.alerts[0].labels["alertname"], second.truncated)


def test_ids_are_content_and_never_repeat() -> None:
    """The same play gives the same ids, and every notification its own."""

    def ids() -> list[str]:
        play = Play(CONFIG % ("", ""))
        play.fire("A", at=1000, job="api").until(1030).resolve("A", at=1100).until(1400)
        play.fire("A", at=1500, job="api").until(9000)
        return [n.id for n in play.notes()]

    assert ids() == ids()
    assert len(ids()) == len(set(ids())) > 3


def test_a_new_configuration_keeps_log_and_timers() -> None:
    """After a reload with other routes, what was told is not told again, and what was waiting still is."""
    play = Play(CONFIG % ("", ""))
    play.fire("A", at=1000, job="api").until(1030).fire("B", at=1020 + 20, job="db")
    assert 1 == len(play.told())

    play.restart(CONFIG % (", routes: [{matchers: ['x=\"y\"'], receiver: quiet}]", "")).until(1100)

    assert [Told(1070, HOOK, "trigger", FIRST)] == play.told()
    play.until(4700)
    assert [REPEAT, REPEAT] == [t.reason for t in play.told()]


def test_a_new_receiver_after_a_reload_hears_what_fires() -> None:
    """An alert that now goes elsewhere is announced there."""
    play = Play(CONFIG % ("", ""))
    play.fire("A", at=1000, job="api").until(1030)
    play.told()

    play.restart((CONFIG % ("", "")).replace("route: {receiver: team", "route: {receiver: quiet")).until(1100)

    assert [("quiet/webhook[0]", Action.TRIGGER, FIRST)] == [(t.to, t.action, t.reason) for t in play.told()]
