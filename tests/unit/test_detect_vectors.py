"""The second tier on a service's metrics together: alignment, the joint model, what its verdict confirms."""

import math
import random
import re

import msgspec
import numpy as np
import pytest

from aiopsd.config import load
from aiopsd.detect.bank import Policy
from aiopsd.detect.evidence import Series
from aiopsd.detect.join import Seen
from aiopsd.detect.joint import Joint
from aiopsd.detect.online import Online, Said
from aiopsd.detect.vectors import Complete, Vectors
from aiopsd.errors import ConfigError
from aiopsd.model import Anomaly, Append, Effect
from aiopsd.pipeline.detect import build
from aiopsd.testing.detectors import stored
from aiopsd.web import drawing
from tests.unit.test_detect_stage import MINUTE, T0, Sample, records, said, series, stage

JOINT = """
detect:
  online: [{{match: {{service: ".*"}}, features: [".*"], model: aiopsd.Joint, cost: 1, alone: {alone}}}]
"""


def two(*features: str) -> Vectors:
    """A service of rows 0, 1, ... that carry these features, a vector a minute."""
    vectors = Vectors(60.0)
    for row, feature in enumerate(features):
        vectors.appear(row, "pay", feature, "both")
    return vectors


def play(vectors: Vectors, *batches: list[tuple[int, float, float]]) -> list[Complete]:
    """Each batch is one record of (row, ts, value)."""
    rows, ts, values = zip(*(sample for batch in batches for sample in batch), strict=True)
    of = [i for i, batch in enumerate(batches) for _ in batch]
    return list(vectors.step(rows, ts, values, of))


def minute(t: int, *values: float) -> list[tuple[int, float, float]]:
    return [(row, T0 + 60.0 * t + row, v) for row, v in enumerate(values)]


def test_an_interval_ends_when_everybody_has_spoken() -> None:
    """From the second interval on the vector is there with the last sample that was missing, in the same record."""
    vectors = two("a", "b")
    assert play(vectors, minute(0, 1, 2)) == []
    (first, second) = play(vectors, minute(1, 1, 2))
    assert (first.ts, second.ts) == (T0 + 1, T0 + 61)
    assert play(vectors, minute(2, 1, 2)[:1]) == []
    (third,) = play(vectors, minute(2, 1, 2)[1:])
    assert third.ts == T0 + 121


def test_who_is_late_is_as_he_was_and_then_missing() -> None:
    """A series that falls silent keeps its last value for two and a half of its intervals; then it is no feature."""
    vectors = two("a", "b")
    play(vectors, *(minute(t, 1, 2) for t in range(10)))
    found = play(vectors, *(minute(t, 1, 2)[:1] for t in range(10, 16)))
    assert [sorted(c.features) for c in found] == [["a", "b"]] * 2 + [["a"]] * 4


def test_series_of_one_feature_are_averaged() -> None:
    """Two pods with the same metric are one feature, in deviations from each one's own level."""
    vectors = two("cpu", "cpu", "errors")
    rng = np.random.default_rng(1)
    for t in range(300):
        play(vectors, minute(t, 10 + rng.normal(), 1000 + 50 * rng.normal(), 5))
    (last,) = play(vectors, minute(300, 13, 1000, 5))
    assert sorted(last.features) == ["cpu", "errors"]
    assert 1 < last.features["cpu"] < 2  # three deviations of one, none of the other
    assert last.features["errors"] == 0


def test_a_record_counts_in_the_order_of_its_times() -> None:
    """An hour of one series and then an hour of the other, in one record, makes the vectors of a record a minute."""
    values = np.random.default_rng(2).normal(size=(60, 2))
    one, other = two("a", "b"), two("a", "b")
    by_minute = play(one, *(minute(t, *v) for t, v in enumerate(values.tolist())))
    samples = [s for t, v in enumerate(values.tolist()) for s in minute(t, *v)]
    at_once = play(other, sorted(samples))
    assert [(c.ts, c.features) for c in by_minute] == [(c.ts, c.features) for c in at_once]
    assert one.snapshot() == other.snapshot()


def test_a_service_that_goes_leaves_nothing() -> None:
    """When the last series of a service is gone its id is used again, and its state is not."""
    vectors = two("a", "b")
    play(vectors, minute(0, 1, 2), minute(1, 1, 2))
    assert (vectors.vanish(0), vectors.vanish(1)) == (None, 0)
    assert vectors.snapshot() == [[], [0]]
    assert vectors.appear(7, "cart", "a", "both") == 0


