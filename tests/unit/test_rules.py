"""Rule packs: read, refused with their line, poured into the configuration, and what they say of an alert."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopsd import rules
from aiopsd.cli import main
from aiopsd.config import PackText, SignalRule, load, read
from aiopsd.detect.signals import Signal, Signals, by_name
from aiopsd.errors import ConfigError
from aiopsd.marks import Marked
from aiopsd.matchers import Match
from aiopsd.model import AlertBatch, AlertIn, JournalRecord
from aiopsd.pipeline import correlate
from aiopsd.replay import decide
from aiopsd.services import ServiceMapper

PACK = """\
signals:
  - {match: {__name__: request_errors}, kind: traffic, harm: none}
  - {match: {__name__: request_latency, quantile: "0.5"}, kind: latency, harm: none}
services:
  - {match: {pod: "(?P<who>.+)-[0-9]+"}, service: $who}
alerts:
  - {match: {alertname: Hum}, role: noise}
  - {match: {alertname: Slow}, role: symptom}
suppress:
  - {source_matchers: [alertname="Down"], target_matchers: [alertname="Slow"], equal: [service]}
enrich:
  - {match: {alertname: Slow}, annotations: {runbook_url: "https://example.com/$zone/slow", owner: $team}}
  - {match: {alertname: .+}, annotations: {runbook_url: https://example.com/any}}
"""


def pack(text: str = PACK, name: str = "shop") -> PackText:
    return PackText(name=name, file=f"rules/{name}/rules.yaml", text=text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration that names a folder of one pack."""
    (tmp_path / "packs" / "shop").mkdir(parents=True)
    (tmp_path / "packs" / "shop" / "rules.yaml").write_text(PACK)
    config = f"""\
rules: [{tmp_path}/packs]
data_dir: {tmp_path}/data
detect: {{signals: [{{match: {{__name__: request_errors, job: batch}}, kind: other, harm: low}}]}}
services: {{rules: [{{match: {{pod: special-1}}, service: mine}}]}}
"""
    (tmp_path / "aiopsd.yaml").write_text(config)
    return tmp_path


def test_the_text_is_complete(folder: Path) -> None:
    """What was read once is the same configuration later, whatever became of the pack's files."""
    config, text = read(folder / "aiopsd.yaml")
    (folder / "packs" / "shop" / "rules.yaml").unlink()
    assert load(text) == config
    assert config.packs[0].text == PACK
    (folder / "stored.yaml").write_text(text)
    assert read(folder / "stored.yaml") == (config, text)


def test_a_folder_of_fragments_has_its_packs_too(folder: Path) -> None:
    """Fragments are merged first, then their packs are read."""
    fragments = folder / "conf.d"
    fragments.mkdir()
    (fragments / "a.yaml").write_text(f"rules: [{folder}/packs/shop]\n")
    (fragments / "b.yaml").write_text("workers: 0\n")
    config, text = read(fragments)
    assert [p.name for p in config.packs] == ["shop"]
    assert load(text) == config


def test_the_users_own_rules_come_first(folder: Path) -> None:
    """A pack speaks after the user and before the built-in names, for signals as for services."""
    config, _ = read(folder / "aiopsd.yaml")
    signals = Signals(config.detect.signals)
    assert signals.of({"__name__": "request_errors", "job": "batch"}).harm == "low"
    assert signals.of({"__name__": "request_errors"}) == Signal(kind="traffic", harm="none")
    assert signals.of({"__name__": "response_errors"}) == by_name("response_errors")
    services = ServiceMapper(config.services)
    assert services.service({"pod": "special-1", "service": "s"}) == "mine"
    assert services.service({"pod": "cart-1", "service": "s"}) == "cart"
    assert services.service({"service": "s"}) == "s"
    assert [rule.name for rule in config.inhibit_rules] == ["shop: 0"]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("signals:\n  - match: {__name__: a}\n    knid: errors\n", 3, "unknown field `knid`"),
        ("signals:\n  - {match: {__name__: a}, harm: low}\n  - {match: {__name__: b}, harm: up}\n", 3, "harm"),
        ("alerts:\n- match: {alertname: a}\n  role: noise\n- match:\n    alertname: '('\n  role: noise\n", 5, "RE2"),
        ("services:\n- match: {pod: '(?P<a>'}\n  service: $a\n", 2, "RE2"),
        ("signals:\n- match:\n    __name__: x\n    code: '['\n", 4, "RE2"),
        ("suppress:\n- source_matchers: [a=b]\n  target_matchers:\n  - c=d\n  - '=x'\n", 5, "matcher"),
        ("suppress:\n- source_matchers: [a=b]\n", 2, "would mean every alert"),
        ("enrich:\n- match: {a: b}\n", 2, "annotations"),
        ("edges:\n- {match: {a: b}, kind: reads}\n", 2, "needs `caller` or `callee`"),
        ("edges:\n- match: {a: '('}\n  callee: $b\n", 2, "RE2"),
        ("alerts:\n  - {match: {a: b}, role: noise\nsignals: []\n", 3, "not YAML"),
        ("signals: []\nalerts: []\nsignals: []\n", 3, "given twice"),
        ("- 1\n", 1, "object"),
    ],
)
def test_a_broken_pack_is_refused_with_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, line: int, what: str
) -> None:
    """check-config names the pack, its file, the line and what is wrong there; the same when a stage is built."""
    file = folder / "packs" / "shop" / "rules.yaml"
    file.write_text(text)
    assert main(["check-config", "-c", str(folder / "aiopsd.yaml")]) == 2
    said = capsys.readouterr().err
    assert f"rule pack `shop`: {file}:{line}: " in said
    assert what in said
    with pytest.raises(ConfigError, match=f"rules.yaml:{line}: "):
        correlate.build(read(folder / "aiopsd.yaml")[0])


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ("rules: [/nowhere/at/all]", "no rule pack: neither /nowhere/at/all/rules.yaml"),
        ("rules: [{tmp}/packs, {tmp}/packs]", "two rule packs are named `shop`"),
        ("rules: 5", r"\$.rules"),
    ],
)
def test_wrong_folders_are_refused(folder: Path, config: str, what: str) -> None:
    """A folder without packs, and a pack that is there twice, are errors that say so."""
    (folder / "aiopsd.yaml").write_text(config.format(tmp=folder))
    with pytest.raises(ConfigError, match=what):
        read(folder / "aiopsd.yaml")


