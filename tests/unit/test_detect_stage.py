"""The stage of a partition: what an operator gets told, and what not."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aiopsd.config import Config, load
from aiopsd.decode import SeriesIndex
from aiopsd.errors import ConfigError
from aiopsd.model import STALE_BITS, Anomaly, Append, DriftDetected, Effect, LogRecord, Reject
from aiopsd.pipeline.detect import DetectStage, build

RECIPES = Path(__file__).parent.parent.parent / "docs" / "how-to" / "tier-2"

T0 = 1_700_006_400.0  # a midnight
MINUTE = 60.0
Sample = tuple[dict[str, str], float, float]


def records(samples: Iterable[Sequence[Sample]], *, first: int = 0, stamp: bool = True) -> list[LogRecord]:
    """One record per group of samples, received a second after its newest."""
    out = []
    for i, group in enumerate(samples):
        body = [
            {"name": labels["__name__"], "labels": {k: v for k, v in labels.items() if k != "__name__"},
             "ts": ts, "value": value}
            for labels, ts, value in group
        ]  # fmt: skip
        newest = max((ts for _, ts, _ in group), default=T0)
        out.append(
            LogRecord(
                source="metrics",
                partition=2,
                offset=first + i,
                value=msgspec.json.encode(body),
                format="json",
                stamp=newest + 1 if stamp else 0.0,
            )
        )
    return out


def series(metric: str, service: str = "pay", **labels: str) -> dict[str, str]:
    return {"__name__": metric, "service": service} | labels


def stage(text: str = "") -> DetectStage:
    return build(load(text) if text else Config(), "metrics", 2)


def said(effects: list[Effect], kind: type[Any] = Anomaly) -> list[Any]:
    return [e.body for e in effects if isinstance(e, Append) and isinstance(e.body, kind)]


def shop(
    minutes: int, fault: range = range(0), metrics: Sequence[str] = ("latency_p99", "errors", "cpu"), seed: int = 1
) -> list[list[Sample]]:
    """Services cart and pay, a sample of each metric a minute; in `fault` every metric of pay is five times as high."""
    rng = np.random.default_rng(seed)
    out = []
    for minute in range(minutes):
        ts = T0 + MINUTE * minute
        group: list[Sample] = []
        for service in ("cart", "pay"):
            for metric in metrics:
                value = 100 + rng.normal() * 3
                group.append(
                    (series(metric, service, pod="a"), ts, value * (5 if service == "pay" and minute in fault else 1))
                )
        out.append(group)
    return out


def test_one_fault_is_one_event_with_evidence_and_an_end() -> None:
    """Three metrics of a service that leave their range together make one anomaly, revised, then resolved."""
    effects = stage().step(records(shop(1800, range(1500, 1520))))
    events = said(effects)

    assert {e.service for e in events} == {"pay"}
    assert len({e.id for e in events}) == 1
    assert [e.state for e in events][-1] == "resolved"
    assert [e.revision for e in events] == list(range(len(events)))
    fired, ended = events[0], events[-1]
    assert fired.state == "firing"
    assert fired.onset == T0 + 1500 * MINUTE
    assert fired.pos.offset == 1500
    assert 1519 * MINUTE < ended.ts - T0 <= 1540 * MINUTE
    assert {e.metric for e in ended.evidence} == {"latency_p99", "errors", "cpu"}
    worst = ended.evidence[0]
    assert 80 < worst.low < worst.normal < worst.high < 120
    assert worst.level > 450
    assert worst.deviation > 5
    assert worst.direction == "high"
    assert worst.score > 0.5
    assert len(worst.recent) == 16
    assert "normally" in ended.summary
    assert "since 01:00:00 UTC" in ended.summary


def test_a_quiet_world_says_nothing() -> None:
    """Two days of two services with nothing wrong: no event at all."""
    assert said(stage().step(records(shop(2880)))) == []


def test_no_event_in_warm_up() -> None:
    """Whatever new series do in their first hour, nobody is told."""
    rng = np.random.default_rng(2)
    wild = [
        [(series("errors", pod=str(p)), T0 + 15.0 * t, float(np.exp(rng.normal() * 9))) for p in range(20)]
        for t in range(239)
    ]
    assert said(stage().step(records(wild))) == []


def test_an_echo_is_no_second_event() -> None:
    """The same trouble again, weaker, an hour after the first ended is not told again; days later it is."""
    rng = np.random.default_rng(7)

    def world(second: int) -> list[list[Sample]]:
        out = []
        for t in range(3000):
            bump = 10 if 700 <= t < 703 else 6 if second <= t < second + 3 else 0
            out.append([(series("queue_depth"), T0 + 300.0 * t, 100 + rng.normal() + bump)])
        return out

    text = "detect: {growth: 0.05}"  # so that the weaker one leaves the envelope again
    soon = said(stage(text).step(records(world(715))))
    late = said(stage(text).step(records(world(2900))))
    fault = T0 + 300.0 * 690
    assert [e.onset for e in soon if e.revision == 0 and e.onset > fault] == [T0 + 300.0 * 700]
    assert [e.onset for e in late if e.revision == 0 and e.onset > fault] == [T0 + 300.0 * 700, T0 + 300.0 * 2900]


def test_a_load_that_goes_flat_is_an_event_until_it_moves_again() -> None:
    """A series that freezes inside its range is one event that says how little it moves, over when it moves again."""
    rng = np.random.default_rng(3)
    flat, over = range(288 * 8, 288 * 8 + 24), 288 * 8 + 48
    values = 100 + rng.normal(size=over)
    values[flat.start : flat.stop] = 100.1
    load = series("request_rate")
    watched = stage()
    told = said(watched.step(records([[(load, T0 + 300 * t, float(v))] for t, v in enumerate(values)])))

    first = next(e for e in told if e.onset >= T0 + 300 * flat.start)
    assert first.onset < T0 + 300 * flat.stop
    assert first.evidence[0].channel == "still"
    assert "a sample within the hour, never by less than" in first.summary
    (end,) = [e for e in told if e.id == first.id and e.state == "resolved"]
    assert T0 + 300 * flat.stop <= end.ts <= T0 + 300 * flat.stop + 3600

    both = stage("detect: {flatline: 30m}")
    told = said(both.step(records([[(load, T0 + 300 * t, float(v))] for t, v in enumerate(values)])))
    assert {e.signal for e in told if e.onset >= T0 + 300 * flat.start} == {"flatline"}  # not twice


def test_an_hour_that_was_a_peak_is_told_by_its_mean() -> None:
    """When a peak is over before its hour is, the sentence says what the hour came to, not that the value is usual."""
    rng = np.random.default_rng(4)
    values = 100 + rng.normal(size=24 * 12 * 12)
    for day, size in ((3, 80), (11, 40)):  # the like was seen before: no range is left
        values[day * 288 + 60 : day * 288 + 70] += size
    rows = [[(series("queue_depth"), T0 + 300.0 * t, float(v))] for t, v in enumerate(values)]
    told = [e for e in said(stage().step(records(rows))) if e.onset >= T0 + 86400 * 11 and e.revision == 0]
    (event,) = told
    assert event.evidence[0].channel == "hour"
    assert "queue_depth 99.65 (133.6 in the mean of the hour, normally 96.35..103.9)" in event.summary


def test_the_steps_of_a_ramp_add_up() -> None:
    """A metric that leaves its range in steps of a tenth of its width is an event; one such step is none."""
    rng = np.random.default_rng(9)

    def told(steps: int) -> int:
        values = 100 + rng.uniform(-5, 5, 1600)
        values[1560 : 1560 + steps] = 95 - np.arange(1, steps + 1)
        rows = [[(series("free_bytes"), T0 + MINUTE * t, float(x))] for t, x in enumerate(values)]
        return sum(e.revision == 0 for e in said(stage().step(records(rows))))

    assert [told(1), told(20)] == [0, 1]


def morning(hours: int, fault: range = range(0), services: int = 6) -> list[list[Sample]]:
    """Load that grows from 06:00 to noon, in six metrics of each service; in `fault` it is threefold in the first."""
    rng = np.random.default_rng(3)
    out = []
    for minute in range(60 * hours):
        load_ = 1 - 0.6 * np.cos(2 * np.pi * (minute / 1440 + 0.15))
        out.append(
            [
                (
                    series(f"requests_{k}", f"svc{i}"),
                    T0 + MINUTE * (360 + minute),
                    float(100 * load_ * (1 + 0.04 * rng.normal())) * (3 if i == 0 and minute in fault else 1),
                )
                for i in range(services)
                for k in range(6)
            ]
        )
    return out


def test_the_first_morning_is_no_event() -> None:
    """Started at six, on series that all rise with the day, nothing is said; a fault in that morning is."""
    assert said(stage().step(records(morning(8)))) == []
    fault = said(stage().step(records(morning(6, range(240, 270)))))
    assert [(e.service, e.state) for e in fault if not e.revision] == [("svc0", "firing")]


def test_a_histogram_is_no_crowd() -> None:
    """The buckets of a histogram say what its count says: they neither make an event nor prevent one."""

    def worth(buckets: int) -> list[tuple[str, float, float]]:
        rng, total, out = np.random.default_rng(5), 0.0, []
        for minute in range(1600):
            total += 600 + 12 * rng.normal() + (120 if minute >= 1560 else 0)
            names = [series("wait_seconds_count"), *(series("wait_seconds_bucket", le=f"{k}") for k in range(buckets))]
            out.append([(labels, T0 + MINUTE * minute, float(total)) for labels in names])
        events = said(stage().step(records(out)))
        assert all("/s, normally" in e.summary for e in events)  # it counts: what it says is a rate
        return [(e.state, e.ts, e.score) for e in events]

    assert worth(12) == worth(0) != []


def test_who_alarms_often_is_believed_less() -> None:
    """Weak troubles every six hours are told less and less; severe ones are heard however many came before."""
    at = list(range(1500, 3300, 72))

    def told(size: float) -> int:
        rng = np.random.default_rng(8)
        out = []
        for t in range(3300):
            bump = size if any(a <= t < a + 3 for a in at) else 0
            out.append([(series("queue_depth"), T0 + 300.0 * t, 100 + rng.uniform(-3, 3) + bump)])
        text = "detect: {growth: 0.01}"  # so that every one of them leaves the envelope
        onsets = [round((e.onset - T0) / 300) for e in said(stage(text).step(records(out))) if e.revision == 0]
        return sum(a <= t < a + 3 for t in onsets for a in at)

    assert 2 <= told(3.0) <= 8
    assert told(50.0) == len(at)


def test_by_series_each_series_is_its_own_event() -> None:
    """`join: series` makes one anomaly per series, with that series' labels and metric as its signal."""
    events = said(stage("detect: {join: series}").step(records(shop(1600, range(1500, 1520)))))
    firing = [e for e in events if e.revision == 0]
    assert sorted(e.signal for e in firing) == ["cpu", "errors", "latency_p99"]
    assert all(e.labels == {"service": "pay", "pod": "a"} for e in firing)


