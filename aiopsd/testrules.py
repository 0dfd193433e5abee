"""`aiopsd test-rules`: the tests of rule packs, played in virtual time through the real stages.

A DetectStage and a CorrelateStage as the daemon builds them, joined by a journal that is a list: no clock, no I/O, no
chance. Nothing is sent; what a page would tell is read from the notifications that the dispatcher decides.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from aiopsd.config import Config, PackText, load, pack_folders, read_pack
from aiopsd.decode import load_topology_yaml
from aiopsd.errors import ConfigError
from aiopsd.marks import Marked
from aiopsd.matchers import Match
from aiopsd.model import (
    Alert,
    AlertBatch,
    AlertIn,
    AlertState,
    Anomaly,
    Append,
    AskEvidence,
    Body,
    Effect,
    EvidenceDigest,
    Incident,
    JournalRecord,
    LogRecord,
    Notify,
    Started,
    Tick,
    Upsert,
    labels_text,
)
from aiopsd.pipeline import correlate, detect
from aiopsd.rules import Anomalous, PackTest, check, load_tests, parse_series, values

START = 1767571200.0  # Monday 2026-01-05 00:00 UTC: virtual time begins there
TAIL = 600.0  # s of virtual time after the last sample and alert: timers and pages
OPEN_END = 86400.0  # s that an alert without `until` goes on firing
BASE: dict[str, Any] = {
    # every label set is a group of its own, so that what is suppressed is seen alert by alert
    "receivers": [{"name": "test", "webhook_configs": [{"url": "http://127.0.0.1/"}]}],
    "route": {"receiver": "test", "group_by": ["..."], "group_wait": "30s"},
}


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a test."""

    incidents: dict[str, Incident] = {}
    alerts: dict[str, Alert] = {}
    anomalies: list[Anomaly] = []
    told: dict[str, None] = {}  # fingerprints of alerts that a page told as firing
    edges: set[str] = set()  # "caller kind callee" of the graph at the end


class _Play:
    """One test in progress."""

    def __init__(self, config: Config) -> None:
        self.detect = detect.build(config, "test", 0)
        self.correlate = correlate.build(config)
        self.out = Outcome()
        self._now = START
        self._offset = 0

    def metrics(self, at: float, body: list[dict[str, Any]]) -> None:
        record = LogRecord(
            source="test", partition=0, offset=self._offset, value=msgspec.json.encode(body), format="json", stamp=at
        )
        for effect in self.detect.step([record]):
            if not isinstance(effect, Append):
                raise ConfigError(f"a sample was refused: {effect}")
            if isinstance(effect.body, Anomaly):
                self.out.anomalies.append(effect.body)
            self.append(at, effect.body)

    def append(self, at: float, body: Body) -> None:
        self._now = max(self._now, at)
        record = JournalRecord(offset=self._offset, stamp=self._now, body=body)
        self._offset += 1
        for question in self._take(self.correlate.step([record])):
            found = tuple(self.detect.evidence(question.services, question.since, question.others))
            if found:
                asof = self.detect.watermark
                answer = EvidenceDigest(
                    request_id=question.request_id, incident=question.incident, asof=asof, evidence=found
                )
                self.append(self._now, answer)

    def advance(self, until: float) -> None:
        """Fire every timer due by then, each at its own time."""
        while self._offset and (wake := self.correlate.wake_at()) is not None and wake <= until:
            self.append(wake, Tick())

    def _take(self, effects: Iterable[Effect]) -> Iterator[AskEvidence]:
        for effect in effects:
            if isinstance(effect, Upsert):
                if isinstance(effect.item, Incident):
                    self.out.incidents[effect.item.id] = effect.item
                elif isinstance(effect.item, Alert):
                    self.out.alerts[effect.item.fingerprint] = effect.item
            elif isinstance(effect, Notify):
                firing = [a for a in effect.notification.alerts if a.state is AlertState.FIRING]
                self.out.told.update(dict.fromkeys(a.fingerprint for a in firing))
            elif isinstance(effect, AskEvidence):
                yield effect


