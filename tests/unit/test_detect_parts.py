"""The parts of detection that have no series of their own: names, matchers, river, its state, drift."""

import random
import re

import msgspec
import numpy as np
import pytest
from river import anomaly, drift, preprocessing, time_series
from scipy.signal import lfilter

from aiopsd.config import OnlineRule, SignalRule
from aiopsd.detect.bank import Policy, RangeBank
from aiopsd.detect.calibrate import LEARNING, ModelDetector
from aiopsd.detect.codec import Unencodable, decode, encode
from aiopsd.detect.drift import KINDS, DriftPolicy, ErrorDrift, SeriesDrift, exp, log
from aiopsd.detect.evidence import Series
from aiopsd.detect.join import Seen
from aiopsd.detect.models import River, make
from aiopsd.detect.online import Online, Said
from aiopsd.detect.shapes import Day, Shape
from aiopsd.detect.signals import Signals, by_name
from aiopsd.errors import ConfigError
from aiopsd.matchers import Match

START = 1_700_006_400.0


@pytest.mark.parametrize(
    ("name", "kind", "harm", "counter"),
    [
        ("http_requests_total", "traffic", "both", True),
        ("http_request_duration_seconds", "latency", "high", False),
        ("http_request_duration_seconds_bucket", "traffic", "none", True),
        ("http_request_duration_seconds_sum", "other", "both", True),
        ("response_size_bytes_sum", "other", "both", True),
        ("aws_elb_request_count_sum", "traffic", "both", False),
        ("aws_elb_httpcode_target_5xx_count_sum", "errors", "high", False),
        ("requests_sum", "traffic", "both", False),
        ("http_client_errors_total", "errors", "high", True),
        ("node_cpu_seconds_total", "resource", "both", True),
        ("node_memory_MemFree_bytes", "resource", "low", False),
        ("up", "availability", "low", False),
        ("kafka_consumer_lag", "saturation", "high", False),
        ("p99", "latency", "high", False),
        ("LatencyP95", "latency", "high", False),
        ("value", "other", "both", False),
        ("", "other", "both", False),
    ],
)
def test_what_a_name_says(name: str, kind: str, harm: str, counter: bool) -> None:
    """Common metric names are read as an operator reads them; a name that says nothing is watched both ways."""
    signal = by_name(name)
    assert (signal.kind, signal.harm, signal.counter) == (kind, harm, counter)


def test_a_rule_goes_before_the_name() -> None:
    """The first matching rule decides kind and harm; the counter stays with the name unless the rule says so."""
    signals = Signals(
        [
            SignalRule(match={"__name__": "errors_.*", "env": "test"}, harm="none"),
            SignalRule(match={"__name__": "errors_.*"}, kind="traffic", harm="low", counter=False),
        ]
    )
    assert signals.of({"__name__": "errors_total", "env": "test"}).harm == "none"
    assert signals.of({"__name__": "errors_total", "env": "test"}).counter
    other = signals.of({"__name__": "errors_total"})
    assert (other.kind, other.harm, other.counter) == ("traffic", "low", False)
    assert signals.of({"__name__": "latency"}).kind == "latency"


def test_matchers_are_anchored_and_a_missing_label_is_empty() -> None:
    """`match` is anchored RE2; a label that is not there is the empty text."""
    assert Match({"a": "b.*"})({"a": "bc"})
    assert not Match({"a": "b"})({"a": "bc"})
    assert Match({"a": ""})({})
    assert Match({})({"a": "x"})


# --------------------------------------------------------------------------- river


def models() -> list[object]:
    return [
        anomaly.StandardAbsoluteDeviation(),
        anomaly.GaussianScorer(window_size=20),
        anomaly.HalfSpaceTrees(n_trees=3, height=3, window_size=20, seed=1),
        preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=2, height=3, window_size=20, seed=1),
        anomaly.LODA(n_random_cuts=5, seed=1),
        anomaly.OneClassSVM(),
        anomaly.LocalOutlierFactor(n_neighbors=3),
        anomaly.PredictiveAnomalyDetection(predictive_model=time_series.HoltWinters(alpha=0.3, beta=0.1)),
        time_series.SNARIMAX(p=2, d=1, q=1),
        drift.ADWIN(),
        drift.KSWIN(seed=1),
        drift.PageHinkley(),
    ]