def test_minimum_duration_holds_a_blip_back() -> None:
    """With a minimum duration of ten minutes a fault of two says nothing, one of twenty speaks after ten."""
    text = "detect: {min_duration: 10m}"
    assert said(stage(text).step(records(shop(1600, range(1500, 1502))))) == []
    events = said(stage(text).step(records(shop(1600, range(1500, 1520)))))
    assert events[0].ts == T0 + 1510 * MINUTE
    assert events[0].onset == T0 + 1500 * MINUTE


def test_a_metric_that_falls_the_harmless_way_is_no_event() -> None:
    """Errors that fall to nothing are good news; availability that falls is not."""

    def falling(metric: str) -> list[Any]:
        rng = np.random.default_rng(3)
        rows = [[(series(metric), T0 + MINUTE * t, 100 + rng.normal() - (90 if t >= 1500 else 0))] for t in range(1600)]
        return said(stage().step(records(rows)))

    assert falling("error_rate") == []
    assert [e.state for e in falling("availability")][:1] == ["firing"]
    assert [e.state for e in falling("whatever")][:1] == ["firing"]


def test_a_counter_of_delta_temporality_is_a_rate_already() -> None:
    """What it counted a second is watched as it comes and told as a rate: it is not counted a second time."""
    rows = [
        [(labels | {"__temporality__": "delta"}, ts, value) for labels, ts, value in group]
        for group in shop(1600, range(1500, 1520), metrics=("errors_total",))
    ]

    event = next(e for e in said(stage().step(records(rows))) if e.state == "firing")

    (evidence,) = event.evidence
    assert (event.service, evidence.kind, evidence.rate) == ("pay", "errors", True)
    assert evidence.level == pytest.approx(500, abs=50)
    assert evidence.normal == pytest.approx(100, abs=10)


