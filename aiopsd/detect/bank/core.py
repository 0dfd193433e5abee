"""The bank itself: every sample of every series through one pass of the channels, one row per series."""

from collections.abc import Callable, Sequence

import numpy as np

from aiopsd.detect.bank import seasons
from aiopsd.detect.bank.admit import admit
from aiopsd.detect.bank.breaks import Outcome, Run, report
from aiopsd.detect.bank.judge import judge
from aiopsd.detect.bank.layout import (
    ACC,
    AGE,
    CNT,
    E24,
    E100,
    F32,
    F64,
    HELD,
    LAST,
    MID,
    SPREAD,
    STEPS,
    TINY,
    K,
    Mask,
    Rows,
)
from aiopsd.detect.bank.normal import settle
from aiopsd.detect.bank.peaks import gather
from aiopsd.detect.bank.policy import Policy, Terms
from aiopsd.detect.bank.ranges import bounded, widen
from aiopsd.detect.bank.recent import remember
from aiopsd.detect.bank.samples import Signals, Taken, place, rounds
from aiopsd.detect.bank.seasons import Hours
from aiopsd.detect.bank.store import Store
from aiopsd.detect.bank.view import View, view
from aiopsd.model import Snapshot

_CHUNK = 8192  # rows per pass: some 30 temporaries of 32 kB stay in the second-level cache


class RangeBank(Store):
    """Range-break detector over many series; a `Detector` that can also score and learn in one pass (`step`)."""

    KIND, VERSION = "detect.bank", 6

    def __init__(
        self,
        policy: Policy | None = None,
        capacity: int = 256,
        *,
        follow: bool = False,
        others: Sequence[Policy] = (),
    ) -> None:
        """`follow`: a row that breaks is watched from then on, until `watch(row, False)`. `others`: see `obey`."""
        super().__init__(capacity)
        self.policy = policy or Policy()
        self.follow = follow
        self.on_hours: Callable[[Hours], None] | None = None  # told of the hours that end, row by row in order
        self._terms = Terms(self.policy, others)

    def step(self, rows: Rows, ts: F64, values: F64, skip: Mask | None = None) -> Outcome:
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

    def _run(self, rows: Rows, ts: F64, values: F64, *, learn: bool, skip: Mask | None = None) -> Outcome:
        n = len(rows)
        run = Run(n)
        if n:
            if learn:
                self.ensure(int(rows.max()) + 1)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
                parts = rounds(rows, self.scratch) if learn else iter((None,))
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

    def _round(self, run: Run, pos: Rows, rows: Rows, ts: F64, v: F64, learn: bool, skip: Mask | None) -> None:
        """One pass over unique rows. `pos` are the samples' places in the call."""
        taken = admit(self, run, pos, rows, ts, v, learn, skip)
        if taken is None:
            return
        signals = self._signals(taken, learn)
        found = judge(self.policy, taken, signals)
        run.scores[place(taken.pos)] = found.news / (found.news + np.float32(self.policy.theta))
        if learn:
            normal = np.where(signals.days >= 2, signals.usual, signals.s[MID])
            report(self, run, taken, signals, found, normal, self.follow)
            signals.s[HELD] = np.maximum(found.held, found.evidence)
            widen(self, self._terms, taken, signals)
            settle(signals, normal)
            remember(self, taken, signals, normal)
            if not isinstance(taken.at, slice):
                self.f[:, taken.rows] = signals.s

    def _signals(self, taken: Taken, learn: bool) -> Signals:
        """What is judged: the value, its distance from the recent mean, and from what this hour usually shows."""
        at, ts, v = taken.at, taken.ts, taken.v
        s = self.f[:, at]
        if isinstance(at, slice) and not learn:
            s = s.copy()
        anchor = self.d[2][at]
        dt32 = np.minimum(taken.dt, 86400.0).astype(np.float32)
        first = s[K] == 0
        if first.any():
            anchor = np.where(first, v, anchor)
            if learn:
                self.d[2][at] = anchor
            dt32 = np.where(np.isfinite(taken.dt), dt32, np.float32(0))  # nobody has waited for it
        x = (v - anchor).astype(np.float32)
        s[K] = np.minimum(s[K] + 1, 1e7)
        s[AGE] = np.minimum(s[AGE] + dt32, 1e6)
        warm_seconds = self._terms.warm_seconds(self.rule, taken.rows)
        act = (s[K] > self.policy.warm) & (s[AGE] >= warm_seconds)
        all_act = bool(act.all())
        tame = bounded(x, s, act, all_act)  # what means and sums learn
        step = np.abs(tame - s[LAST])  # 0 for the first: it is its own anchor
        s[LAST] = tame

        one = 1 / s[K]
        slow = s[E100].copy()
        resid = x - s[E24]
        moved = tame - s[E24]
        s[E24] += np.maximum(one, np.float32(1 / 24)) * moved
        s[E100] += np.maximum(one, np.float32(0.01)) * (tame - slow)
        level = np.abs(anchor.astype(np.float32) + s[E100])

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
            self._end(taken, s, roll, level, learn)
        if learn:
            self.hour[at] = hour
        if self.policy.alarms > 0:
            gather(s, x, level)
        s[ACC] += tame
        s[CNT] += 1
        s[SPREAD] += np.abs(moved)
        s[STEPS] += step
        seasonal = x - np.where(days >= 1, usual, slow)

        floor = level * np.float32(1e-9) + TINY
        return Signals(s, anchor, (x, resid, seasonal), dt32, h64, level, floor, usual, days, act, all_act)

    def _end(self, taken: Taken, s: F32, roll: Rows, level: F32, learn: bool) -> None:
        """Samples of another hour at these places: the one before has ended."""
        if learn:
            hours = seasons.ended(self, taken, s, roll)
            # nobody knows the usual distance unless hours are judged
            seasons.learn(self, hours, s, roll, level, clipped=self.policy.alarms > 0)
            if self.on_hours is not None:
                self.on_hours(hours)
        seasons.begin(s, roll)

    def view(self, rows: Rows) -> View:
        """What the bank knows of these rows now, in the metric's unit; copies."""
        return view(self, rows, self.policy.theta)

    def snapshot(self, rows: int | None = None) -> Snapshot:
        """State of the rows below `rows` (all of the capacity when None); arrays are copies."""
        n = self.capacity if rows is None else min(rows, self.capacity)
        return Snapshot(kind=self.KIND, version=self.VERSION, meta={"rows": n}, arrays=self.arrays(n))

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
        bank = cls(policy, max(int(snapshot.meta["rows"]), 1), follow=follow, others=others)
        bank.load(snapshot.arrays)
        return bank