@pytest.mark.parametrize("model", models(), ids=lambda m: type(m).__name__)
def test_a_model_as_data_is_the_same_model(model: object) -> None:
    """Any river model survives msgpack and encodes again to the very same bytes."""
    rng = random.Random(1)
    for _ in range(60):
        y = rng.gauss(10, 1)
        if hasattr(model, "update"):
            model.update(y)
        else:
            River(model).learn(0.0, {"x": y})
    data = msgspec.msgpack.encode(encode(model))
    again = decode(msgspec.msgpack.decode(data))
    assert type(again) is type(model)
    assert msgspec.msgpack.encode(encode(again)) == data


class Stranger:
    """Some class that is none of river's."""


def test_only_river_is_kept_as_data() -> None:
    """Foreign objects, functions and modules are refused, on the way out and on the way in."""
    for thing in (Stranger(), lambda: 1, random, open):
        with pytest.raises(Unencodable):
            encode(thing)
    for name in ("os.system", "builtins.eval", "numpy.load", "river_evil.x", "subprocess.Popen"):
        with pytest.raises(Unencodable, match=re.escape(name)):
            decode(["o", 0, name, ["true"], None, None, None])


def test_shared_parts_stay_shared() -> None:
    """Two references to one list are one list afterwards, and odd numbers survive."""
    inner = [1.5, float("inf"), 2**70, -0.0, (1, None), {1, 2}, b"x"]
    out = decode(msgspec.msgpack.decode(msgspec.msgpack.encode(encode([inner, inner]))))
    assert out[0] is out[1]
    assert out[0] == inner
    assert str(out[0][3]) == "-0.0"


def test_a_model_that_raises_is_survived_and_started_anew() -> None:
    """A model that fails on every sample costs its samples, is counted, and harms nobody else."""
    detector = ModelDetector("linear_model.LinearRegression", {}, lags=1)
    rows, n = np.zeros(1, np.intp), LEARNING + 30
    for t in range(n):
        detector.learn(rows, np.array([START + t]), np.array([1e200 if t % 2 else -1e200]))
    assert detector.faults > 0
    assert len(detector) == 1


def test_a_saturating_score_is_not_used() -> None:
    """A point of ninety deviations scores above one of nine, though GaussianScorer calls both 1.0."""
    nine, ninety = (ModelDetector("anomaly.GaussianScorer", {}) for _ in range(2))
    rng = np.random.default_rng(3)
    rows = np.zeros(1, np.intp)
    for t in range(600):
        x = np.array([50 + rng.normal()])
        for d in (nine, ninety):
            d.learn(rows, np.array([START + 300 * t]), x)
    at = np.array([START + 300 * 600])
    a, b = nine.score(rows, at, np.array([59.0]))[0], ninety.score(rows, at, np.array([140.0]))[0]
    assert 0.5 < a < b < 1


def test_models_are_repeatable_without_a_seed() -> None:
    """A model that takes a seed gets one, also inside of another."""
    a, b = (make("anomaly.HalfSpaceTrees", {"n_trees": 2}) for _ in range(2))
    for i in range(300):
        a.learn_one({"x": (i % 7) / 7})
        b.learn_one({"x": (i % 7) / 7})
    assert a.score_one({"x": 0.9}) == b.score_one({"x": 0.9})


def step(online: Online, rows: np.ndarray, ts: np.ndarray, values: np.ndarray) -> list[Said]:
    """One record of these samples."""
    return online.step(rows, ts, values, np.zeros(len(rows), np.intp))