def test_fixed_limit_with_hysteresis_and_duration() -> None:
    """A limit fires after its minimum duration, stays until the value is back inside `clear`, and resolves once."""
    text = """
    detect:
      thresholds:
        - {name: disk full, match: {__name__: disk_used}, above: 90, clear: 80, min_duration: 3m, severity: critical}
    """
    values = [50, 95, 96, 50, 95, 95, 95, 97, 85, 85, 79, 50]
    rows = [[(series("disk_used", mount="/"), T0 + MINUTE * t, float(v))] for t, v in enumerate(values)]
    events = said(stage(text).step(records(rows)))
    assert [(e.state, (e.ts - T0) / MINUTE, e.revision) for e in events] == [("firing", 7, 0), ("resolved", 10, 1)]
    assert events[0].onset == T0 + 4 * MINUTE
    assert events[0].severity == "critical"
    assert events[0].labels == {"service": "pay", "mount": "/", "rule": "disk full"}
    assert events[0].summary == "disk_used 97 above 90 (disk full), since 00:04:00 UTC"


def test_a_limit_resolves_when_its_series_dies() -> None:
    """A series that stops outside its limit does not fire forever: the watermark of the others ends it."""
    text = "detect: {thresholds: [{name: hot, match: {__name__: temp}, above: 90}]}"
    rows = [[(series("temp"), T0 + MINUTE * t, 99.0), (series("other"), T0 + MINUTE * t, 1.0)] for t in range(5)]
    rows += [[(series("other"), T0 + MINUTE * t, 1.0)] for t in range(5, 40)]
    events = said(stage(text).step(records(rows)))
    assert [(e.state, (e.ts - T0) / MINUTE) for e in events] == [("firing", 0), ("resolved", 19)]


def test_a_retry_changes_nothing() -> None:
    """Every record sent twice makes the same events as once: ingestion is idempotent."""
    rows = shop(1600, range(1500, 1520))
    once = said(stage().step(records(rows)))
    twice = said(stage().step(records([group for g in rows for group in (g, g)])))
    plain = [msgspec.structs.replace(e, pos=None) for e in once]
    assert plain == [msgspec.structs.replace(e, pos=None) for e in twice]
    assert plain


def no_data(rows: list[list[Sample]]) -> list[tuple[str, str, float]]:
    return [
        (e.service, e.state, (e.ts - T0) / MINUTE)
        for e in said(stage("detect: {no_data: 10m}").step(records(rows)))
        if e.signal == "no-data"
    ]


