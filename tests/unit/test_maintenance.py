"""Planned work that operators announce: the book of windows, and what the two stages make of it."""

import json
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.config import Config, load
from aiopsd.maintenance import KEEP, MaintenanceBook, problem, window_id
from aiopsd.model import (
    AlertBatch,
    AlertIn,
    Anomaly,
    Audit,
    Body,
    Effect,
    EndMaintenance,
    Evidence,
    JournalRecord,
    LogRecord,
    Maintain,
    Matcher,
    PutMaintenance,
    Snapshot,
    Tick,
    Window,
)
from aiopsd.pipeline import correlate, detect
from aiopsd.testing.breaks import STEP, noise, record
from aiopsd.testing.breaks import T0 as SAMPLES_FROM
from aiopsd.testing.detectors import stored

T0 = 1_760_000_000.0
PAY = (Matcher(name="service", value="pay"),)


def put(
    matchers: Sequence[Matcher] = PAY, *, at: float = 0.0, until: float = T0 + 3600, key: str = "1"
) -> PutMaintenance:
    return PutMaintenance(
        request_id=key, matchers=tuple(matchers), starts_at=at, ends_at=until, created_by="ann", comment="load test"
    )


def test_a_window_never_begins_before_it_was_asked_for() -> None:
    """Without a start, or with one in the past, it holds from the command's stamp on; asking again changes nothing."""
    book = MaintenanceBook()
    made = book.put(put(at=T0 - 500), T0)
    assert made is not None
    assert (made.id, made.starts_at, made.ends_at) == (window_id(put(at=T0 - 500)), T0, T0 + 3600)
    assert book.put(put(at=T0 - 500), T0 + 1) is None
    later = book.put(put(at=T0 + 100, key="2"), T0)
    assert later is not None
    assert later.starts_at == T0 + 100


def test_it_covers_its_series_in_its_time() -> None:
    """All matchers hold, from the start on, until just before the end; it survives a snapshot."""
    book = MaintenanceBook()
    book.put(put((*PAY, Matcher(name="pod", value="a.*", is_regex=True))), T0)
    book = MaintenanceBook(msgspec.msgpack.decode(msgspec.msgpack.encode(book.snapshot())))
    inside = {"service": "pay", "pod": "a1"}
    assert [book.covers(inside, T0 + s) is not None for s in (-1, 0, 3599, 3600)] == [False, True, True, False]
    assert book.covers({"service": "pay", "pod": "b1"}, T0) is None
    assert book.covers({"service": "cart", "pod": "a1"}, T0) is None


def test_it_can_be_ended_or_called_off_and_is_forgotten_a_month_later() -> None:
    """Ending twice changes nothing; one that has not begun never does; old ones go."""
    book = MaintenanceBook()
    now, later = book.put(put(), T0), book.put(put(at=T0 + 1000, key="2"), T0)
    assert now is not None
    assert later is not None
    ended = book.end(EndMaintenance(id=now.id), T0 + 10)
    called_off = book.end(EndMaintenance(id=later.id), T0 + 10)
    assert ended is not None
    assert called_off is not None
    assert (ended.starts_at, ended.ends_at) == (T0, T0 + 10)
    assert book.end(EndMaintenance(id=now.id), T0 + 20) is None
    assert book.covers({"service": "pay"}, T0 + 1001) is None
    assert book.forget(T0 + KEEP) is False
    assert book.forget(T0 + 10 + KEEP) is True
    assert book.all() == ()


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (put(()), "matchers"),
        (put((Matcher(name="", value="x"),)), "matchers[0].name"),
        (put((*PAY, Matcher(name="a", value="(", is_regex=True))), "matchers[1].value"),
        (put((Matcher(name="a", value=".*", is_regex=True),)), "matchers"),
        (put(until=T0), "ends_at"),
        (put(at=T0 + 100, until=T0 + 50), "ends_at"),
    ],
)
def test_what_means_nothing_is_refused_with_its_field(command: PutMaintenance, field: str) -> None:
    """No matcher, a broken one, one that is every series, an end before the beginning."""
    found = problem(command, T0)
    assert found is not None
    assert found[0] == field
    assert MaintenanceBook().put(command, T0) is None


