"""Pattern memories for the second tier: how unlike all of its own past is what a series has just drawn?

What enters is one sample after another; what leaves is a distance, in the metric's unit, that the envelope of the
second tier calibrates. `Shape` looks at the last samples, wherever in the past something like them stood (the left
discord of the matrix-profile literature, exact, causal). `Day` looks at the last hours, and only at other days at the
same time of day: a holiday's shape is unlike every day's, though no sample of it leaves the range.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank import LARGEST
from aiopsd.protocols import Expected

F64 = NDArray[np.float64]
LIKE_ENOUGH = 100  # earlier windows before the nearest of them means anything
DAYS = 3  # other days that make a distance
MISSING = 0.25  # of the hours of a window that may be without a sample


class Shape:
    """Distance of the last `window` samples to the nearest window before them, of the last `memory` samples.

    `level`: the level of a window counts; else only its shape, each window less its mean. State: 8 bytes a sample.
    """

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        window: int = 24
        memory: int = 4000
        level: bool = False

    def __init__(self, config: Config) -> None:
        window, memory, level = config.window, config.memory, config.level
        if not 4 <= window <= 1000 or not 2 * window + LIKE_ENOUGH <= memory <= 100_000:
            raise ValueError("window is 4 to 1000 samples, memory two windows and a hundred to 100,000 samples")
        self.window, self.memory, self.level = window, memory, level
        self.x = np.zeros(memory)
        self.n = 0  # of them, the newest last

    def span(self, interval: float) -> float:
        """As `protocols.Model`."""
        return self.window * interval

    def statistic(self, ts: float, x: Mapping[str, float]) -> tuple[float | None, Expected | None]:
        """As `protocols.Model`: the distance if the sample came now; None while there is too little past."""
        w = self.window
        if self.n < 2 * w + LIKE_ENOUGH:
            return None, None
        past = self.x[self.memory - self.n :]
        query = np.append(past[len(past) - w + 1 :], _bounded(x["x"]))
        past = past[: len(past) - w + 1]  # a window that overlaps with the query is no past
        ground = float(past[0])  # differences of large numbers: take what is common away first
        past, query = past - ground, query - ground
        cross = np.correlate(past, query, "valid")
        total, squares = np.cumsum(np.append(0.0, past)), np.cumsum(np.append(0.0, past * past))
        far = (squares[w:] - squares[:-w]) - 2 * cross + float(query @ query)
        if not self.level:
            far -= (total[w:] - total[:-w] - float(query.sum())) ** 2 / w
        return math.sqrt(max(float(far.min()), 0.0) / w), None

    def learn(self, ts: float, x: Mapping[str, float]) -> None:
        """As `protocols.Model`."""
        self.x[:-1] = self.x[1:]
        self.x[-1] = _bounded(x["x"])
        self.n = min(self.n + 1, self.memory)

    def state(self) -> list[Any]:
        """As `protocols.Model`."""
        return [self.n, self.x[self.memory - self.n :].tobytes()]

    def load(self, state: list[Any]) -> None:
        """As `protocols.Model`."""
        self.n = int(state[0])
        self.x[:] = 0
        self.x[self.memory - self.n :] = np.frombuffer(state[1], np.float64)


class Day:
    """Distance of the last `hours` hourly means to the nearest earlier day's, within an hour of the same time of day.

    The hour that runs counts with its mean so far. State: 8 bytes an hour of `days` days.
    """

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        hours: int = 24
        days: int = 28

    def __init__(self, config: Config) -> None:
        hours, days = config.hours, config.days
        if not 4 <= hours <= 168 or not 4 <= days <= 100:
            raise ValueError("hours are 4 to 168, days 4 to 100")
        self.hours, self.days = hours, days
        self.x = np.full(hours + 24 * days + 1, np.nan)  # means of the hours that ended, the newest last
        self.hour: int | None = None
        self.sum = 0.0
        self.count = 0
        self._others: tuple[int, F64, F64, F64] | None = None  # of this hour: made when first asked for

    def span(self, interval: float) -> float:
        """As `protocols.Model`."""
        return 3600.0 * self.hours

    def statistic(self, ts: float, x: Mapping[str, float]) -> tuple[float | None, Expected | None]:
        """As `protocols.Model`: distance, what the nearest day shows now; None while there are too few days."""
        hour = int(ts // 3600)
        if self.hour is None or hour < self.hour:
            return None, None
        if self._others is None or self._others[0] != hour:
            self._others = self._compare(hour)
        _, sums, counts, shown = self._others
        if not len(sums):
            return None, None
        y = _bounded(x["x"])
        now = (self.sum + y) / (self.count + 1) if hour == self.hour else y
        far = (sums + (shown - now) ** 2) / counts
        best = int(np.argmin(far))
        return math.sqrt(float(far[best])), Expected(value=float(shown[best]))

    def _compare(self, hour: int) -> tuple[int, F64, F64, F64]:
        """(hour, squared distances of the hours before it to those of other days, their number + 1, this hour then)."""
        x = self._moved(hour)
        now, last = x[len(x) - self.hours + 1 :], len(x)
        places = [last - 24 * day + off for day in range(1, self.days + 1) for off in (0, -1, 1)]
        places = [p for p in places if p >= self.hours - 1 and math.isfinite(x[p])]
        if not places:
            return hour, np.zeros(0), np.zeros(0), np.zeros(0)
        windows = np.lib.stride_tricks.sliding_window_view(x, self.hours - 1)
        squares = (windows[[p - self.hours + 1 for p in places]] - now) ** 2
        there = np.isfinite(squares)
        counts = there.sum(axis=1)
        like = counts >= (1 - MISSING) * (self.hours - 1)
        if like.sum() < DAYS * 3:
            return hour, np.zeros(0), np.zeros(0), np.zeros(0)
        sums = np.where(there, squares, 0.0).sum(axis=1)
        return hour, sums[like], counts[like] + 1.0, x[places][like]

    def _moved(self, hour: int) -> F64:
        """Means of the hours before this one; NaN where there was no sample."""
        if self.hour is None or hour == self.hour:
            return self.x
        gone = min(hour - self.hour, len(self.x))
        x = np.concatenate((self.x[gone:], np.full(gone, np.nan)))
        x[-gone] = self.sum / self.count
        return x

    def learn(self, ts: float, x: Mapping[str, float]) -> None:
        """As `protocols.Model`."""
        hour = int(ts // 3600)
        if self.hour is None or hour > self.hour:
            self.x = self._moved(hour)
            self.hour, self.sum, self.count = hour, 0.0, 0
        self.sum += _bounded(x["x"])
        self.count += 1

    def state(self) -> list[Any]:
        """As `protocols.Model`."""
        return [self.hour, self.sum, self.count, self.x.tobytes()]

    def load(self, state: list[Any]) -> None:
        """As `protocols.Model`."""
        self.hour, self.sum, self.count = state[0], float(state[1]), int(state[2])
        self.x = np.frombuffer(state[3], np.float64).copy()
        self._others = None


def _bounded(y: float) -> float:
    """As the bank bounds values: their squares are numbers."""
    return min(max(y, -LARGEST), LARGEST)