def fleet(minutes: int, alive: Any) -> list[list[Sample]]:
    """Services s0..s4 of 20 series each; `alive(service number, minute)`."""
    return [
        [(series("up", f"s{s}", pod=str(p)), T0 + MINUTE * t, 1.0) for s in range(5) if alive(s, t) for p in range(20)]
        or [(series("heartbeat", "bus"), T0 + MINUTE * t, 1.0)]
        for t in range(minutes)
    ]


def test_one_dead_service_is_one_event() -> None:
    """Twenty series that stop together are one no-data event, resolved when they are back."""
    events = no_data(fleet(100, lambda s, t: s != 3 or not 40 <= t < 70))
    assert [(service, state) for service, state, _ in events] == [("s3", "firing"), ("s3", "resolved")]
    assert 49 < events[0][2] <= 55


def test_a_dead_target_is_named() -> None:
    """The event of a target, or of a series, says what tells it from the rest of its service; that of all does not."""

    def summary(dead: Any) -> str:
        rows = [
            [
                (series(metric, "pay", instance=at, job="app"), T0 + MINUTE * t, 1.0)
                for metric in ("cpu", "rss")
                for at in ("a:1", "b:1")
                if t < 40 or not dead(metric, at)
            ]
            + [(series("up", f"s{s}"), T0 + MINUTE * t, 1.0) for s in range(5)]
            for t in range(60)
        ]
        (event,) = [e for e in said(stage("detect: {no_data: 10m}").step(records(rows))) if e.signal == "no-data"]
        return str(event.summary)

    assert "no data from service pay (instance=b:1), 2 series since" in summary(lambda metric, at: at == "b:1")
    assert "(cpu, instance=b:1), 1 series since" in summary(lambda metric, at: (metric, at) == ("cpu", "b:1"))
    assert "no data from service pay, 4 series since" in summary(lambda metric, at: True)


def test_who_stays_away_is_missed_for_as_long_as_configured() -> None:
    """A series that was retired is no event for ever, and its end does not say that it is back."""
    rows = fleet(400, lambda s, t: s != 3 or t < 40)
    events = [
        (e.state, (e.ts - T0) / MINUTE, e.summary)
        for e in said(stage("detect: {no_data: 10m, evict_after: 2h}").step(records(rows)))
        if e.signal == "no-data"
    ]
    assert [state for state, _, _ in events] == ["firing", "resolved"]
    assert 39 + 10 + 120 < events[1][1] <= 39 + 10 + 120 + 5
    assert "not missed any more" in events[1][2]


def test_silence_is_told_where_a_source_speaks_once_an_hour() -> None:
    """A source that delivers by the hour has no holes: who does not come three times is missed."""
    rows = [
        [(labels, T0 + 60 * (ts - T0), v) for labels, ts, v in group]
        for group in fleet(40, lambda s, t: s != 3 or t < 20)
    ]
    assert [(service, state) for service, state, _ in no_data(rows)] == [("s3", "firing")]


def test_our_own_lag_is_no_event() -> None:
    """A hole in the whole source, however long, is nobody's silence."""
    hole = fleet(40, lambda s, t: True)
    hole += [[(labels, ts + 7200, v) for labels, ts, v in group] for group in fleet(100, lambda s, t: True)[40:]]
    assert no_data(hole) == []


def test_more_than_half_silent_is_one_event_of_the_source() -> None:
    """When four of five services fall silent at once, that is one event that names the source."""
    events = no_data(fleet(90, lambda s, t: s == 0 or t < 40))
    assert [(service, state) for service, state, _ in events] == [("metrics", "firing")]


def test_a_series_that_said_goodbye_is_not_missed() -> None:
    """After a staleness marker silence is no event."""
    rows = fleet(60, lambda s, t: s != 3 or t < 40)
    bye = float(np.array([STALE_BITS], np.uint64).view(np.float64)[0])
    ending = stage("detect: {no_data: 10m}")
    ending.step(records(rows[:40]))
    index = ending._index
    gone = [r for r in range(len(index)) if index.service(r) == "s3"]
    ending._bank.step(np.array(gone, np.intp), np.full(20, T0 + 39.5 * MINUTE), np.full(20, bye))
    assert [e for e in said(ending.step(records(rows[40:], first=40))) if e.signal == "no-data"] == []


def test_a_clock_far_ahead_poisons_nothing() -> None:
    """A sample a year ahead of its receipt is rejected with its series and time; watermark and its series live on."""
    rows = shop(30)
    rows[10].append((series("cpu", "cart", pod="a"), T0 + 3.2e7, 1.0))
    log = records(rows)
    log[10] = msgspec.structs.replace(log[10], stamp=T0 + 601)
    s = stage()
    effects = s.step(log)
    (reject,) = [e for e in effects if isinstance(e, Reject)]
    assert (reject.reason, reject.items, reject.whole, reject.pos.offset) == ("timestamp", 1, False, 10)
    assert 'service="cart"' in reject.detail
    assert "2024-11-19T08:53:20Z is too far in the future" in reject.detail
    assert s.watermark == T0 + 29 * MINUTE
    assert s.samples == 30 * 6