# --------------------------------------------------------------------------- the correlate stage


def anomaly(*pods: str, ts: float, service: str = "pay", state: str = "firing") -> Anomaly:
    evidence = tuple(
        Evidence(service=service, metric="cpu", labels={"pod": pod}, deviation=9.0, score=0.9, onset=ts) for pod in pods
    )
    return Anomaly(
        id=service, service=service, signal="cpu", onset=ts, ts=ts, score=0.9, state=state, evidence=evidence
    )


def play(*bodies: tuple[float, Body]) -> tuple[correlate.CorrelateStage, list[Effect]]:
    stage = correlate.build(Config())
    records = [JournalRecord(offset=i, stamp=T0 + at, body=body) for i, (at, body) in enumerate(bodies)]
    return stage, stage.step(records)


def test_an_anomaly_in_a_window_is_none() -> None:
    """It makes no alert and no incident, and the audit says why; others' alerts and services are not concerned."""
    alert = AlertIn(labels={"alertname": "Slow", "service": "pay", "severity": "critical"})
    stage, effects = play(
        (0, put()),
        (10, anomaly("a", ts=T0 + 9)),
        (20, anomaly("a", ts=T0 + 19, service="cart")),
        (30, AlertBatch(alerts=(alert,), sender="prometheus")),
        (4000, anomaly("b", ts=T0 + 3999)),
    )
    named = sorted((a.service, a.anomaly, a.starts_at) for a in stage.alerts.values())
    assert named == [("cart", True, T0 + 19), ("pay", False, T0 + 30), ("pay", True, T0 + 3999)]
    told = [(e.entry.kind, e.entry.reason, e.entry.actor) for e in effects if isinstance(e, Audit)]
    assert told[:2] == [("maintenance", "", "ann"), ("suppressed", "maintenance", "")]


def test_the_timeline_says_what_is_planned_in_words() -> None:
    """On what, until when by the clock, why; when it ends, and when it excuses an anomaly, the same."""
    command = put()
    key = window_id(command)
    _, effects = play((0, command), (10, anomaly("a", ts=T0 + 9)), (20, EndMaintenance(id=key, actor="bob")))
    about = '{service="pay"}'
    assert [e.entry.text for e in effects if isinstance(e, Audit)] == [
        f"{about} until 2025-10-09 09:53 UTC: load test ({key})",
        f"anomaly of cpu (pay) is planned work: {about}: load test ({key})",
        f"{about} ended: load test ({key})",
    ]


def test_an_anomaly_that_is_only_partly_planned_is_told() -> None:
    """When one of its series is outside of the window, the window explains nothing."""
    pods = Matcher(name="pod", value="a|b", is_regex=True)
    stage, _ = play((0, put((*PAY, pods))), (10, anomaly("a", "b", ts=T0 + 9)), (20, anomaly("a", "c", ts=T0 + 19)))
    assert [a.starts_at for a in stage.alerts.values()] == [T0 + 19]


def test_every_change_says_all_windows() -> None:
    """The detect side gets the whole list whenever it changes, and a stage resumed from a snapshot has it."""
    stage, effects = play(
        (0, put()), (1, put(key="2")), (2, put()), (3, EndMaintenance(id=window_id(put()), actor="bob"))
    )
    lists = [e.windows for e in effects if isinstance(e, Maintain)]
    assert [len(w) for w in lists] == [1, 2, 2]
    data = msgspec.msgpack.encode(stage.snapshot())
    again = correlate.build(Config(), msgspec.msgpack.decode(data, type=Snapshot))
    assert again.parts.maintenance.all() == lists[-1]
    assert lists[-1][0].ends_at == T0 + 3
    month = JournalRecord(offset=4, stamp=T0 + KEEP + 4 * 3600, body=Tick())
    assert [e.windows for e in again.step([month]) if isinstance(e, Maintain)][-1] == ()


# --------------------------------------------------------------------------- the detect stage


def planned() -> Window:
    """The last two hours of four days of samples of `db`."""
    end = SAMPLES_FROM + 4 * 288 * STEP
    matchers = (
        Matcher(name="service", value="db|cache", is_regex=True),
        Matcher(name="env", value="test", is_equal=False),
    )
    return Window(id="w", matchers=matchers, starts_at=end - 24 * STEP, ends_at=end)


