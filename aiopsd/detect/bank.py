"""The bank: scores every sample of every series with numpy, one row per series, in time and memory of a counter.

Idea (range break): a few cheap causal signals of a series (its value, its distance from the recent mean, its distance
from what this hour of day usually shows) each keep a slowly forgetting [low, high] envelope. The evidence of a sample
is how far it leaves an envelope, in widths of that envelope, so the number has no unit and means the same on every
series. Leaving the envelope widens it, so a stationary series falls silent by itself.

A second family (recurring peaks): an envelope that knows a peak does not report the next one. The mean of each hour is
therefore also compared with the recent hours and with this hour of the days before, in deviations of each; the lesser
of the two distances counts, so that neither a daily peak nor a lasting shift keeps it busy. What is compared with is
learned in clipped steps: a spike must not teach what is normal, or the calm hours after it look like breaks. A distance
of many deviations that is small beside what the series has ever shown counts for less. The bar it has to clear is the
series' own: it starts high, sinks slowly with time, and rises with every alarm, so that the channel speaks up to
`Policy.alarms` times a day where it can, and earns a lower bar only by having been quiet. Within one excursion only an
hour farther out than those before speaks again.

A third family (stillness): a job that stopped, a cache that froze, a load that lost its rhythm all stay within their
range. What they no longer do is move. The mean step from sample to sample of each hour is therefore compared with the
least that an hour has shown, in widths from there to what is usual; only what is below it counts, as a fall, and the
bar is of the same kind as that of the peaks. A series that is often still has shown it, and is not told of.

The channels are joined by max, without weights, and a short peak-hold keeps one incident from scoring sample after
sample.

What enters: rows, sample times (UTC seconds), raw values as float arrays. What leaves: a score in [0, 1) per sample,
0.5 is the decision point; the few samples that left their envelope, with all that an explanation needs (`Breaks`); and
the hours that ended (`Hours`), from which drift is judged. The bank knows nothing of labels, services or records.

Every operation is elementwise and uses + - * / min max only, so that the result of a sample does not depend on which
other samples stood beside it in the array: the bank is batch-invariant bit for bit. (exp and log are left out on
purpose: their vector loops may round differently from their scalar tails.)
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.model import Snapshot

Rows = NDArray[np.intp]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

CHANNELS = ("x", "resid", "season", "hour", "still")
COUNTER, HARM_HIGH, HARM_LOW, ENDED, WATCHED = 1, 2, 4, 8, 16  # bits of a row's flags
HARM_BOTH = HARM_HIGH | HARM_LOW

SLOTS = 16  # recent samples kept per series; a power of two
STALE_BITS = np.uint64(0x7FF0000000000002)  # Prometheus' staleness marker: the series ended here
LARGEST = 1e30  # values are clipped here, so that a width still fits float32
LAST_TIME = 4.2e9  # s; later than this is not a sample time (year 2103, and it fits uint32)

_CHUNK = 8192  # rows per pass: some 30 temporaries of 32 kB stay in the second-level cache
_TINY = np.float32(1e-30)

# rows of the float32 state matrix
_K, _AGE, _E24, _E100, _LO, _HI, _HELD, _ACC, _CNT, _SPREAD, _MID, _DEV, _TAIL, _LEAD = (
    0, 1, 2, 3, 4, 7, 10, 11, 12, 13, 14, 15, 16, 17,
)  # fmt: skip
# of the hour channel: hours seen, their recent mean, mean distance from it, from the hour of day, bar, how many in a
# row were above it, the farthest of the run under way
_HN, _HMEAN, _HDEV, _HDAY, _HBAR, _HHIT, _HRUN = range(18, 25)
# of stillness: the last value, sum of the steps of this hour; hours seen, their usual step, the least one before the
# last, bar, the last one
_LAST, _STEPS, _SN, _SUSUAL, _SLEAST, _SBAR, _SWAS = range(25, 32)
_FIELDS = 32
_SEASON, _HOUR, _STILL = 2, np.int8(3), np.int8(4)  # indices into CHANNELS
STILL = int(_STILL)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as normal, and for how long. The defaults are one set for every kind of series.

    memory: half-life of the envelopes in seconds; 0: `samples`, but never less than 14 days, so that a series
        sampled every 15 s does not forget yesterday's peak.
    growth: largest widening of an envelope by one sample, in widths. Smaller: a repeat is an incident again.
    """

    memory: float = 0.0
    samples: int = 16_000  # half-life when memory is 0; with 4,000 noise alone made a third more false alarms
    growth: float = 1.0
    warm: int = 40  # samples before the first score
    warm_seconds: float = 3600.0  # and so much time, whatever the sampling interval
    hold: int = 40  # samples of peak-hold, at least one hour
    theta: float = 0.15  # evidence at which the score is 0.5
    alarms: float = 0.7  # of each of the channels that judge hours, per series and day; 0: they are off


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
    up: NDArray[np.bool_]
    normal: F64
    low: F64
    high: F64
    scale: F64
    deviation: F64  # signed: above normal is positive
    interval: F64  # seconds since the row's previous sample
    lead: F64  # mean distance from normal before the recent samples
    step: F64  # mean distance between neighbouring samples of this hour
    least: F64  # the least that it was in an hour
    recent_ts: F64  # [n, 16] oldest first, NaN: none; the sample itself is not among them
    recent: F64  # [n, 16]


