"""Changes for good: of a series (sums over its hours, after Page 1954) and of a model's errors (over its error bits).

What enters is the hours that ended in the bank, or error bits; what leaves is confirmed drifts, one per change: after
a confirmation the reference starts anew.

Series. The mean of an hour, less what this hour of day usually shows, less what a spike in it explains (a spike raises
the spread within the hour as much as the mean), is scaled by its own robust deviation and clipped. It feeds two sums:
a slow one, lengthened for the correlation between neighbouring hours, for small and gradual changes; and a fast one,
for series whose hours are nearly independent, which speaks after three hours on one side. A third sum, over the
logarithm of the mean step between the samples of an hour (which knows no trend within it), finds changes of variance.
A day or a week of another shape is found day by day (`daily`).

What tells a lasting change from a series that wanders is the series' own past. Every sum remembers how high it has
climbed without anything coming of it; the limit rises with that, and with every drift, and sinks over months. A series
that is back where it was within four days of a drift had an incident: it goes on as before, and nothing is told.

Errors. The bits feed two sums of log likelihood ratios, for a rate that rose a little and one that rose much. What was
seen since a sum left zero is no part of the reference until it is back there.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank import F32, F64, Hours, Mask, Rows
from aiopsd.detect.daily import DailyShape

KINDS = ("level", "variance", "season")
LEVEL, VARIANCE, SEASON = range(3)  # indices into KINDS

# rows of the float32 state: hours counted, level, deviation, log spread (of neighbouring samples), its deviation, three
# sums (their sign is the side), what was confirmed and the hours of the day have not learnt yet, log distance from the
# recent mean
_N, _MU, _SD, _LV, _LVD, _SUM, _SHIFT, _LW = 0, 1, 2, 3, 4, 5, 8, 9
_FIELDS = 10
# of the float16 state: correlation of neighbouring hours and the last hour, of the level and of the spread; the highest
# that each sum has climbed, and climbs now; hours on one side (signed)
_RHO, _LAST, _RHO_V, _LAST_V, _PEAK, _TOP, _RUN = 0, 1, 2, 3, 4, 7, 10
_HALVES = 11
_SLOW, _FAST, _SPREAD = range(3)  # the sums

WARM = 96.0  # hours of a new reference before it may speak
SURE = 264.0  # hours after which a limit is what it says: eleven days have seen a weekend; before, it is up to twice
LISTEN = 48.0  # hours after which excursions are remembered: the scale is too rough before
FOLLOW = 500.0  # hours, the memory of level and scale: three weeks
FADE = np.float32(1 - 1 / 60)  # of remembered excursions, a day
AGAIN = np.float32(2.2)  # times what counts as an excursion of this series, after each drift
LEAK = np.float32(0.7)  # of a sum for each hour on the other side: what returns was no change
CLIP, CLIP_FAST = np.float32(3.0), np.float32(4.0)  # deviations that one hour may count
SPIKE = np.float32(1.3)  # times the usual spread; what is above it is not held for a change of level
DENSE = 4.0  # samples that make the mean and the spread of an hour a statistic
LONE = 3.0  # an hour of fewer samples asks for a higher limit: a single sample is no mean
HOURS = 3.0  # on one side before the fast sum may speak: less is an incident
CORRELATED = np.float32(0.1)  # a correlation below is that of chance
LARGEST = np.float32(1e4)  # of a sum; fits float16
_LN2 = np.float32(0.6931471805599453)
_PI = np.float32(1.2533)  # deviation over mean absolute deviation, sqrt(pi / 2)


class DriftPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Of the three sums (slow, fast, spread).

    slack: deviations of an hour that count for nothing. limit: what a sum must pass. free: share of the limit that an
    excursion may reach without raising it. rise: how much every unit above that raises it. days: of the hour-of-day
    baseline before an hour counts.
    """

    slack: tuple[float, float, float] = (0.6, 1.25, 0.75)
    limit: tuple[float, float, float] = (10.0, 3.4, 15.0)
    free: tuple[float, float, float] = (0.5, 0.7, 0.5)
    rise: tuple[float, float, float] = (4.0, 3.0, 3.0)
    days: int = 3


