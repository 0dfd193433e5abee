"""Scores of detectors against labelled series: NAB's rules, and events under a budget of false alarms.

Two readings of the same alarms. NAB (Lavin & Ahmad 2015, https://arxiv.org/abs/1510.03336, rules of version 1.1):
three profiles, early detections earn more, one threshold for the whole corpus. Events: precision, recall and onset
recall of whole alarms at a budget of false alarms per series and day. NAB takes scores per sample, the event reading
finished alarms.

The event reading has two guards, without which it can be gamed: an alarm that never ends is cut every `LONGEST` rows
(else always-on is one alarm that touches every event), and onset recall counts only alarms that *start* inside an
event (else a long alarm scores on the next event, too).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]
Alarms = list[tuple[int, int]]  # (first row, last row), in order

LONGEST = 72  # rows; a longer alarm is cut


@dataclass(frozen=True)
class Labelled:
    """One labelled series. `windows` are (first, last) rows, inclusive; `points` the rows the labellers marked.

    `first_scored` -1 means NAB's probation: 15 % of the rows, at most 750.
    """

    name: str
    ts: F64
    values: F64
    windows: tuple[tuple[int, int], ...] = ()
    points: tuple[int, ...] = ()
    first_scored: int = -1

    @property
    def probation(self) -> int:
        """First row that is scored."""
        if self.first_scored >= 0:
            return self.first_scored
        return math.ceil(min(math.floor(0.15 * len(self.ts)), 0.15 * 5000))

    @property
    def days(self) -> float:
        """Scored days."""
        p = self.probation
        return float(self.ts[-1] - self.ts[p]) / 86400.0 if len(self.ts) > p + 1 else 0.0


def joined(label: NDArray[np.bool_], gap: int = 3) -> list[tuple[int, int]]:
    """Runs of True as (first, last), joined over at most `gap` rows of False.

    >>> joined(np.array([1, 0, 0, 1, 0, 0, 0, 0, 1], dtype=bool))
    [(0, 3), (8, 8)]
    """
    rows = np.flatnonzero(label)
    if not len(rows):
        return []
    cut = np.flatnonzero(np.diff(rows) > gap + 1)
    first = rows[np.r_[0, cut + 1]].tolist()
    last = rows[np.r_[cut, len(rows) - 1]].tolist()
    return list(zip(first, last, strict=True))


def windows_of_labels(
    name: str, ts: F64, values: F64, label: NDArray[np.bool_], *, probation: int = -1, early: int = 1, late: int = 3
) -> Labelled:
    """A series whose events are its labelled runs; an alarm `early` rows before or `late` rows after still counts."""
    runs = joined(label)
    windows: list[tuple[int, int]] = []
    for a, b in runs:
        a, b = max(a - early, 0), min(b + late, len(ts) - 1)
        if windows and a <= windows[-1][1]:
            windows[-1] = (windows[-1][0], b)
        else:
            windows.append((a, b))
    return Labelled(name, ts, values, tuple(windows), tuple(a for a, _ in runs), probation)


# --------------------------------------------------------------------------- NAB

#: profile -> (weight of a true positive, of a missed window, of a false positive); NAB config/profiles.json
PROFILES = {
    "standard": (1.0, 1.0, 0.11),
    "reward_low_FP_rate": (1.0, 1.0, 0.22),
    "reward_low_FN_rate": (1.0, 2.0, 0.11),
}


def sigmoid(x: ArrayLike) -> F64:
    """NAB's scaled sigmoid of the position relative to a window: near 1 at its start, 0 at its end, -1 far after.

    >>> sigmoid([-1.0, 0.0, 4.0]).round(3).tolist()
    [0.987, 0.0, -1.0]
    """
    x = np.asarray(x, dtype=float)
    out: F64 = np.where(x > 3.0, -1.0, 2.0 / (1.0 + np.exp(np.minimum(5.0 * x, 60.0))) - 1.0)
    return out


class Nab:
    """NAB's score of a corpus: gains per row computed once, any scores swept afterwards."""

    def __init__(self, corpus: Sequence[Labelled]) -> None:
        self.corpus = list(corpus)
        self._gains = [self._gain(s) for s in self.corpus]

    @staticmethod
    def _gain(s: Labelled) -> tuple[F64, NDArray[np.intp]]:
        """(unweighted gain of a detection at each row, number of its window or -1)."""
        n = len(s.ts)
        rows = np.arange(n)
        gain = np.full(n, -1.0)
        window = np.full(n, -1, dtype=np.intp)
        best = float(sigmoid(-1.0))
        ordered = sorted(s.windows)
        for k, (a, b) in enumerate(ordered):
            width = b - a + 1
            gain[a : b + 1] = sigmoid(-(b - rows[a : b + 1] + 1) / width) / best
            window[a : b + 1] = k
            stop = ordered[k + 1][0] if k + 1 < len(ordered) else n
            gain[b + 1 : stop] = sigmoid((rows[b + 1 : stop] - b) / max(width - 1.0, 1e-9))
        return gain, window

    def sweep(self, scores: Sequence[F64], profile: str, files: Sequence[int] | None = None) -> tuple[F64, F64]:
        """(thresholds, descending; raw total at each). In a window the best detection at the threshold counts."""
        w_tp, w_fn, w_fp = PROFILES[profile]
        at: list[F64] = []
        change: list[F64] = []
        base = 0.0
        for f in range(len(self.corpus)) if files is None else files:
            gain, window = self._gains[f]
            score = np.asarray(scores[f], dtype=float)
            scored = np.arange(len(score)) >= self.corpus[f].probation
            outside = scored & (window < 0)
            at.append(score[outside])
            change.append(gain[outside] * w_fp)
            for k in range(len(self.corpus[f].windows)):
                rows = np.flatnonzero(scored & (window == k))
                if not len(rows):
                    continue
                base -= w_fn
                order = rows[np.argsort(-score[rows], kind="stable")]
                best = np.maximum.accumulate(np.r_[-w_fn, gain[order] * w_tp])
                at.append(score[order])
                change.append(np.diff(best))
        merged = np.concatenate(at)
        order = np.argsort(-merged, kind="stable")
        merged, total = merged[order], base + np.cumsum(np.concatenate(change)[order])
        last = np.flatnonzero(np.r_[merged[1:] != merged[:-1], True])
        return np.r_[np.inf, merged[last]], np.r_[base, total[last]]

    def _normalise(self, raw: float, profile: str, files: Sequence[int] | None) -> float:
        w_tp, w_fn, _ = PROFILES[profile]
        chosen = range(len(self.corpus)) if files is None else files
        n = sum(len(self.corpus[f].windows) for f in chosen)
        return 100.0 * (raw + w_fn * n) / ((w_tp + w_fn) * n) if n else float("nan")

    def best(self, scores: Sequence[F64], profile: str, files: Sequence[int] | None = None) -> tuple[float, float]:
        """(score, threshold) at the threshold that is best for these files: 0 is silence, 100 perfection."""
        thresholds, totals = self.sweep(scores, profile, files)
        i = int(np.argmax(totals))
        return self._normalise(float(totals[i]), profile, files), float(thresholds[i])

    def at(self, scores: Sequence[F64], threshold: float, profile: str, files: Sequence[int] | None = None) -> float:
        """Score when every row at or above the threshold is a detection."""
        thresholds, totals = self.sweep(scores, profile, files)
        i = int(np.searchsorted(-thresholds, -threshold, side="right")) - 1
        return self._normalise(float(totals[max(i, 0)]), profile, files)

    def halves(self, scores: Sequence[F64], profile: str, splits: int = 20, seed: int = 0) -> tuple[float, float]:
        """(mean, standard deviation) of the score of one half of the files at the other half's best threshold.

        Halves are stratified by the folder of the file; the figure says what a threshold chosen elsewhere is worth.
        """
        rng = np.random.default_rng(seed)
        groups: dict[str, list[int]] = {}
        for i, s in enumerate(self.corpus):
            groups.setdefault(s.name.split("/")[0], []).append(i)
        got = []
        for _ in range(splits):
            left: list[int] = []
            for members in groups.values():
                left += rng.permutation(members)[: (len(members) + int(rng.integers(2))) // 2].tolist()
            right = [i for i in range(len(self.corpus)) if i not in left]
            for one, other in ((left, right), (right, left)):
                if sum(len(self.corpus[i].windows) for i in one) and sum(len(self.corpus[i].windows) for i in other):
                    got.append(self.at(scores, self.best(scores, profile, one)[1], profile, other))
        return float(np.mean(got)), float(np.std(got))


# --------------------------------------------------------------------------- events


def cut(alarms: Alarms, longest: int = LONGEST) -> Alarms:
    """Alarms longer than `longest` rows, cut into pieces.

    >>> cut([(0, 9), (20, 50)], longest=20)
    [(0, 9), (20, 39), (40, 50)]
    """
    return [(s, min(s + longest - 1, b)) for a, b in alarms for s in range(a, b + 1, longest)]


@dataclass(frozen=True)
class EventScore:
    """Figures of alarms against events; rates per scored series-day, median delays from the first label."""

    precision: float
    recall: float
    f1: float
    false_per_day: float
    onset_recall: float
    onset_false_per_day: float
    delay_rows: float
    delay_seconds: float
    alarms: int
    events: int


@dataclass(frozen=True)
class _Counts:
    """What the alarms of one series came to."""

    alarms: int
    touched: int
    false: int
    onset_false: int
    events: int
    found: int
    begun: int
    delays: tuple[tuple[float, float], ...]  # (rows, seconds) of each found event with a labelled row


def _count(s: Labelled, given: Alarms) -> _Counts:
    p = s.probation
    mine = [(max(a, p), b) for a, b in cut(list(given)) if b >= p]
    windows = [(max(a, p), b) for a, b in s.windows if b >= p]
    first = np.array([a for a, _ in windows], dtype=np.int64)
    last = np.array([b for _, b in windows], dtype=np.int64)
    touched = onset_false = 0
    found: dict[int, int] = {}
    begun = set()
    for a, b in mine:
        k = int(np.searchsorted(last, a))  # the first event that has not ended at the alarm's first row
        if k < len(windows) and first[k] <= b:
            touched += 1
            for w in range(k, int(np.searchsorted(first, b, side="right"))):
                found.setdefault(w, max(a, int(first[w])))
        if k < len(windows) and first[k] <= a:
            begun.add(k)
        else:
            onset_false += 1
    delays = []
    for w, row in sorted(found.items()):
        marked = [q for q in s.points if windows[w][0] <= q <= windows[w][1]]
        if marked:
            delays.append((float(row - marked[0]), float(s.ts[row] - s.ts[marked[0]])))
    return _Counts(
        alarms=len(mine),
        touched=touched,
        false=len(mine) - touched,
        onset_false=onset_false,
        events=len(windows),
        found=len(found),
        begun=len(begun),
        delays=tuple(delays),
    )


def _sum(counts: Sequence[_Counts], days: float) -> EventScore:
    alarms, events = sum(c.alarms for c in counts), sum(c.events for c in counts)
    precision = sum(c.touched for c in counts) / alarms if alarms else 0.0
    recall = sum(c.found for c in counts) / events if events else 0.0
    delays = [d for c in counts for d in c.delays]
    return EventScore(
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        false_per_day=sum(c.false for c in counts) / days if days else 0.0,
        onset_recall=sum(c.begun for c in counts) / events if events else 0.0,
        onset_false_per_day=sum(c.onset_false for c in counts) / days if days else 0.0,
        delay_rows=float(np.median([d[0] for d in delays])) if delays else float("nan"),
        delay_seconds=float(np.median([d[1] for d in delays])) if delays else float("nan"),
        alarms=alarms,
        events=events,
    )


def score_alarms(corpus: Sequence[Labelled], alarms: Sequence[Alarms]) -> EventScore:
    """Touch reading (an alarm that touches an event is right) and onset reading (it must start inside) together.

    Alarms that end before the probation does are ignored, those that begin in it are cut to its end.
    """
    scored = [(s, a) for s, a in zip(corpus, alarms, strict=True) if s.days > 0]
    return _sum([_count(s, a) for s, a in scored], sum(s.days for s, _ in scored))


class Sweep:
    """Events of a corpus at many thresholds, counted once per series, so that any part of it can be asked about.

    `thresholds` descend; `alarms[i]` are those at the i-th, per series. The false-alarm rate is not monotone in the
    threshold (alarms grow together), so it cannot be searched by halving.
    """

    def __init__(self, corpus: Sequence[Labelled], thresholds: Sequence[float], alarms: Sequence[Sequence[Alarms]]):
        self.corpus = list(corpus)
        self.thresholds = list(thresholds)
        self._counts = [[_count(s, a) for s, a in zip(corpus, each, strict=True)] for each in alarms]

    def figures(self, i: int, files: Sequence[int] | None = None) -> EventScore:
        """At the i-th threshold."""
        files = range(len(self.corpus)) if files is None else files
        scored = [f for f in files if self.corpus[f].days > 0]
        return _sum([self._counts[i][f] for f in scored], sum(self.corpus[f].days for f in scored))

    def within(self, per_day: float, files: Sequence[int] | None = None, *, onset: bool = True) -> int | None:
        """Index of the lowest threshold whose false alarms stay within the budget; None when none is high enough.

        `onset`: every alarm that does not start inside an event is false; else every one that touches none.
        """
        best = None
        for i in range(len(self.thresholds)):
            figures = self.figures(i, files)
            if (figures.onset_false_per_day if onset else figures.false_per_day) <= per_day:
                best = i
        return best

    def halves(self, per_day: float, splits: int = 20, seed: int = 0) -> tuple[float, float]:
        """(onset recall, onset false alarms a series-day) of halves at the threshold of the other half; means."""
        rng = np.random.default_rng(seed)
        got = []
        for _ in range(splits):
            order = rng.permutation(len(self.corpus)).tolist()
            left, right = order[: len(order) // 2], order[len(order) // 2 :]
            for one, other in ((left, right), (right, left)):
                i = self.within(per_day, one)
                figures = self.figures(i, other) if i is not None else None
                got.append((figures.onset_recall, figures.onset_false_per_day) if figures else (0.0, 0.0))
        return float(np.mean([g[0] for g in got])), float(np.mean([g[1] for g in got]))
