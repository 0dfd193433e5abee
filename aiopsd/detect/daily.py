"""The shape of a day, or of a week, changed for good: what the hours miss by is the same day after day.

What enters is by how much the mean of each hour misses what its hour of day usually shows; what leaves, once a day, is
which series have taken another shape. What misses by chance, or wanders, misses differently tomorrow. So each day is
compared with the day before, hour by hour, level and trend taken away; and its mean with that of the same day a week
ago, against the mean of the week. The two are alike for as long as a new shape is not learnt yet.

How alike days usually are is the series' own (a week that always had a weekend is alike now and then), and so is the
limit of the sum over days: it remembers how high that has climbed without anything coming of it. It takes three days to
be sure of a new shape of the day, and two weekends, or a third, of that of the week.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank import F32, F64, Mask, Rows

UNKNOWN = -128  # of an hour that was not seen
FINE = np.float32(8)  # steps of a deviation: what is kept reaches from -15 to 15
CLIP = 24  # of these steps that one hour counts
ENOUGH = 16  # hours of both days, else they are not compared
FORGET = np.float32(0.9)  # of the farthest day, a day: as the hours of day learn what is new
MONTH = np.float32(1 / 30)  # of how alike days usually are
FOLLOW = np.float32(1 / 500)  # of the scale of an hour, three weeks
WARM = 21.0  # days compared before anything is told: three weekends
SLACK, LIMIT = np.float32(0.5), np.float32(4.9)  # of a day, counted in its own deviations, clipped at MOST
YOUNG = 3.0  # days: what they come to is learnt as it is, and counts for nothing
MOST_OF_A_WEEK = 5
MOST = np.float32(3.0)  # so that no single day is a change
LEAST = np.float32(0.3)  # the deviation of how alike days are: with the noise of 24 hours it is no less
FREE, RISE = np.float32(0.5), np.float32(2.0)  # as of the other sums
LEAK = np.float32(0.7)  # of the sum, for a day on the other side
FADE = np.float32(1 - 1 / 60)  # of remembered excursions, a day
AGAIN = np.float32(2.2)  # times what counts as an excursion of this series, after each drift
_PI = np.float32(1.2533)  # deviation over mean absolute deviation, sqrt(pi / 2)

_N, _SCALE, _FARTHEST = 0, 1, 2  # float32: hours seen, their mean distance from what is usual
_DAYS, _USUAL, _DEV, _SUM, _TOP, _PEAK = range(6)  # float16: of the products of days
_LAST, _SINCE = 0, 1  # uint32: the last hour, the day at which the sum left zero

_ARRAYS = {"today": UNKNOWN, "yesterday": UNKNOWN, "week": UNKNOWN, "f": 0, "g": 0, "at": 0}


Days = NDArray[np.int8]
Whole = NDArray[np.int32]


class Reshaped(NamedTuple):
    """Places among the hours given at which a change of shape was confirmed; distances in the metric's unit."""

    at: Rows
    since: F64  # UTC seconds
    before: F32  # usual distance of an hour from what its hour of day shows
    after: F32  # that of the last day
    statistic: F32
    threshold: F32


