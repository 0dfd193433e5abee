"""The needs-update decisions as tables, the routing tree's errors, and the dispatcher under random plays."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.config import load
from aiopsd.errors import ConfigError
from aiopsd.model import Action, Candidate, Incident, IncidentState, NotifyReason
from aiopsd.routing import Dispatcher, LogEntry, action_of, needs_update, needs_update_incident, root_changed, routes
from aiopsd.routing.inhibition import Inhibitor
from aiopsd.silences import SilenceBook
from aiopsd.testing.dispatch import Play
from aiopsd.testing.services import require

R = NotifyReason


def log(firing: str = "", resolved: str = "", **more: Any) -> LogEntry:
    return LogEntry(**{"at": 0.0, "firing": dict.fromkeys(firing), "resolved": dict.fromkeys(resolved)} | more)


@pytest.mark.parametrize(
    ("entry", "firing", "resolved", "send_resolved", "stamp", "due"),
    [
        (None, "a", "", True, 0, R.FIRST),
        (None, "", "a", True, 0, None),
        (log("a"), "ab", "", True, 0, R.NEW_ALERTS),
        (log("ab"), "a", "", True, 0, None),
        (log("a"), "", "a", True, 0, R.ALL_RESOLVED),
        (log("a"), "", "a", False, 0, R.ALL_RESOLVED),  # the log must learn it
        (log(""), "", "a", True, 9999, None),
        (log("ab"), "a", "b", True, 0, R.SOME_RESOLVED),
        (log("ab"), "a", "b", False, 0, None),
        (log("a", "b"), "a", "b", True, 0, None),
        (log("a"), "a", "", True, 99, None),
        (log("a"), "a", "", True, 100, R.REPEAT),
        (log("a"), "ab", "c", True, 100, R.NEW_ALERTS),  # in order: the first reason that holds
    ],
)
def test_label_groups_decide_as_alertmanager(
    entry: LogEntry | None, firing: str, resolved: str, send_resolved: bool, stamp: float, due: NotifyReason | None
) -> None:
    """No log, then new firing, then all resolved, then some resolved, then the repeat interval."""
    found = needs_update(entry, firing, resolved, send_resolved=send_resolved, repeat_interval=100.0, stamp=stamp)

    assert due == found


def incident(state: str = "open", **more: Any) -> Incident:
    fields = {"id": "i", "dedup_key": "k", "started_at": 0.0, "opened_at": 0.0, "updated_at": 0.0}
    return Incident(**fields | {"state": IncidentState(state)} | more)


DB = (Candidate(service="db", confidence=0.9),)


@pytest.mark.parametrize(
    ("entry", "now", "firing", "resolved", "stamp", "due"),
    [
        (None, incident(), "a", "", 0, R.FIRST),
        (None, incident(), "", "a", 0, None),
        (None, incident("resolved"), "a", "", 0, None),
        (None, incident("merged"), "a", "", 0, None),
        (None, incident("acknowledged", acked_at=1), "a", "", 2, None),
        (None, incident("acknowledged", acked_at=1, ack_until=5), "a", "", 5, R.FIRST),
        (log("a", open=False), incident(), "a", "", 0, R.REOPENED),
        (log("a", open=False), incident("resolved"), "a", "", 0, None),
        (log("a"), incident("resolved"), "a", "", 0, R.ALL_RESOLVED),
        (log("a"), incident("merged"), "", "", 0, R.MERGED),
        (log("a"), incident("acknowledged", acked_at=1), "ab", "", 2, R.ACKNOWLEDGED),
        (log("a", acked_at=1), incident("acknowledged", acked_at=1), "ab", "", 2, R.NEW_ALERTS),
        (log("a", acked_at=1), incident("acknowledged", acked_at=1), "a", "", 999, None),
        (log("a", acked_at=1), incident("acknowledged", acked_at=3), "a", "", 4, R.ACKNOWLEDGED),
        (log("a", acked_at=1), incident(), "a", "", 2, R.ACK_ENDED),
        (log("a", acked_at=1), incident(), "", "", 2, None),
        (log("a"), incident(roots=DB), "a", "", 0, R.ROOT_CHANGED),
        (log("a", root="service/db"), incident(roots=DB), "a", "", 0, None),
        (log("ab"), incident(), "a", "b", 0, R.SOME_RESOLVED),
        (log("a", "b"), incident(), "a", "b", 0, None),
        (log("a"), incident(), "", "a", 0, None),  # the resolve says it
        (log("a"), incident(), "a", "", 100, R.REPEAT),
        (log("a"), incident(), "", "", 100, None),
    ],
)
def test_incident_groups_decide_by_the_incidents_life(
    entry: LogEntry | None, now: Incident, firing: str, resolved: str, stamp: float, due: NotifyReason | None
) -> None:
    """Over closes what is open, acknowledged stops pages and repeats, news and causes are told, silence is repeated."""
    found = needs_update_incident(entry, now, firing, resolved, send_resolved=True, repeat_interval=100.0, stamp=stamp)

    assert due == found


def test_every_reason_has_its_action() -> None:
    """Ends resolve, an acknowledgement acknowledges, everything else triggers."""
    actions = {r: action_of(r) for r in NotifyReason}

    assert {R.ALL_RESOLVED, R.MERGED} == {r for r, a in actions.items() if a is Action.RESOLVE}
    assert {R.ACKNOWLEDGED} == {r for r, a in actions.items() if a is Action.ACKNOWLEDGE}


def test_a_root_must_lead_clearly() -> None:
    """Another name counts when it leads the announced one by the margin; no candidate is no change."""
    near = incident(roots=(Candidate(service="a", confidence=0.5), Candidate(service="b", confidence=0.45)))
    clear = incident(roots=(Candidate(service="a", confidence=0.5), Candidate(service="b", confidence=0.3)))

    assert [False, True, True, False] == [
        root_changed("service/b", near),
        root_changed("service/b", clear),
        root_changed("", near),
        root_changed("service/b", incident()),
    ]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("route: {routes: [{matchers: ['a=~\"(\"']}]}", "$.route.routes[0].matchers[0]"),
        ("route: {matchers: [a=b, 'nonsense']}", "$.route.matchers[1]"),
        ("route: {routes: [{match_re: {a: '('}}]}", "$.route.routes[0].match_re.a"),
        ("route: {routes: [{match: {'': x}}]}", "$.route.routes[0].match"),
        ("inhibit_rules: [{source_match_re: {a: '('}}]", "$.inhibit_rules[0].source_match_re.a"),
        ("route: {group_interval: 0}", "$.route.group_interval"),
        ("route: {routes: [{repeat_interval: 0}]}", "$.route.routes[0].repeat_interval"),
        ("inhibit_rules: [{target_matchers: ['=x']}]", "$.inhibit_rules[0].target_matchers"),
        ("receivers: [{name: a, webhook_configs: [{send_resolved: 3}]}]", "$.receivers[0].webhook_configs[0]"),
    ],
)
def test_a_wrong_route_is_refused_with_its_key(text: str, path: str) -> None:
    """Matchers, intervals and options that cannot work raise ConfigError naming the key."""
    with pytest.raises(ConfigError) as e:
        Dispatcher(load(text), SilenceBook())

    assert path in str(e.value)


OLD = """
receivers: [{name: root}, {name: page}, {name: db}, {name: both}, {name: none}]
route:
  receiver: root
  routes:
    - {receiver: page, match: {severity: page, team: ""}}
    - {receiver: db, match_re: {service: "mysql|cassandra", severity: "warn.*"}, continue: true}
    - {receiver: both, match: {severity: warning}, match_re: {service: "cass.*"}, matchers: ['zone!="b"']}
    - {receiver: none, match_re: {zone: ""}, match: {job: x}}
