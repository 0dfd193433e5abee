"""The five laws of the correlate stage, for any journal that Hypothesis can think of.

Journals hold alerts that fire, repeat, resolve and come back, anomalies with evidence, topology that grows, changes,
planned work, silences, acknowledgements, manual resolutions, drift, restarts of the daemon and silence between them.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.config import Config, load
from aiopsd.maintenance import window_id
from aiopsd.model import (
    AckIncident,
    AlertBatch,
    AlertIn,
    Anomaly,
    Audit,
    Body,
    ChangeEvent,
    DriftDetected,
    Edge,
    Effect,
    EndMaintenance,
    Evidence,
    EvidenceDigest,
    Forget,
    Incident,
    JournalRecord,
    Maintain,
    Matcher,
    Notify,
    PutMaintenance,
    PutSilence,
    ResolveIncident,
    Retrain,
    Snapshot,
    Started,
    Tick,
    TopologyUpdate,
    Upsert,
)
from aiopsd.pipeline.correlate import CorrelateStage, build

SERVICES = ("shop", "cart", "pay", "db", "mail")
T0 = 1_700_000_000.0

CONFIG: Config = load(
    """
route: {receiver: ops, group_wait: 10s, group_interval: 30s, repeat_interval: 2m}
receivers: [{name: ops, webhook_configs: [{url: "http://127.0.0.1:1/"}]}]
correlate: {resolve_after: 60s, reopen_within: 5m, retention: 20m, resolve_timeout: 90s}
retraining: {trainers: [{webhook: {url: "http://127.0.0.1:1/"}}]}
inhibit_rules: [{source_matchers: ['alertname="Down"'], target_matchers: ['alertname="Slow"'], equal: [service]}]
"""
)

services = st.sampled_from(SERVICES)


@st.composite
def alert_in(draw: st.DrawFn, now: float) -> AlertIn:
    labels = {
        "alertname": draw(st.sampled_from(("Slow", "Errors", "Down"))),
        "service": draw(services),
        "severity": draw(st.sampled_from(("warning", "critical"))),
    }
    ends = draw(st.sampled_from((0.0, now + 240.0, now + 15.0, now, now - 5.0)))
    starts = draw(st.sampled_from((0.0, now, now - 40.0)))
    return AlertIn(labels=labels, starts_at=starts, ends_at=ends)


def planned(service: str, now: float) -> PutMaintenance:
    matcher = Matcher(name="service", value=service)
    return PutMaintenance(request_id=str(now), matchers=(matcher,), starts_at=0.0, ends_at=now + 90, created_by="ann")


@st.composite
def body(draw: st.DrawFn, now: float, incidents: list[str]) -> Body:
    kind = draw(st.integers(0, 15))
    if kind <= 5:
        return AlertBatch(alerts=tuple(draw(st.lists(alert_in(now), min_size=1, max_size=4))), sender="prometheus")
    service = draw(services)
    if kind == 6:
        evidence = Evidence(service=service, metric="p99", kind="latency", deviation=9.0, score=0.8, onset=now - 20)
        return Anomaly(
            id=f"a-{service}",
            service=service,
            signal="p99",
            onset=now - 20,
            ts=now,
            score=0.8,
            state=draw(st.sampled_from(("firing", "resolved"))),
            evidence=(evidence,),
        )
    if kind == 7:
        return TopologyUpdate(source="mesh", edges=(Edge(caller=draw(services), callee=service),))
    if kind == 8:
        return ChangeEvent(id=f"c-{service}-{now}", service=service, kind="deploy", ts=now - 30)
    if kind == 9:
        matcher = Matcher(name="service", value=service)
        return PutSilence(
            request_id=str(now), matchers=(matcher,), starts_at=now, ends_at=now + 50, created_by="x", comment="y"
        )
    if kind == 10:
        return DriftDetected(
            id=f"d-{service}-{now}",
            subject=service,
            model=f"m-{service}",
            since=now - 60,
            ts=now,
            before=0.0,
            after=2.0,
            statistic=11.0,
            threshold=10.0,
        )
    if kind == 11:
        return Started(version="t")
    if kind == 14:
        return planned(service, now)
    if kind == 15:
        return EndMaintenance(
            id=window_id(planned(service, now - draw(st.sampled_from((3.0, 11.0, 35.0))))), actor="ann"
        )
    which = draw(st.sampled_from(incidents)) if incidents else "unknown"
    if kind == 12:
        until = draw(st.sampled_from((0.0, now + 70)))
        return AckIncident(incident=which, actor="ann", until=until)
    if draw(st.booleans()):
        return ResolveIncident(incident=which, actor="ann")
    evidence = Evidence(service=service, metric="cpu", kind="resource", deviation=7.0, score=0.7, onset=now - 25)
    return EvidenceDigest(request_id="q", incident=which, asof=now, evidence=(evidence,))


@st.composite
def journals(draw: st.DrawFn) -> list[JournalRecord]:
    """Records as the runtime would append them; commands name incidents that a first pass has opened by then."""
    stage = build(CONFIG)
    records: list[JournalRecord] = []
    now = T0
    for offset in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from((0.0, 0.5, 3.0, 11.0, 35.0, 95.0, 400.0, 1500.0)))
        item = draw(body(now, list(stage.incidents)))
        record = JournalRecord(offset=offset, stamp=now, body=item)
        stage.step([record])
        records.append(record)
    records.append(JournalRecord(offset=len(records), stamp=now + 4000.0, body=Tick()))
    return records


class Disk:
    """What a store keeps: the last row of each id, the outbox once per id, positions and the newest snapshot."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Any] = {}
        self.outbox: dict[str, Effect] = {}
        self.order: list[str] = []
        self.position = -1
        self.snapshot: tuple[int, bytes] | None = None

    def commit(self, effects: list[Effect], position: int) -> None:
        for effect in effects:
            if isinstance(effect, Upsert):
                item = effect.item
                key = getattr(item, "fingerprint", "") or item.id  # type: ignore[union-attr]  # one of the two
                self.rows[type(item).__name__, key] = item
            elif isinstance(effect, Maintain):
                self.rows["Window", "all"] = effect.windows
            elif isinstance(effect, Notify):
                if effect.notification.id not in self.outbox:
                    self.order.append(effect.notification.id)
                self.outbox.setdefault(effect.notification.id, effect)
            elif isinstance(effect, Retrain):
                key = effect.trainer + effect.request.id
                if key not in self.outbox:
                    self.order.append(key)
                self.outbox.setdefault(key, effect)
        self.position = position

    def save(self, stage: CorrelateStage) -> None:
        self.snapshot = (self.position, msgspec.msgpack.encode(stage.snapshot()))

    def recover(self, journal: list[JournalRecord]) -> CorrelateStage:
        if self.snapshot is None:
            stage, position = build(CONFIG), -1
        else:
            position, data = self.snapshot
            stage = build(CONFIG, msgspec.msgpack.decode(data, type=Snapshot))
        stage.step([r for r in journal if position < r.offset <= self.position])
        return stage