class DailyShape:
    """State per row, 87 bytes:

    today, yesterday: int8[24, rows]  what each hour misses by, in eighths of a deviation
    week: int8[7, rows]               the mean of each of the last seven days
    f: float32[3, rows]               hours seen, their mean distance from what is usual, that of the farthest day
    g: float16[6, rows]               days compared, what they usually come to, its deviation, sum, excursions
    at: uint32[2, rows]               the last hour, the day since which days were alike when the sum left zero
    """

    def __init__(self, capacity: int = 0) -> None:
        self.today = np.full((24, capacity), UNKNOWN, np.int8)
        self.yesterday = np.full((24, capacity), UNKNOWN, np.int8)
        self.week = np.full((7, capacity), UNKNOWN, np.int8)
        self.f = np.zeros((3, capacity), np.float32)
        self.g = np.zeros((6, capacity), np.float16)
        self.at = np.zeros((2, capacity), np.uint32)

    BYTES = 24 + 24 + 7 + 4 * 3 + 2 * 6 + 4 * 2

    def ensure(self, rows: int) -> None:
        had = self.f.shape[1]
        if rows > had:
            for name, empty in _ARRAYS.items():
                a = getattr(self, name)
                setattr(self, name, np.concatenate((a, np.full((len(a), rows - had), empty, a.dtype)), axis=1))

    def reset(self, rows: Rows) -> None:
        for name, empty in _ARRAYS.items():
            getattr(self, name)[:, rows] = empty

    def arrays(self, rows: int) -> dict[str, NDArray[Any]]:
        """State of the rows below `rows`, for a snapshot; copies."""
        return {name: np.ascontiguousarray(getattr(self, name)[:, :rows]) for name in _ARRAYS}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `arrays` was taken."""
        for name, a in arrays.items():
            getattr(self, name)[:, : a.shape[1]] = a

    def __call__(self, rows: Rows, hour: F64, off: F32) -> Reshaped:
        """Hours (counted since 1970) of unique rows, and what they miss by."""
        day = np.floor(hour / 24)
        was = np.floor(self.at[_LAST, rows] / 24.0)
        ended = np.flatnonzero((day != was) & (was > 0))
        found = self._end(ended, rows[ended], was[ended], (day - was)[ended])
        self.at[_LAST, rows] = hour
        n = self.f[_N, rows] = np.minimum(self.f[_N, rows] + 1, np.float32(1e6))
        mean = self.f[_SCALE, rows]
        size = np.abs(off)
        gain = np.maximum(1 / n, FOLLOW)
        missed = off / np.maximum(_PI * mean, np.float32(1e-12)) * FINE
        self.today[(hour % 24).astype(np.intp), rows] = np.rint(np.minimum(np.maximum(missed, -127), 127))
        self.f[_SCALE, rows] = mean + gain * (np.where(n > 20, np.minimum(size, np.float32(30) * mean), size) - mean)
        return found

    def _end(self, at: Rows, rows: Rows, day: F64, passed: F64) -> Reshaped:
        """The day ended, and so many passed since it began."""
        today, yesterday = self.today[:, rows], self.yesterday[:, rows]
        by_day, judged = _alike(today, yesterday)
        by_week = self._week(rows, today, day, passed)
        began = day - np.where(by_week > by_day, 7, 1)  # what is alike is so since the earlier of the two days
        size = _size(today) * _PI * self.f[_SCALE, rows]
        # what an odd day taught the hours of day is missed on the days after, alike on each: but it is less
        farthest = np.maximum(self.f[_FARTHEST, rows] * FORGET, size)
        share = size / np.maximum(farthest, np.float32(1e-30))
        self.f[_FARTHEST, rows] = farthest
        self.yesterday[:, rows] = np.where(passed == 1, today, UNKNOWN)
        self.today[:, rows] = UNKNOWN
        spoke, sums, limits = self._sum(rows, (by_day + by_week) * share * share, judged, began)
        told = rows[spoke]
        return Reshaped(
            at=at[spoke],
            since=self.at[_SINCE, told] * 86400.0,
            before=_PI * self.f[_SCALE, told],
            after=size[spoke],
            statistic=sums[spoke],
            threshold=limits[spoke],
        )

    def _week(self, rows: Rows, today: Days, day: F64, passed: F64) -> F32:
        """How much the mean of the day is like that of the same day a week ago, -1 to 1; takes it into the week."""
        week = self.week[:, rows]
        level, heard = _level(today)
        weekday, i = (day % 7).astype(np.intp), np.arange(len(rows))
        mean, days = _mean(week)
        ago = week[weekday, i]
        here, there = level - mean, ago / FINE - mean
        like = here * there / np.maximum((here * here + there * there) / 2, 1)
        week[weekday, i] = np.where(heard, np.rint(level * FINE), UNKNOWN)
        for k in range(1, 7):  # nobody knows of the days in a gap
            gone = np.flatnonzero(passed > k)
            week[(weekday[gone] + k) % 7, gone] = UNKNOWN
        self.week[:, rows] = week
        out: F32 = np.where(heard & (ago != UNKNOWN) & (days >= MOST_OF_A_WEEK), like, 0).astype(np.float32)
        return out

    def _sum(self, rows: Rows, alike: F32, judged: Mask, began: F64) -> tuple[Rows, F32, F32]:
        """Which rows' sums pass their limits with this day; sums, limits. `began`: since when they are alike."""
        g = self.g[:, rows].astype(np.float32)
        days, usual, dev, total, top, peak = g
        days = np.where(judged, np.minimum(days + 1, np.float32(2000)), days)
        scale = np.maximum(_PI * dev, LEAST)
        push = np.minimum(np.maximum((alike - usual) / scale, -MOST), MOST)
        to = np.maximum(np.where(push < 0, LEAK * total, total) + push - SLACK, 0)
        to = np.where(judged & (days > YOUNG), to, total)
        self.at[_SINCE, rows] = np.where((total == 0) & (to > 0), began, self.at[_SINCE, rows])
        over = (top > 0) & (to <= np.float32(0.5) * top)  # an excursion is over when half of it is gone
        peak = np.where(judged, FADE * peak, peak)
        peak = np.where(over, np.maximum(peak, top), peak)
        limit = LIMIT + RISE * np.maximum(peak - FREE * LIMIT, 0)
        spoke = judged & (days > WARM) & (to > limit)
        gain = np.where(judged & ~spoke, np.maximum(1 / np.maximum(days, 1), MONTH), 0)
        moved = np.where(days > YOUNG, push * scale, alike - usual)
        g[_USUAL], g[_DEV] = usual + gain * moved, dev + gain * (np.abs(moved) - dev)
        g[_DAYS], g[_SUM], g[_TOP], g[_PEAK] = days, to, np.where(over, to, np.maximum(top, to)), peak
        hit = np.flatnonzero(spoke)
        g[:, hit] = 0
        g[_PEAK, hit] = AGAIN * np.maximum(np.maximum(peak, to), LIMIT)[hit]
        self.g[:, rows] = g
        return hit, to, limit


