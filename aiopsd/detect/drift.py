"""Changes for good: of a series (block CUSUM over its hours) and of a model's errors (ADWIN on its error bits).

What enters is the hours that ended in the bank, or error bits; what leaves is confirmed drifts, one per change: after
a confirmation the reference starts anew.

Series. The mean of an hour, less what this hour of day usually shows, is scaled by its own robust deviation, lengthened
for the correlation between neighbouring hours, clipped, and summed in a two-sided CUSUM (Page 1954); a second CUSUM
over the logarithm of the spread within the hour finds changes of variance. Classical detectors on raw samples
(ADWIN, Page-Hinkley, KSWIN) raise five to fourteen drifts per series and week on real metrics, this about 0.2.
"""

import collections
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from river import drift as river_drift

from aiopsd.detect.bank import F32, F64, Hours, Rows
from aiopsd.detect.codec import decode, encode

_NB, _MU, _SD, _LV, _LVD, _UP, _DN, _VU, _VD, _RHO, _PZ, _SHIFT = range(12)
_FIELDS = 12
_LN2 = np.float32(0.6931471805599453)


class DriftPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Of the block CUSUM. k: slack in deviations; h, hv: decision limits; warm: hours before it may speak."""

    k: float = 0.75
    h: float = 10.0
    hv: float = 14.0
    warm: int = 72
    days: int = 3  # of the hour-of-day baseline before an hour counts


class Drifts(msgspec.Struct, frozen=True, kw_only=True):
    """Confirmed drifts; arrays of one length. Levels are relative to the row's anchor, spreads are not."""

    pos: Rows
    rows: Rows
    ts: F64
    since: F64  # about when the sum began to rise
    variance: NDArray[np.bool_]  # of the spread, as opposed to the level
    before: F64
    after: F64
    statistic: F64
    threshold: F64


def log(x: F32) -> F32:
    """Natural logarithm by + - * / alone, to 1e-6: the same bits for an element wherever it stands in the array.

    >>> bool(abs(log(np.array([10.0], np.float32))[0] - np.log(10.0)) < 1e-5)
    True
    """
    m, e = np.frexp(np.maximum(x, np.float32(1e-30)))
    low = m < np.float32(0.70710678)
    m = np.where(low, m * 2, m)
    e = (e - low).astype(np.float32)
    s = (m - 1) / (m + 1)
    q = s * s
    out: F32 = e * _LN2 + 2 * s * (1 + q * (np.float32(1 / 3) + q * (np.float32(0.2) + q * np.float32(1 / 7))))
    return out