def test_annotations_are_added_and_never_overwritten() -> None:
    """The sender's word wins, then the first rule; a template without its label is left out; links are quoted."""
    known = rules.Rules([pack()])
    slow = {"alertname": "Slow", "zone": "a b/c", "team": "x y"}
    assert known.enriched(slow, {}) == {"runbook_url": "https://example.com/a%20b%2Fc/slow", "owner": "x y"}
    assert known.enriched({"alertname": "Slow"}, {}) == {"runbook_url": "https://example.com/any"}
    assert known.enriched(slow, {"owner": "me", "summary": "s"})["owner"] == "me"
    assert known.enriched(slow, {"runbook_url": ""})["runbook_url"].endswith("/slow")
    assert known.enriched({"zone": "a"}, {"k": "v"}) == {"k": "v"}


def test_roles() -> None:
    """The first family that matches, of the first pack; what no pack knows has no role."""
    other = "alerts: [{match: {alertname: Slow, zone: b}, role: cause}, {match: {alertname: Slow}, role: saturation}]"
    assert rules.Rules([]).role({"alertname": "Slow"}) == ""
    assert rules.Rules([pack()]).role({"alertname": "Slow"}) == "symptom"
    assert rules.Rules([pack()]).role({"alertname": "Else"}) == ""
    known = rules.Rules([pack(other, "other"), pack()])
    assert known.known({"alertname": "Slow", "zone": "b"}) == ("cause", "other")
    assert known.known({"alertname": "Slow"}) == ("saturation", "other")
    assert known.known({"alertname": "Hum"}) == ("noise", "shop")


def _fires(offset: int, at: float, **labels: str) -> JournalRecord:
    alert = AlertIn(labels=labels, starts_at=at, ends_at=at + 3600)
    return JournalRecord(offset=offset, stamp=at, body=AlertBatch(alerts=(alert,)))


def test_a_replay_under_the_stored_text_decides_the_same(folder: Path) -> None:
    """Decisions follow from journal and text: runbook, role and service are the same after the pack's file changed."""
    config, text = read(folder / "aiopsd.yaml")
    records = [_fires(0, 1000.0, alertname="Slow", pod="cart-1"), _fires(1, 1001.0, alertname="Hum", pod="cart-1")]
    before = decide(config, records)
    (folder / "packs" / "shop" / "rules.yaml").write_text("{}")
    assert decide(load(text), records) == before
    (incident,) = before.incidents.values()
    assert (incident.runbook, incident.services) == ("https://example.com/any", ("cart",))
    (without,) = decide(load(""), records[:1]).incidents.values()
    assert without.runbook == ""


def test_noise_opens_nothing_and_survives_a_restart() -> None:
    """An alert that a pack calls noise is kept with its reason and in no incident, resolved when it ends."""
    config = load("")
    stage = correlate.build(type(config)(packs=(pack(),)))
    stage.step([_fires(0, 1000.0, alertname="Hum")])
    (alert,) = stage.alerts.values()
    assert (alert.incident, alert.role) == ("", "noise")
    assert "rule pack shop" in alert.group_reason
    assert not stage.incidents
    again = correlate.build(type(config)(packs=(pack(),)), stage.snapshot())
    again.step([JournalRecord(offset=1, stamp=1500.0, body=AlertBatch(alerts=(AlertIn(
        labels={"alertname": "Hum"}, starts_at=1000.0, ends_at=1400.0),)))])  # fmt: skip
    assert [a.state for a in again.alerts.values()] == ["resolved"]
    assert not again.incidents