class Drifts(msgspec.Struct, frozen=True, kw_only=True):
    """Confirmed drifts; arrays of one length. Levels are relative to the row's anchor.

    Of variance, `before` and `after` are mean distances between neighbouring samples; of season, mean distances of an
    hour from what its hour of day shows.
    """

    pos: Rows
    rows: Rows
    ts: F64
    since: F64  # about when the sum began to rise
    kind: NDArray[np.int8]  # index into KINDS
    before: F64
    after: F64
    statistic: F64
    threshold: F64


class Rise(msgspec.Struct, frozen=True, kw_only=True):
    """A confirmed rise of an error rate."""

    before: float
    after: float  # of the samples since it began
    since: float
    statistic: float
    threshold: float


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


def exp(x: F32) -> F32:
    """Exponential by + - * / alone, to 1e-5 between -80 and 80: as `log`.

    >>> bool(abs(exp(np.array([2.0], np.float32))[0] / np.exp(2.0) - 1) < 1e-5)
    True
    """
    x = np.minimum(np.maximum(x, np.float32(-80)), np.float32(80))
    k = np.rint(x / _LN2)
    r = x - k * _LN2
    tail = np.float32(1 / 6) + r * (np.float32(1 / 24) + r * np.float32(1 / 120))
    p = 1 + r * (1 + r * (np.float32(1 / 2) + r * tail))
    out: F32 = np.ldexp(p, k.astype(np.int32))
    return out


