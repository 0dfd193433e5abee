"""One model per series, its statistic put through an envelope, so that a score means what every other detector's does.

What enters is columns of samples, or vectors; what leaves is scores, and the samples that left the envelope of their
model's statistic. A model is foreign code: what it raises is counted, and one that keeps failing is started anew.
"""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from aiopsd.detect.bank import F64, HARM_HIGH, LARGEST, MENTION, SLOTS, Policy, RangeBank, Rows
from aiopsd.detect.models import TROUBLE, find
from aiopsd.model import Snapshot
from aiopsd.protocols import Expected

LEARNING = 60  # samples a model sees before it is asked: what an empty one says would spoil the envelope for long
PATIENCE = 10  # samples in a row that a model may fail on before it is started anew
PACED = 20  # samples after which a series' pace is known
ASSUMED = 60.0  # s between its samples until then
USUAL = 3.0  # deviations; what is shown as normal where the model says no more
RARE = math.log(300.0)  # of days between those that chance makes worth an event: one in ten months a series
STEEP = 3  # power with which a statistic that is rarer counts for more, as hours do in the bank

Vector = Mapping[str, float]


class Level(msgspec.Struct, array_like=True):
    """Slow mean and mean distance from it, of which one sample moves little however far it is."""

    n: int = 0
    mean: float = 0.0
    dev: float = 0.0

    @property
    def scale(self) -> float:
        """About a standard deviation; not nothing, however still the series stands."""
        return max(1.2533 * self.dev, 0.05 * abs(self.mean), 1e-9)

    def learn(self, v: float) -> None:
        v = min(max(v, -LARGEST), LARGEST)  # differences of these are numbers
        self.n += 1
        gain = max(1 / self.n, 1e-3)
        bound = 4 * self.dev if self.n > 20 else math.inf
        self.mean += gain * min(max(v - self.mean, -bound), bound)
        self.dev += gain * (min(abs(v - self.mean), bound) - self.dev)


class Strange(msgspec.Struct, frozen=True, kw_only=True):
    """A sample whose statistic left its envelope: what that is worth, and what would have been normal.

    `evidence`: by how rare it is; `theta` of the bank is worth an event. `news`: it was not as far out just before.
    `statistic` is in the model's own unit, `usual` the most that was usual of it. `expected`: `normal` is what the
    model expected, not just the level of the series.
    """

    pos: int
    row: int
    ts: float
    evidence: float
    news: bool
    statistic: float
    usual: float
    value: float
    expected: bool
    normal: float
    scale: float
    interval: float  # s since the row's sample before
    feature: str  # of a vector: the strangest, where the model can tell
    recent: list[tuple[float, float]]


class _Said(NamedTuple):
    """A statistic, and what its row knew before it learned the sample; the envelope adds the rest of a `Strange`."""

    pos: int
    row: int
    slot: int
    ts: float
    value: float
    statistic: float
    normal: Expected
    expected: bool
    gap: float
    nats: tuple[float, float]
    recent: list[tuple[float, float]]

    def strange(self, evidence: float, *, news: bool, usual: float) -> Strange:
        return Strange(
            pos=self.pos,
            row=self.row,
            ts=self.ts,
            evidence=evidence,
            news=news,
            statistic=self.statistic,
            usual=usual,
            value=self.value,
            expected=self.expected,
            normal=self.normal.value,
            scale=self.normal.scale,
            interval=self.gap,
            feature=self.normal.feature,
            recent=self.recent,
        )


class _Row:
    """One series' model and what it needs of the series."""

    def __init__(self, model: Any, slot: int, lags: int) -> None:
        self.model = model
        self.slot = slot
        self.last = float("-inf")
        self.lags: collections.deque[float] = collections.deque(maxlen=lags)
        self.recent: collections.deque[tuple[float, float]] = collections.deque(maxlen=SLOTS)
        self.level = Level()
        self.n = 0  # samples the model has learned
        self.seen = 0  # and the series has shown since it has one
        self.failed = 0  # samples in a row
        self.said = 0  # statistics so far
        self.since = math.inf  # time of the first of them
        self.ready = math.inf  # time of the sample since which they are enough
        self.first = 0.0  # time of the first sample; with `last` and `seen` the pace of the series

    @property
    def interval(self) -> float:
        """Seconds between its samples, once that is known."""
        return max((self.last - self.first) / (self.seen - 1), 1e-3) if self.seen >= PACED else ASSUMED