inhibit_rules:
  - {source_match: {severity: page}, target_match_re: {severity: "warn|info"}, equal: [service]}
"""
SEEN = [
    {"severity": severity, "service": service, **more}
    for severity in ("page", "warning", "warn", "")
    for service in ("mysql", "mysql2", "xmysql", "cassandra")
    for more in ({}, {"team": "a"}, {"zone": "b"}, {"job": "x"})
]


@pytest.mark.services
def test_old_matchers_route_as_in_the_real_alertmanager(tmp_path: Path) -> None:
    """`match` is equality and `match_re` an anchored expression, beside `matchers`: amtool names the same receivers."""
    program = require("amtool")
    (tmp_path / "am.yml").write_text(OLD)
    tree = routes(load(OLD))

    for labels in SEEN:
        pairs = [f"{k}={v}" for k, v in labels.items()]
        command = [program, "config", "routes", "test", f"--config.file={tmp_path / 'am.yml'}", *pairs]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert (labels, said) == (labels, ",".join(r.receiver for r in tree.match(labels)))


def test_old_matchers_stand_in_group_keys_as_alertmanager_writes_them() -> None:
    """Sorted among the others, an expression with its anchors; inhibit rules read theirs the same way."""
    keys = [child.key for child in routes(load(OLD)).children]

    assert keys[0] == '{}/{severity="page",team=""}'
    assert keys[2] == '{}/{service=~"^(?:cass.*)$",severity="warning",zone!="b"}'
    inhibitor = Inhibitor(load(OLD))
    inhibitor.set("f", {"severity": "page", "service": "a"})
    assert [("f",), (), (), ()] == [
        inhibitor.inhibited_by({"severity": s, "service": at})
        for s, at in (("warn", "a"), ("warning", "a"), ("page", "a"), ("info", "b"))
    ]


def test_options_are_inherited() -> None:
    """A route has its parent's receiver, grouping and intervals unless it sets its own; the root has the defaults."""
    tree = routes(load("receivers: [{name: a}]\nroute: {receiver: a, group_wait: 1s, routes: [{group_by: [x]}]}"))

    [child] = tree.children
    assert (None, 1.0, 300.0, 14400.0) == (tree.group_by, tree.group_wait, tree.group_interval, tree.repeat_interval)
    assert ("a", ("x",), 1.0) == (child.receiver, child.group_by, child.group_wait)