def test_what_an_operator_asked_for_is_left_out_as_what_the_file_says() -> None:
    """The same window by configuration and by request makes the same events, for series known before and after it."""
    values = 100 + noise(5 * 288)
    values[4 * 288 - 24 : 4 * 288] += 300
    values[4 * 288 + 100 : 4 * 288 + 103] += 300
    log = [record(k, m=v) for k, v in enumerate(values.tolist())]
    text = "{match: {service: db}, start: 2023-11-18T22:00:00Z, end: 2023-11-19T00:00:00Z}"
    by_file = detect.build(load(f"detect: {{maintenance: [{text}]}}"), "m", 0).step(log)

    asked = detect.build(Config(), "m", 0)
    effects = asked.step(log[:1000])
    asked.maintain((planned(),))
    effects += asked.step(log[1000:])

    first = detect.build(Config(), "m", 0)
    first.maintain((planned(),))
    resumed_effects = first.step(log[: 4 * 288 - 10])
    resumed = detect.build(Config(), "m", 0, stored(first.snapshot()))
    resumed.maintain((planned(),))
    resumed_effects += resumed.step(log[4 * 288 - 10 :])

    assert by_file
    assert effects == by_file == resumed_effects
    assert asked.skipped == 24


def test_windows_can_be_taken_back() -> None:
    """Without the window the same samples are scored again, and those of the file still hold."""
    stage = detect.build(Config(), "m", 0)
    stage.step([record(k, m=100.0) for k in range(10)])
    stage.maintain((planned(),))
    stage.maintain(())
    stage.step([record(k, m=100.0) for k in range(4 * 288 - 24, 4 * 288)])
    assert stage.skipped == 0


ODD = 'gr\u00f6\u00dfe "\\\n'  # all of it is escaped in JSON, or may be
VALUES = st.sampled_from(("pay", "pay-db", ODD, ""))
SERIES = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12, unique=True)
PLAIN = st.builds(
    Matcher,
    name=st.sampled_from(("service", "pod", "none")),
    value=st.sampled_from(("pay", ODD, "")),
    is_equal=st.sampled_from((True, True, False)),
)
PATTERN = st.builds(
    Matcher,
    name=st.sampled_from(("service", "pod")),
    value=st.sampled_from(("pay.*", "pay|gr\u00f6.*|x", ".+", "(pay|x)", "pay-d.|.*b")),
    is_regex=st.just(True),
    is_equal=st.sampled_from((True, True, False)),
)
CONDITION = PLAIN | PATTERN
PLANS = st.lists(st.lists(st.lists(CONDITION, min_size=1, max_size=2), max_size=4), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(SERIES, PLANS)
def test_what_is_asked_of_known_series_is_what_is_asked_of_new_ones(
    series: list[tuple[str, str]], plans: list[list[list[Matcher]]]
) -> None:
    """However the windows came and went, they concern the series that they would had the series come after them."""

    def said(k: int, at: float) -> LogRecord:
        service, pod = series[k]
        body = {"name": "m", "service": service, "labels": {"pod": pod}, "ts": at, "value": 1.0}
        text = json.dumps(body, ensure_ascii=k % 2 == 0).encode()  # one has escapes where the other has UTF-8
        return LogRecord(source="m", partition=0, offset=k, value=text, format="json", stamp=at)

    lists = [
        tuple(
            Window(id=f"{i}", matchers=tuple(matchers), starts_at=T0 + 60 * (i + 1), ends_at=T0 + 60 * (i + 2))
            for i, matchers in enumerate(plan)
        )
        for plan in plans
    ]
    known, new = detect.build(Config(), "m", 0), detect.build(Config(), "m", 0)
    known.step([said(k, T0) for k in range(len(series))])
    for windows in lists:
        known.maintain(windows)
    new.maintain(lists[-1])
    skipped = []
    for stage in (known, new):
        counts = []
        for i in range(len(lists[-1])):  # one window after the other
            for k in range(len(series)):
                stage.step([said(k, T0 + 60 * (i + 1) + 30)])
                counts.append(stage.skipped)
        skipped.append(counts)
    assert skipped[0] == skipped[1]