class ModelDetector:
    """A `Detector` of one model per row, made when the row's first sample arrives.

    The statistic of a sample goes through row `slot` of an inner `RangeBank`. Memory is that of the models: a few kB
    each for most, 150 kB for LODA, up to a MB for trees. With `vector` a row is a service, its samples are vectors.
    """

    KIND, VERSION = "detect.online", 5

    def __init__(
        self,
        model: str,
        params: Mapping[str, Any],
        *,
        lags: int = 0,
        policy: Policy | None = None,
        vector: bool = False,
        path: str = "$",
    ) -> None:
        """Raises ConfigError as `models.find`, naming the key below `path`."""
        self.model, self.lags = model, lags
        self.policy = policy or Policy()
        self.faults = 0  # samples on which a model raised or answered nothing usable
        self.trouble = ""  # what the last of them was
        self._make = find(model, params, path, vector=vector)
        self._bank = RangeBank(self.policy, 16)
        self._rows: dict[int, _Row] = {}
        self._free: list[int] = []
        self._slots = 0

    def forget(self, row: int) -> None:
        state = self._rows.pop(row, None)
        if state is not None:
            self._bank.reset(np.array([state.slot], np.intp))
            self._free.append(state.slot)

    def __len__(self) -> int:
        return len(self._rows)

    def ready(self, row: int, ts: float) -> bool:
        """Whether the model had said enough of this row by then that its silence means something."""
        state = self._rows.get(row)
        return state is not None and ts > state.ready

    def interval(self, row: int) -> float:
        """Seconds between the samples of a row, or what is assumed until that is known."""
        state = self._rows.get(row)
        return ASSUMED if state is None else state.interval

    def span(self, row: int) -> float:
        """Seconds of the past that one statistic of a row looks at."""
        state = self._rows.get(row)
        return ASSUMED * (self.lags + 1) if state is None else self._span(state)

    # ------------------------------------------------------------------ the verbs

    def step(
        self, rows: Rows, ts: F64, values: F64, vectors: Sequence[Vector] | None = None
    ) -> tuple[F64, list[Strange]]:
        """(scores, samples whose statistic left its envelope); scores before learning, in the order given.

        `vectors`: what the models see instead of each value and its lags.
        """
        said: list[_Said] = []
        for pos, (row, t, v) in enumerate(zip(rows.tolist(), ts.tolist(), values.tolist(), strict=True)):
            if not math.isfinite(v):
                continue
            state = self._rows.get(row)
            if state is None:
                state = self._rows[row] = _Row(self._make(), self._slot(), self.lags)
            if t <= state.last:
                continue
            x = self._x(state, v) if vectors is None else vectors[pos]
            one = self._ask(state, pos, row, t, v, x)
            if one is not None:
                said.append(one)
            self._learn(state, t, x, v)
        scores = np.zeros(len(rows))
        if not said:
            return scores, []
        at = [one.pos for one in said]
        raws = np.array([one.statistic for one in said])
        outcome = self._bank.step(np.array([one.slot for one in said], np.intp), ts[at], raws)
        scores[at] = outcome.scores
        b = outcome.breaks
        columns = (b.pos.tolist(), b.evidence.tolist(), b.held.tolist(), b.high.tolist())
        strange = []
        for i, far, held, usual in zip(*columns, strict=True):
            evidence = self._worth(far, said[i].nats)
            if far > MENTION and evidence > MENTION:
                strange.append(said[i].strange(evidence, news=held > 0, usual=usual))
        return scores, strange

    def score(self, rows: Rows, ts: F64, values: F64) -> F64:
        """Score of each sample if it came now; mutates nothing."""
        scores = np.zeros(len(rows))
        for pos, (row, t, v) in enumerate(zip(rows.tolist(), ts.tolist(), values.tolist(), strict=True)):
            state = self._rows.get(row)
            if state is None or not math.isfinite(v) or t <= state.last:
                continue
            faults = self.faults
            raw, _ = self._look(state, t, self._x(state, v))
            self.faults = faults
            if raw is not None:
                scores[pos] = self._bank.score(np.array([state.slot], np.intp), np.array([t]), np.array([raw]))[0]
        return scores

    def learn(self, rows: Rows, ts: F64, values: F64) -> None:
        self.step(rows, ts, values)

    def _span(self, state: _Row) -> float:
        own = getattr(state.model, "span", None)
        return float(own(state.interval)) if own is not None else state.interval * (self.lags + 1)

    def _nats(self, state: _Row, t: float) -> tuple[float, float]:
        """Logarithms of how many statistics of their own there were by then, and of how many a day has."""
        span = self._span(state)
        return math.log1p((t - state.since) / span), math.log(86400.0 / span)

    def _worth(self, far: float, nats: tuple[float, float]) -> float:
        """Evidence of a statistic so many widths beyond all before it.

        Of n alike the next is the largest with a chance of 1 / n. Their range grows with log n where their tail is
        exponential, so that it is the largest by `far` ranges with a chance of about n ** -(1 + far). That makes an
        event, at the usual threshold, when by chance it would be one in so many days: a young model has to see
        something far out, an old one something new.
        """
        seen, a_day = nats
        return self.policy.theta * (max((1.0 + far) * seen - a_day, 0.0) / RARE) ** STEEP

    def _slot(self) -> int:
        if self._free:
            slot = self._free.pop()
        else:
            slot, self._slots = self._slots, self._slots + 1
        self._bank.mark(np.array([slot], np.intp), harm=HARM_HIGH)  # a small statistic is nothing strange
        return slot

    @staticmethod
    def _x(state: _Row, v: float) -> Vector:
        return {"x": v} | {f"x{i + 1}": lag for i, lag in enumerate(state.lags)}

    def _ask(self, state: _Row, pos: int, row: int, t: float, v: float, x: Vector) -> _Said | None:
        """What the model says of a sample that it has not learned, and what its row knows by then; None: nothing."""
        raw, expected = self._look(state, t, x)
        state.recent.append((t, v))
        if raw is None:
            return None
        state.said += 1
        if state.said == 1:
            state.since = t
        if state.said == self.policy.warm:
            state.ready = t
        normal = expected or Expected(value=state.level.mean)
        if normal.scale <= 0:
            normal = msgspec.structs.replace(normal, scale=state.level.scale)
        return _Said(
            pos=pos,
            row=row,
            slot=state.slot,
            ts=t,
            value=v,
            statistic=raw,
            normal=normal,
            expected=expected is not None,
            gap=t - state.last,
            nats=self._nats(state, t),
            recent=list(state.recent),
        )

    def _look(self, state: _Row, t: float, x: Vector) -> tuple[float | None, Expected | None]:
        """What the model says; nothing while it is new, and where it fails."""
        if state.n < LEARNING:
            return None, None
        ok, found = self._try(state.model.statistic, t, x)
        try:
            raw, expected = found if ok else (math.nan, None)
            if raw is None:
                return None, None
            usable = math.isfinite(raw) and (expected is None or math.isfinite(expected.value + expected.scale))
        except TROUBLE:
            usable = False
        if not usable:
            self.faults += 1
            if ok:
                self.trouble = f"answered {found!r:.200}"
            return None, None
        return float(raw), expected

    def _learn(self, state: _Row, t: float, x: Vector, v: float) -> None:
        if len(state.lags) == self.lags:
            if not self._try(state.model.learn, t, x)[0]:
                self.faults += 1
                state.failed += 1
                if state.failed >= PATIENCE:
                    state.model, state.failed, state.n = self._make(), 0, 0
            else:
                state.failed = 0
        if state.seen == 0:
            state.first = t
        state.n += 1
        state.seen += 1
        state.level.learn(v)
        state.lags.appendleft(v)
        state.last = t

    def _try(self, call: Callable[..., Any], *args: Any) -> tuple[bool, Any]:
        """(did it work, what it answered): a model is foreign code, and one series' trouble is not the partition's."""
        try:
            return True, call(*args)
        except TROUBLE as e:
            self.trouble = f"{type(e).__name__}: {e}"
            return False, None

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> Snapshot:
        bank = self._bank.snapshot(self._slots)
        rows = []
        for row, s in sorted(self._rows.items()):
            life = [s.n, s.seen, s.failed, s.said, s.since, s.ready, s.first, s.last]
            rows.append(
                [row, s.slot, s.model.state(), msgspec.to_builtins(s.level), list(s.lags), list(s.recent), *life]
            )
        meta = {
            "model": self.model,
            "rows": rows,
            "free": list(self._free),
            "slots": self._slots,
            "bank": bank.meta,
            "faults": self.faults,
        }
        return Snapshot(kind=self.KIND, version=self.VERSION, meta=meta, arrays=dict(bank.arrays))

    def load(self, snapshot: Snapshot) -> None:
        """Go on where the snapshot was taken.

        Raises:
            ValueError: the snapshot is of another kind or version, or names a class that is none of river's.
        """
        if (snapshot.kind, snapshot.version) != (self.KIND, self.VERSION):
            raise ValueError(f"not a {self.KIND} version {self.VERSION}: {snapshot.kind} version {snapshot.version}")
        meta = snapshot.meta
        bank = Snapshot(kind=RangeBank.KIND, version=RangeBank.VERSION, meta=meta["bank"], arrays=snapshot.arrays)
        self._bank = RangeBank.resume(self.policy, bank)
        self._free, self._slots, self.faults = list(meta["free"]), meta["slots"], meta["faults"]
        self._rows = {}
        for row, slot, kept, level, lags, recent, *life in meta["rows"]:
            state = self._rows[row] = _Row(self._make(), slot, self.lags)
            state.model.load(kept)
            state.level = msgspec.convert(level, Level)
            state.lags.extend(lags)
            state.recent.extend((t, v) for t, v in recent)
            state.n, state.seen, state.failed, state.said, state.since, state.ready, state.first, state.last = life