def test_a_clock_a_little_ahead_makes_nobody_late() -> None:
    """A sender whose clock is fifty minutes ahead is heard, and everybody else is not missed for that."""
    rows = fleet(90, lambda s, t: True)
    log = records(rows)
    for i in range(40, 90):
        labels = series("temp", "sensor")
        log[i] = records([[*rows[i], (labels, T0 + MINUTE * (i + 50), 1.0)]], first=i)[0]
        log[i] = msgspec.structs.replace(log[i], stamp=T0 + MINUTE * i + 1)
    s = stage("detect: {no_data: 10m}")
    assert said(s.step(log)) == []
    assert s.watermark == T0 + 89 * MINUTE + 1
    assert s.samples == 90 * 100 + 50


def test_without_receipt_times_a_leap_needs_witnesses() -> None:
    """One record far ahead is refused; three in a row are believed, for a replay may have a hole of days."""
    rows = shop(10)
    leap = [[(labels, ts + 30 * 86400, v) for labels, ts, v in group] for group in shop(20)[10:]]
    s = stage()
    rejects = [e for e in s.step(records(rows + leap[:1] + shop(11)[10:], stamp=False)) if isinstance(e, Reject)]
    assert [r.pos.offset for r in rejects] == [10]
    assert s.watermark == T0 + 10 * MINUTE
    s.step(records(leap[1:], first=20, stamp=False))
    assert s.watermark == T0 + 30 * 86400 + 19 * MINUTE


def test_churn_does_not_grow_the_state() -> None:
    """Series that are replaced by the hour are forgotten after `evict_after`: rows are used again."""
    s = stage("detect: {evict_after: 2h}")
    sizes = []
    for hour in range(24):
        rows = [
            [
                (series("cpu", "web", pod=f"{p}-{hour if p < 10 else 0}"), T0 + 3600 * hour + 300 * t, 1.0)
                for p in range(100)
            ]
            for t in range(12)
        ]
        s.step(records(rows, first=12 * hour))
        sizes.append(len(s._index))
    assert s.series <= 140
    assert sizes[-1] <= max(sizes[:5]) + 10
    assert s._join.sizes["web"] < s.series  # those that wait for nobody make no noise


def come_and_go(away: Sequence[int], others: int = 40, absent: range = range(6, 10)) -> Iterable[list[Sample]]:
    """A sample an hour of many services for a day; those of `away` are silent in the hours of `absent`."""
    for hour in range(24):
        yield [
            (series("cpu", f"s{k}"), T0 + 3600 * hour, 1.0)
            for k in range(others)
            if k not in away or hour not in absent
        ]


def known_for(s: DetectStage, service: str) -> float:
    """Samples that the stage remembers of the one series of a service."""
    return float(s._bank.count[s._roster.rows_of([service], s.watermark)[0]])


def test_who_comes_back_finds_its_history_while_there_is_room() -> None:
    """A few that are away for longer than they are worth are remembered; of many, those that are overdue least."""
    few = stage("detect: {evict_after: 1h}")
    few.step(records(come_and_go([3, 4], absent=range(2, 20))))
    assert [known_for(few, f"s{k}") for k in (0, 3, 4)] == [24, 6, 6]
    many = stage("detect: {evict_after: 1h}")
    many.step(records(come_and_go(range(3, 30), absent=range(2, 20))))
    assert [known_for(many, f"s{k}") for k in (0, 3, 29)] == [24, 4, 4]


def test_who_is_away_for_a_month_is_forgotten() -> None:
    """However much room there is, a series does not wait for longer than 30 days."""
    s = stage("detect: {evict_after: 1h}")
    s.step(records([[(series("cpu", f"s{k}"), T0, 1.0) for k in range(20)]]))
    for day in range(40):
        s.step(records([[(series("cpu", f"s{k}"), T0 + 86400 * day + 3600, 1.0) for k in range(19)]], first=1 + day))
        assert s.knows(["s19"]) == (day <= 30)


def test_a_series_that_waits_makes_no_noise() -> None:
    """What a service has to show for an event grows with the series that live, not with all that are remembered."""
    s = stage("detect: {evict_after: 1h}")
    for hour in range(12):
        pods = 10 if hour < 6 else 9
        group = [(series("cpu", "web", pod=str(p)), T0 + 3600 * hour, 1.0) for p in range(pods)]
        s.step(records([group], first=hour))
    assert (s.series, s._join.sizes) == (10, {"web": 9})
    assert {e.labels["pod"] for e in s.evidence(["web"], since=T0)} == set("012345678")  # nor has it any evidence