def undisturbed(journal: list[JournalRecord]) -> Disk:
    disk = Disk()
    disk.commit(build(CONFIG).step(journal), journal[-1].offset)
    return disk


@settings(max_examples=60, deadline=None)
@given(journals(), st.data())
def test_batches_do_not_matter(journal: list[JournalRecord], data: st.DataObject) -> None:
    """Law 3: step(a + b) equals step(a) then step(b), bit for bit, state included."""
    cut = data.draw(st.integers(0, len(journal)))
    whole, parts = build(CONFIG), build(CONFIG)

    at_once = whole.step(journal)
    in_two = parts.step(journal[:cut]) + parts.step(journal[cut:])

    assert at_once == in_two
    assert not [e.entry for e in at_once if isinstance(e, Audit) and e.entry.kind == "bug"]
    assert msgspec.msgpack.encode(whole.snapshot()) == msgspec.msgpack.encode(parts.snapshot())


@settings(max_examples=60, deadline=None)
@given(journals(), st.data())
def test_crashes_change_nothing(journal: list[JournalRecord], data: st.DataObject) -> None:
    """Law 5: however often the process dies, rows and outbox equal those of an undisturbed pass over the journal."""
    disk = Disk()
    stage = build(CONFIG)
    at = 0
    while at < len(journal):
        n = data.draw(st.integers(1, 6), label="records in this step")
        records = journal[at : at + n]
        effects = stage.step(records)
        fate = data.draw(st.sampled_from(("commit", "commit", "snapshot", "die before", "die after")), label="fate")
        if fate != "die before":
            disk.commit(effects, records[-1].offset)
            at += len(records)
        if fate == "snapshot":
            disk.save(stage)
        if fate.startswith("die"):
            stage = disk.recover(journal)

    expected = undisturbed(journal)
    assert disk.rows == expected.rows
    assert disk.outbox == expected.outbox
    assert disk.order == expected.order