class SeriesDrift:
    """Block CUSUM over many series. State per row, 64 bytes:

    f: float32[12, rows]     hours counted, level, deviation, log spread, its deviation, four sums, correlation, shift
    start: uint32[4, rows]   when each of the four sums left zero (UTC seconds)
    """

    def __init__(self, policy: DriftPolicy | None = None, capacity: int = 0) -> None:
        self.policy = policy or DriftPolicy()
        self.f = np.zeros((_FIELDS, capacity), np.float32)
        self.start = np.zeros((4, capacity), np.uint32)
        self._found: list[tuple[NDArray[Any], ...]] = []

    def ensure(self, rows: int) -> None:
        more = max(rows, 2 * self.f.shape[1]) - self.f.shape[1] if rows > self.f.shape[1] else 0
        if more:
            self.f = np.concatenate((self.f, np.zeros((_FIELDS, more), np.float32)), axis=1)
            self.start = np.concatenate((self.start, np.zeros((4, more), np.uint32)), axis=1)

    def reset(self, rows: Rows) -> None:
        self.f[:, rows] = 0
        self.start[:, rows] = 0

    def __call__(self, hours: Hours) -> None:
        """Take hours that ended (rows are unique among them); `take` tells what they confirmed."""
        self.ensure(int(hours.rows.max()) + 1 if len(hours.rows) else 0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            found = self._hour(hours)
        if len(found[0]):
            self._found.append(found)

    def take(self) -> Drifts | None:
        """What was confirmed since the last call, in the order of the samples that did it."""
        if not self._found:
            return None
        columns = [np.concatenate([f[i] for f in self._found]) for i in range(9)]
        self._found.clear()
        order = np.argsort(columns[0], kind="stable")
        return Drifts(**{name: c[order] for name, c in zip(Drifts.__struct_fields__, columns, strict=True)})

    def _hour(self, hours: Hours) -> tuple[NDArray[Any], ...]:
        policy = self.policy
        at = np.flatnonzero(hours.days >= policy.days)
        rows, ts, count = hours.rows[at], hours.ts[at], hours.count[at]
        s = self.f[:, rows]
        s[_NB] = np.minimum(s[_NB] + 1, np.float32(1e6))
        n = s[_NB]
        # after a confirmed shift the hours of the day follow at their own pace, each once a day; what they have not
        # learnt yet is no second drift
        learnt = np.maximum(1 / (hours.days[at] + np.float32(1)), np.float32(0.1))
        s[_SHIFT] = np.where(n % 24 == 0, s[_SHIFT] * (1 - learnt), s[_SHIFT])
        m = hours.mean[at] - hours.base[at] - s[_SHIFT]
        gain = np.maximum(1 / n, np.float32(1 / 500))
        scale = np.maximum(s[_SD] * np.float32(1.2533), np.float32(1e-12))
        z = np.minimum(np.maximum((m - s[_MU]) / scale, np.float32(-3)), np.float32(3))
        varied = (count >= 4) & (hours.spread[at] > 0)
        lv = log(hours.spread[at])
        vscale = np.maximum(s[_LVD] * np.float32(1.2533), np.float32(0.05))
        zv = np.minimum(np.maximum((lv - s[_LV]) / vscale, np.float32(-3)), np.float32(3))
        act = n > policy.warm
        rho = np.minimum(np.maximum(s[_RHO], np.float32(0)), np.float32(0.95))
        inflate = np.sqrt((1 + rho) / (1 - rho))
        zz, slack = z / inflate, np.float32(policy.k) / inflate
        sec = ts.astype(np.uint32)
        start = self.start[:, rows]
        for i, (field, push) in enumerate(
            ((_UP, zz - slack), (_DN, -zz - slack), (_VU, zv - np.float32(policy.k)), (_VD, -zv - np.float32(policy.k)))
        ):
            ok = act if i < 2 else act & varied
            was = s[field]
            to = np.where(ok, np.maximum(was + push, np.float32(0)), np.where(act, was, np.float32(0)))
            start[i] = np.where((was <= 0) & (to > 0), sec, start[i])
            s[field] = to
        level, spread = np.maximum(s[_UP], s[_DN]), np.maximum(s[_VU], s[_VD])
        of_level = level > policy.h
        drifted = of_level | (spread > policy.hv)

        # learn, with what a change can teach bounded; the CUSUM must see it against the old reference
        keep = ~drifted
        grown = n > 20
        rate = np.minimum(gain * 3, np.float32(0.1))
        pair = np.minimum(np.maximum(z * s[_PZ], np.float32(-2)), np.float32(2))
        s[_RHO] = np.where(keep, s[_RHO] + rate * (pair - s[_RHO]), s[_RHO])
        s[_PZ] = np.where(keep, z, s[_PZ])
        mu, sd = s[_MU].copy(), s[_SD].copy()
        s[_MU] = np.where(keep, mu + gain * np.where(grown, z * scale, m - mu), mu)
        off = np.abs(m - s[_MU])
        s[_SD] = np.where(keep, sd + gain * (np.where(grown, np.minimum(off, 4 * sd), off) - sd), sd)
        vkeep = keep & varied
        vlevel = s[_LV].copy()
        s[_LV] = np.where(vkeep, np.where(vlevel == 0, lv, vlevel + gain * (lv - vlevel)), vlevel)
        s[_LVD] = np.where(vkeep, s[_LVD] + gain * (np.abs(lv - s[_LV]) - s[_LVD]), s[_LVD])

        hit = np.flatnonzero(drifted)
        which = np.where(
            of_level[hit],
            np.where(s[_UP, hit] >= s[_DN, hit], 0, 1),
            np.where(s[_VU, hit] >= s[_VD, hit], 2, 3),
        )
        variance = ~of_level[hit]
        out = (
            hours.pos[at][hit],
            rows[hit],
            ts[hit],
            start[which, hit].astype(np.float64),
            variance,
            np.where(variance, _exp(vlevel[hit]), hours.mean[at][hit] - m[hit] + mu[hit]).astype(np.float64),
            np.where(variance, hours.spread[at][hit], hours.mean[at][hit]).astype(np.float64),
            np.where(variance, spread[hit], level[hit]).astype(np.float64),
            np.where(variance, policy.hv, policy.h).astype(np.float64),
        )
        shift = s[_SHIFT, hit] + np.where(variance, np.float32(0), m[hit] - mu[hit])
        s[:, hit] = 0
        s[_SHIFT, hit] = shift
        start[:, hit] = 0
        self.f[:, rows] = s
        self.start[:, rows] = start
        return out


def _exp(x: F32) -> F64:
    """Element by element: the few drifts may cost a Python call."""
    return np.array([float(np.e**v) for v in x.tolist()])


class ErrorDrift:
    """River's ADWIN on the error bits of models; only a rise of the error rate is a drift.

    Of the binary detectors measured, ADWIN alone had no false alarm on a steady error rate and found every doubling.
    """

    def __init__(self, delta: float) -> None:
        self.delta = delta
        self._rows: dict[int, tuple[Any, collections.deque[float]]] = {}

    def forget(self, row: int) -> None:
        self._rows.pop(row, None)

    def update(self, row: int, ts: float, bit: float) -> tuple[float, float, float] | None:
        """(rate before, rate now, time of the window's first sample) when the rate rose; above 0.5 is an error."""
        if row not in self._rows:
            adwin = river_drift.ADWIN(delta=self.delta)  # type: ignore[no-untyped-call]
            self._rows[row] = adwin, collections.deque(maxlen=_REMEMBERED)
        detector, times = self._rows[row]
        times.append(ts)
        before = float(detector.estimation)
        detector.update(1.0 if bit > 0.5 else 0.0)
        if detector.drift_detected and detector.estimation > before:
            window = max(1, min(int(detector.width), len(times)))
            return before, float(detector.estimation), times[-window]
        return None

    def snapshot(self) -> list[Any]:
        return [[row, encode(adwin), list(times)] for row, (adwin, times) in sorted(self._rows.items())]

    def load(self, data: list[Any]) -> None:
        self._rows = {row: (decode(d), collections.deque(times, maxlen=_REMEMBERED)) for row, d, times in data}


_REMEMBERED = 4096  # sample times per error stream, to date the beginning of a drift