def test_sent_again_is_no_news() -> None:
    """An enriched alert that its sender repeats word for word is touched, not written again."""
    config = load("")
    stage = correlate.build(type(config)(packs=(pack(),)))
    stage.step([_fires(0, 1000.0, alertname="Slow", service="cart")])
    effects = stage.step([_fires(1, 1000.5, alertname="Slow", service="cart")])
    assert [type(e).__name__ for e in effects] == ["Touch"]


_word = st.sampled_from(["a", "b", "errors", "x_total", ""])


@given(
    st.lists(
        st.builds(
            SignalRule,
            match=st.dictionaries(
                st.sampled_from(["__name__", "code", "job"]), st.sampled_from(["a", "b|a", ".*", ""])
            ),
            harm=st.sampled_from(["high", "low", "both", "none"]),
            kind=st.sampled_from(["errors", "traffic"]),
            counter=st.sampled_from([None, True, False]),
        ),
        max_size=5,
    ),
    st.lists(st.fixed_dictionaries({"__name__": _word}, optional={"code": _word, "job": _word}), max_size=6),
)
def test_signals_are_those_of_the_first_match(given_rules: list[SignalRule], series: list[dict[str, str]]) -> None:
    """The memory of names changes nothing: each series is what the first matching rule, or its name, says."""
    signals = Signals(given_rules)
    for labels in series:
        named = by_name(labels["__name__"])
        rule = next((r for r in given_rules if Match(r.match)(labels)), None)
        if rule is None:
            assert signals.of(labels) == named
        else:
            counter = named.counter if rule.counter is None else rule.counter
            assert signals.of(labels) == Signal(kind=rule.kind, harm=rule.harm, counter=counter)


# --------------------------------------------------------------------------- the format of tests


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", [3.0]),
        ("1+2x3", [1.0, 3.0, 5.0, 7.0]),
        ("1-2x2", [1.0, -1.0, -3.0]),
        ("-1x1", [-1.0, -1.0]),
        ("1e3+0.5x1 _ 7", [1000.0, 1000.5, None, 7.0]),
        ("_x3", [None, None, None]),
        ("0+10x2 +100x2 +-1x1", [0.0, 10.0, 20.0, 120.0, 220.0, 219.0]),
        ([1.0, None, 2.0], [1.0, None, 2.0]),
    ],
)
def test_values(text: str | list[float | None], expected: list[float | None]) -> None:
    """promtool's notation, gaps, and going on from the last value."""
    assert rules.values(text, "") == expected


def test_noise_is_the_same_every_time() -> None:
    """The same seed gives the same noise, another one another; a counter with noisy steps never falls."""
    assert rules.values("100~5x50", "a") == rules.values("100~5x50", "a") != rules.values("100~5x50", "b")
    steps = [v for v in rules.values("0+60~5x200", "a") if v is not None]
    assert all(b > a for a, b in itertools.pairwise(steps))


@pytest.mark.parametrize("text", ["x", "1+x3", "+5", "_+1x3", "1,2", "5~", "++1x2"])
def test_wrong_values_are_refused(text: str) -> None:
    """What is not the notation is an error that names the item."""
    with pytest.raises(ValueError, match="not values"):
        rules.values(text, "")


def test_series() -> None:
    """A series is written as Prometheus shows it."""
    expected = {"__name__": "a:b", "x": 'q"\\', "y.z": ""}
    assert rules.parse_series(r'a:b{x="q\"\\", y.z="",}') == expected
    for wrong in ("", "{a=1}", 'a{b="c"', "a{b=c}"):
        with pytest.raises(ValueError, match="not a"):
            rules.parse_series(wrong)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("tests:\n- name: a\n  expect: {}\n", 2, "expects nothing"),
        ("tests:\n- name: a\n  series:\n  - series: 'up{'\n    values: 1\n  expect: {root: x}\n", 5, "values"),
        ("tests:\n- name: a\n  series:\n  - series: 'up{'\n    values: '1'\n  expect: {root: x}\n", 4, "not a series"),
        ("tests:\n- name: a\n  series:\n  - series: up\n    values: 1x\n  expect: {root: x}\n", 5, "not values"),
        ("tests:\n- name: a\n  expect:\n    must_fyre: []\n", 4, "must_fyre"),
        ("tests:\n- name: a\n  interval: 5\n  expect: {root: x}\n", 3, "not a duration"),
    ],
)
def test_a_broken_file_of_tests_is_refused_with_its_line(text: str, line: int, what: str) -> None:
    """Wrong keys, values, durations and tests that cannot fail are told with file and line."""
    with pytest.raises(ConfigError, match=f"^t.yaml:{line}: .*{what}"):
        rules.load_tests(text, "t.yaml")


def test_lines_of_marked_yaml() -> None:
    """A path is followed as far as it goes; an empty document is line 1."""
    marked = Marked("a:\n  - b: 1\n    c: {d: 2}\n", "f")
    assert [marked.line(p) for p in ("$", "$.a[0].b", "$.a[0].c.d", "$.a[9]", "$.x")] == [1, 2, 3, 2, 1]
    assert Marked("", "f").line("$.a") == 1