def play(test: PackTest, config: Config, file: str = "tests.yaml") -> Outcome:
    """Play one test under this configuration.

    Raises:
        ConfigError: its topology or a label cannot be used.
    """
    playing = _Play(config)
    playing.append(START, Started(version="test-rules"))
    if test.topology:
        playing.append(START, load_topology_yaml(yaml.safe_dump(test.topology), file))
    columns = []
    for i, given in enumerate(test.series):
        labels = parse_series(given.series)
        columns.append((labels.pop("__name__"), labels, values(given.values, f"{i} {given.series}")))
    length = max((len(column) for _, _, column in columns), default=0)
    due: list[tuple[float, int, Any]] = []
    for k in range(length):
        at = START + k * test.interval
        body = [
            {"name": name, "labels": labels, "ts": at, "value": column[k]}
            for name, labels, column in columns
            if k < len(column) and column[k] is not None
        ]
        if body:
            due.append((at, 0, body))
    for alert in test.alerts:
        at = START + alert.at
        end = START + alert.until if alert.until is not None else at + OPEN_END
        given_in = AlertIn(labels=alert.labels, annotations=alert.annotations, starts_at=at, ends_at=end)
        due.append((at, 1, AlertBatch(alerts=(given_in,), sender="prometheus")))
    due.sort(key=lambda d: d[:2])
    last = START
    for at, kind, what in due:
        playing.advance(at)
        if kind:
            playing.append(at, what)
        else:
            playing.metrics(at, what)
        last = at
    ends = [START + a.until for a in test.alerts if a.until is not None]
    playing.advance(max([last, *ends]) + TAIL)
    graph = playing.correlate.topology.to_json()["edges"]
    playing.out.edges.update(f"{e['caller']} {e['kind']} {e['callee']}" for e in graph)
    return playing.out


# --------------------------------------------------------------------------- expectations


def failures(test: PackTest, out: Outcome) -> Iterator[tuple[str, str]]:
    """(path below the test, what is not as expected)."""
    expect = test.expect
    for i, wanted in enumerate(expect.must_fire):
        if not any(_takes_part(wanted, event) for event in out.anomalies):
            yield f".expect.must_fire[{i}]", f"no anomaly of {_said(wanted)}; there were: {_anomalies(out)}"
    for i, unwanted in enumerate(expect.must_stay_silent):
        found = next((event for event in out.anomalies if _takes_part(unwanted, event)), None)
        if found is not None:
            what = f"an anomaly of {_said(unwanted)} {found.ts - START:.0f} s after the beginning: {found.summary}"
            yield f".expect.must_stay_silent[{i}]", what
    incidents = [i for i in out.incidents.values() if not i.merged_into]
    if expect.incidents is not None and len(incidents) != expect.incidents:
        titles = "; ".join(i.title for i in incidents) or "none"
        yield ".expect.incidents", f"{len(incidents)} incidents, expected {expect.incidents}: {titles}"
    for key in ("root", "runbook"):
        wanted_text = getattr(expect, key)
        if wanted_text is None:
            continue
        if not incidents:
            yield f".expect.{key}", f"no incident, so no {key}"
        for incident in incidents:
            got = incident.runbook if key == "runbook" else incident.root.service if incident.root else ""
            if got != wanted_text:
                yield f".expect.{key}", f"{key} is {got!r}, expected {wanted_text!r} ({incident.title})"
    for key, told in (("suppressed", False), ("told", True)):
        for i, match in enumerate(getattr(expect, key)):
            fires = Match(match)
            alerts = [a for a in out.alerts.values() if fires(a.labels)]
            if not alerts:
                yield f".expect.{key}[{i}]", f"no alert with {labels_text(match)} fired"
            for alert in alerts:
                if (alert.fingerprint in out.told) is not told:
                    verb = "no page told of it" if told else "a page told of it"
                    yield f".expect.{key}[{i}]", f"{verb}: {labels_text(alert.labels)}"
    for i, says in enumerate(expect.alerts):
        fires = Match(says.match)
        alerts = [a for a in out.alerts.values() if fires(a.labels)]
        if not alerts:
            yield f".expect.alerts[{i}]", f"no alert with {labels_text(says.match)} fired"
        for alert in alerts:
            for key, want, got in (
                ("role", says.role, alert.role),
                ("service", says.service, alert.service),
                *((f"annotations.{k}", v, alert.annotations.get(k, "")) for k, v in says.annotations.items()),
            ):
                if want is not None and got != want:
                    text = f"{key.rpartition('.')[2]} is {got!r}, expected {want!r}: {labels_text(alert.labels)}"
                    yield f".expect.alerts[{i}].{key}", text

    for i, edge in enumerate(expect.edges):
        if edge not in out.edges:
            yield f".expect.edges[{i}]", f"no edge `{edge}`; there are: {', '.join(sorted(out.edges)) or 'none'}"