def test_what_moves_alone_is_far_from_what_moves_together() -> None:
    """Of two equal moves the one that breaks the correlation is farther, and the feature that breaks it is named."""
    joint = Joint(Joint.Config())
    rng = np.random.default_rng(3)
    for t in range(1000):
        load_ = rng.normal()
        joint.learn(T0 + t, {n: load_ + 0.2 * rng.normal() for n in "abc"})
    together, _ = joint.statistic(T0, {"a": 2.0, "b": 2.0, "c": 2.0})
    broken, normal = joint.statistic(T0, {"a": 2.0, "b": -2.0, "c": 2.0})
    assert together is not None
    assert broken is not None
    assert normal is not None
    assert broken > 2 * together
    assert normal.feature == "b"
    assert 1 < normal.value < 2.1
    lacking, _ = joint.statistic(T0, {"a": 2.0, "c": 2.0})
    assert lacking == pytest.approx(together, rel=0.5)


def test_the_joint_model_is_bounded() -> None:
    """Feature names that come and go push the longest absent out; those that are always there stay."""
    joint = Joint(Joint.Config(most=8))
    for t in range(300):
        joint.learn(T0 + t, {"cpu": 0.1, "errors": 0.2} | {f"pod-{t // 10}": 1.0})
    assert len(joint.names) == 8
    assert {"cpu", "errors", "pod-29", "pod-28"} <= set(joint.names)
    assert joint.statistic(T0, {"cpu": 0.1, "errors": 0.2})[0] is not None


def shop(minutes: int, broken: range = range(0), seed: int = 4) -> list[list[Sample]]:
    """Service pay with three metrics that follow one load; in `broken` errors fall while all others are as usual."""
    rng = np.random.default_rng(seed)
    out = []
    for t in range(minutes):
        load_ = math.sin(t / 30)
        out.append(
            [
                (series(name), T0 + MINUTE * t, 100 + 10 * (-load_ if t in broken and name == "b" else load_)
                 + 0.2 * float(rng.normal()))
                for name in ("a", "b", "c")
            ]
        )  # fmt: skip
    return out


def test_a_broken_correlation_is_an_event_that_names_its_metric() -> None:
    """A metric that goes against its service, inside its own range, is told with what the others let expect."""
    rows = shop(1460, range(1428, 1460))

    def late(text: str) -> list[Anomaly]:
        return [e for e in said(stage(text).step(records(rows))) if e.onset > T0 + 1400 * MINUTE]

    assert late("") == []
    assert late(JOINT.format(alone="false")) == []
    first = late(JOINT.format(alone="true"))[0]
    assert first.onset == T0 + 1428 * MINUTE
    evidence = first.evidence[0]
    assert (evidence.metric, evidence.channel) == ("b", "online")
    load_ = math.sin((first.onset - T0) / MINUTE / 30)
    assert evidence.normal == pytest.approx(100 + 10 * load_, abs=3)
    assert abs(evidence.level - evidence.normal) > evidence.high - evidence.normal
    assert len(evidence.recent) == 16
    assert evidence.recent[-1] == (first.onset, evidence.level)
    assert "normally" in first.summary
    assert re.fullmatch(
        r"aiopsd\.Joint: b [\d.]+ where [\d.]+\.\.[\d.]+ was expected: [\d.]+, until now at most [\d.]+",
        evidence.opinion,
    )
    drawn = str(drawing.series(evidence))
    assert 'class="band"' in drawn
    assert 'class="onset"' in drawn


def test_vectors_keep_the_third_law() -> None:
    """Events of vectors are the same however the log is cut, with snapshots stored and resumed between."""
    config = load(JOINT.format(alone="true"))
    log = records(shop(1460, range(1428, 1460)))
    whole = build(config, "metrics", 2).step(log)
    assert any(isinstance(e, Append) and isinstance(e.body, Anomaly) for e in whole)
    rng = random.Random(5)
    cut, at, parts = build(config, "metrics", 2), 0, list[Effect]()
    while at < len(log):
        to = at + rng.choice((1, 7, 150))
        parts += cut.step(log[at:to])
        at = to
        if rng.random() < 0.2:
            cut = build(config, "metrics", 2, stored(cut.snapshot()))
    assert whole == parts