CHURNING = """
detect:
  evict_after: 2h
  no_data: 20m
  flatline: 30m
  policies: [{match: {__name__: cpu}, growth: 0.1, adopt_after: 2h}]
  maintenance: [{match: {__name__: queue_depth}, from: "03:00", to: "04:00"}]
  thresholds: [{name: hot, match: {__name__: cpu}, above: 130}]
  online_budget: 1
  online:
    - {match: {__name__: cpu}, model: anomaly.StandardAbsoluteDeviation, alone: true}
    - {match: {__name__: jobs_total}, model: time_series.HoltWinters, params: {alpha: 0.3}, max_series: 20}
    - {features: [".*"], by: [__name__, pod], model: aiopsd.Joint, params: {most: 32}, alone: true}
  drift: {models: [{name: m, inputs: {__name__: cpu}, errors: {__name__: queue_depth}}]}
topology: {stale_after: 2h, metrics: [{match: {__name__: jobs_total}, callee: "node-$pod"}]}
"""


def test_churn_grows_no_state_of_any_part() -> None:
    """A tenth of series and services is new every hour, with models, limits, edges and drift: no part of it adds up."""
    s = stage(CHURNING)
    rng = np.random.default_rng(12)
    held: list[dict[str, int]] = []
    for hour in range(40):
        rows = []
        for t in range(12):
            at = T0 + 3600.0 * hour + 300.0 * t
            pods = [(f"{p}-{(hour + p % 10) // 10}", f"s{p % 10}-{(hour + p % 10) // 10}") for p in range(30)]
            rows.append(
                [
                    (series(metric, service, pod=pod), at, float(rng.normal(100)) + 40 * (rng.random() < 0.01))
                    for pod, service in pods
                    for metric in ("cpu", "jobs_total", "queue_depth")
                ]
            )
        s.step(records(rows, first=12 * hour))
        snapshot = s.snapshot()
        parts = snapshot.meta | {f"online.{name}": part for name, part in snapshot.meta["online"].items()}
        bytes_ = {name: len(msgspec.msgpack.encode(part)) for name, part in parts.items()}
        held.append(bytes_ | {name: a.nbytes for name, a in snapshot.arrays.items()} | {"series": s.series})
    early, late = ({name: max(h[name] for h in held[a : a + 10]) for name in held[0]} for a in (10, 30))
    assert early["series"] <= 300  # of 90 that live: who was known for ten hours is missed for ten
    assert {name: (early[name], late[name]) for name in late if late[name] > 1.1 * early[name] + 50} == {}


def test_eviction_forgets_services_too() -> None:
    """A service whose last series is gone leaves nothing behind, and its number is used again."""
    s = stage("detect: {evict_after: 1h}")
    for hour in range(10):
        s.step(
            records(
                [[(series("cpu", f"job-{hour}"), T0 + 3600 * hour + 300 * t, 1.0)] for t in range(12)], first=12 * hour
            )
        )
    assert len(s._roster.names) <= 4
    assert sum(s.knows([f"job-{hour}"]) for hour in range(10)) == s.series


def test_evidence_on_demand() -> None:
    """`evidence` answers for every series of a service, the calm ones too, with what came before `since` as lead-in."""
    s = stage()
    s.step(records(shop(1510, range(1500, 1600), metrics=("latency_p99", "cpu", "requests"))))
    found = s.evidence(["pay", "nobody", "cart"], since=T0 + 1500 * MINUTE)
    assert {(e.service, e.metric) for e in found} == {
        (service, metric) for service in ("pay", "cart") for metric in ("latency_p99", "cpu", "requests")
    }
    by = {(e.service, e.metric): e for e in found}
    sick, well = by["pay", "latency_p99"], by["cart", "latency_p99"]
    assert sick.deviation > 5
    assert sick.lead_in < 1
    assert sick.onset == T0 + 1500 * MINUTE
    assert sick.level > 450
    assert well.deviation < 1.5
    assert (sick.kind, by["pay", "requests"].kind) == ("latency", "traffic")
    assert by["cart", "requests"].traffic == pytest.approx(100, abs=3)
    assert s.evidence(["nobody"], 0.0) == []


def test_evidence_of_others_that_are_not_well() -> None:
    """`others` adds the services that left their ranges since, the loudest first, whoever was asked about."""
    s = stage()
    s.step(records(shop(1510, range(1500, 1600))))

    def who(services: list[str], since: float, others: int) -> set[str]:
        return {e.service for e in s.evidence(services, since, others)}

    onset = T0 + 1500 * MINUTE
    assert who(["cart"], onset, 8) == {"cart", "pay"}
    assert who(["cart"], onset, 0) == {"cart"}
    assert who(["cart"], T0 + 1600 * MINUTE, 8) == {"cart"}  # nothing has been wrong since
    assert who(["nobody"], onset, 8) == {"pay"}


def test_chronic_trouble_is_lead_in() -> None:
    """What was strange before `since` already is reported as lead-in, not as news."""
    s = stage()
    s.step(records(shop(1510, range(1495, 1600))))
    by = {(e.service, e.metric): e for e in s.evidence(["pay"], since=T0 + 1507 * MINUTE)}
    e = by["pay", "errors"]
    assert e.deviation > 5
    assert e.lead_in > 5


def test_asking_for_evidence_changes_nothing() -> None:
    """Two equal stages stay equal when only one of them is asked."""
    one, two = stage(), stage()
    one.step(records(shop(200)))
    two.step(records(shop(200)))
    two.evidence(["pay"], T0)
    a, b = one.snapshot(), two.snapshot()
    assert msgspec.msgpack.encode(a.meta) == msgspec.msgpack.encode(b.meta)
    assert all(a.arrays[k].tobytes() == b.arrays[k].tobytes() for k in a.arrays)


