"""The bank and the join alone over columns of a labelled corpus: what `detection.play` says, at a fraction of its cost.

`hear` runs the bank once and keeps what a join can ever want to know of it; `tell` runs a join over that. So a constant
of the join is tried within seconds, and one of the bank without encoding and decoding every sample again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank import HARM_BOTH, HARM_HIGH, HARM_LOW, Policy, RangeBank
from aiopsd.detect.evidence import Series
from aiopsd.detect.join import Join, JoinPolicy, Seen, seen
from aiopsd.detect.signals import Signals
from simulations import detection
from simulations.detection import F64, Alarm, Input

FOLLOWED = 43_200.0  # s; a join wants to know of a series for so long after it left its range
_HARM = {"high": HARM_HIGH, "low": HARM_LOW, "both": HARM_BOTH, "none": 0}
_AT_ONCE = 16  # records given to the bank in one call: the same bits as one by one, at a fraction of the cost


@dataclass(frozen=True)
class Columns:
    """A corpus in the order of its records: series, time and value of each sample, and where each record begins."""

    rows: NDArray[np.intp]
    ts: F64
    values: F64
    begins: NDArray[np.intp]  # [records + 1]
    series: tuple[Series, ...]  # by row
    counters: NDArray[np.intp]  # rows
    shifts: tuple[float, ...]  # by subject


@dataclass(frozen=True)
class Heard:
    """Records of which a join can want to know something: (watermark of the record before, samples)."""

    columns: Columns
    records: list[tuple[float, list[Seen]]]


def columns(subjects: Sequence[Input], bucket: float = 300.0) -> Columns:
    """The samples of the subjects in the order and the records in which `detection.play` sends them."""
    shifts = detection.shifts(subjects)
    signals = Signals(())
    named: list[Series] = []
    counters: list[int] = []
    parts = []
    for i, s in enumerate(subjects):
        at = s.ts - shifts[i]
        count = len(s.labels)
        parts.append((len(named) + np.tile(np.arange(count), len(at)), np.repeat(at, count), s.values.T.reshape(-1)))
        for labels in s.labels:
            signal = signals.of(labels)
            if signal.counter:
                counters.append(len(named))
            named.append(Series(service=f"s{i}", metric=labels["__name__"], labels=labels, harm=signal.harm))
    rows, ts, values = (np.concatenate(p) for p in zip(*parts, strict=True))
    there = np.isfinite(values)
    rows, ts, values = rows[there], ts[there], values[there]
    order = np.lexsort((rows, ts, np.floor(ts / bucket)))
    rows, ts, values = rows[order], ts[order], values[order]
    begins = np.concatenate(([0], np.flatnonzero(np.diff(np.floor(ts / bucket))) + 1, [len(ts)]))
    return Columns(rows, ts, values, begins, tuple(named), np.array(counters, np.intp), tuple(shifts))


def hear(c: Columns, policy: Policy | None = None) -> Heard:
    """The bank over these columns."""
    bank = RangeBank(policy, len(c.series), follow=True)
    for harm, bits in _HARM.items():
        bank.mark(np.array([r for r, s in enumerate(c.series) if s.harm == harm], np.intp), harm=bits)
    bank.mark(c.counters, counter=True)
    left = np.full(len(c.series), -np.inf)
    records = []
    for r in range(0, len(c.begins) - 1, _AT_ONCE):
        cuts = c.begins[r : r + _AT_ONCE + 1]
        a, b = int(cuts[0]), int(cuts[-1])
        breaks = bank.step(c.rows[a:b], c.ts[a:b], c.values[a:b]).breaks
        if not len(breaks.pos):
            continue
        by_record: dict[int, list[Seen]] = {}
        of = np.searchsorted(cuts - a, breaks.pos, side="right").tolist()
        for k, sample in zip(of, seen(breaks), strict=True):
            by_record.setdefault(k, []).append(msgspec.structs.replace(sample, recent=[]))
        for k, samples in by_record.items():
            before = int(cuts[k - 1])
            records.append((float(c.ts[:before].max()) if 0 < before < 1000 else float(c.ts[before - 1]), samples))
        out = breaks.evidence > 0
        left[breaks.rows[out]] = breaks.ts[out]
        for row in np.unique(breaks.rows[left[breaks.rows] < c.ts[b - 1] - FOLLOWED]).tolist():
            bank.watch(row, False)
    return Heard(c, records)


def tell(heard: Heard, policy: JoinPolicy | None = None) -> list[Alarm]:
    """A join over what was heard."""
    c = heard.columns
    join = Join(policy or JoinPolicy(), c.series.__getitem__)
    for s in c.series:
        join.appear(s.service)
    kept = detection.Kept(c.shifts)
    end = float(c.ts[-1])
    for before, samples in [*heard.records, (end, [])]:
        for event in join.due(before):
            kept.take(event)
        for sample in samples:
            told = join.observe(sample)
            if told is not None:
                kept.take(told)
    return kept.alarms()