class SeriesDrift:
    """Sums over the hours of many series. State per row, 74 bytes, and 87 of `DailyShape`:

    f: float32[10, rows]     hours counted, level, deviation, log spreads, their deviation, three sums, shift
    g: float16[11, rows]     correlations, last hours, highest and present excursions, hours on one side
    start: uint32[3, rows]   when each of the sums left zero (UTC seconds)
    """

    def __init__(self, policy: DriftPolicy | None = None, capacity: int = 0) -> None:
        self.policy = policy or DriftPolicy()
        self.shape = DailyShape(capacity)
        self.f = np.zeros((_FIELDS, capacity), np.float32)
        self.g = np.zeros((_HALVES, capacity), np.float16)
        self.start = np.zeros((3, capacity), np.uint32)
        self._found: list[tuple[NDArray[Any], ...]] = []

    @property
    def bytes_per_row(self) -> int:
        return 4 * _FIELDS + 2 * _HALVES + 4 * 3 + self.shape.BYTES

    def ensure(self, rows: int) -> None:
        had = self.f.shape[1]
        if rows > had:
            for name in _ARRAYS:
                a = getattr(self, name)
                more = np.zeros((len(a), max(rows, 2 * had) - had), a.dtype)
                setattr(self, name, np.concatenate((a, more), axis=1))
            self.shape.ensure(self.f.shape[1])

    def reset(self, rows: Rows) -> None:
        rows = rows[rows < self.f.shape[1]]
        for name in _ARRAYS:
            getattr(self, name)[:, rows] = 0
        self.shape.reset(rows)

    def arrays(self, rows: int) -> dict[str, NDArray[Any]]:
        """State of the rows below `rows`, for a snapshot; copies."""
        self.ensure(rows)
        own = {name: np.ascontiguousarray(getattr(self, name)[:, :rows]) for name in _ARRAYS}
        return own | {f"shape.{name}": a for name, a in self.shape.arrays(rows).items()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `arrays` was taken."""
        n = arrays["f"].shape[1]
        self.ensure(n)
        for name in _ARRAYS:
            getattr(self, name)[:, :n] = arrays[name]
        self.shape.load({name.removeprefix("shape."): a for name, a in arrays.items() if name.startswith("shape.")})

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
        """Judge each hour against what was there before it, then learn it; what was confirmed, by column."""
        at = np.flatnonzero(hours.days >= self.policy.days)
        rows, ts = hours.rows[at], hours.ts[at]
        s, g, start = self.f[:, rows], self.g[:, rows].astype(np.float32), self.start[:, rows]
        _pass(s, g, hours.days[at])
        seen = _see(s, hours, at)
        _climb(self.policy, s, g, start, seen, ts.astype(np.uint32))
        sums, limits, spoke = _verdict(self.policy, s, g, seen)
        new = self.shape(rows, hours.hour[at], hours.mean[at] - hours.base[at])
        reshaped = np.zeros(len(at), bool)
        reshaped[new.at] = True
        of_level = (spoke[_SLOW] | spoke[_FAST]) & ~reshaped
        of_spread = spoke[_SPREAD] & ~of_level & ~reshaped
        told = of_level | of_spread
        spread = exp(s[_LV])
        back = _learn(s, g, seen, told)

        hit = np.flatnonzero(told)
        first = np.where(spoke[_SLOW, hit], _SLOW, np.where(spoke[_FAST, hit], _FAST, _SPREAD))
        kind = np.where(of_level[hit], LEVEL, VARIANCE)
        before = np.where(of_level, hours.mean[at] - seen.off, spread)[hit]
        after = np.where(of_level, hours.mean[at], hours.step[at])[hit]
        found = (rows[hit], ts[hit], start[first, hit], kind, before, after, sums[first, hit], limits[first, hit])
        season = np.full(len(new.at), SEASON)
        shaped = (rows[new.at], ts[new.at], new.since, season, new.before, new.after, new.statistic, new.threshold)

        shift = s[_SHIFT, hit] + np.where(of_level, seen.off, np.float32(0))[hit]
        least = np.array(self.policy.limit, np.float32)[:, None]
        highest = np.maximum(np.maximum(g[_PEAK : _PEAK + 3, hit], sums[:, hit]), least)
        _rebase(s, g, start, told | reshaped | back)
        g[_PEAK : _PEAK + 3, hit] = np.minimum(AGAIN * highest, LARGEST)
        s[_SHIFT, hit] = shift
        self.f[:, rows], self.g[:, rows], self.start[:, rows] = s, g.astype(np.float16), start
        pos = hours.pos[at]
        both: list[tuple[NDArray[Any], ...]] = [(pos[hit], *found), (pos[new.at], *shaped)]
        return tuple(np.concatenate(pair) for pair in zip(*both, strict=True))


class _Seen(NamedTuple):
    """What hours show, measured by what was there before them; arrays of one length."""

    samples: F32
    off: F32  # of the level, from the reference
    z: F32  # the same in deviations, clipped; for the fast sum
    z_fast: F32
    z_spread: F32
    scale: F32
    spread: F32  # logarithms: of the steps within the hour, of the distance from the recent mean
    within: F32
    m: F32  # the mean, relative to the hour of day and what was confirmed
    dense: Mask
    varied: Mask
    grown: Mask


def _pass(s: F32, g: F32, days: NDArray[np.uint8]) -> None:
    """An hour more; at the end of a day remembered excursions and what the hours of the day have not learnt fade."""
    s[_N] = np.minimum(s[_N] + 1, np.float32(1e6))
    midnight = s[_N] % 24 == 0
    # after a confirmed shift the hours of the day follow at their own pace, each once a day; what they have not
    # learnt yet is no second drift
    learnt = np.maximum(1 / (days + np.float32(1)), np.float32(0.1))
    s[_SHIFT] = np.where(midnight, s[_SHIFT] * (1 - learnt), s[_SHIFT])
    g[_PEAK : _PEAK + 3] = np.where(midnight, g[_PEAK : _PEAK + 3] * FADE, g[_PEAK : _PEAK + 3])


def _see(s: F32, hours: Hours, at: Rows) -> _Seen:
    """How far the hours at these places are from the reference."""
    count, within = hours.count[at], hours.spread[at]
    dense = count >= DENSE
    grown = s[_N] > 20
    m = hours.mean[at] - hours.base[at] - s[_SHIFT]
    scale = np.maximum(s[_SD] * _PI, np.float32(1e-12))
    off = m - s[_MU]
    spiky = np.where(dense & grown & (s[_LW] != 0), np.maximum(within - SPIKE * exp(s[_LW]), 0), 0)
    far = np.maximum(np.abs(off) - spiky, 0) / scale
    far = np.where(off < 0, -far, far)
    # a spread far below the deviation between hours is rounding, not a change
    rounding = np.float32(0.05) * scale
    spread, width = log(np.maximum(hours.step[at], rounding)), log(np.maximum(within, rounding))
    varied = dense & (np.maximum(within, scale) > np.float32(1e-11))
    z_spread = _clip((spread - s[_LV]) / np.maximum(s[_LVD] * _PI, np.float32(0.05)), CLIP)
    z, z_fast = _clip(far, CLIP), _clip(far, CLIP_FAST)
    return _Seen(count, off, z, z_fast, z_spread, scale, spread, width, m, dense, varied, grown)


def _climb(
    policy: DriftPolicy, s: F32, g: F32, start: NDArray[np.uint32], seen: _Seen, sec: NDArray[np.uint32]
) -> None:
    """The sums take the hour."""
    rho = _clip01(g[_RHO])
    rho_fast = np.maximum(rho - CORRELATED, 0)
    long = np.sqrt((1 + rho) / (1 - rho))
    longer = (1 + rho_fast) / (1 - rho_fast)
    long_spread = np.sqrt((1 + _clip01(g[_RHO_V])) / (1 - _clip01(g[_RHO_V])))
    heard = s[_N] > LISTEN
    slack = [np.float32(k) for k in policy.slack]
    for i, push, k, ok in (
        (_SLOW, seen.z / long, slack[_SLOW] / long, heard),
        (_FAST, seen.z_fast / longer, slack[_FAST], heard),
        (_SPREAD, seen.z_spread / long_spread, slack[_SPREAD] / long_spread, heard & seen.varied),
    ):
        was = s[_SUM + i]
        sign = np.sign(np.where(was != 0, was, push))
        size, push = np.abs(was), push * sign
        to = np.where(push < 0, size * LEAK, size) + push - k
        to = np.where(ok, np.minimum(np.maximum(to, 0), LARGEST), size)
        start[i] = np.where((was == 0) & (to > 0), sec, start[i])
        s[_SUM + i] = sign * to
        # an excursion is over when half of it is gone
        top = g[_TOP + i]
        over = ok & (top > 0) & (to <= np.float32(0.5) * top)
        g[_PEAK + i] = np.where(over, np.maximum(g[_PEAK + i], top), g[_PEAK + i])
        g[_TOP + i] = np.where(ok, np.where(over, to, np.maximum(top, to)), top)
    run = g[_RUN]
    sign = np.sign(np.where(s[_SUM + _FAST] != 0, s[_SUM + _FAST], seen.z_fast))
    beyond = seen.z_fast / longer * sign > np.float32(0.5)
    run = np.where(beyond, np.where(run * sign > 0, run, 0) + sign, 0)
    g[_RUN] = _clip(run, np.float32(1000))


def _verdict(policy: DriftPolicy, s: F32, g: F32, seen: _Seen) -> tuple[F32, F32, Mask]:
    """Size of each sum, its limit, and whether it speaks."""
    n = s[_N]
    sums = np.abs(s[_SUM : _SUM + 3])
    unsure = 1 + np.maximum(1 - n / np.float32(SURE), 0)
    few = np.maximum(1, np.float32(LONE) / seen.samples)
    limits = np.stack([
        (np.float32(limit) * (few if i == _SLOW else np.float32(1))
         + np.float32(rise) * np.maximum(g[_PEAK + i] - np.float32(free * limit), 0)) * unsure
        for i, (limit, free, rise) in enumerate(zip(policy.limit, policy.free, policy.rise, strict=True))
    ])  # fmt: skip
    spoke = (sums > limits) & (n > WARM)
    spoke[_FAST] &= seen.dense & (np.abs(g[_RUN]) >= HOURS)
    return sums, limits, spoke


def _learn(s: F32, g: F32, seen: _Seen, drifted: Mask) -> Mask:
    """Take the hours into the reference; what a change can teach is bounded: the sums must see it against the old one.

    Returns where a series is back after a shift that was told of late.
    """
    n = s[_N]
    gain = np.maximum(1 / n, np.float32(1 / FOLLOW))
    keep = ~drifted
    vkeep = keep & seen.varied
    rate = np.minimum(gain * 3, np.float32(0.1))
    for i, j, this, which in ((_RHO, _LAST, seen.z, keep), (_RHO_V, _LAST_V, seen.z_spread, vkeep)):
        pair = _clip(this * g[j], np.float32(2))
        g[i] = np.where(which, g[i] + rate * (pair - g[i]), g[i])
        g[j] = np.where(which, this, g[j])
    mu, sd = s[_MU].copy(), s[_SD].copy()
    s[_MU] = np.where(keep, mu + gain * np.where(seen.grown, seen.z * seen.scale, seen.off), mu)
    away = np.abs(seen.m - s[_MU])
    s[_SD] = np.where(keep, sd + gain * (np.where(seen.grown, np.minimum(away, 4 * sd), away) - sd), sd)
    for i, this in ((_LV, seen.spread), (_LW, seen.within)):
        s[i] = np.where(vkeep, np.where(s[i] == 0, this, s[i] + gain * (this - s[i])), s[i])
    s[_LVD] = np.where(vkeep, s[_LVD] + gain * (np.abs(seen.spread - s[_LV]) - s[_LVD]), s[_LVD])
    back: Mask = keep & (n >= HOURS) & (n <= WARM) & (s[_SHIFT] * s[_MU] < 0)
    back &= np.abs(s[_MU]) > np.float32(0.5) * np.abs(s[_SHIFT])
    return back


def _rebase(s: F32, g: F32, start: NDArray[np.uint32], which: Mask) -> None:
    """The reference begins anew; how high the sums have climbed stays known."""
    anew = np.flatnonzero(which)
    kept = g[_PEAK : _PEAK + 3, anew]
    s[:, anew], g[:, anew], start[:, anew] = 0, 0, 0
    g[_PEAK : _PEAK + 3, anew] = kept


_ARRAYS = ("f", "g", "start")


def _clip(x: F32, most: np.float32) -> F32:
    out: F32 = np.minimum(np.maximum(x, -most), most)
    return out


def _clip01(rho: F32) -> F32:
    out: F32 = np.minimum(np.maximum(rho, np.float32(0)), np.float32(0.95))
    return out


class _Bits(msgspec.Struct):
    """One error stream. Counts are of samples, errors, and errors right after an error."""

    samples: float = 0.0  # of the reference
    errors: float = 0.0
    pairs: float = 0.0
    sums: list[float] = []
    since: float = 0.0  # what was seen since a sum left zero is no part of the reference
    seen: int = 0
    wrong: int = 0
    wrong_pairs: int = 0
    last: bool = False
    wait: int = 0  # samples that are only learned
    top: float = 0.0  # as of the series: how high the present excursion and those before it have climbed
    peak: float = 0.0


class ErrorDrift:
    """Whether the error rate of a model rose for good; a fall is learnt and never told.

    `limit` is of the log likelihood ratio: about the logarithm of the samples between two false alarms. River's ADWIN
    on the same bits is later, and takes bursts for drift (`python -m simulations drift` prints both).
    """

    FIRST, SETTLE = 60, 1000  # samples that are only learned: of a new stream, and after a drift
    REFERENCE = 4000.0  # samples; the reference forgets the older ones
    ODDS = (1.6, 3.0)  # of an error, times those of the reference: what each of the sums waits for
    SURE, YOUNG = 1.5, 800.0  # standard errors that the reference's rate may be too low by chance; more below YOUNG
    LEAST = 40  # samples; a burst of errors is an incident
    FREE, RISE = 0.7, 2.0  # an excursion above this share of the limit raises it by so much a unit

    def __init__(self, limit: float = 11.0) -> None:
        self.limit = limit
        self._rows: dict[int, _Bits] = {}

    def forget(self, row: int) -> None:
        self._rows.pop(row, None)

    def update(self, row: int, ts: float, bit: float) -> Rise | None:
        """Take one bit (above 0.5 is an error); the rise that it confirms, if any."""
        s = self._rows.get(row)
        if s is None:
            s = self._rows[row] = _Bits(sums=[0.0] * len(self.ODDS), wait=self.FIRST)
        wrong = bit > 0.5
        pair = wrong and s.last
        s.last = wrong
        if s.wait > 0:
            s.wait -= 1
            self._refer(s, 1, wrong, pair)
            return None
        rate = (s.errors + 0.5) / (s.samples + 1)
        # errors that come in bursts say less each: by as much as their sum varies more than that of independent ones
        stick = min(max(((s.pairs + rate) / (s.errors + 1) - rate) / (1 - rate), 0.0), 0.98)
        burst = (1 + stick) / (1 - stick)
        sure = self.SURE * (1 + 3 * max(1 - s.samples / self.YOUNG, 0.0))
        usual = min(rate + sure * math.sqrt(rate * (1 - rate) / s.samples), 0.9)
        if s.seen == 0:
            s.since = ts
        s.seen += 1
        s.wrong += wrong
        s.wrong_pairs += pair
        for i, times in enumerate(self.ODDS):
            odds = times * usual / (1 - usual)
            risen = odds / (1 + odds)
            ratio = math.log(risen / usual) if wrong else math.log((1 - risen) / (1 - usual))
            s.sums[i] = max(0.0, s.sums[i] + ratio / burst)
        sum_ = max(s.sums)
        s.top = max(s.top, sum_)
        if sum_ == 0:
            s.peak = max(s.peak, s.top)
            self._refer(s, s.seen, s.wrong, s.wrong_pairs)
            s.seen = s.wrong = s.wrong_pairs = 0
            s.top = 0.0
            return None
        limit = self.limit + self.RISE * max(s.peak - self.FREE * self.limit, 0.0)
        if sum_ <= limit or s.seen < self.LEAST:
            return None
        found = Rise(before=rate, after=s.wrong / s.seen, since=s.since, statistic=sum_, threshold=limit)
        self._rows[row] = _Bits(sums=[0.0] * len(self.ODDS), last=wrong, wait=self.SETTLE, peak=s.peak)
        return found

    def _refer(self, s: _Bits, samples: int, errors: int, pairs: int) -> None:
        s.samples += samples
        s.errors += errors
        s.pairs += pairs
        if s.samples > self.REFERENCE:
            keep = self.REFERENCE / s.samples
            s.samples, s.errors, s.pairs = self.REFERENCE, s.errors * keep, s.pairs * keep

    def snapshot(self) -> list[Any]:
        return [[row, msgspec.to_builtins(s)] for row, s in sorted(self._rows.items())]

    def load(self, data: list[Any]) -> None:
        """Go on where `snapshot` was taken."""
        self._rows = {row: msgspec.convert(s, _Bits) for row, s in data}
