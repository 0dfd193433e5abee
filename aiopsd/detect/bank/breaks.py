"""What a call leaves: a score for each sample, and of those that left their envelope all that an explanation needs."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank.bars import MENTION
from aiopsd.detect.bank.layout import AGE, CNT, F32, F64, HI, LEAD, LO, SLOTS, STEPS, WATCHED, Mask, Rows
from aiopsd.detect.bank.normal import ruler
from aiopsd.detect.bank.recent import recall
from aiopsd.detect.bank.samples import Found, Signals, Taken
from aiopsd.detect.bank.store import Store


class Breaks(msgspec.Struct, frozen=True, kw_only=True):
    """Samples that left an envelope, and every sample of a watched row; arrays of one length, in input order.

    `evidence` counts envelope widths in a harmful direction (0: inside, or harmless); `low`/`high` bound in the
    metric's unit what the broken channel took for normal just before; `deviation` counts `scale` from `normal`. What is
    broken by stillness is not the value: `low`/`high` are then its range, and the step of the hour is below `least`.
    """

    pos: Rows  # index of the sample in the arrays of the call
    rows: Rows
    ts: F64
    values: F64  # as scored: the rate, for a counter
    evidence: F64
    held: F64  # evidence after the peak-hold: 0 unless above what was seen of late
    channel: NDArray[np.int8]  # index into CHANNELS
    up: Mask
    normal: F64
    low: F64
    high: F64
    scale: F64
    deviation: F64  # signed: above normal is positive
    interval: F64  # seconds since the row's previous sample
    lead: F64  # mean distance from normal before the recent samples
    step: F64  # mean distance between neighbouring samples of this hour
    least: F64  # the least that it was in an hour
    age: F64  # seconds between the row's first sample and this one
    recent_ts: F64  # [n, 16] oldest first, NaN: none; the sample itself is not among them
    recent: F64  # [n, 16]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one call saw. `scores` has one element per sample; ignored samples score 0."""

    scores: F32
    used: Mask  # accepted: finite, newer than its row's last
    breaks: Breaks
    late: int  # samples at or before their row's last: duplicates of a retry, or out of order
    invalid: int  # NaN or infinite, staleness markers excepted


class Run:
    """Collects what one call returns."""

    def __init__(self, n: int) -> None:
        self.scores = np.zeros(n, np.float32)
        self.used = np.zeros(n, bool)
        self.breaks: list[tuple[NDArray[Any], ...]] = []
        self.late = self.invalid = 0

    def outcome(self) -> Outcome:
        breaks = _joined(self.breaks, _BREAK_TYPES)
        return Outcome(
            scores=self.scores,
            used=self.used,
            breaks=Breaks(**dict(zip(Breaks.__struct_fields__, breaks, strict=True))),
            late=self.late,
            invalid=self.invalid,
        )


_BREAK_TYPES = (
    "p", "p", "d", "d", "d", "d", "b", "?", "d", "d", "d", "d", "d", "d", "d", "d", "d", "d", "dd", "dd",
)  # fmt: skip


def _joined(parts: list[tuple[NDArray[Any], ...]], types: tuple[str, ...]) -> list[NDArray[Any]]:
    """Columns of all parts, ordered by the sample's place in the call."""
    if not parts:
        return [np.zeros((0, SLOTS) if len(t) == 2 else 0, t[0]) for t in types]
    if len(parts) == 1:
        return list(parts[0])
    columns = [np.concatenate([part[i] for part in parts]) for i in range(len(types))]
    order = np.argsort(columns[0], kind="stable")
    return [c[order] for c in columns]


def report(store: Store, run: Run, taken: Taken, signals: Signals, found: Found, normal: F32, follow: bool) -> None:
    """Write down the samples that have evidence or are waited for, with what an explanation needs.

    `follow`: they are watched from now on.
    """
    evidence, s = found.evidence, signals.s
    shown = np.flatnonzero((evidence > np.float32(MENTION)) | ((taken.flags & WATCHED) != 0))
    if not len(shown):
        return
    x, resid, seasonal = signals.each
    channel = np.where(found.upward, found.up_c, found.down_c)[shown]
    i = np.arange(len(shown))
    # the signal is x minus a reference; its envelope around that reference bounds x
    zero = np.zeros(len(shown), np.float32)
    bands = np.zeros((2, len(x)), np.float32)
    if found.peaks is not None:
        bands[0, found.peaks.at], bands[1, found.peaks.at] = found.peaks.low, found.peaks.high
    lows = np.concatenate((s[LO : LO + 3, shown], bands[:1, shown], s[LO : LO + 1, shown]))
    highs = np.concatenate((s[HI : HI + 3, shown], bands[1:, shown], s[HI : HI + 1, shown]))
    ref = np.stack((zero, (x - resid)[shown], (x - seasonal)[shown], zero, zero))[channel, i].astype(np.float64)
    a = signals.anchor[shown]
    rows, dt = taken.rows[shown], taken.dt[shown]
    scale = ruler(s[:, shown], signals.level[shown])
    if follow:
        store.flags[rows] |= np.uint8(WATCHED)
    run.breaks.append(
        (
            taken.pos[shown],
            rows,
            taken.ts[shown],
            taken.v[shown],
            evidence[shown].astype(np.float64),
            found.news[shown].astype(np.float64),
            channel,
            found.upward[shown],
            a + normal[shown],
            a + ref + lows[channel, i],
            a + ref + highs[channel, i],
            scale,
            (x - normal)[shown] / scale,
            np.where(np.isfinite(dt), dt, 0.0),
            s[LEAD, shown].astype(np.float64),
            (s[STEPS, shown] / s[CNT, shown]).astype(np.float64),
            found.least[shown].astype(np.float64),
            s[AGE, shown].astype(np.float64),
            *recall(store, rows, a),
        )
    )
