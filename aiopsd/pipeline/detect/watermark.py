"""The only time of the stage: the newest sample time that can be believed."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from aiopsd.decode.series import SeriesIndex, shown
from aiopsd.detect.bank import F64, LAST_TIME, Mask, Rows
from aiopsd.errors import DecodeReason
from aiopsd.model import LogRecord, Reject

AHEAD = 3600.0  # s; a sample further ahead of its record's receipt is a broken clock, not news
LEAP = 86400.0  # s; without receipt times, a leap of the watermark by more has to be seen in ...
CONFIRM = 3  # ... so many records in a row before it is believed


class Marks(NamedTuple):
    """The watermark before and after each record of a step; -inf before the first sample."""

    before: F64
    after: F64


class Watermark:
    """`at`: UTC seconds, -inf before the first sample. `leap`: records in a row without receipt time, all far ahead."""

    def __init__(self) -> None:
        self.at = float("-inf")
        self.leap = 0

    def move(self, stamps: F64, ts: F64, record: Rows) -> tuple[Mask, Marks]:
        """Which samples have a time that can be, and the watermark before and after each record.

        Args:
            stamps: receipt of each record, 0 where it is not known. ts, record: time and record of each sample.
        """
        bound = np.where(stamps > 0, stamps + AHEAD, LAST_TIME)
        good = (ts >= 0) & (ts < LAST_TIME) & (ts <= bound[record])
        newest = np.full(len(stamps), -np.inf)
        np.maximum.at(newest, record[good], ts[good])
        # a sender whose clock is ahead must not make all others late
        newest = np.minimum(newest, np.where(stamps > 0, stamps, np.inf))
        after = np.maximum.accumulate(np.concatenate(([self.at], newest)))[1:]
        before = np.concatenate(([self.at], after[:-1]))
        leaping = (stamps <= 0) & (newest > before + LEAP) & np.isfinite(before)
        if leaping.any() or self.leap:
            self._weigh_leaps(stamps, ts, record, newest, good, after)
            before = np.concatenate(([self.at], after[:-1]))
        self.at = float(after[-1])
        return good, Marks(before, after)

    def _weigh_leaps(self, stamps: F64, ts: F64, record: Rows, newest: F64, good: Mask, after: F64) -> None:
        """Record by record: a leap is not believed before it was confirmed. Changes `good` and `after`."""
        mark = self.at
        for r in range(len(stamps)):
            if stamps[r] <= 0 and np.isfinite(mark) and newest[r] > mark + LEAP:
                self.leap += 1
                if self.leap < CONFIRM:
                    good &= (record != r) | (ts <= mark + LEAP)
                    inside = ts[(record == r) & good]
                    mark = max(mark, float(inside.max())) if len(inside) else mark
                    after[r] = mark
                    continue
            if np.isfinite(newest[r]):
                self.leap = 0
            mark = max(mark, float(newest[r]))
            after[r] = mark


def _why(who: str, at: float, mark: float) -> str:
    if not 0 <= at < LAST_TIME:
        return f"series {who}: {at!r} is no time of a sample in seconds"
    ahead = f", {(at - mark) / 3600:.1f} h ahead of what is believed" if math.isfinite(mark) else ""
    return f"series {who}: {datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ} is too far in the future{ahead}"


def refused(
    records: Sequence[LogRecord], index: SeriesIndex, rows: Rows, ts: F64, record: Rows, good: Mask, marks: Marks
) -> Iterator[tuple[int, Reject]]:
    """(record, what is said of it) for each record with samples whose time cannot be."""
    bad = np.flatnonzero(~good)
    whole = np.bincount(record, minlength=len(records))
    for r in dict.fromkeys(record[bad].tolist()):
        mine = bad[record[bad] == r]
        at = float(ts[mine[0]])
        yield (
            r,
            Reject(
                pos=records[r].pos,
                reason=DecodeReason.TIMESTAMP,
                detail=_why(shown(index.labels(int(rows[mine[0]]))), at, float(marks.after[r])),
                items=len(mine),
                whole=len(mine) == int(whole[r]),
            ),
        )