def test_the_load_budget_takes_the_first_that_match() -> None:
    """No more than `max_series` models per rule; a series that goes makes room for the one that waits longest."""
    online = Online([OnlineRule(match={"__name__": "x"}, max_series=2)], Policy())
    who = Series(service="s", metric="x", labels={"__name__": "x"})
    for row in range(4):
        online.appear(row, who, False)
    rows = np.arange(4, dtype=np.intp)
    step(online, rows, np.full(4, START), np.ones(4))
    assert len(online.detectors[0]) == 2
    online.vanish(0)
    online.appear(9, who, False)
    later = np.array([2, 3, 9], np.intp)
    step(online, later, np.full(3, START), np.ones(3))
    assert len(online.detectors[0]) == 2
    assert online.waiting == 2


def test_the_cpu_budget_goes_by_the_pace_of_the_series() -> None:
    """Models take no more of a core than the budget, by cost and pace; who appears later waits, and moves up."""
    rule = OnlineRule(match={"__name__": "x"}, model="aiopsd.Day", cost=6000.0)
    online = Online([rule], Policy(), budget=0.00035)  # three series at a sample a minute
    who = Series(service="s", metric="x", labels={"__name__": "x"})
    for row in range(8):
        online.appear(row, who, False)
    assert (len(online.detectors[0]), online.waiting) == (0, 5)
    rows = np.arange(8, dtype=np.intp)
    for t in range(30):
        step(online, rows, np.full(8, START + 300.0 * t), np.ones(8))
    online.balance()  # five minutes apart: a fifth of what was assumed, and the new ones are assumed as before
    assert online.waiting == 3
    assert online.share <= online.budget
    online.vanish(0)
    online.vanish(7)
    online.balance()
    assert online.waiting == 1
    fast = Online([rule], Policy(), budget=0.00035)
    for row in range(3):
        fast.appear(row, who, False)
    for t in range(30):
        step(fast, rows[:3], np.full(3, START + 20.0 * t), np.ones(3))
    fast.balance()
    assert fast.waiting == 2
    assert fast.share <= fast.budget


def said_by(evidence: float, ts: float, row: int = 0, channel: int = 0, pos: int = 0) -> Seen:
    return Seen(pos, row, ts, 1.0, evidence, channel, True, 0.0, -1.0, 1.0, 1.0, 60.0, 0.0, [])


def test_a_verdict_raises_what_the_bank_says_within_the_hour() -> None:
    """A verdict raises the bank's evidence of its own row for about an hour, and makes nothing of its own."""
    online = Online([OnlineRule(match={"__name__": "x"})], Policy())
    who = Series(service="s", metric="x", labels={"__name__": "x"})
    for row in (0, 1):
        online.appear(row, who, False)
    verdict = said_by(0.3, START, channel=-1)
    bank = [said_by(0.1, START, pos=1), said_by(0.1, START, 1, pos=2), said_by(0.1, START + 1800, pos=3),
            said_by(0.1, START + 36000, pos=4)]  # fmt: skip
    out = list(online.confirm(bank, [Said(verdict, (0, 0), False)]))
    assert [s.pos for s in out] == [1, 2, 3, 4]
    theta = Policy().theta
    assert out[0].evidence == pytest.approx(0.1 * (1 + 0.3 / theta))
    assert out[1].evidence == 0.1
    assert out[2].evidence == pytest.approx(0.1 * (1 + 0.15 / theta))
    assert out[3].evidence == pytest.approx(0.1, rel=1e-4)
    alone = list(online.confirm([], [Said(verdict, (0, 0), True)]))
    assert [s.channel for s in alone] == [-1]


