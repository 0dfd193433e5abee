"""Conformance of detectors: what `protocols.Detector` promises, as checks that any implementation can be put through.

Each check takes a `Candidate` and raises AssertionError with what it saw. A plug-in's tests run

    @pytest.mark.parametrize("check", detectors.CHECKS)
    def test_conforms(check): check(detectors.model("acme.Median", {"window": 12}))
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.calibrate import ModelDetector
from aiopsd.model import Snapshot
from aiopsd.protocols import Detector

Rows = NDArray[np.intp]
F64 = NDArray[np.float64]
START = 1_700_000_000.0
STEP = 300.0  # s between two samples of a series


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """How to build the detector, and how to build it again from its own snapshot; `length` samples warm it up."""

    name: str
    make: Callable[[], Any]
    resume: Callable[[Snapshot], Any]
    length: int = 400


def model(name: str, params: Mapping[str, Any], *, lags: int = 0, length: int = 250) -> Candidate:
    """A model of the second tier by the name that a configuration gives it: shipped, river's or a plug-in's.

    Raises:
        ConfigError: there is none, or it is none; names the key.
    """

    def make() -> ModelDetector:
        return ModelDetector(name, params, lags=lags)

    def resume(snapshot: Snapshot) -> ModelDetector:
        detector = make()
        detector.load(snapshot)
        return detector

    make()
    return Candidate(name=name, make=make, resume=resume, length=length)


@functools.cache
def stream(seed: int, length: int, series: int = 7) -> tuple[Rows, F64, F64]:
    """(rows, ts, values) in order of arrival, of rows that each have one trouble.

    Noisy daily seasons with lost samples and retries; 1: gaps of hours, 2: a constant, 3: huge values, 4: NaN and
    infinities, 5: a counter that is reset, 6: a clock that leaps a month ahead, and samples from before that.

    The arrays are read-only: all candidates share them.
    """
    rng = np.random.default_rng(seed)
    rows, ts, values = [], [], []
    total = 0.0
    for t in range(length):
        now = START + t * STEP
        for row in range(series):
            kind = row % 7
            if rng.random() < 0.03 or (kind == 1 and 100 < t % 250 < 120):
                continue  # lost, and a gap
            value = 50.0 + 10.0 * np.sin(now / 86400 * 2 * np.pi) + rng.normal()
            if kind == 2:
                value = 7.0
            elif kind == 3:
                value *= 1e300 if rng.random() < 0.01 else 1e9
            elif kind == 4 and rng.random() < 0.1:
                value = rng.choice([np.nan, np.inf, -np.inf])
            elif kind == 5:
                total = value if rng.random() < 0.01 else total + value
                value = total
            at = now + 30 * 86400.0 if kind == 6 and t > length // 3 and rng.random() < 0.9 else now
            rows.append(row)
            ts.append(at)
            values.append(value)
            if rng.random() < 0.02:  # a retry
                rows.append(row)
                ts.append(at)
                values.append(value + 1.0)
    out = np.array(rows, np.intp), np.array(ts), np.array(values)
    for a in out:
        a.setflags(write=False)
    return out


def state(detector: Detector) -> tuple[bytes, dict[str, bytes]]:
    """The detector's snapshot as bytes, so that equal means equal in every bit."""
    s = detector.snapshot()
    return msgspec.msgpack.encode([s.kind, s.version, s.meta]), {k: a.tobytes() for k, a in sorted(s.arrays.items())}


def stored(snapshot: Snapshot) -> Snapshot:
    """The snapshot after a way to the disk and back: plain data through msgpack, arrays as bytes."""
    arrays = {
        name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for name, a in snapshot.arrays.items()
    }  # read-only, as a mapped file would be
    meta = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot.meta), strict=False)
    return Snapshot(kind=snapshot.kind, version=snapshot.version, meta=meta, arrays=arrays)


def learn_is_batch_invariant(c: Candidate) -> None:
    """learn(a + b) leaves the state that learn(a), learn(b) leaves, however the stream is cut."""
    rows, ts, values = stream(1, c.length)
    whole = c.make()
    whole.learn(rows, ts, values)
    rng = np.random.default_rng(2)
    for _ in range(2):
        parts = c.make()
        at = 0
        while at < len(rows):
            to = at + int(rng.integers(1, 200))
            parts.learn(rows[at:to], ts[at:to], values[at:to])
            at = to
        assert state(whole) == state(parts), f"{c.name}: the state depends on how the samples were cut"


def snapshot_goes_on_bit_exactly(c: Candidate) -> None:
    """A detector resumed mid-stream from a stored snapshot scores and ends like one that was never stopped."""
    rows, ts, values = stream(3, c.length)
    half = len(rows) // 2
    one = c.make()
    one.learn(rows[:half], ts[:half], values[:half])
    two = c.resume(stored(one.snapshot()))
    assert state(one) == state(two), f"{c.name}: resuming changed the state"
    one.learn(rows[half:], ts[half:], values[half:])
    two.learn(rows[half:], ts[half:], values[half:])
    probe = np.unique(rows).astype(np.intp)
    now = np.full(len(probe), ts[-1] + STEP)
    assert one.score(probe, now, now * 0 + 99.0).tobytes() == two.score(probe, now, now * 0 + 99.0).tobytes()
    assert state(one) == state(two), f"{c.name}: the resumed detector went another way"