def test_a_drift_is_told_once_with_its_model() -> None:
    """A level shift for good is one drift, of the model that reads the series, with before and after in its unit."""
    text = "detect: {drift: {models: [{name: forecast, inputs: {__name__: basket_value}}]}}"
    rng = np.random.default_rng(4)
    rows = [
        [(series("basket_value", "shop"), T0 + 300.0 * t, 40 + rng.normal() + (3 if t >= 4000 else 0))]
        for t in range(6000)
    ]
    (drift,) = said(stage(text).step(records(rows)), DriftDetected)
    assert (drift.model, drift.subject, drift.kind, drift.detector) == ("forecast", "forecast", "level", "block-cusum")
    assert drift.before == pytest.approx(40, abs=0.5)
    assert drift.after == pytest.approx(43, abs=0.7)
    assert T0 + 3800 * 300 <= drift.since <= drift.ts <= T0 + 4100 * 300
    assert drift.statistic > drift.threshold


def test_errors_of_a_model_drift_only_upwards() -> None:
    """A rise of an error rate is one drift of the model, a fall is none."""
    text = "detect: {drift: {models: [{name: ranker, errors: {__name__: ranker_wrong}}]}}"
    rng = np.random.default_rng(5)
    rate = [0.05] * 2000 + [0.3] * 1000 + [0.02] * 2000
    rows = [[(series("ranker_wrong"), T0 + 60.0 * t, float(rng.random() < p))] for t, p in enumerate(rate)]
    drifts = said(stage(text).step(records(rows)), DriftDetected)
    (drift,) = drifts
    assert (drift.model, drift.detector) == ("ranker", "bernoulli-cusum")
    assert drift.before < 0.1 < drift.after
    assert 1990 <= (drift.since - T0) / 60 <= (drift.ts - T0) / 60 < 2100


def test_drift_can_be_switched_off() -> None:
    """`drift.enabled: false` watches nothing for drift."""
    rng = np.random.default_rng(4)
    rows = [[(series("v"), T0 + 300.0 * t, rng.normal() + (9 if t >= 2500 else 0))] for t in range(3200)]
    assert said(stage("detect: {drift: {enabled: false}}").step(records(rows)), DriftDetected) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("detect: {signals: [{match: {__name__: '('}}]}", "$.detect.signals[0].match.__name__"),
        ("detect: {thresholds: [{name: x, match: {a: '['}, above: 1}]}", "$.detect.thresholds[0].match.a"),
        ("detect: {online: [{model: anomaly.Nonsense}]}", "$.detect.online[0].model"),
        ("detect: {online: [{model: anomaly.HalfSpaceTrees, params: {trees: 3}}]}", "$.detect.online[0].params"),
        ("detect: {drift: {models: [{name: m, inputs: {a: '*'}}]}}", "$.detect.drift.models[0].inputs.a"),
    ],
)
def test_a_wrong_configuration_names_its_key(text: str, path: str) -> None:
    """What cannot work is refused when the stage is built, naming the key."""
    with pytest.raises(ConfigError) as e:
        stage(text)
    assert e.value.path == path