def test_a_model_does_not_tell_again_what_the_bank_had_enough_of() -> None:
    """For as long as a day memory looks back, what the bank told is no news of it; then it may speak again."""
    day = 86400.0
    online = Online([OnlineRule(match={"__name__": "x"}, model="aiopsd.Day", alone=True)], Policy())
    online.appear(0, Series(service="s", metric="x", labels={"__name__": "x"}), False)
    step(online, np.zeros(1, np.intp), np.array([START]), np.ones(1))
    theta = Policy().theta
    told, less = said_by(theta, START + 60, pos=0), said_by(0.9 * theta, START + 60, pos=0)

    def heard(bank: Seen, after: float) -> list[int]:
        fresh = Online([OnlineRule(match={"__name__": "x"}, model="aiopsd.Day", alone=True)], Policy())
        fresh.load(*online.snapshot())
        model = Said(said_by(1.0, bank.ts + after, channel=-1, pos=1), (0, 0), True)
        list(fresh.confirm([bank], []))
        resumed = Online([OnlineRule(match={"__name__": "x"}, model="aiopsd.Day", alone=True)], Policy())
        resumed.load(*fresh.snapshot())
        return [s.channel for s in resumed.confirm([], [model])]

    assert heard(told, day - 60) == []
    assert heard(told, day + 60) == [-1]
    assert heard(less, 60.0) == [-1]


def test_what_is_new_to_a_young_model_is_no_event_and_to_an_old_one_is() -> None:
    """How far out a statistic must be to be an event alone sinks with what it is the largest of; it is said once."""

    def told(days: int, times: float) -> list[float]:
        detector = ModelDetector("aiopsd.Day", {"hours": 6, "days": 20})
        rng = np.random.default_rng(5)
        ts = START + 3600.0 * np.arange(24 * days)
        usual = 10 + 8 * np.sin(ts * 2 * np.pi / 86400) + rng.normal(size=len(ts)).clip(-1, 1)
        usual[-6:] += times
        found = detector.step(np.zeros(len(ts), np.intp), ts, usual)[1]
        return [s.evidence for s in found if s.news and s.ts > ts[-7]]

    theta = Policy().theta
    assert max(told(8, 4.0), default=0.0) < theta
    assert max(told(60, 4.0)) > theta
    assert max(told(8, 40.0)) > theta


def test_chance_alone_makes_few_events_of_models() -> None:
    """Fifteen series that repeat their day with noise, two months each: no more than one of 180 days is an event."""
    detector = ModelDetector("aiopsd.Day", {"hours": 6, "days": 14})
    rng = np.random.default_rng(8)
    rows = np.arange(15)
    events = 0
    for t in range(24 * 60):
        ts = START + 3600.0 * t
        y = 10 + 8 * np.sin(ts * 2 * np.pi / 86400) + rng.normal(size=15)
        events += sum(s.evidence > Policy().theta for s in detector.step(rows, np.full(15, ts), y)[1])
    assert events <= 5  # nine of the 900 days leave the envelope as far as an event takes


def test_what_a_ready_model_leaves_unconfirmed_is_doubted() -> None:
    """Below 1, `doubt` is what the bank's evidence is worth once the model knows the series, and not before."""
    online = Online([OnlineRule(match={"__name__": "x"}, doubt=0.5)], Policy())
    online.appear(0, Series(service="s", metric="x", labels={"__name__": "x"}), False)
    (before,) = online.confirm([said_by(0.2, START)], [])
    rng = np.random.default_rng(1)
    for t in range(LEARNING + 60):
        step(online, np.zeros(1, np.intp), np.array([START + 60.0 * t]), rng.normal(size=1))
    (after,) = online.confirm([said_by(0.2, START + 60.0 * t)], [])
    assert (before.evidence, after.evidence) == (0.2, 0.1)


