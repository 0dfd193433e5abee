"""When drift deserves a request to retrain."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopsd.config import Config, Duration, RetrainingConfig
from aiopsd.model import Audit, DriftDetected, JournalRecord
from aiopsd.pipeline import correlate
from aiopsd.retraining import DAY, EVIDENCE_LIMIT, Retraining

HOUR = 3600.0


def drift(n: int, subject: str = "latency", **more: Any) -> DriftDetected:
    fields = {"before": 1.0, "after": 2.0, "statistic": 9.0, "threshold": 5.0, "since": 0.0, "ts": 0.0}
    return DriftDetected(**{"id": f"d{n}", "subject": subject} | fields | more)


def policy(cooldown: float = 6 * HOUR, budget: int = 10) -> Retraining:
    return Retraining(RetrainingConfig(cooldown=Duration(cooldown), budget=budget))


def test_the_first_drift_asks_at_once() -> None:
    """A confirmed drift of a subject at rest is a request, with the drift as its evidence and a line that says why."""
    request, why = policy().decide(drift(1, model="m", service="api", metric="p99", detector="cusum"), 100.0)

    assert request is not None
    assert ("requested", "m", "m", 100.0) == (why, request.subject, request.model, request.requested_at)
    assert ["d1"] == [d.id for d in request.drift]
    assert "level drift of api/p99 by cusum: 1 -> 2, statistic 9 over 5" == request.reason


def test_within_the_cooldown_drift_waits_and_is_not_lost() -> None:
    """A second drift asks when the cooldown ends, and everything that was gathered goes with it."""
    r = policy()
    first, _ = r.decide(drift(1), 0.0)
    assert [(None, "cooldown"), (None, "cooldown")] == [r.decide(drift(n), n * HOUR) for n in (2, 3)]
    assert 6 * HOUR == r.wake_at()
    assert [] == r.due(6 * HOUR - 1)

    [second] = r.due(6 * HOUR)

    assert ["d2", "d3"] == [d.id for d in second.drift]
    assert first is not None
    assert first.dedup_key != second.dedup_key
    assert r.wake_at() is None


def test_one_change_is_one_request_however_late_it_is_seen_in_full() -> None:
    """What began before the last request was made is the same change; what began after it is not, nor errors that go on
    when its cooldown is over."""
    r = policy()
    assert "requested" == r.decide(drift(1, since=8 * HOUR, ts=12 * HOUR), 12 * HOUR)[1]

    season = drift(2, kind="season", since=0.0, ts=100 * HOUR)
    assert (None, "known") == r.decide(season, 100 * HOUR)
    assert r.wake_at() is None
    assert "requested" == r.decide(drift(3, kind="error-rate", since=9 * HOUR, ts=101 * HOUR), 101 * HOUR)[1]
    assert (None, "known") == r.decide(drift(4, since=100 * HOUR, ts=110 * HOUR), 110 * HOUR)
    assert "requested" == r.decide(drift(5, since=101 * HOUR, ts=120 * HOUR), 120 * HOUR)[1]
    assert "requested" == r.decide(drift(6, "other", since=0.0, ts=121 * HOUR), 121 * HOUR)[1]


def test_one_rise_of_errors_is_one_request_in_however_many_series_it_shows() -> None:
    """What began before the request and comes within its cooldown asks no second time; what began after it waits."""
    r = policy()
    errors = {"model": "m", "kind": "error-rate"}
    assert "requested" == r.decide(drift(1, since=1 * HOUR, ts=2 * HOUR, **errors), 2 * HOUR)[1]

    assert (None, "known") == r.decide(drift(2, since=1 * HOUR, ts=2 * HOUR, **errors), 2 * HOUR)
    assert (None, "known") == r.decide(drift(3, since=1.5 * HOUR, ts=3 * HOUR, **errors), 3 * HOUR)
    assert r.wake_at() is None
    assert (None, "cooldown") == r.decide(drift(4, since=2.5 * HOUR, ts=4 * HOUR, **errors), 4 * HOUR)
    assert ["d4"] == [d.id for request in r.due(8 * HOUR) for d in request.drift]


def test_subjects_do_not_wait_for_each_other() -> None:
    """The cooldown is per subject; drifts of one model's series share the model's."""
    r = policy()

    assert ["requested", "requested", "requested", "cooldown"] == [
        r.decide(d, 0.0)[1] for d in (drift(1, "a"), drift(2, "b"), drift(3, "c", model="m"), drift(4, "d", model="m"))
    ]


def test_the_budget_is_a_sliding_day() -> None:
    """No more than `budget` requests in any 24 hours; the longest wait goes first when there is room."""
    r = policy(cooldown=0.0, budget=2)
    outcomes = [r.decide(drift(n, f"s{n}"), n * HOUR)[1] for n in range(4)]

    assert ["requested", "requested", "budget", "budget"] == outcomes
    assert DAY == r.wake_at()
    assert ["s2"] == [q.subject for q in r.due(DAY)]
    assert DAY + HOUR == r.wake_at()
    assert ["s3"] == [q.subject for q in r.due(DAY + HOUR)]


def test_no_budget_asks_never_and_wants_no_timer() -> None:
    """A budget of zero turns requests off."""
    r = policy(budget=0)

    assert (None, "budget") == r.decide(drift(1), 0.0)
    assert r.wake_at() is None
    assert [] == r.due(10 * DAY)


def test_the_same_drift_twice_is_a_duplicate() -> None:
    """A drift that already waits is not gathered twice."""
    r = policy()
    r.decide(drift(1), 0.0)
    r.decide(drift(2), 1.0)

    assert (None, "duplicate") == r.decide(drift(2), 2.0)


def test_evidence_is_bounded() -> None:
    """A request holds the first drift and the newest, never more than the limit."""
    r = policy()
    r.decide(drift(0), 0.0)
    for n in range(1, 100):
        r.decide(drift(n), 1.0)

    [request] = r.due(6 * HOUR)

    assert EVIDENCE_LIMIT == len(request.drift)
    assert ("d1", "d99") == (request.drift[0].id, request.drift[-1].id)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12 * 3600)), max_size=40), st.integers(0, 3))
def test_rules_hold_for_any_sequence_and_restarts_are_not_noticed(steps: list[tuple[int, int]], budget: int) -> None:
    """Cooldown and budget are never broken, dedup_keys never repeat, and a snapshot at every step changes nothing."""
    config = RetrainingConfig(cooldown=Duration(6 * HOUR), budget=budget)
    straight, crashed = Retraining(config), Retraining(config)
    at, sent = 0.0, []
    for n, (subject, wait) in enumerate(steps):
        at += wait
        crashed = Retraining(config, msgspec.json.decode(msgspec.json.encode(crashed.snapshot())))
        got = []
        for r in (straight, crashed):
            due = r.due(at)
            request, _ = r.decide(drift(n, f"s{subject}"), at)
            got.append([*due, request] if request is not None else due)
        assert got[0] == got[1]
        sent += got[0]

    assert len(sent) == len({q.dedup_key for q in sent})
    for q in sent:
        assert len([p for p in sent if q.requested_at - DAY < p.requested_at <= q.requested_at]) <= budget
        same = [p for p in sent if p.subject == q.subject and p.requested_at < q.requested_at]
        assert all(q.requested_at - p.requested_at >= 6 * HOUR for p in same)


def test_the_timeline_names_the_series_that_drifted_and_since_when() -> None:
    """A model reads many: which of them changed, from what to what, since when, stands in one line."""
    body = drift(1, model="fraud", service="pay", metric="amount", detector="block-cusum", since=1_760_000_000.0)
    effects = correlate.build(Config()).step([JournalRecord(offset=0, stamp=1_760_010_000.0, body=body)])
    told = [e.entry.text for e in effects if isinstance(e, Audit) and e.entry.kind == "drift"]
    assert told == ["drift of latency in pay/amount (level, block-cusum): 1 -> 2 since 2025-10-09 08:53 UTC"]