def _alike(today: Days, yesterday: Days) -> tuple[F32, Mask]:
    """How much two days miss alike, -1 to 1, level and trend taken away; whether enough hours of both are known.

    It is their covariance over the hours: of days that miss by less than is usual in deviations, else of their size.
    """
    known = (today != UNKNOWN) & (yesterday != UNKNOWN)
    x = np.where(known, np.minimum(np.maximum(today, -CLIP), CLIP), 0).astype(np.int32)
    y = np.where(known, np.minimum(np.maximum(yesterday, -CLIP), CLIP), 0).astype(np.int32)
    h = known * np.arange(24, dtype=np.int32)[:, None]
    hours = known.sum(axis=0)
    count = np.maximum(hours, 1).astype(np.float64)

    def together(a: Whole, b: Whole) -> F64:
        """Sum of products about the means; of whole numbers, which no order of summing changes."""
        out: F64 = (a * b).sum(axis=0) - a.sum(axis=0) * b.sum(axis=0) / count
        return out

    xh, yh, hh = together(x, h), together(y, h), np.maximum(together(h, h), 1.0)
    xy, xx, yy = together(x, y) - xh * yh / hh, together(x, x) - xh * xh / hh, together(y, y) - yh * yh / hh
    alike = xy / np.maximum((xx + yy) / 2, count * float(FINE * FINE))
    return alike.astype(np.float32), hours >= ENOUGH


def _level(today: Days) -> tuple[F64, Mask]:
    """Mean of a day in deviations, and whether enough of it is known."""
    mean, hours = _mean(np.where(today == UNKNOWN, today, np.minimum(np.maximum(today, -CLIP), CLIP)))
    return mean, hours >= ENOUGH


def _mean(values: Days) -> tuple[F64, NDArray[np.int64]]:
    """Mean over what is known, in deviations, and how many those are."""
    known = values != UNKNOWN
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0, dtype=np.int64)
    return total / np.maximum(count, 1) / float(FINE), count


def _size(today: Days) -> F32:
    """Mean distance of the hours of a day from what was usual, in deviations."""
    distance = np.where(today == UNKNOWN, today, np.abs(np.maximum(today, -127)))
    return _mean(distance)[0].astype(np.float32)