def test_a_shape_that_never_was_is_far_from_all() -> None:
    """A hump upside down is far from every hump before it, one higher than all only when the level counts."""
    wave = np.sin(np.arange(2000) * 2 * np.pi / 50)
    rng = np.random.default_rng(2)
    past = wave + 0.05 * rng.normal(size=2000)
    shape = Shape(Shape.Config(window=24, memory=1500))
    level = Shape(Shape.Config(window=24, memory=1500, level=True))
    for t, y in enumerate(past):
        shape.learn(float(t), {"x": float(y)})
        level.learn(float(t), {"x": float(y)})
    usual, upside_down, higher = wave[:25], -np.abs(wave[:25]) * 3 + wave[0], wave[:25] + 5.0

    def distance(memory: Shape, drawn: np.ndarray) -> float:
        fresh = Shape(Shape.Config(window=memory.window, memory=memory.memory, level=memory.level))
        fresh.load(memory.state())
        for y in drawn[:-1]:
            fresh.learn(0.0, {"x": float(y)})
        far, _ = fresh.statistic(0.0, {"x": float(drawn[-1])})
        assert far is not None
        return far

    assert distance(shape, upside_down) > 5 * distance(shape, usual)
    assert distance(shape, higher) < 1.5
    assert distance(level, higher) > 3.0


def test_shape_finds_the_nearest_window_exactly() -> None:
    """The distance is that of the nearest earlier window, as a loop over all of them finds it."""
    rng = np.random.default_rng(3)
    x = 1e6 + rng.normal(size=400).cumsum()
    for level in (False, True):
        shape = Shape(Shape.Config(window=10, memory=300, level=level))
        for t, y in enumerate(x[:-1]):
            shape.learn(float(t), {"x": float(y)})
        far, _ = shape.statistic(0.0, {"x": float(x[-1])})
        now = x[-10:]
        kept = x[-301:-10]
        windows = [kept[i : i + 10] for i in range(len(kept) - 9)]
        ground = 0.0 if level else 1.0
        slow = min(
            float(np.sqrt((((w - ground * w.mean()) - (now - ground * now.mean())) ** 2).mean())) for w in windows
        )
        assert far == pytest.approx(slow, rel=1e-4)


def test_a_day_unlike_any_other_is_far_from_all() -> None:
    """A quiet day among busy ones is told by its shape, though no hour of it leaves the range of the night."""
    day = Day(Day.Config(hours=12, days=10))
    hours = np.arange(12 * 24)
    usual = 10 + 8 * np.sin(2 * np.pi * (hours % 24) / 24)
    usual[-14:] = 4.0
    rng = np.random.default_rng(4)
    found = []
    for t, y in enumerate(usual + 0.3 * rng.normal(size=len(usual))):
        found.append(day.statistic(3600.0 * t, {"x": float(y)})[0])
        day.learn(3600.0 * t, {"x": float(y)})
    before = [f for f in found[100:-14] if f is not None]
    assert found[:72] == [None] * 72
    assert found[-1] is not None
    assert found[-1] > 5 * max(before)


def test_a_name_that_is_no_model_is_refused() -> None:
    """Neither a function nor a module nor a class of another package can be named."""
    for name in ("anomaly", "nothing.Here", "base.os", "datasets"):
        with pytest.raises(ConfigError):
            make(name, {})


# --------------------------------------------------------------------------- drift


def watch(values: np.ndarray, step: float = 300.0) -> list[tuple[int, int, str]]:
    """(sample, row, kind) of the drifts of these series, a column each."""
    n = values.shape[1]
    bank, series = RangeBank(capacity=n), SeriesDrift(DriftPolicy(), n)
    bank.on_hours = series
    out = []
    for t, v in enumerate(values):
        bank.step(np.arange(n, dtype=np.intp), np.full(n, START + step * t), v)
        found = series.take()
        if found is not None:
            out += [(t, int(r), KINDS[k]) for r, k in zip(found.rows, found.kind, strict=True)]
    return out


def test_no_drift_without_drift() -> None:
    """Noise, heavy tails, a daily season and spikes: less than one false drift in 500,000 samples (0.02 in 10,000)."""
    rng = np.random.default_rng(7)
    t = np.arange(6000)[:, None]
    noise = rng.normal(size=(6000, 50))
    day = 3 * np.sin(2 * np.pi * t / 288)
    spikes = noise + 10 * (rng.random((6000, 50)) < 0.005)
    found = watch(np.hstack([noise, rng.standard_t(3, (6000, 50)), day + noise, spikes]))
    assert len(found) < 6000 * 200 / 500_000


