"""River models on selected series, behind the bank's verbs: the second tier, for what an envelope cannot see.

What enters is columns of samples; what leaves is scores with the meaning of every other detector's, and the samples
that left the envelope of the model's statistic. A model's own score is never used as it is: several of river's
saturate at exactly 1.0, so that a 9-sigma point looks like a 90-sigma one. The raw statistic behind it (residual of a
forecast, distance in deviations, mass of a tree) goes through a range-break envelope of its own instead.

Known faults of river 0.26 that are survived here: GaussianScorer with a window raises on a rolling variance below
zero, StandardAbsoluteDeviation raises on a score before its first learn, PredictiveAnomalyDetection learns while it
scores, models without a seed are not repeatable. A model that keeps failing is started anew, and counted.
"""

import collections
import inspect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import river
from numpy.typing import NDArray
from river.compose import Pipeline

from aiopsd.config import OnlineRule
from aiopsd.detect.bank import F64, HARM_HIGH, MENTION, Policy, RangeBank, Rows
from aiopsd.detect.codec import Unencodable, decode, encode
from aiopsd.detect.evidence import Series
from aiopsd.detect.join import Seen
from aiopsd.detect.signals import Matcher
from aiopsd.errors import ConfigError
from aiopsd.model import Snapshot

SEED = 1  # of models that take one and were given none
LEARNING = 60  # samples a model sees before it is asked: what an empty one says would spoil the envelope for long
PATIENCE = 10  # samples in a row that a model may fail on before it is started anew