class Hours(msgspec.Struct, frozen=True, kw_only=True):
    """Hours of unique rows that ended because a sample of another hour arrived; means relative to the row's anchor."""

    pos: Rows  # the sample that ended it
    rows: Rows
    ts: F64  # of that sample
    count: F32  # samples in the hour
    mean: F32
    spread: F32  # mean distance from the recent mean
    base: F32  # mean of this hour of day on the days before
    days: NDArray[np.uint8]  # how many days `base` rests on


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one call saw. `scores` has one element per sample; ignored samples score 0."""

    scores: F32
    used: NDArray[np.bool_]  # accepted: finite, newer than its row's last
    breaks: Breaks
    late: int  # samples at or before their row's last: duplicates of a retry, or out of order
    invalid: int  # NaN or infinite, staleness markers excepted


def rounds(rows: Rows, scratch: Rows) -> Iterator[Rows | None]:
    """Index arrays in which rows are unique: the k-th yields the k-th sample of each row. None: all, as they are.

    `scratch` has an element per row of the bank; its content does not matter.
    """
    n = len(rows)
    if n < 2 or bool((rows[1:] > rows[:-1]).all()):
        yield None
        return
    order = np.arange(n)
    scratch[rows] = order
    if bool((scratch[rows] == order).all()):
        yield None
        return
    by_row = np.argsort(rows, kind="stable")
    sorted_rows = rows[by_row]
    first = np.empty(n, bool)
    first[0] = True
    np.not_equal(sorted_rows[1:], sorted_rows[:-1], out=first[1:])
    start = np.maximum.accumulate(np.where(first, order, 0))
    nth = order - start
    by_round = np.argsort(nth, kind="stable")
    cuts = np.searchsorted(nth[by_round], np.arange(1, int(nth.max()) + 1))
    for part in np.split(by_round, cuts):
        yield np.sort(by_row[part])


def _place(rows: Rows) -> Rows | slice:
    """Where rows are: a slice when each is the next one, which is many times cheaper to read and write."""
    first, n = int(rows[0]), len(rows)
    if int(rows[-1]) - first == n - 1 and bool((rows[1:] - rows[:-1] == 1).all()):
        return slice(first, first + n)
    return rows


class RangeBank:
    """Range-break detector over many series; a `Detector` that can also score and learn in one pass (`step`).

    State per row, in all 411 bytes with the scratch:
        f: float32[32, rows]        counts, means, envelopes [3 low, 3 high], peak-hold, robust scale, hours, steps
        d: float64[3, rows]         last sample time, last raw value, anchor (first value; float32 is relative to it)
        season: float32[24, rows]   mean of each hour of day; days: uint8[24, rows] how many days it rests on
        ring_v, ring_t: float32, uint32[16, rows]  recent samples at most one a minute; ring_p: uint8[rows]
        hour: int8[rows]            current hour of day, -1 before the first sample
        flags: uint8[rows]          COUNTER, HARM_HIGH, HARM_LOW, ENDED, WATCHED
    """

    KIND, VERSION = "detect.bank", 5

    def __init__(
        self,
        policy: Policy | None = None,
        capacity: int = 256,
        *,
        follow: bool = False,
        others: Sequence[Policy] = (),
    ) -> None:
        """`follow`: a row that breaks is watched from then on, until `watch(row, False)`. `others`: see `obey`."""
        self.policy = policy or Policy()
        policies = (self.policy, *others)
        self._memory = np.array([p.memory / _LN2 for p in policies], np.float32)
        self._growth = np.array([p.growth for p in policies], np.float32)
        self._warm_seconds = np.array([p.warm_seconds for p in policies], np.float32)
        self._varied = len(policies) > 1
        self.follow = follow
        self.on_hours: Callable[[Hours], None] | None = None  # told of the hours that end, row by row in order
        self.capacity = 0
        self.f = np.zeros((_FIELDS, 0), np.float32)
        self.d = np.zeros((3, 0))
        self.season = np.zeros((24, 0), np.float32)
        self.days = np.zeros((24, 0), np.uint8)
        self.ring_v = np.zeros((SLOTS, 0), np.float32)
        self.ring_t = np.zeros((SLOTS, 0), np.uint32)
        self.ring_p = np.zeros(0, np.uint8)
        self.hour = np.zeros(0, np.int8)
        self.flags = np.zeros(0, np.uint8)
        self.rule = np.zeros(0, np.uint8)  # which policy a row obeys: follows from its labels, so no snapshot keeps it
        self._scratch = np.zeros(0, np.intp)
        self._grow(capacity)

    # ------------------------------------------------------------------ rows

    def ensure(self, rows: int) -> None:
        """Make room for row numbers below `rows`; the capacity doubles."""
        if rows > self.capacity:
            self._grow(max(rows, 2 * self.capacity))

    def _grow(self, capacity: int) -> None:
        old, self.capacity = self.capacity, capacity

        for name in _ARRAYS:
            was = getattr(self, name)
            wider = np.zeros((*was.shape[:-1], capacity), was.dtype)
            wider[..., :old] = was
            setattr(self, name, wider)
        self._scratch = np.zeros(capacity, np.intp)
        self.rule = np.concatenate((self.rule, np.zeros(capacity - old, np.uint8)))
        self.d[0, old:] = -np.inf
        self.hour[old:] = -1
        self.flags[old:] = HARM_BOTH

    def mark(self, rows: Rows, *, counter: bool | None = None, harm: int | None = None) -> None:
        """Say what rows are: a counter is scored by its rate; `harm` is HARM_HIGH | HARM_LOW bits (0: never scored)."""
        self.ensure(int(rows.max()) + 1 if len(rows) else 0)
        flags = self.flags[rows]
        if counter is not None:
            flags = (flags & ~np.uint8(COUNTER)) | np.uint8(COUNTER if counter else 0)
        if harm is not None:
            flags = (flags & ~np.uint8(HARM_BOTH)) | np.uint8(harm)
        self.flags[rows] = flags

    def obey(self, row: int, policy: int) -> None:
        """Memory, growth and time of warm-up of the row are those of `others[policy - 1]`; 0: the bank's own."""
        self.ensure(row + 1)
        self.rule[row] = policy

    def watch(self, row: int, on: bool) -> None:
        """A watched row reports every sample in `Breaks`, inside or not: somebody waits for it to calm down."""
        flags = int(self.flags[row])
        self.flags[row] = flags | WATCHED if on else flags & ~WATCHED

    def reset(self, rows: Rows) -> None:
        """Forget these rows altogether: the next sample is a series' first."""
        self.f[:, rows] = 0
        self.d[:, rows] = 0
        self.d[0, rows] = -np.inf
        for a in (self.season, self.days, self.ring_v, self.ring_t):
            a[:, rows] = 0
        self.ring_p[rows] = 0
        self.hour[rows] = -1
        self.flags[rows] = HARM_BOTH
        self.rule[rows] = 0

    @property
    def last(self) -> F64:
        """Time of the last accepted sample of each row; -inf before the first. A view."""
        out: F64 = self.d[0]
        return out

    def anchor(self, row: int) -> float:
        """What the row's float32 state is relative to: its first value."""
        return float(self.d[2][row])

    @property
    def count(self) -> F32:
        """Samples each row has scored. A view."""
        out: F32 = self.f[_K]
        return out

    @property
    def age(self) -> F32:
        """Seconds each row has been fed, gaps longer than a day counted as a day. A view."""
        out: F32 = self.f[_AGE]
        return out

    @property
    def bytes_per_row(self) -> float:
        """State of one series in bytes, scratch included."""
        held = sum(getattr(self, name).nbytes for name in _ARRAYS) + self._scratch.nbytes
        return float(held) / max(self.capacity, 1)

    # ------------------------------------------------------------------ the verbs

    def step(self, rows: Rows, ts: F64, values: F64, skip: NDArray[np.bool_] | None = None) -> Outcome:
        """Score each sample against what was there before it, then learn it. A row may occur more than once.

        Args:
            rows: intp[n]; rows beyond the capacity are made.
            ts: float64[n] UTC seconds; a sample at or before its row's last is ignored (senders retry).
            values: float64[n]; NaN and infinite samples are ignored, a staleness marker ends the series.
            skip: bool[n]; of these only is known that they came: neither scored nor learned (maintenance).
        """
        return self._run(rows, ts, values, learn=True, skip=skip)

    def learn(self, rows: Rows, ts: F64, values: F64) -> None:
        """Take samples into the state."""
        self._run(rows, ts, values, learn=True)

    def score(self, rows: Rows, ts: F64, values: F64) -> F64:
        """Score of each sample if it came now; mutates nothing. Rows are unique within a call."""
        if len(rows) and int(rows.max()) >= self.capacity:
            known = rows < self.capacity
            padded = np.zeros(len(rows))
            padded[known] = self.score(rows[known], ts[known], values[known])
            return padded
        out: F64 = self._run(rows, ts, values, learn=False).scores.astype(np.float64)
        return out

    def _run(self, rows: Rows, ts: F64, values: F64, *, learn: bool, skip: NDArray[np.bool_] | None = None) -> Outcome:
        n = len(rows)
        run = _Run(n)
        if n:
            if learn:
                self.ensure(int(rows.max()) + 1)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
                parts = rounds(rows, self._scratch) if learn else iter((None,))
                for part in parts:
                    size = n if part is None else len(part)
                    for a in range(0, size, _CHUNK):
                        if part is None:
                            b = min(a + _CHUNK, n)
                            out = None if skip is None else skip[a:b]
                            self._round(run, np.arange(a, b), rows[a:b], ts[a:b], values[a:b], learn, out)
                        else:
                            at = part[a : a + _CHUNK]
                            out = None if skip is None else skip[at]
                            self._round(run, at, rows[at], ts[at], values[at], learn, out)
        return run.outcome()

    def _round(
        self, run: "_Run", pos: Rows, rows: Rows, ts: F64, v: F64, learn: bool, skip: NDArray[np.bool_] | None
    ) -> None:
        """One pass over unique rows. `pos` are the samples' places in the call."""
        taken = self._admit(run, pos, rows, ts, v, learn, skip)
        if taken is None:
            return
        signals = self._signals(taken, learn)
        found = self._evidence(taken, signals)
        run.scores[_place(taken.pos)] = found.news / (found.news + np.float32(self.policy.theta))
        if learn:
            normal = np.where(signals.days >= 2, signals.usual, signals.s[_MID])
            self._report(run, taken, signals, found, normal)
            self._widen(taken, signals, found)
            self._settle(signals, normal)
            self._remember(taken, signals, normal)
            if not isinstance(taken.at, slice):
                self.f[:, taken.rows] = signals.s

    def _admit(
        self, run: "_Run", pos: Rows, rows: Rows, ts: F64, v: F64, learn: bool, skip: NDArray[np.bool_] | None
    ) -> "_Taken | None":
        """Those samples that say something: finite, newer than what their rows have, and no counter's first."""
        at = _place(rows)
        last = self.d[0][at]
        finite = np.isfinite(v)
        in_time = (ts >= 0) & (ts < LAST_TIME)
        fresh = ts > last
        use = finite & fresh & in_time
        if skip is not None and skip.any():
            passed = use & skip
            self.d[0][rows[passed]] = ts[passed]
            self.d[1][rows[passed]] = v[passed]
            use &= ~skip
        if not use.all():
            if learn:
                stale = (v.view(np.uint64) == STALE_BITS) & fresh
                if stale.any():
                    ended = rows[stale]
                    self.flags[ended] |= np.uint8(ENDED)
                    self.d[0][ended] = ts[stale]
                run.late += int((finite & in_time & ~fresh).sum())
                run.invalid += int((~finite & ~stale).sum() + (finite & ~in_time).sum())
            pos, rows, ts, v, last = pos[use], rows[use], ts[use], v[use], last[use]
            if not len(rows):
                return None
            at = _place(rows)
        flags = self.flags[at]
        dt = ts - last
        raw = v
        if (flags & COUNTER).any():
            counter = (flags & COUNTER) != 0
            known = np.isfinite(dt)
            gain = v - self.d[1][at]
            # a counter below its previous value was reset: what it shows now came since (Prometheus' rate)
            rate = np.where(gain < 0, v, gain) / np.where(known, dt, 1.0)
            v = np.where(counter, rate, v)
            use = ~counter | known
            if learn:
                self.d[0][at] = ts
                self.d[1][at] = raw
            if not use.all():
                # the first sample of a counter says nothing yet
                run.used[pos] = True
                pos, rows, ts, v, dt = pos[use], rows[use], ts[use], v[use], dt[use]
                flags, raw = flags[use], raw[use]
                if not len(rows):
                    return None
                at = _place(rows)
        run.used[_place(pos)] = True
        if learn:
            if (flags & ENDED).any():
                self.flags[at] = flags & np.uint8(0xFF & ~ENDED)
            self.d[0][at] = ts
            self.d[1][at] = raw
        return _Taken(pos, rows, at, ts, np.clip(v, -LARGEST, LARGEST), dt, flags)

    def _signals(self, taken: "_Taken", learn: bool) -> "_Signals":
        """What is judged: the value, its distance from the recent mean, and from what this hour usually shows."""
        at, ts, v = taken.at, taken.ts, taken.v
        s = self.f[:, at]
        if isinstance(at, slice) and not learn:
            s = s.copy()
        anchor = self.d[2][at]
        dt32 = np.minimum(taken.dt, 86400.0).astype(np.float32)
        first = s[_K] == 0
        if first.any():
            anchor = np.where(first, v, anchor)
            if learn:
                self.d[2][at] = anchor
            dt32 = np.where(np.isfinite(taken.dt), dt32, np.float32(0))  # nobody has waited for it
        x = (v - anchor).astype(np.float32)
        step = np.abs(x - s[_LAST])  # 0 for the first: it is its own anchor
        s[_LAST] = x

        s[_K] = np.minimum(s[_K] + 1, 1e7)
        s[_AGE] = np.minimum(s[_AGE] + dt32, 1e6)
        one = 1 / s[_K]
        slow = s[_E100].copy()
        resid = x - s[_E24]
        s[_E24] += np.maximum(one, np.float32(1 / 24)) * resid
        s[_E100] += np.maximum(one, np.float32(0.01)) * (x - slow)
        level = np.abs(anchor.astype(np.float32) + s[_E100])

        h64 = np.floor(ts / 3600.0)
        h0 = float(h64[0])
        if bool((h64 == h0).all()):
            hour = np.full(len(ts), int(h0) % 24, np.int8)
            usual, days = self.season[int(h0) % 24, at], self.days[int(h0) % 24, at]
        else:
            hour = (h64 % 24).astype(np.int8)
            usual, days = self.season[hour, taken.rows], self.days[hour, taken.rows]
        now = self.hour[at]
        roll = np.flatnonzero((now != hour) & (now >= 0))
        if len(roll):
            self._end_hours(taken.pos, taken.rows, ts, s, roll, now, level, learn)
        if learn:
            self.hour[at] = hour
        s[_ACC] += x
        s[_CNT] += 1
        s[_SPREAD] += np.abs(resid)
        s[_STEPS] += step
        seasonal = x - np.where(days >= 1, usual, slow)

        warm_seconds = self._warm_seconds[self.rule[taken.rows]] if self._varied else self.policy.warm_seconds
        act = (s[_K] > self.policy.warm) & (s[_AGE] >= warm_seconds)
        floor = level * np.float32(1e-9) + _TINY
        return _Signals(s, anchor, (x, resid, seasonal), dt32, h64, level, floor, usual, days, act, bool(act.all()))

    def _evidence(self, taken: "_Taken", signals: "_Signals") -> "_Found":
        """How far each sample leaves the envelopes as they were, or its hour the bar, in a direction that harms."""
        s, flags = signals.s, taken.flags
        up, down, up_c, down_c = self._beyond(signals)
        hours, least = None, s[_SLEAST]
        full = self._complete(taken, signals) if self.policy.alarms > 0 else _NONE
        if len(full):
            hours = self._hour_channel(full, signals)
            least = least.copy()  # as it was before this hour
            still = self._still_channel(full, signals)
            shift = hours[1]
            for side, side_c, far, channel in (
                (up, up_c, shift, _HOUR),
                (down, down_c, -shift, _HOUR),
                (down, down_c, still, _STILL),
            ):
                more = far > side[full]
                side[full[more]] = far[more]
                side_c[full[more]] = channel
        high = np.where(flags & HARM_HIGH, up, np.float32(0))
        low = np.where(flags & HARM_LOW, down, np.float32(0))
        upward = high >= low
        evidence = np.maximum(np.maximum(high, low), np.float32(0))
        if not signals.all_act:
            evidence = np.where(signals.act, evidence, np.float32(0))
        # a young envelope is still too narrow: of small samples by chance, of a part of a day by ignorance
        young = s[_AGE] < 86400
        if young.any():
            k = s[_K]
            trust = np.float32(0.4) + np.float32(0.6 / 86400) * s[_AGE]
            evidence = np.where(young, evidence * trust * (k / (k + self.policy.warm)), evidence)
        np.minimum(evidence, np.float32(1e6), out=evidence)
        keep = 1 - np.minimum(np.float32(1 / self.policy.hold), signals.dt32 * np.float32(1 / 3600))
        held = s[_HELD] * keep
        news = np.where(evidence > held, evidence, np.float32(0))
        return _Found(evidence, held, news, upward, up_c, down_c, hours, least)

    @staticmethod
    def _beyond(signals: "_Signals") -> tuple[F32, F32, NDArray[np.int8], NDArray[np.int8]]:
        """Widths by which the signals are above and below their envelopes, and which signal is farthest out."""
        s, level, days = signals.s, signals.level, signals.days
        all_young = bool((days == 0).all())
        up: F32 | None = None
        for c, y in enumerate(signals.each):
            lo, hi = s[_LO + c], s[_HI + c]
            over, under = y - hi, lo - y
            width = hi - lo
            flat = width <= 0
            if flat.any():
                # nothing but one value so far: a change counts 1, one below 1 % of the level counts less
                least = np.maximum(np.maximum(over, under), level * np.float32(0.01))
                width = np.where(flat, np.maximum(least, _TINY), width)
            width = np.maximum(width, signals.floor)
            if c == _SEASON and not all_young:
                # what this hour usually shows rests on few days at first, and one odd day spoils it
                width = np.where(days >= 1, width * (1 + np.float32(SEASON_DAYS) / days), width)
            over, under = over / width, under / width
            if up is None:
                up, down = over, under
                up_c, down_c = np.zeros(len(y), np.int8), np.zeros(len(y), np.int8)
            else:
                np.copyto(up_c, np.int8(c), where=over > up)
                np.copyto(down_c, np.int8(c), where=under > down)
                up, down = np.maximum(up, over), np.maximum(down, under)
        assert up is not None
        return up, down, up_c, down_c

    def _report(self, run: "_Run", taken: "_Taken", signals: "_Signals", found: "_Found", normal: F32) -> None:
        """Write down the samples that have evidence or are waited for, with what an explanation needs."""
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
        if found.hours is not None:
            bands[0, found.hours[0]], bands[1, found.hours[0]] = found.hours[2], found.hours[3]
        lows = np.concatenate((s[_LO : _LO + 3, shown], bands[:1, shown], s[_LO : _LO + 1, shown]))
        highs = np.concatenate((s[_HI : _HI + 3, shown], bands[1:, shown], s[_HI : _HI + 1, shown]))
        ref = np.stack((zero, (x - resid)[shown], (x - seasonal)[shown], zero, zero))[channel, i].astype(np.float64)
        a = signals.anchor[shown]
        rows, dt = taken.rows[shown], taken.dt[shown]
        scale = _ruler(s[:, shown], signals.level[shown])
        if self.follow:
            self.flags[rows] |= np.uint8(WATCHED)
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
                s[_LEAD, shown].astype(np.float64),
                (s[_STEPS, shown] / s[_CNT, shown]).astype(np.float64),
                found.least[shown].astype(np.float64),
                *self._recent(rows, a),
            )
        )

    def _widen(self, taken: "_Taken", signals: "_Signals", found: "_Found") -> None:
        """Learn the envelopes: what left one widens it, and time narrows it."""
        policy, s, dt32 = self.policy, signals.s, signals.dt32
        k = s[_K]
        s[_HELD] = np.maximum(found.held, found.evidence)
        forget = np.minimum(np.float32(_LN2 / policy.samples), dt32 * np.float32(_LN2 / (14 * 86400)))
        if self._varied or policy.memory > 0:
            tau = self._memory[self.rule[taken.rows]] if self._varied else self._memory[0]
            forget = np.where(tau > 0, dt32 / (tau + dt32), forget)
        half = forget * np.float32(0.5)
        live = k > policy.warm // 4
        all_live = bool(live.all())
        birth = np.flatnonzero(k == policy.warm // 4 + 1)
        grow = self._growth[self.rule[taken.rows]] if self._varied else self._growth[0]
        for c, y in enumerate(signals.each):
            lo, hi = s[_LO + c], s[_HI + c]
            if len(birth):
                lo[birth] = y[birth]
                hi[birth] = y[birth]
            width = hi - lo
            wide = width > 0
            limit = grow * width
            if not (signals.all_act and bool(wide.all())):
                limit = np.where(signals.act & wide, limit, np.float32(3e38))
            new_hi = np.maximum(hi, np.minimum(y, hi + limit))
            new_lo = np.minimum(lo, np.maximum(y, lo - limit))
            shrink = half * (new_hi - new_lo)
            new_hi -= shrink
            new_lo += shrink
            if all_live:
                s[_HI + c], s[_LO + c] = new_hi, new_lo
            else:
                np.copyto(hi, new_hi, where=live)
                np.copyto(lo, new_lo, where=live)

    @staticmethod
    def _settle(signals: "_Signals", normal: F32) -> None:
        """Learn what would be normal: a robust level and scale, which a fault can hardly teach."""
        s, x, dev = signals.s, signals.each[0], signals.s[_DEV]
        size = np.abs(x - normal)
        gain = np.maximum(1 / s[_K], np.float32(1e-3))
        early = s[_K] <= 20
        cap = 4 * dev
        if early.any():
            cap = np.where(early, np.float32(3e38), cap)
        s[_MID] += gain * np.minimum(np.maximum(x - s[_MID], -cap), cap)
        tail = s[_TAIL]
        tail += 0.03 * dev * (np.where(size > tail, np.float32(0.99), np.float32(-0.01)))
        np.maximum(tail, dev, out=tail)
        # grow from zero even when the series was constant: the floor of the cap is a thousandth of the level
        dev += gain * (np.minimum(size, np.maximum(cap, signals.level * np.float32(1e-3))) - dev)

    def _remember(self, taken: "_Taken", signals: "_Signals", normal: F32) -> None:
        """Keep the recent samples, at most one a minute; those that leave the ring are what led up to it."""
        s, at, rows = signals.s, taken.at, taken.rows
        p = self.ring_p[at]
        ring_v, ring_t = self.ring_v.reshape(-1), self.ring_t.reshape(-1)
        sec = taken.ts.astype(np.uint32)
        there = ring_t[p * np.intp(self.capacity) + rows]
        move = (there == 0) | (sec - there >= PACE)
        p = (p + move) & np.uint8(SLOTS - 1)
        place = p * np.intp(self.capacity) + rows
        old = ring_t[place]
        leaves = move & (old != 0)
        if leaves.any():
            cap = 50 * s[_DEV]
            lead = np.minimum(np.maximum(ring_v[place] - normal, -cap), cap)
            s[_LEAD] += np.where(leaves, np.float32(1 / 32), np.float32(0)) * (lead - s[_LEAD])
        ring_v[place] = signals.each[0]
        # the slot keeps the time of its first sample until the next slot is due
        ring_t[place] = np.where(move, sec, old)
        self.ring_p[at] = p

    @staticmethod
    def _complete(taken: "_Taken", signals: "_Signals") -> Rows:
        """Places of the samples that complete their hour: the next one, as far away, is of another.

        They are rare: a series has one such sample an hour.
        """
        return np.flatnonzero((taken.ts - signals.h64 * 3600.0) + signals.dt32 >= 3599.0)

    def _sunk(self, bar: F32, days: F32 | np.float32, least: float) -> F32:
        """A bar after so many days: it sinks with time, and never below what chance alone would clear now and then."""
        return np.maximum(bar / (1 + np.float32(BAR_LOG * self.policy.alarms) * days), np.float32(least))

    def _hour_channel(self, at: Rows, signals: "_Signals") -> tuple[Rows, F32, F32, F32]:
        """Judge and learn the means of the hours that are complete at these places.

        Returns the places, evidence (signed: above normal is positive), and the normal band of the hour's mean.
        """
        s, dt = signals.s, signals.dt32
        days, usual, act, level, floor = signals.days, signals.usual, signals.act, signals.level, signals.floor
        h = s[_HN : _HRUN + 1, at]
        count, recent, dev, day_dev, bar, hit, run = h
        mean = s[_ACC, at] / s[_CNT, at]
        first = count == 0
        recent = np.where(first, mean, recent)
        known = days[at] >= 2
        of_day = np.where(known, usual[at], recent)
        off, day_off = mean - recent, mean - of_day
        span = s[_HI, at] - s[_LO, at]
        least = np.float32(0.005) * span + np.float32(1e-3) * level[at] + floor[at]
        scale, day_scale = np.float32(1.25) * dev + least, np.float32(1.25) * day_dev + least
        elapsed = np.maximum(dt[at], np.float32(3600)) * np.float32(1 / 86400)
        bar = self._sunk(np.where(first, np.float32(BAR_FIRST), bar), elapsed, BAR_LEAST)
        same = (off > 0) == (day_off > 0)
        size, day_size = np.abs(off), np.abs(day_off)
        far = np.where(same, np.minimum(size / scale, day_size / day_scale), np.float32(0))
        part = np.float32(PART) * span
        far *= np.where(size < part, size / part, np.float32(1))
        ratio = np.minimum(far / bar, np.float32(10))
        ready = (count >= self.policy.warm) & act[at]
        # within an excursion only what goes farther is news; back below half of the bar it is over
        run = np.where(ratio < np.float32(0.5), np.float32(0), run / (1 + np.float32(1.2) * elapsed))
        evidence = np.float32(self.policy.theta) * ratio * ratio * ratio
        evidence = np.where(ready & (ratio > run) & (evidence > np.float32(MENTION)), evidence, np.float32(0))
        low = np.minimum(recent - bar * scale, of_day - bar * day_scale)
        high = np.maximum(recent + bar * scale, of_day + bar * day_scale)

        above = ready & (ratio > 1)
        h[4] = np.where(above & (hit == 0), bar * np.float32(BAR_STEP), bar)
        h[5] = np.where(above, np.minimum(hit + 1, np.float32(ADOPTED)), np.float32(0))
        h[6] = np.where(ready, np.maximum(run, ratio), np.float32(0))
        h[0] = np.minimum(count + 1, np.float32(1e6))
        share = 1 / h[0]
        clip = np.where(count > 20, CLIP * scale, np.float32(3e38))
        moved = recent + np.maximum(share, np.float32(1 / 20)) * np.minimum(np.maximum(off, -clip), clip)
        h[1] = np.where(h[5] >= ADOPTED, mean, moved)  # a level that stays is no spike: what follows is judged by it
        young = count < 30
        slow = np.maximum(share, np.float32(1 / 100))
        for i, was, distance in ((2, dev, size), (3, day_dev, day_size)):
            h[i] = was + slow * (np.where(young, distance, np.minimum(distance, 6 * was)) - was)
        s[_HN : _HRUN + 1, at] = h
        return at, np.where(off > 0, evidence, -evidence), low, high

    def _still_channel(self, at: Rows, signals: "_Signals") -> F32:
        """Judge and learn how much the series moved in the hours that are complete at these places; the evidence.

        An hour of few samples says nothing of how much they move: it is neither judged nor learned.
        """
        s = signals.s
        evidence = np.zeros(len(at), np.float32)
        dense = np.flatnonzero(s[_CNT, at] >= STILL_DENSE)
        if not len(dense):
            return evidence
        at = at[dense]
        h = s[_SN : _SWAS + 1, at]
        n, usual, least, bar, was = h
        step = s[_STEPS, at] / s[_CNT, at]
        first = n == 0
        bar = self._sunk(np.where(first, np.float32(STILL_FIRST), bar), np.float32(1 / 24), STILL_LEAST)
        width = np.maximum(np.maximum(usual - least, np.float32(STILL_WIDTH) * usual), _TINY)
        ratio = np.minimum(np.maximum(least - step, 0) / width / bar, np.float32(10))
        ready = (n >= STILL_WARM) & signals.act[at]
        far = np.float32(self.policy.theta) * ratio * ratio * ratio
        evidence[dense] = np.where(ready & (far > np.float32(MENTION)), far, np.float32(0))

        n += 1
        bar *= np.where(ready & (ratio > 1), np.float32(BAR_STEP), np.float32(1))
        usual += np.maximum(1 / n, np.float32(1 / 100)) * (np.where(first, step, np.minimum(step, 3 * usual)) - usual)
        # what begins within an hour leaves it half still: that must not teach what the next one is judged by
        least = np.where(first, step, np.minimum(least, np.where(n > 2, was, step)))
        h[2] = least + np.float32(STILL_FADE) * (usual - least)
        h[3], h[4] = bar, step
        np.minimum(n, np.float32(1e6), out=n)
        s[_SN : _SWAS + 1, at] = h
        return evidence

    def _end_hours(
        self,
        pos: Rows,
        rows: Rows,
        ts: F64,
        s: F32,
        roll: Rows,
        now: NDArray[np.int8],
        level: F32,
        learn: bool,
    ) -> None:
        """Learn the mean of the hour that ended into its slot of the day; only for the rows whose hour changed."""
        slot = now[roll], rows[roll]
        count = np.maximum(s[_CNT, roll], 1)
        mean = s[_ACC, roll] / count
        base, days = self.season[slot], self.days[slot]
        if learn:
            gain = np.maximum(1 / (days + np.float32(1)), np.float32(0.1))
            step = mean - base
            if self.policy.alarms > 0:  # else nobody knows the usual distance
                span = s[_HI, roll] - s[_LO, roll]
                least = np.float32(0.005) * span + np.float32(1e-3) * level[roll] + _TINY
                clip = CLIP * (np.float32(1.25) * s[_HDAY, roll] + least)
                step = np.where(days >= 2, np.minimum(np.maximum(step, -clip), clip), step)
            self.season[slot] = base + gain * step
            self.days[slot] = np.minimum(days, 254) + 1
            if self.on_hours is not None:
                spread = s[_SPREAD, roll] / count
                self.on_hours(
                    Hours(
                        pos=pos[roll],
                        rows=rows[roll],
                        ts=ts[roll],
                        count=count,
                        mean=mean,
                        spread=spread,
                        base=base,
                        days=days,
                    )
                )
        s[_ACC, roll] = 0
        s[_CNT, roll] = 0
        s[_SPREAD, roll] = 0
        s[_STEPS, roll] = 0

    # ------------------------------------------------------------------ evidence on demand

    def view(self, rows: Rows) -> "View":
        """What the bank knows of these rows now, in the metric's unit; copies."""
        s = self.f[:, rows]
        anchor = self.d[2][rows]
        last = self.d[0][rows]
        hour = np.maximum(self.hour[rows], 0)
        slot = hour, rows
        base = np.where(self.days[slot] >= 2, self.season[slot], s[_MID]).astype(np.float64)
        level = np.abs(anchor.astype(np.float32) + s[_E100])
        times, values = self._recent(rows, anchor)
        theta = self.policy.theta
        return View(
            rows=rows,
            last=last,
            count=s[_K].astype(np.float64),
            normal=anchor + base,
            low=anchor + s[_LO],
            high=anchor + s[_HI],
            scale=_ruler(s, level),
            mean=anchor + s[_E100],
            lead=s[_LEAD].astype(np.float64),
            score=(s[_HELD] / (s[_HELD] + np.float32(theta))).astype(np.float64),
            recent_ts=times,
            recent=values,
            flags=self.flags[rows],
        )

    def _recent(self, rows: Rows, anchor: F64) -> tuple[F64, F64]:
        """(times, values), each [rows, 16] oldest first, NaN where there is none."""
        order = (self.ring_p[rows, None].astype(np.intp) + 1 + np.arange(SLOTS)) % SLOTS
        place = order, rows[:, None]
        times = self.ring_t[place].astype(np.float64)
        known = times > 0
        values = anchor[:, None] + self.ring_v[place].astype(np.float64)
        return np.where(known, times, np.nan), np.where(known, values, np.nan)

    # ------------------------------------------------------------------ snapshots

    def snapshot(self, rows: int | None = None) -> Snapshot:
        """State of the rows below `rows` (all of the capacity when None); arrays are copies."""
        n = self.capacity if rows is None else min(rows, self.capacity)
        arrays = {name: getattr(self, name)[..., :n].copy() for name in _ARRAYS}
        return Snapshot(kind=self.KIND, version=self.VERSION, meta={"rows": n}, arrays=arrays)

    @classmethod
    def resume(
        cls, policy: Policy, snapshot: Snapshot, *, follow: bool = False, others: Sequence[Policy] = ()
    ) -> "RangeBank":
        """A bank that goes on exactly where the snapshot was taken.

        Raises:
            ValueError: the snapshot is of another kind or version.
        """
        if (snapshot.kind, snapshot.version) != (cls.KIND, cls.VERSION):
            raise ValueError(f"not a {cls.KIND} version {cls.VERSION}: {snapshot.kind} version {snapshot.version}")
        n = int(snapshot.meta["rows"])
        bank = cls(policy, max(n, 1), follow=follow, others=others)
        for name in _ARRAYS:
            getattr(bank, name)[..., :n] = snapshot.arrays[name]
        return bank


BAR_FIRST = 12.0  # deviations the hour channel asks of a new series
BAR_LEAST = 4.5  # and of one that has been quiet for long
BAR_STEP = 1.5  # times higher after each alarm
BAR_LOG = 0.405  # its logarithm: a bar that is cleared `alarms` times a day stays where it is
PART = 0.3  # of all that the series has shown; a distance smaller than this part of it counts in proportion
ADOPTED = 3  # hours in a row beyond the bar after which their level is the recent one
CLIP = np.float32(3)  # deviations by which one hour may move what is taken for normal
SEASON_DAYS = 3.0  # days on which an hour of the day rests when it is trusted half
STILL_DENSE = 4.0  # samples that make an hour's mean step
STILL_WARM = 24.0  # hours: a night is stiller than the day
STILL_FIRST = 3.0  # widths below the least step that a new series has to show: it takes a week, with a weekend, to sink
STILL_LEAST = 0.5  # and one that has been quiet for long
STILL_WIDTH = 0.25  # of the usual step: so far chance moves the mean of twelve steps, however regular they were so far
STILL_FADE = 1 - 0.5 ** (1 / (14 * 24))  # of the least towards the usual step an hour: in 14 days, as the envelopes
MENTION = 0.02  # envelope widths; smaller breaks widen the envelope but are no evidence for anybody
PACE = np.uint32(60)  # s; sixteen slots reach a quarter of an hour back at any faster sampling
_LN2 = 0.6931471805599453
_NONE: Rows = np.zeros(0, np.intp)
_ARRAYS = ("f", "d", "season", "days", "ring_v", "ring_t", "ring_p", "hour", "flags")


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of the bank as numbers that people read: everything in the metric's own unit, one element per row."""

    rows: Rows
    last: F64  # time of the last sample, -inf: none
    count: F64  # samples seen
    normal: F64  # robust level expected at the hour of the last sample
    low: F64
    high: F64
    scale: F64  # robust scale, lengthened by the normal tail, with a floor of 5 % of the level
    mean: F64  # mean of about the last hundred samples
    lead: F64  # mean distance from normal before the recent samples
    score: F64
    recent_ts: F64  # [rows, 16] oldest first, NaN: none
    recent: F64  # [rows, 16]
    flags: NDArray[np.uint8]


def _ruler(s: F32, level: F32) -> F64:
    """Length of one deviation: robust scale, at least a third of the normal tail and 5 % of the level."""
    scale = np.maximum(s[_DEV] * np.float32(1.2533), s[_TAIL] * np.float32(1 / 3))  # 1.2533 = sqrt(pi / 2)
    out: F64 = np.maximum(np.maximum(scale, level * np.float32(0.05)), np.float32(1e-9)).astype(np.float64)
    return out


class _Taken(NamedTuple):
    """Samples of one pass that say something; rows are unique."""

    pos: Rows  # places in the call
    rows: Rows
    at: Rows | slice  # the same rows; a slice when they lie side by side
    ts: F64
    v: F64  # the rate, for a counter
    dt: F64  # s since the row's previous sample; inf: there was none
    flags: NDArray[np.uint8]


class _Signals(NamedTuple):
    """What is judged of the samples of one pass; arrays of one length."""

    s: F32  # [_FIELDS, n]: the state of the rows; a view of it where they lie side by side
    anchor: F64
    each: tuple[F32, F32, F32]  # x, resid, season: relative to the anchor, the recent mean, the hour of day
    dt32: F32  # s, at most a day
    h64: F64  # hours since 1970
    level: F32  # size of what the row shows
    floor: F32  # the least width of an envelope
    usual: F32  # mean of this hour of day on the days before, relative to the anchor
    days: NDArray[np.uint8]  # how many those are
    act: NDArray[np.bool_]  # warm
    all_act: bool


class _Found(NamedTuple):
    """What the samples of one pass come to."""

    evidence: F32
    held: F32  # evidence of late
    news: F32  # evidence, where it is more than that
    upward: NDArray[np.bool_]
    up_c: NDArray[np.int8]  # channel that is farthest above, and below
    down_c: NDArray[np.int8]
    hours: tuple[Rows, F32, F32, F32] | None  # as of `_hour_channel`
    least: F32  # mean step that an hour has shown


class _Run:
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
    "p", "p", "d", "d", "d", "d", "b", "?", "d", "d", "d", "d", "d", "d", "d", "d", "d", "dd", "dd",
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