def scoring_mutates_nothing(c: Candidate) -> None:
    """score() leaves no trace, of known rows and of rows never seen."""
    rows, ts, values = stream(4, c.length)
    detector = c.make()
    detector.learn(rows, ts, values)
    before = state(detector)
    probe = np.array([0, 1, 2, 3, 4, 70], np.intp)
    first = detector.score(probe, np.full(6, ts[-1] + STEP), np.full(6, 1e6))
    again = detector.score(probe, np.full(6, ts[-1] + STEP), np.full(6, 1e6))
    assert state(detector) == before, f"{c.name}: scoring changed the state"
    assert first.tobytes() == again.tobytes(), f"{c.name}: the same question, another answer"


def scores_are_scores(c: Candidate) -> None:
    """Scores are finite and in [0, 1), whatever the sample; one that is no number, or late, scores 0."""
    rows, ts, values = stream(5, c.length)
    detector = c.make()
    detector.learn(rows, ts, values)
    later = ts[-1] + STEP
    for value in (0.0, 1e308, -1e308, 5e-324, np.nan, np.inf, -np.inf):
        scores = detector.score(np.arange(5, dtype=np.intp), np.full(5, later), np.full(5, value))
        assert scores.shape == (5,)
        assert bool(np.all((scores >= 0) & (scores < 1))), f"{c.name}: {value!r} scored {scores}"
        if not np.isfinite(value):
            assert not scores.any(), f"{c.name}: {value!r} is no sample, yet scored {scores}"
    late = detector.score(np.arange(5, dtype=np.intp), np.full(5, START), np.full(5, 1e6))
    assert not late.any(), f"{c.name}: a sample older than its row's last scored {late}"


def repeats(c: Candidate) -> None:
    """Two detectors that saw the same are the same: nothing is drawn without a seed."""
    rows, ts, values = stream(6, c.length)
    one, two = c.make(), c.make()
    one.learn(rows, ts, values)
    two.learn(rows, ts, values)
    assert state(one) == state(two), f"{c.name}: not repeatable"


def memory_is_bounded(c: Candidate) -> None:
    """The state does not grow with the length of the stream once it is warm."""

    def size(length: int) -> int:
        rows, ts, values = stream(7, length)
        detector = c.make()
        detector.learn(rows, ts, values)
        meta, arrays = state(detector)
        return len(meta) + sum(len(a) for a in arrays.values())

    short, long = size(c.length), size(3 * c.length)
    assert long <= 1.25 * short + 2000, f"{c.name}: {short} bytes grew to {long}"


def tells_strange_from_usual(c: Candidate) -> None:
    """On a labelled stream strange samples score higher than usual ones at least half of the time (AUC >= 0.5)."""
    rng = np.random.default_rng(8)
    detector = c.make()
    scores, labels = [], []
    rows = np.arange(12, dtype=np.intp)
    when = rng.integers(c.length // 2, c.length, size=len(rows))  # one strange sample per series, so that none is stale
    for t in range(c.length):
        strange = when == t
        values = 50.0 + rng.normal(size=len(rows)) + np.where(strange, 15.0, 0.0)
        ts = np.full(len(rows), START + t * STEP)
        if t >= c.length // 2:
            scores += detector.score(rows, ts, values).tolist()
            labels += strange.tolist()
        detector.learn(rows, ts, values)
    s, y = np.array(scores), np.array(labels)
    pairs = s[y][:, None] - s[~y][None, :]
    auc = float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
    assert auc >= 0.5, f"{c.name}: AUC {auc:.4f}"
    assert s[y].max() > 0, f"{c.name}: nothing ever scored"


def says_nothing_while_new(c: Candidate) -> None:
    """No series scores before its fortieth sample and its first hour, however wild it begins."""
    rng = np.random.default_rng(9)
    for step in (15.0, STEP):
        detector = c.make()
        rows = np.arange(6, dtype=np.intp)
        for t in range(max(40, int(3600 / step))):
            ts, values = np.full(6, START + t * step), np.exp(9 * rng.normal(size=6))
            scores = detector.score(rows, ts, values)
            assert not scores.any(), f"{c.name}: sample {t} of a new series scored {scores}"
            detector.learn(rows, ts, values)


def comes_back_quietly(c: Candidate) -> None:
    """A week without samples is no anomaly: of six series that are as before at most one scores 0.5 by chance."""
    rng = np.random.default_rng(10)
    detector = c.make()
    rows = np.arange(6, dtype=np.intp)
    for t in range(c.length):
        detector.learn(rows, np.full(6, START + t * STEP), 50 + rng.uniform(-5, 5, 6))
    later = START + c.length * STEP + 7 * 86400.0
    loud = np.zeros(6, bool)
    for t in range(20):
        ts, values = np.full(6, later + t * STEP), 50 + rng.uniform(-4, 4, 6)
        loud |= detector.score(rows, ts, values) >= 0.5
        detector.learn(rows, ts, values)
    assert loud.sum() <= 1, f"{c.name}: after a gap {loud.sum()} usual series of 6 scored 0.5"


CHECKS: tuple[Callable[[Candidate], None], ...] = (
    learn_is_batch_invariant,
    snapshot_goes_on_bit_exactly,
    scoring_mutates_nothing,
    scores_are_scores,
    repeats,
    memory_is_bounded,
    tells_strange_from_usual,
    says_nothing_while_new,
    comes_back_quietly,
)