def _takes_part(wanted: Anomalous, event: Anomaly) -> bool:
    return event.state == "firing" and any(
        (not wanted.service or event.service == wanted.service)
        and (not wanted.metric or e.metric == wanted.metric)
        and (not wanted.direction or e.direction == wanted.direction)
        and (not wanted.kind or e.kind == wanted.kind)
        for e in event.evidence
    )


def _said(wanted: Anomalous) -> str:
    given = {k: v for k, v in msgspec.to_builtins(wanted).items() if v}
    return ", ".join(f"{k} {v}" for k, v in given.items()) or "anything"


def _anomalies(out: Outcome) -> str:
    firing = [e for e in out.anomalies if e.state == "firing"]
    lines = dict.fromkeys(f"{e.service} {e.metric} {e.direction}" for event in firing for e in event.evidence)
    return "; ".join(lines) or "none"


# --------------------------------------------------------------------------- the command


def config_of(packs: Iterable[PackText], more: Mapping[str, Any]) -> Config:
    """The configuration under which a pack's tests are played: the defaults, these packs, and what the tests need."""
    return load(yaml.safe_dump(BASE | dict(more) | {"packs": msgspec.to_builtins(list(packs))}))


def run(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(pack, test, what failed with file:line) for each test of a pack, or of the packs in a folder.

    Raises:
        ConfigError: there is no pack; a broken pack or a broken file of tests is told as a test that failed.
    """
    for found in pack_folders(folder, str(folder)):
        pack = read_pack(found)
        try:
            check(pack)
        except ConfigError as e:
            yield pack.name, "rules.yaml", [str(e)]
            continue
        file = found / "tests.yaml"
        try:
            tests, marked = load_tests(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as e:
            yield pack.name, "tests.yaml", [f"cannot read {file}: {e}"]
            continue
        except ConfigError as e:
            yield pack.name, "tests.yaml", [str(e)]
            continue
        if not tests.tests:
            yield pack.name, "tests.yaml", [f"{file}:1: no tests"]
            continue
        try:
            config = config_of([pack], tests.config)
        except ConfigError as e:
            yield pack.name, "tests.yaml", [str(marked.error(str(e), "$.config"))]
            continue
        for i, test in enumerate(tests.tests):
            yield pack.name, test.name, _failed(test, config, marked, f"$.tests[{i}]")


def _failed(test: PackTest, config: Config, marked: Marked, path: str) -> list[str]:
    try:
        out = play(test, config, marked.file)
    except ConfigError as e:
        return [str(marked.error(str(e), path))]
    return [f"{marked.file}:{marked.line(path + below)}: {text}" for below, text in failures(test, out)]


def main(folder: Path) -> int:
    """Play the tests of a folder, one line each; 1 when something failed."""
    passed = failed = 0
    for pack, name, wrong in run(folder):
        print(f"{'FAIL' if wrong else 'ok':<4}  {pack}: {name}")
        for line in wrong:
            print(f"      {line}")
        failed += bool(wrong)
        passed += not wrong
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0