def make(name: str, params: Mapping[str, Any], path: str = "$") -> Any:
    """The river object of that name, e.g. `anomaly.HalfSpaceTrees`; nested models are `{model: ..., params: {...}}`.

    `compose.Pipeline` takes its parts as `steps`.

    Raises:
        ConfigError: river has no such class, or does not take these parameters.
    """
    found: Any = river
    try:
        parts = name.split(".")
        for i, part in enumerate(parts):
            if not hasattr(found, part) and i == 0:
                found = __import__(f"river.{part}", fromlist=[part])
            else:
                found = getattr(found, part)
    except (ImportError, AttributeError):
        raise ConfigError(f"river has no `{name}`", f"{path}.model") from None
    if not inspect.isclass(found) or not found.__module__.startswith("river."):
        raise ConfigError(f"`{name}` is not a class of river", f"{path}.model")

    def nested(value: Any, where: str) -> Any:
        if isinstance(value, Mapping) and "model" in value:
            return make(str(value["model"]), value.get("params", {}), where)
        if isinstance(value, list):
            return [nested(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return value

    given = {k: nested(v, f"{path}.params.{k}") for k, v in params.items()}
    try:
        if name == "compose.Pipeline":
            return found(*given.pop("steps", ()), **given)
        if "seed" in inspect.signature(found).parameters:
            given.setdefault("seed", SEED)
        made = found(**given)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"`{name}` does not take these parameters: {e}", f"{path}.params") from None
    _seed(made)
    return made


def _seed(part: Any, depth: int = 4) -> None:
    """Give every generator inside a repeatable beginning: some models make parts of theirs without a seed."""
    if isinstance(part, random.Random):
        part.seed(SEED)
    elif depth and hasattr(part, "__dict__"):
        for inner in vars(part).values():
            _seed(inner, depth - 1)


def _last(model: Any) -> Any:
    """The step that decides: of a pipeline the last (a pipeline itself answers to every verb)."""
    return list(model.steps.values())[-1] if isinstance(model, Pipeline) else model


def statistic(model: Any, x: dict[str, float], y: float) -> tuple[float, float | None]:
    """(raw statistic: larger is stranger, nothing saturates; expected value if the model has one). Learns nothing."""
    kind = _last(model)
    inner = getattr(kind, "anomaly_detector", None)
    if inner is not None and kind is model:  # a filter only compares with a threshold; ours is elsewhere
        return statistic(inner, x, y)
    predictor = getattr(kind, "predictive_model", None)
    if predictor is not None:
        return statistic(predictor, x, y)
    if hasattr(kind, "forecast"):
        expected = float(model.forecast(1)[0])
        return abs(y - expected), expected
    gaussian = getattr(kind, "gaussian", None)
    if gaussian is not None:
        if gaussian.n_samples < 2:
            return 0.0, None
        return abs(y - float(gaussian.mu)) / max(float(gaussian.sigma), 1e-12), float(gaussian.mu)
    if hasattr(kind, "score_one"):
        return float(model.score_one(x, y) if hasattr(kind, "sub_stat") else model.score_one(x)), None
    expected = float(model.predict_one(x))  # a regressor on the lags
    return abs(y - expected), expected


def learn(model: Any, x: dict[str, float], y: float) -> None:
    """One step of learning, by whichever signature the model has."""
    kind = _last(model)
    inner = getattr(kind, "anomaly_detector", None)
    if inner is not None and kind is model:
        # not through the filter: with protection off, river 0.26 would never train what is inside
        learn(inner, x, y)
    elif hasattr(kind, "forecast"):
        model.learn_one(y)
    elif hasattr(kind, "score_one") and not any(hasattr(kind, a) for a in ("gaussian", "sub_stat", "predictive_model")):
        model.learn_one(x)
    else:
        model.learn_one(x, y)


class _Row:
    """One series' model and what it needs of the series."""

    def __init__(self, model: Any, slot: int, lags: int) -> None:
        self.model = model
        self.slot = slot
        self.last = float("-inf")
        self.lags: collections.deque[float] = collections.deque(maxlen=lags)
        self.n = 0
        self.mean = self.dev = 0.0
        self.failed = 0  # samples in a row


class RiverDetector:
    """A `Detector` of one river model per row, made when the row's first sample arrives.

    The statistic of a sample goes through row `slot` of an inner `RangeBank`. Memory is that of the models: a few kB
    each for the scorers, 150 kB for LODA, up to a MB for trees.
    """

    KIND, VERSION = "detect.online", 2

    def __init__(self, model: str, params: Mapping[str, Any], *, lags: int = 0, policy: Policy | None = None) -> None:
        self.model, self.params, self.lags = model, dict(params), lags
        self.policy = policy or Policy()
        self.faults = 0  # samples on which a model raised or answered nothing usable
        self._bank = RangeBank(self.policy, 16)
        self._rows: dict[int, _Row] = {}
        self._free: list[int] = []
        self._slots = 0

    def check(self, path: str) -> None:
        """Make one and put it through a snapshot.

        Raises:
            ConfigError: no such model, wrong parameters, or its state cannot be kept as data.
        """
        try:
            model = make(self.model, self.params, path)
            for y in (0.0, 1.0, 2.0):
                self._try(learn, model, {"x": y}, y)
            decode(encode(model))
        except Unencodable as e:
            raise ConfigError(f"the state of `{self.model}` cannot be kept in a snapshot: {e}", path) from None

    def forget(self, row: int) -> None:
        state = self._rows.pop(row, None)
        if state is not None:
            self._bank.reset(np.array([state.slot], np.intp))
            self._free.append(state.slot)

    def __len__(self) -> int:
        return len(self._rows)

    # ------------------------------------------------------------------ the verbs

    def step(self, rows: Rows, ts: F64, values: F64) -> tuple[F64, list[Seen]]:
        """(scores, samples whose statistic left its envelope); scores before learning, in the order given."""
        at: list[int] = []
        slots: list[int] = []
        raws: list[float] = []
        context: list[tuple[float, float, float]] = []  # expected, scale, seconds since the previous sample
        for pos, (row, t, v) in enumerate(zip(rows.tolist(), ts.tolist(), values.tolist(), strict=True)):
            if not math.isfinite(v):
                continue
            state = self._rows.get(row)
            if state is None:
                state = self._rows[row] = _Row(make(self.model, self.params), self._slot(), self.lags)
            if t <= state.last:
                continue
            x, raw, expected = self._look(state, v)
            if raw is not None:
                at.append(pos)
                slots.append(state.slot)
                raws.append(raw)
                scale = max(1.2533 * state.dev, 0.05 * abs(state.mean), 1e-9)
                context.append((state.mean if expected is None else expected, scale, t - state.last))
            self._learn(state, t, x, v)
        scores = np.zeros(len(rows))
        seen: list[Seen] = []
        if at:
            outcome = self._bank.step(np.array(slots, np.intp), ts[at], np.array(raws))
            scores[at] = outcome.scores
            b = outcome.breaks
            for i, evidence in zip(b.pos.tolist(), b.evidence.tolist(), strict=True):
                if evidence <= MENTION:
                    continue
                pos, (normal, scale, gap) = at[i], context[i]
                v = float(values[pos])
                low, high = normal - 3 * scale, normal + 3 * scale
                row, t = int(rows[pos]), float(ts[pos])
                seen.append(Seen(pos, row, t, v, evidence, -1, v >= normal, normal, low, high, scale, gap, 0.0, []))
        return scores, seen

    def score(self, rows: Rows, ts: F64, values: F64) -> F64:
        """Score of each sample if it came now; mutates nothing."""
        scores = np.zeros(len(rows))
        for pos, (row, t, v) in enumerate(zip(rows.tolist(), ts.tolist(), values.tolist(), strict=True)):
            state = self._rows.get(row)
            if state is None or not math.isfinite(v) or t <= state.last:
                continue
            faults = self.faults
            _, raw, _ = self._look(state, v)
            self.faults = faults
            if raw is not None:
                scores[pos] = self._bank.score(np.array([state.slot], np.intp), np.array([t]), np.array([raw]))[0]
        return scores

    def learn(self, rows: Rows, ts: F64, values: F64) -> None:
        self.step(rows, ts, values)

    def _slot(self) -> int:
        if self._free:
            slot = self._free.pop()
        else:
            slot, self._slots = self._slots, self._slots + 1
        self._bank.mark(np.array([slot], np.intp), harm=HARM_HIGH)  # a small statistic is nothing strange
        return slot

    def _look(self, state: _Row, v: float) -> tuple[dict[str, float], float | None, float | None]:
        """(features, statistic, expected value); the statistic is None when the model has nothing to say."""
        x = {"x": v} | {f"x{i + 1}": lag for i, lag in enumerate(state.lags)}
        if state.n < LEARNING:
            return x, None, None
        ok, found = self._try(statistic, state.model, x, v)
        if not ok or not math.isfinite(found[0]):
            self.faults += 1
            return x, None, None
        return x, found[0], found[1]

    def _learn(self, state: _Row, t: float, x: dict[str, float], v: float) -> None:
        if len(state.lags) == self.lags:
            if not self._try(learn, state.model, x, v)[0]:
                self.faults += 1
                state.failed += 1
                if state.failed >= PATIENCE:
                    state.model, state.failed, state.n = make(self.model, self.params), 0, 0
            else:
                state.failed = 0
        state.n += 1
        gain = max(1 / state.n, 1e-3)
        off = v - state.mean
        if state.n > 20:
            off = min(max(off, -4 * state.dev), 4 * state.dev)
        state.mean += gain * off
        state.dev += gain * (min(abs(v - state.mean), 4 * state.dev if state.n > 20 else math.inf) - state.dev)
        state.lags.appendleft(v)
        state.last = t

    @staticmethod
    def _try(call: Callable[..., Any], *args: Any) -> tuple[bool, Any]:
        """(did it work, what it answered): a model is foreign code, and one series' trouble is not the partition's."""
        try:
            return True, call(*args)
        except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError, AssertionError):
            return False, None

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> Snapshot:
        bank = self._bank.snapshot(self._slots)
        models = {
            row: [encode(s.model), s.slot, s.last, list(s.lags), s.n, s.mean, s.dev, s.failed]
            for row, s in sorted(self._rows.items())
        }
        meta = {
            "model": self.model,
            "rows": [[row, *rest] for row, rest in models.items()],
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
        for row, model, slot, last, lags, n, mean, dev, failed in meta["rows"]:
            state = _Row(decode(model), slot, self.lags)
            state.last, state.n, state.mean, state.dev, state.failed = last, n, mean, dev, failed
            state.lags.extend(lags)
            self._rows[row] = state


class Online:
    """The configured rules over the series of a partition: which rows have a model, within each rule's budget."""

    def __init__(self, rules: Sequence[OnlineRule], policy: Policy, path: str = "$.detect.online") -> None:
        self.rules = tuple(rules)
        self._matchers = [Matcher(r.match, f"{path}[{i}].match") for i, r in enumerate(rules)]
        self.detectors = [RiverDetector(r.model, r.params, lags=r.lags, policy=policy) for r in rules]
        for i, detector in enumerate(self.detectors):
            detector.check(f"{path}[{i}]")
        self._chosen: list[dict[int, str]] = [{} for _ in rules]  # row -> harmful direction
        self._watched = np.zeros(0, np.intp)  # rows of any rule, sorted
        self._counters: dict[int, tuple[float, float] | None] = {}  # row -> (time, value) of its last sample

    @property
    def faults(self) -> int:
        """Samples that a model failed on, since the start."""
        return sum(d.faults for d in self.detectors)

    def appear(self, row: int, who: Series, counter: bool) -> None:
        for i, matches in enumerate(self._matchers):
            if len(self._chosen[i]) < self.rules[i].max_series and matches(who.labels):
                self._chosen[i][row] = who.harm
                self._watched = np.union1d(self._watched, [row])
                if counter:
                    self._counters.setdefault(row, None)

    def vanish(self, row: int) -> None:
        for i, chosen in enumerate(self._chosen):
            if chosen.pop(row, None) is not None:
                self.detectors[i].forget(row)
                self._watched = self._watched[self._watched != row]
        self._counters.pop(row, None)

    def step(self, rows: Rows, ts: F64, values: F64, skip: NDArray[np.bool_] | None = None) -> list[Seen]:
        """Samples that a model found strange in a harmful direction, in order; `pos` is into these arrays."""
        at = np.flatnonzero(np.isin(rows, self._watched)) if len(self._watched) else np.zeros(0, np.intp)
        if not len(at):
            return []
        rows, ts = rows[at], ts[at]
        v = self._rates(rows, ts, values[at])
        if skip is not None:
            v = np.where(skip[at], np.nan, v)
        out: list[tuple[int, int, Seen]] = []
        for i, chosen in enumerate(self._chosen):
            mine = np.flatnonzero(np.isin(rows, np.array(sorted(chosen), np.intp)))
            for s in self.detectors[i].step(rows[mine], ts[mine], v[mine])[1]:
                harm = chosen[s.row]
                if harm == "both" or harm == ("high" if s.up else "low"):
                    pos = int(at[mine[s.pos]])
                    out.append((pos, i, msgspec.structs.replace(s, pos=pos)))
        out.sort(key=lambda t: t[:2])
        return [s for _, _, s in out]

    def _rates(self, rows: Rows, ts: F64, values: F64) -> F64:
        """Counters as rates; the first sample of a counter, and what is not newer than its last, is NaN."""
        if not self._counters:
            return values
        out = values.copy()
        for k, (row, t, v) in enumerate(zip(rows.tolist(), ts.tolist(), values.tolist(), strict=True)):
            if row not in self._counters:
                continue
            memory = self._counters[row]
            out[k] = math.nan
            if math.isfinite(v) and (memory is None or t > memory[0]):
                self._counters[row] = (t, v)
                if memory is not None:
                    last, was = memory
                    out[k] = (v if v < was else v - was) / (t - last)
        return out

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(plain data, arrays)."""
        rules: list[Any] = []
        arrays: dict[str, Any] = {}
        for i, detector in enumerate(self.detectors):
            one = detector.snapshot()
            rules.append([self._key(i), one.meta, [list(c) for c in self._chosen[i].items()]])
            arrays |= {f"{i}.{name}": a for name, a in one.arrays.items()}
        return {"rules": rules, "counters": [[row, m] for row, m in sorted(self._counters.items())]}, arrays

    def load(self, meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Take over the models of rules that are still the same; others start anew."""
        here = {self._key(i): i for i in range(len(self.rules))}
        self._counters |= {row: None if m is None else (m[0], m[1]) for row, m in meta["counters"]}
        for j, (key, data, chosen) in enumerate(meta["rules"]):
            if key in here:
                i = here[key]
                mine = {n.removeprefix(f"{j}."): a for n, a in arrays.items() if n.startswith(f"{j}.")}
                self.detectors[i].load(
                    Snapshot(kind=RiverDetector.KIND, version=RiverDetector.VERSION, meta=data, arrays=mine)
                )
                self._chosen[i] = dict(chosen)
        self._watched = np.array(sorted({row for chosen in self._chosen for row in chosen}), np.intp)

    def _key(self, i: int) -> str:
        return msgspec.json.encode(self.rules[i], order="sorted").decode()