def test_a_wandering_series_is_no_drift() -> None:
    """Long memory, quiet weekends, nightly jobs and products of noise make a drift in half a year, not in a week."""
    rng = np.random.default_rng(17)
    n = 42 * 288
    t = np.arange(n)[:, None]
    noise = rng.normal(size=(n, 10))

    def slow(memory: float) -> np.ndarray:
        shocks = rng.normal(size=(n, 10)) * np.sqrt(1 - memory**2)
        return lfilter([1.0], [1.0, -memory], shocks, axis=0)

    weekend = np.where(t // 288 % 7 >= 5, 0.5, 1.0)
    night = 8.0 * (t % 288 < 30)
    day = (10 + 8 * np.sin(2 * np.pi * t / 288)) * weekend
    found = watch(np.hstack([slow(0.99), day + noise, night + noise, slow(0.9) * noise]))
    assert len(found) <= 40 * 6 / 26


def test_each_change_is_one_drift() -> None:
    """A shift, a spread doubled or halved, each under a season, too, are told once each, by name and soon after."""
    rng = np.random.default_rng(8)
    t = np.arange(6000)[:, None]
    after = t >= 4000
    noise = rng.normal(size=(6000, 20))
    day = 3 * np.sin(2 * np.pi * t / 288)
    louder, calmer = noise * (1 + after), noise * (1 - 0.5 * after)
    found = watch(np.hstack([noise + after, louder, day + noise + 2 * after, calmer, day + louder, day + calmer]))
    assert sorted(row for _, row, _ in found) == list(range(120))
    assert all(4000 < at < 4250 for at, _, _ in found)
    assert all(kind == ("level" if row // 20 in (0, 2) else "variance") for _, row, kind in found)
    delay = [np.median([at - 4000 for at, row, _ in found if row // 20 == k]) for k in range(3)]
    assert delay[0] <= 36
    assert delay[2] <= 36


def test_what_comes_back_is_one_drift_at_most() -> None:
    """The end of a six-hour incident is no second drift, one hour above hardly ever one; of two changes each is one."""
    rng = np.random.default_rng(18)
    t = np.arange(10_000)[:, None]
    noise = rng.normal(size=(10_000, 10))
    incident = noise + 4 * ((t >= 4000) & (t < 4072))
    twice = noise + 2 * (t >= 4000) + 2 * (t >= 8032)
    short = noise + 8 * ((t >= 4000) & (t < 4012))
    rows = [row for _, row, _ in watch(np.hstack([incident, twice, short]))]
    assert max(rows.count(row) for row in range(10)) <= 1
    assert all(rows.count(row) == 2 for row in range(10, 20))
    assert sum(rows.count(row) for row in range(20, 30)) <= 1


def test_series_drift_goes_on_from_its_arrays() -> None:
    """A detector that took over another's arrays in mid-stream says what the other says, to the bit."""
    rng = np.random.default_rng(19)
    values = rng.normal(size=(5000, 6)) + 1.5 * (np.arange(5000)[:, None] >= 4000)
    bank, one, two = RangeBank(capacity=6), SeriesDrift(), SeriesDrift()
    rows = np.arange(6, dtype=np.intp)
    said: list[list[float]] = [[], []]
    for t, v in enumerate(values):
        if t == 4020:
            two.load(one.arrays(6))
        both = [one, two] if t >= 4020 else [one]
        bank.on_hours = lambda hours, both=both: [d(hours) for d in both]
        bank.step(rows, np.full(6, START + 300.0 * t), v)
        for i, d in enumerate(both):
            found = d.take()
            if found is not None and t >= 4020:
                said[i] += [*found.ts.tolist(), *found.statistic.tolist(), *found.before.tolist()]
    assert said[0]
    assert said[0] == said[1]
    assert all(a.tobytes() == two.arrays(6)[name].tobytes() for name, a in one.arrays(6).items())


def test_logarithm_and_exponential_are_the_same_wherever_they_stand() -> None:
    """log() and exp() are right to five digits and give an element the same bits in any array."""
    x = np.random.default_rng(9).lognormal(0, 20, 1001).astype(np.float32)
    whole = log(x)
    powers = exp(np.clip(whole, -60, 60))
    assert np.allclose(powers, np.exp(np.clip(whole, -60, 60).astype(float)), rtol=2e-5)
    assert all(exp(np.clip(whole[i : i + 1], -60, 60))[0].tobytes() == powers[i].tobytes() for i in range(0, 1001, 7))
    assert np.allclose(whole, np.log(np.maximum(x, 1e-30)), atol=2e-5, rtol=1e-6)
    assert all(log(x[i : i + 1])[0].tobytes() == whole[i].tobytes() for i in range(0, 1001, 7))


def test_error_bits_survive_a_snapshot() -> None:
    """An error stream resumed from data goes on exactly."""
    rng = np.random.default_rng(10)
    bits = [float(b) for b in rng.random(3000) < np.where(np.arange(3000) < 2000, 0.05, 0.3)]
    one = ErrorDrift()
    for i, b in enumerate(bits[:1500]):
        one.update(4, START + i, b)
    two = ErrorDrift()
    two.load(msgspec.msgpack.decode(msgspec.msgpack.encode(one.snapshot())))
    rest = list(enumerate(bits[1500:], 1500))
    said = [(one.update(4, START + i, b), two.update(4, START + i, b)) for i, b in rest]
    assert all(a == b for a, b in said)
    (rise,) = [a for a, _ in said if a is not None]
    assert rise.before < 0.1 < rise.after
    assert rise.statistic > rise.threshold
    assert START + 1900 < rise.since < START + 2100


def bits(rate: np.ndarray, seed: int) -> list[float]:
    return [float(b) for b in np.random.default_rng(seed).random(len(rate)) < rate]


def rises(stream: list[float]) -> list[int]:
    """Samples at which a rise of this stream's error rate is told."""
    drift = ErrorDrift()
    return [i for i, b in enumerate(stream) if drift.update(0, START + 60.0 * i, b) is not None]


def test_a_steady_error_rate_is_no_drift() -> None:
    """Rates from none to a half and a rate with a season never rise; errors in bursts of ten hardly ever do."""
    t = np.arange(8000)
    for rate in (0.0, 0.002, 0.05, 0.2, 0.5):
        assert all(rises(bits(np.full(8000, rate), seed)) == [] for seed in range(8))
    assert all(rises(bits(0.05 * (1 + 0.5 * np.sin(2 * np.pi * t / 288)), seed)) == [] for seed in range(8))
    bursts = [np.convolve(bits(np.full(8000, 0.005), seed), np.ones(10))[:8000] > 0 for seed in range(8)]
    assert sum(len(rises([float(b) for b in stream])) for stream in bursts) <= 4


def test_one_rise_of_the_error_rate_is_told_once() -> None:
    """From 5 to 10, to 20 %, and slowly from 20 to 40 %: found once each; a fall and a rise within it are not."""
    t = np.arange(6000)
    for rate, within in (
        (np.where(t < 4000, 0.05, 0.10), 600),
        (np.where(t < 4000, 0.05, 0.20), 120),
        (0.2 + 0.2 * np.clip((t - 4000) / 1000, 0, 1), 800),
    ):
        found = [rises(bits(rate, seed)) for seed in range(10)]
        assert all(len(f) == 1 and f[0] >= 4000 for f in found)
        assert np.median([f[0] - 4000 for f in found]) <= within
    assert rises(bits(np.where(t < 3000, 0.2, 0.05), 1)) == []