# ------------------------------------------------------------------ random plays

CONFIG = """
receivers:
  - {name: oncall, pagerduty_configs: [{routing_key: k}]}
  - {name: team, webhook_configs: [{url: "http://x"}, {url: "http://y", send_resolved: false}]}
route:
  receiver: oncall
  group_wait: 30s
  group_interval: 2m
  repeat_interval: 10m
  routes:
    - {matchers: ['kind!=""'], receiver: team, group_by: [kind], continue: true}
    - {matchers: ['kind="x"'], group_wait: 0s}
inhibit_rules:
  - {source_matchers: ['kind="x"'], target_matchers: ['kind="y"']}
"""
MOVES = st.lists(
    st.tuples(
        st.sampled_from(
            ["fire", "fire", "fire", "resolve", "ack", "unack", "close", "root", "merge", "silence", "wait"]
        ),
        st.sampled_from("ABCDEF"),
        st.sampled_from("ijk"),
        st.integers(0, 200),
    ),
    max_size=40,
)


def run(play: Play, moves: list[tuple[str, str, str, int]], *, stops: int = 1) -> list[Any]:
    """Play the legal ones of these moves; with `stops`, timers are asked that often on the way to each."""
    at = 1000.0
    for what, name, key, wait in moves:
        for n in range(stops):
            play.until(at + wait * (n + 1) / stops)
        at += wait
        known = play.incidents.get(key)
        alive = known is not None and known.state in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED)
        if what == "fire" and (known is None or known.state is not IncidentState.MERGED):
            alert = play.alerts.get(name)
            if alert is None or alert.state == "resolved" or alert.incident == key:
                play.fire(name, at=at, incident=key, anomaly=name == "F", kind="xyz"[ord(name) % 3])
        elif what == "resolve" and name in play.alerts:
            play.resolve(name, at=at)
        elif what == "ack" and alive:
            play.ack(key, at=at, until=at + 300 if name < "C" else 0.0)
        elif what == "unack" and known is not None and known.state is IncidentState.ACKNOWLEDGED:
            play.incident(key, at=at, state=IncidentState.OPEN)
        elif what == "close" and alive:
            play.close(key, at=at)
        elif what == "root" and alive:
            play.root(key, (name, 0.6), at=at)
        elif what == "merge" and alive:
            other = play.incidents.get("ijk"["ijk".index(key) - 1])
            if other is not None and other.state in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED):
                play.merge(key, other.id, at=at)
        elif what == "silence":
            play.silence(f'alertname="{name}"', at=at, until=at + 400)
    return play.until(at + 3000).notes()


@settings(max_examples=60, deadline=None)
@given(MOVES)
def test_a_play_does_not_notice_restarts_or_extra_looks(moves: list[tuple[str, str, str, int]]) -> None:
    """The notifications are the same from a snapshot before every move, and however often the timers are asked."""
    straight = run(Play(CONFIG), moves)

    assert straight == run(Play(CONFIG, crash=True), moves)
    assert straight == run(Play(CONFIG), moves, stops=3)


@settings(max_examples=60, deadline=None)
@given(MOVES)
def test_a_receiver_is_told_a_sane_story(moves: list[tuple[str, str, str, int]]) -> None:
    """Per destination and key: first a trigger, no resolve twice, ids never repeat, stamps never fall."""
    notes = run(Play(CONFIG), moves)

    assert len(notes) == len({n.id for n in notes})
    assert [n.stamp for n in notes] == sorted(n.stamp for n in notes)
    open_items: dict[tuple[str, str], bool] = {}
    for n in notes:
        item = (n.destination, n.dedup_key)
        if n.action is Action.TRIGGER:
            open_items[item] = True
        else:
            assert open_items.get(item), f"{n.action} ({n.reason}) of {item} without an open item"
            open_items[item] = n.action is not Action.RESOLVE


@settings(max_examples=60, deadline=None)
@given(MOVES)
def test_the_end_of_everything_closes_every_item(moves: list[tuple[str, str, str, int]]) -> None:
    """When all alerts and incidents are over, nothing stays open at an incident receiver, and no timer is left."""
    play = Play(CONFIG)
    notes = run(play, moves)
    at = 1000.0 + sum(m[3] for m in moves) + 3000
    for name in list(play.alerts):
        play.resolve(name, at=at)
    for key, known in list(play.incidents.items()):
        if known.state in (IncidentState.OPEN, IncidentState.ACKNOWLEDGED):
            play.close(key, at=at)
    notes += play.until(at + 3000).notes()

    last = {n.dedup_key: n.action for n in notes if n.receiver == "oncall"}
    assert all(action is Action.RESOLVE for action in last.values())
    assert play.dispatcher.wake_at() is None