def seen(row: int, evidence: float, pos: int, channel: int = 0) -> Seen:
    return Seen(pos, row, T0, 1.0, evidence, channel, True, 0.0, -1.0, 1.0, 1.0, 60.0, 0.0, [])


def test_a_verdict_on_a_service_raises_what_the_bank_says_of_any_of_its_series() -> None:
    """It confirms its own service's evidence, no other's, and says nothing by itself."""
    online = Online(load(JOINT.format(alone="false")).detect.online, Policy())
    for row, service in enumerate(("pay", "pay", "cart")):
        online.appear(row, Series(service=service, metric=str(row), labels={"__name__": str(row)}), False)
    verdict = Said(msgspec.structs.replace(seen(0, 0.15, 0, -1), opinion="far"), (0, 0), False)
    out = list(online.confirm([seen(row, 0.1, 1 + row) for row in range(3)], [verdict]))
    assert [s.evidence for s in out] == pytest.approx([0.2, 0.2, 0.1])
    assert [s.opinion for s in out] == ["far", "far", ""]


def test_services_are_promoted_by_the_budget() -> None:
    """A service counts as one, however many series it has; `max_series` services have a model, the others wait."""
    text = "detect: {online: [{features: ['.*'], model: aiopsd.Joint, max_series: 2}]}"
    s = stage(text)
    rows: list[list[Sample]] = [
        [(series(f"m{m}", f"s{i}"), T0 + MINUTE * t, 1.0) for i in range(3) for m in range(4)] for t in range(5)
    ]
    s.step(records(rows))
    assert (len(s._online.detectors[0]), s._online.waiting) == (2, 1)


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("{features: ['.*'], model: time_series.SNARIMAX, params: {p: 1, d: 0, q: 0}}", "model"),
        ("{features: ['.*'], model: anomaly.GaussianScorer}", "model"),
        ("{features: ['.*'], model: linear_model.LinearRegression}", "model"),
        ("{features: ['.*'], model: aiopsd.Day}", "model"),
        ("{features: ['('], model: aiopsd.Joint}", "features[0].__name__"),
        ("{features: ['.*'], model: aiopsd.Joint, params: {memory: 3}}", "params"),
        ("{features: ['.*'], model: aiopsd.Joint, params: {memory: long}}", "params.memory"),
        ("{features: ['.*'], model: aiopsd.Joint, every: 0s}", "every"),
    ],
)
def test_a_model_that_takes_no_vectors_is_refused(rule: str, path: str) -> None:
    """What models one value, and wrong parameters, are refused with their key when the stage is built."""
    with pytest.raises(ConfigError) as e:
        build(load(f"detect: {{online: [{rule}]}}"), "metrics", 0)
    assert e.value.path == f"$.detect.online[0].{path}"


@pytest.mark.parametrize(
    "model",
    [
        "model: anomaly.HalfSpaceTrees, params: {n_trees: 5, height: 5, window_size: 60}",
        "model: anomaly.OneClassSVM",
        "model: anomaly.LODA, params: {n_random_cuts: 10}",
        "model: anomaly.LocalOutlierFactor, params: {n_neighbors: 5}",
        "model: compose.Pipeline, params: {steps: [{model: preprocessing.MinMaxScaler}, {model: anomaly.OneClassSVM}]}",
    ],
)
def test_river_takes_vectors_with_features_that_come_and_go(model: str) -> None:
    """Any river detector scores a service of which a metric is missing now and then, without a fault."""
    s = stage(f"detect: {{online: [{{features: ['.*'], {model}}}]}}")
    rows = [group[: 3 - (t // 40) % 2] for t, group in enumerate(shop(180))]
    s.step(records(rows))
    (row,) = s._online.detectors[0]._rows.values()
    assert row.said > 100
    assert s._online.faults == 0


def test_one_series_too_many_is_no_trouble() -> None:
    """Pods that come and go under a vector rule leave no state behind."""
    s = build(load("detect: {evict_after: 1h, online: [{features: ['.*'], model: aiopsd.Joint}]}"), "metrics", 2)
    for hour in range(8):
        rows = [
            [(series("cpu", pod=f"{p}-{hour}"), T0 + 3600.0 * hour + 300 * t, 1.0) for p in range(5)] for t in range(12)
        ]
        s.step(records(rows, first=12 * hour))
    vectors = s._online.rules[0].vectors
    assert vectors is not None
    assert len(vectors.rows(0)) == s.series <= 15
