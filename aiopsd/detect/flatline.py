"""Series that keep speaking and no longer move: a sensor that is stuck, an exporter that repeats itself.

Whether standing still means anything is the series' own: one that has often stood still for long has to do so for much
longer. What enters is the accepted samples and, at a watermark, the bank's times; what leaves is which services have
series that are stuck. The values of a partition cost 24 bytes a series and a sort a batch, only where it is asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank import F32, F64, Rows
from aiopsd.detect.silence import Change, Hushes

CHANGES = 30  # a series has to have moved so often before it can be said to have stopped
LONGER = 3.0  # times the longest that it ever stood still
_SPOKE = 2.5  # of its intervals; one that is silent is not flat

_ARRAYS = (("value", np.float64, np.nan), ("moved", np.float64, -np.inf), ("longest", np.float32, 0.0))


class Flatline:
    """`after`: seconds without a change that count; 0: off. `others`: what the policies of some series say instead.

    Per row: `value` float64, the last one; `moved` float64, when it last changed; `longest` float32, the longest pause
    between two changes; `changes` int32, how many, up to CHANGES.
    """

    def __init__(self, after: float, others: Sequence[float] = ()) -> None:
        terms = [term for term in (after, *others) if term > 0]
        self.on = bool(terms)
        self.step = max(min(terms, default=0.0) / 4, 60.0)  # of the watermark between two looks
        self.value: F64 = np.zeros(0)
        self.moved: F64 = np.zeros(0)
        self.longest: F32 = np.zeros(0, np.float32)
        self.changes: NDArray[np.int32] = np.zeros(0, np.int32)
        self._hushes = Hushes()

    def ensure(self, rows: int) -> None:
        """Make room for row numbers below `rows`."""
        more = rows - len(self.changes)
        if more > 0 and self.on:
            for name, kind, empty in _ARRAYS:
                setattr(self, name, np.concatenate((getattr(self, name), np.full(more, empty, kind))))
            self.changes = np.concatenate((self.changes, np.zeros(more, np.int32)))

    def learn(self, rows: Rows, ts: F64, values: F64) -> None:
        """Accepted samples, in the order of each row's times; rows may repeat."""
        if not len(rows):
            return
        order = np.lexsort((np.arange(len(rows)), rows))
        r, t, v = rows[order], ts[order], values[order]
        first = np.ones(len(r), bool)
        first[1:] = r[1:] != r[:-1]
        before = np.where(first, self.value[r], np.concatenate(([np.nan], v[:-1])))
        self.value[r] = v  # of equal rows the last one stays
        changed = np.flatnonzero(v != before)
        r, t = r[changed], t[changed]
        first = np.ones(len(r), bool)
        first[1:] = r[1:] != r[:-1]
        since = np.where(first, self.moved[r], np.concatenate(([-np.inf], t[:-1])))
        pause = np.where(np.isfinite(since), t - since, 0.0).astype(np.float32)
        np.maximum.at(self.longest, r, pause)
        np.add.at(self.changes, r, np.int32(1))
        np.minimum(self.changes, CHANGES, out=self.changes)
        self.moved[r] = t

    def forget(self, rows: Rows) -> None:
        """These series were evicted."""
        if self.on:
            rows = rows[rows < len(self.changes)]
            for name, _, empty in _ARRAYS:
                getattr(self, name)[rows] = empty
            self.changes[rows] = 0

    @property
    def looks(self) -> bool:
        """Whether standing still is asked for, or was when something was told that is not over."""
        return self.on or bool(self._hushes.told)

    def __contains__(self, service: object) -> bool:
        """Whether it was told that series of this service stand still."""
        return service in self._hushes

    def boundary(self, before: float, now: float) -> bool:
        """Does the watermark's way from `before` to `now` call for a look?"""
        return self.looks and before > 0 and before // self.step != now // self.step

    def check(
        self,
        now: float,
        *,
        last: F64,
        interval: NDArray[np.floating[Any]],
        live: NDArray[np.bool_],
        after: F64,
        service: NDArray[np.int32],
        names: list[str],
    ) -> list[Change]:
        """What changed at the watermark `now`; arrays have an element per row.

        Args:
            last: time of each row's last sample. interval: seconds between its samples.
            live: rows that hold a series that can harm, and is not under maintenance.
            after: seconds without a change that count, 0: none do.
        """
        rows = np.zeros(0, np.intp)
        if self.on:
            self.ensure(len(last))
            rows = np.flatnonzero(live & (after > 0) & (self.changes[: len(last)] >= CHANGES))
            speaks = now - last[rows] <= np.maximum(_SPOKE * interval[rows], self.step)
            still = last[rows] - self.moved[rows] > np.maximum(after[rows], LONGER * self.longest[rows])
            rows = rows[speaks & still]
        out: list[Change] = []
        self._hushes.by_service(out, rows, self.moved, service, names)
        return out

    def snapshot(self, rows: int) -> tuple[dict[str, Any], dict[str, NDArray[np.generic]]]:
        """(plain data, arrays of the rows in use)."""
        arrays: dict[str, NDArray[np.generic]] = {}
        if self.on:
            self.ensure(rows)
            arrays = {name: getattr(self, name)[:rows].copy() for name, _, _ in _ARRAYS}
            arrays["changes"] = self.changes[:rows].copy()
        return {"hushes": self._hushes.snapshot()}, arrays

    def load(self, data: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on where the snapshot was taken; when it was off then, it begins to look now."""
        self._hushes.load(data["hushes"])
        if self.on and arrays:
            n = len(arrays["changes"])
            self.ensure(n)
            for name in arrays:
                getattr(self, name)[:n] = arrays[name]