@settings(max_examples=60, deadline=None)
@given(journals(), st.data())
def test_a_snapshot_is_the_state(journal: list[JournalRecord], data: st.DataObject) -> None:
    """Resumed from a snapshot on disk, a stage decides the rest as if it had never stopped, timers included."""
    cut = data.draw(st.integers(0, len(journal)))
    stage = build(CONFIG)
    stage.step(journal[:cut])
    resumed = build(CONFIG, msgspec.msgpack.decode(msgspec.msgpack.encode(stage.snapshot()), type=Snapshot))

    assert stage.wake_at() == resumed.wake_at()
    assert stage.step(journal[cut:]) == resumed.step(journal[cut:])


@settings(max_examples=60, deadline=None)
@given(journals())
def test_time_comes_from_the_records(journal: list[JournalRecord]) -> None:
    """Law 2: what a stage decides when woken exactly at each wake_at() is what it decides without the ticks.

    Before a restart there are no ticks: that the daemon was away is what the record says.
    """
    ticked, plain = build(CONFIG), build(CONFIG)
    decided: list[Effect] = []
    offset = 0
    for record in journal:
        away = isinstance(record.body, Started)
        while not away and (wake := ticked.wake_at()) is not None and wake < record.stamp:
            decided += ticked.step([JournalRecord(offset=record.offset - 1, stamp=wake, body=Tick())])
            offset += 1
        decided += ticked.step([record])

    def sent(effects: list[Effect]) -> list[Any]:
        return [e for e in effects if isinstance(e, (Notify, Retrain, Upsert, Forget))]

    assert sent(decided) == sent(plain.step(journal))


@settings(max_examples=60, deadline=None)
@given(journals())
def test_every_dedup_key_ends_with_its_resolve(journal: list[JournalRecord]) -> None:
    """Per dedup_key: a trigger comes first, only a new trigger follows a resolve, and what is quiet is resolved."""
    stage = build(CONFIG)
    effects = stage.step(journal)
    last: dict[str, str] = {}
    for effect in effects:
        if isinstance(effect, Notify):
            note = effect.notification
            before = last.get(note.dedup_key)
            if before in (None, "resolve"):
                assert note.action == "trigger"
            last[note.dedup_key] = str(note.action)

    open_keys = {i.dedup_key for i in stage.incidents.values() if i.state in ("open", "acknowledged")}
    assert {k for k, action in last.items() if action != "resolve"} <= open_keys


@settings(max_examples=60, deadline=None)
@given(journals())
def test_every_firing_alert_has_a_place_and_a_reason(journal: list[JournalRecord]) -> None:
    """No alert is held silently: it belongs to an incident that knows it, or is quiet, and says why in both cases."""
    stage = build(CONFIG)
    stage.step(journal)

    for alert in stage.alerts.values():
        assert alert.group_reason
        if alert.incident:
            home: Incident = stage.incidents[alert.incident]
            assert alert.fingerprint in home.alerts
            assert not home.merged_into


@settings(max_examples=60, deadline=None)
@given(journals())
def test_what_is_quiet_for_long_is_resolved(journal: list[JournalRecord]) -> None:
    """An open incident has something firing, or its quiet period is still running: none stays open for nothing."""
    stage = build(CONFIG)
    stage.step(journal)

    for incident in stage.incidents.values():
        firing = [a for a in stage.alerts.values() if a.incident == incident.id and a.state == "firing"]
        if incident.state in ("open", "acknowledged"):
            assert firing or stage.now < incident.updated_at + CONFIG.correlate.resolve_after


def test_a_bug_in_one_record_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record whose handling raises is loud, and the alert behind it is placed and paged all the same."""
    stage = build(CONFIG)
    monkeypatch.setattr(stage.topology, "apply", lambda *_: {}["a bug"])
    alert = AlertIn(labels={"alertname": "Down", "service": "db"}, starts_at=T0, ends_at=T0 + 300)
    effects = stage.step(
        [
            JournalRecord(
                offset=0, stamp=T0, body=TopologyUpdate(source="mesh", edges=(Edge(caller="a", callee="b"),))
            ),
            JournalRecord(offset=1, stamp=T0, body=AlertBatch(alerts=(alert,), sender="prometheus")),
            JournalRecord(offset=2, stamp=T0 + 60, body=Tick()),
        ]
    )

    bugs = [e.entry for e in effects if isinstance(e, Audit) and e.entry.kind == "bug"]
    assert [0] == [b.offset for b in bugs]
    assert "KeyError" in bugs[0].text
    assert [e for e in effects if isinstance(e, Notify)]