def test_a_restart_reads_no_label_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a series is was found out when it came: under the same configuration a snapshot from disk says it."""
    text = "detect: {signals: [{match: {__name__: v}, kind: errors, harm: high}]}"
    one = stage(text)
    one.step(records([[(series("v"), T0 + MINUTE * t, 1.0)] for t in range(3)]))
    kept = one.snapshot()
    kept = msgspec.structs.replace(kept, meta=msgspec.msgpack.decode(msgspec.msgpack.encode(kept.meta)))
    read: list[int] = []
    labels = SeriesIndex.labels
    monkeypatch.setattr(SeriesIndex, "labels", lambda index, row: (read.append(row), labels(index, row))[1])

    build(load(text), one.source, one.partition, kept)
    assert read == []
    build(load(text.replace("high", "low")), one.source, one.partition, kept)
    assert read == [0]


def test_a_changed_configuration_is_taken_up_on_resume() -> None:
    """A stage resumed under new signal rules, limits and models uses them on the series that it knows already."""
    old = stage()
    old.step(records(shop(1500)))
    text = """
    detect:
      signals: [{match: {__name__: cpu|errors|latency_p99}, harm: none}]
      thresholds: [{name: hot, match: {__name__: cpu}, above: 400}]
    """
    new = build(load(text), "metrics", 2, old.snapshot())
    events = said(new.step(records(shop(1520, range(1500, 1520))[1500:], first=1500)))
    assert [(e.signal, e.labels.get("rule")) for e in events] == [("cpu", "hot")]


HOT = "thresholds: [{{name: hot, match: {{service: pay, __name__: heat}}, {}}}]"


@pytest.mark.parametrize(
    ("asked", "then"),
    [
        (HOT.format("above: 5"), "policies: []"),
        (HOT.format("above: 5"), HOT.format("below: 0")),
        ("no_data: 5m", "policies: []"),
        ("no_data: 5m", "no_data: 5m, policies: [{match: {service: pay}, no_data: 0s}]"),
        ("flatline: 10m", "policies: []"),
        ("policies: [{match: {service: pay}, flatline: 10m}]", "policies: []"),
    ],
)
def test_what_is_asked_for_no_more_ends(asked: str, then: str) -> None:
    """An event whose limit or policy is taken out of the configuration ends at the next look, once, by its own name."""

    def minutes(first: int, last: int) -> list[list[Sample]]:
        """From minute 60 on one series of pay is hot and stands still, the other is silent."""
        return [
            [(series("heat"), T0 + MINUTE * m, 1.0 + m % 3 if m < 60 else 9.0)]
            + ([(series("fan"), T0 + MINUTE * m, 1.0 + m % 7)] if m < 60 else [])
            for m in range(first, last)
        ]

    first, second = (load(f"detect: {{warmup: 7d, {text}}}") for text in (asked, then))
    before = build(first, "metrics", 2)
    event, *_ = said(before.step(records(minutes(0, 120))))
    idle = build(second, "metrics", 2, before.snapshot())
    after = build(second, "metrics", 2, idle.snapshot())
    ended = said(after.step(records(minutes(120, 150), first=120)))
    assert [(e.id, e.state, e.signal, e.service) for e in ended] == [(event.id, "resolved", event.signal, "pay")]


@pytest.mark.parametrize(
    ("limit", "key"),
    [
        ("{name: a}", ""),
        ("{name: a, above: 1, clear: 2}", ".clear"),
        ("{name: a, below: 1, clear: 0}", ".clear"),
        ("{name: a, above: 1, below: 5}", ".below"),
        ("{name: b, above: 1}", ".name"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused(limit: str, key: str) -> None:
    """One without a bound, that never ends, that always holds, or of a name given twice: the error names its key."""
    with pytest.raises(ConfigError) as e:
        stage(f"detect: {{thresholds: [{{name: b, above: 1}}, {limit}]}}")
    assert e.value.path == f"$.detect.thresholds[1]{key}"


@pytest.mark.parametrize("model", ["anomaly.HalfSpaceTrees, params: {n_trees: x}", "stats.Mean"])
def test_a_model_that_can_never_learn_is_refused(model: str) -> None:
    """A parameter of another type, or what is no model at all, is said when it is configured and not at each sample."""
    with pytest.raises(ConfigError, match="cannot learn as it is configured") as e:
        stage(f"detect: {{online: [{{model: {model}}}]}}")
    assert e.value.path == "$.detect.online[0].params"


def test_models_see_what_an_envelope_cannot() -> None:
    """A forecaster on a series hears a broken rhythm that stays within the range of every channel."""
    text = """
    detect:
      join: series
      online: [{match: {__name__: beat}, model: time_series.SNARIMAX, params: {p: 12, d: 0, q: 0}, alone: true}]
    """
    rng = np.random.default_rng(6)
    values = [50 + 10 * np.sin(2 * np.pi * t / 12) + 0.3 * rng.normal() for t in range(900)]
    values[795] = 42.0  # where the top of the wave should be
    rows = [[(series("beat"), T0 + 300.0 * t, float(v))] for t, v in enumerate(values)]
    with_model = said(stage(text).step(records(rows)))
    assert any(e.evidence[0].channel == "online" for e in with_model)
    silent = said(stage(text.replace(", alone: true", "")).step(records(rows)))
    assert not any(x.channel == "online" for e in silent for x in e.evidence)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_recipes_of_the_second_tier_work(path: Path) -> None:
    """Each shipped recipe loads, models the series it matches, and goes on from a snapshot in mid-stream."""
    text = path.read_text(encoding="utf-8")
    rng = np.random.default_rng(7)
    rows = [[(series("v"), T0 + 300.0 * t, float(50 + 10 * np.sin(t / 40) + rng.normal()))] for t in range(1300)]
    rows[1200] = [(series("v"), T0 + 300.0 * 1200, 120.0)]
    everything = records(rows)
    one = stage(text)
    whole = one.step(everything)
    assert any(isinstance(e, Append) for e in whole)
    two = stage(text)
    parts = two.step(everything[:1100])
    three = build(load(text), "metrics", 2, two.snapshot())
    parts += three.step(everything[1100:])
    assert whole == parts
    assert all(len(d) == 1 for d in three._online.detectors)


@pytest.mark.parametrize(("value", "heard"), [(4.0, False), (400.0, True)])
def test_one_metric_of_sixty_is_heard_alone_when_it_is_far_out(value: float, heard: bool) -> None:
    """More series make more noise, but none that is hundreds of times as large as ever before."""
    rng = np.random.default_rng(5)
    noise = rng.normal(1.0, 0.1, (600, 60))
    noise[580:, 7] = value
    rows = [
        [(series("queue", pod=f"p{k}"), T0 + MINUTE * t, float(noise[t, k])) for k in range(60)] for t in range(600)
    ]

    found = said(stage().step(records(rows)))

    assert bool(found) is heard
