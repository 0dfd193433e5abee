"""Models on selected series and services, behind the bank's verbs: the second tier, for what an envelope cannot see.

What enters is columns of samples; what leaves is the samples that a model found strange, and what they make of the
bank's evidence. A rule names a model and either series, each of which gets one, or the features of a service, which get
one together.

A verdict of the second tier confirms: it raises what the bank says of the same series, or of the series of the same
service, within about an hour; what stays unconfirmed may be worth less. Alone it makes no event unless its rule says
so. How many have a model is a matter of a budget of CPU, counted from each rule's cost and each series' own pace, so
that the same samples always promote the same series.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.config import OnlineRule
from aiopsd.detect.bank import F64, MENTION, Policy, Rows
from aiopsd.detect.calibrate import ASSUMED, USUAL, ModelDetector, Strange
from aiopsd.detect.evidence import Series, number
from aiopsd.detect.join import HALF_LIFE, Seen
from aiopsd.detect.vectors import Vectors, feature_of
from aiopsd.errors import ConfigError
from aiopsd.matchers import Match, seen_of
from aiopsd.model import Snapshot

RAISE = 3.0  # times, at most, that a verdict adds to the evidence it confirms
ONLINE = -1  # the channel of what a model says

Subject = tuple[int, int]  # (rule, row or id of a service): what a model is of


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """What a model said, by how rare it is; it fades as the evidence of the join does."""

    ts: float
    evidence: float
    opinion: str  # the same in words


class Said(msgspec.Struct, frozen=True):
    """A sample that a model found strange, as the join would see it."""

    seen: Seen
    subject: Subject
    alone: bool  # may it be an event by itself


class _Rule:
    """One rule: its model, who has one, who waits for one. Who: a row, or the id of a service for a vector rule."""

    def __init__(self, rule: OnlineRule, policy: Policy, path: str) -> None:
        self.rule = rule
        if rule.every <= 0:
            raise ConfigError("an interval is longer than nothing", f"{path}.every")
        self.matches = Match(rule.match, f"{path}.match")
        self.vectors = Vectors(float(rule.every)) if rule.features else None
        self.metrics = [Match({"__name__": f}, f"{path}.features[{i}]") for i, f in enumerate(rule.features)]
        self.detector = ModelDetector(
            rule.model, rule.params, lags=rule.lags, policy=policy, vector=bool(rule.features), path=path
        )
        self.chosen: dict[int, str] = {}  # who -> harmful direction
        self.waiting: dict[int, str] = {}
        # shares of a core, by the paces as of the last `balance`: what they are now depends on how the stream was cut
        self.shares: dict[int, float] = {}
        self.watched = np.zeros(0, np.intp)  # rows that a model looks at, sorted
        self.key = msgspec.json.encode(rule, enc_hook=float, order="sorted").decode()  # a Duration is a float

    def wants(self, who: Series) -> bool:
        """Whether a series takes part."""
        given = seen_of(who.labels, who.service)
        return self.matches(given) and (not self.metrics or any(m(given) for m in self.metrics))

    def appear(self, row: int, who: Series) -> None:
        if self.vectors is None:
            self.waiting[row] = who.harm
            return
        key = self.vectors.appear(row, who.service, feature_of(who.labels, self.rule.by), who.harm)
        if key not in self.chosen:
            self.waiting.setdefault(key, "")  # which way harms is a matter of the feature

    def vanish(self, row: int) -> int | None:
        """The series is gone; who had a model and is gone with it."""
        who = row if self.vectors is None else self.vectors.vanish(row)
        if who is None:
            return None
        self.waiting.pop(who, None)
        self.shares.pop(who, None)
        if self.chosen.pop(who, None) is None:
            return None
        self.detector.forget(who)
        return who

    def of(self, row: int) -> int | None:
        """Who of those that have a model this row is, or belongs to."""
        who = row if self.vectors is None else self.vectors.of(row)
        return who if who in self.chosen else None

    def watch(self) -> None:
        """Find out anew which rows a model looks at."""
        vectors = self.vectors
        rows = list(self.chosen) if vectors is None else [row for key in self.chosen for row in vectors.rows(key)]
        self.watched = np.array(sorted(rows), np.intp)

    def share(self, who: int) -> float:
        """Of a core, by the rule's cost."""
        return self.shares.get(who, 1e-6 * self.rule.cost / ASSUMED)

    # ------------------------------------------------------------------ samples

    def step(self, rows: Rows, ts: F64, values: F64, record: Rows) -> list[tuple[Seen, int, bool]]:
        """(sample that the model found strange, who it is of, may it be an event alone), in order."""
        mine = np.flatnonzero(np.isin(rows, self.watched))
        if not len(mine):
            return []
        rows, ts, values, record = rows[mine], ts[mine], values[mine], record[mine]
        if self.vectors is None:
            strange = self.detector.step(rows, ts, values)[1]
            found = [(s.row, self._seen(s, s.row, s.value), self.chosen[s.row], s.news) for s in strange]
        else:
            found = list(self._services(self.vectors, rows, ts, values, record))
        return [
            (
                msgspec.structs.replace(seen, pos=int(mine[seen.pos])),
                who,
                news and self.rule.alone and (harm == "both" or harm == ("high" if seen.up else "low")),
            )
            for who, seen, harm, news in found
        ]

    def _services(
        self, vectors: Vectors, rows: Rows, ts: F64, values: F64, record: Rows
    ) -> Iterator[tuple[int, Seen, str, bool]]:
        """(who, the strangest feature as a sample of its series, which way that one harms, is it news)."""
        for c in vectors.step(rows.tolist(), ts.tolist(), values.tolist(), record.tolist()):
            if not c.features:
                continue
            far = max(c.features.values(), key=abs)
            found = self.detector.step(np.array([c.id], np.intp), np.array([c.ts]), np.array([far]), [c.features])[1]
            for s in found:
                row, part = vectors.strangest(c.id, s.feature)
                normal, scale = part.level.mean, part.level.scale
                if s.feature:  # what the others say of it, in deviations
                    normal, scale = normal + s.normal * scale, s.scale * scale
                s = msgspec.structs.replace(s, pos=c.pos, normal=normal, scale=scale, recent=part.recent)
                yield c.id, self._seen(s, row, part.value, part.feature), part.harm, s.news

    def _seen(self, s: Strange, row: int, value: float, feature: str = "") -> Seen:
        low, high = s.normal - USUAL * s.scale, s.normal + USUAL * s.scale
        told = f"{s.statistic:.4g}, until now at most {s.usual:.4g}"
        if s.expected:
            told = f"{feature or 'value'} {number(value)} where {number(low)}..{number(high)} was expected: {told}"
        elif feature:
            told = f"{feature} {number(value)} is farthest from its level: {told}"
        return Seen(
            pos=s.pos,
            row=row,
            ts=s.ts,
            value=value,
            evidence=s.evidence,
            channel=ONLINE,
            up=value >= s.normal,
            normal=s.normal,
            low=low,
            high=high,
            scale=s.scale,
            interval=s.interval,
            lead=0.0,
            recent=list(s.recent),
            opinion=f"{self.rule.model}: {told}",
        )


class Online:
    """The configured rules over the series of a partition: who has a model, and what their verdicts confirm.

    Who matches waits in order of appearance; those before it have a model as long as `max_series` of the rule and the
    CPU budget of all rules have room. The budget is looked at when a series appears, and at `balance`.
    """

    def __init__(
        self, rules: Sequence[OnlineRule], policy: Policy, path: str = "$.detect.online", *, budget: float = math.inf
    ) -> None:
        """`budget`: share of a core that the models may take, by the rules' costs."""
        self.budget = budget
        self.theta = policy.theta
        self.rules = [_Rule(rule, policy, f"{path}[{i}]") for i, rule in enumerate(rules)]
        self._watched = np.zeros(0, np.intp)  # rows of any rule, sorted; made anew when they are `_stale`
        self._stale = self._room = False  # `_room`: somebody who waits may have a model now
        self._counters: dict[int, tuple[float, float] | None] = {}  # row -> (time, value) of its last sample
        self._verdicts: dict[Subject, Verdict] = {}  # of a model, the strongest of late
        self._told: dict[Subject, float] = {}  # when the bank last had enough by itself

    @property
    def detectors(self) -> list[ModelDetector]:
        """One of each rule."""
        return [r.detector for r in self.rules]

    @property
    def faults(self) -> int:
        """Samples that a model failed on, since the start."""
        return sum(d.faults for d in self.detectors)

    @property
    def share(self) -> float:
        """Share of a core that the models take, by the rules' costs and the series' paces as of the last `balance`."""
        return sum(r.share(who) for r in self.rules for who in r.chosen)

    @property
    def waiting(self) -> int:
        """Series and services that match a rule and have no model for want of room."""
        return sum(len(r.waiting) for r in self.rules)

    # ------------------------------------------------------------------ series come and go

    def appear(self, row: int, who: Series, counter: bool) -> None:
        wanted = [r for r in self.rules if r.wants(who)]
        if not wanted:
            return
        self._room |= any(not r.waiting for r in wanted)  # else somebody is before it
        for r in wanted:
            r.appear(row, who)
        if counter:
            self._counters.setdefault(row, None)
        self._stale = True
        if self._room:
            self._promote()

    def vanish(self, row: int) -> None:
        for i, r in enumerate(self.rules):
            who = r.vanish(row)
            if who is not None:
                self._forget((i, who))
                self._room = True
        self._counters.pop(row, None)
        self._stale = True

    def balance(self) -> None:
        """Hold the budget by the paces that are known by now: the newest models go first, room goes to who waits."""
        for r in self.rules:
            r.shares |= {who: 1e-6 * r.rule.cost / r.detector.interval(who) for who in r.chosen}
        load = self.share
        for i, r in reversed(list(enumerate(self.rules))):
            while r.chosen and load > self.budget:
                who, harm = r.chosen.popitem()
                load -= r.share(who)
                r.detector.forget(who)
                self._forget((i, who))
                r.waiting = {who: harm, **r.waiting}
        self._promote()

    def _forget(self, subject: Subject) -> None:
        self._verdicts.pop(subject, None)
        self._told.pop(subject, None)

    def _promote(self) -> None:
        load = self.share if self.waiting else 0.0
        for r in self.rules:
            while r.waiting and len(r.chosen) < r.rule.max_series:
                who = next(iter(r.waiting))
                load += r.share(who)
                if load > self.budget:
                    break
                r.chosen[who] = r.waiting.pop(who)
        self._room, self._stale = False, True

    def _watch(self) -> None:
        for r in self.rules:
            r.watch()
        none = np.zeros(0, np.intp)
        self._watched = np.unique(np.concatenate([none, *(r.watched for r in self.rules)]))
        self._stale = False

    # ------------------------------------------------------------------ samples

    def step(self, rows: Rows, ts: F64, values: F64, record: Rows, skip: NDArray[np.bool_] | None = None) -> list[Said]:
        """Samples that a model found strange, in order; `seen.pos` is into these arrays. `record`: which each is of."""
        if self._stale:
            self._watch()
        at = np.flatnonzero(np.isin(rows, self._watched)) if len(self._watched) else np.zeros(0, np.intp)
        if not len(at):
            return []
        rows, ts, record = rows[at], ts[at], record[at]
        v = self._rates(rows, ts, values[at])
        if skip is not None:
            v = np.where(skip[at], np.nan, v)
        out: list[Said] = []
        for i, r in enumerate(self.rules):
            for seen, who, alone in r.step(rows, ts, v, record):
                out.append(Said(msgspec.structs.replace(seen, pos=int(at[seen.pos])), (i, who), alone))
        out.sort(key=lambda said: (said.seen.pos, said.subject[0]))
        return out

    def confirm(self, bank: Iterable[Seen], models: Iterable[Said]) -> Iterator[Seen]:
        """Both tiers' samples in order, as the join shall see them.

        What the bank says of a row is raised by the verdict that its models gave within about an hour before, and
        worth less when they are used to the series and gave none. A model's own sample comes out only where its rule
        lets it stand alone, and where it does not look at what the bank had enough of already.
        """
        for s, said in heapq.merge(
            ((s, None) for s in bank), ((said.seen, said) for said in models), key=lambda pair: pair[0].pos
        ):
            if said is not None:
                if s.evidence > self._left(said.subject, s):
                    self._verdicts[said.subject] = Verdict(s.ts, min(s.evidence, 1.0), s.opinion)
                if said.alone and self._is_news(said):
                    yield s
            else:
                yield self._judged(s)

    def _is_news(self, said: Said) -> bool:
        i, who = said.subject
        return said.seen.ts - self._told.get(said.subject, -math.inf) > self.rules[i].detector.span(who)

    def _left(self, subject: Subject, s: Seen) -> float:
        """What is left of the last verdict on this subject at the time of a sample."""
        verdict = self._verdicts.get(subject)
        if verdict is None:
            return 0.0
        return verdict.evidence * float(0.5 ** (max(s.ts - verdict.ts, 0.0) / max(HALF_LIFE, 6 * s.interval)))

    def _judged(self, s: Seen) -> Seen:
        """What the bank says, beside what the models of its row and of its service said."""
        subjects = [(i, who) for i, r in enumerate(self.rules) if (who := r.of(s.row)) is not None]
        if s.evidence <= MENTION or not subjects:
            return s
        doubt = min(self.rules[i].rule.doubt if self.rules[i].detector.ready(who, s.ts) else 1.0 for i, who in subjects)
        left, strongest = max((self._left(subject, s), subject) for subject in subjects)
        opinion = self._verdicts[strongest].opinion if left > MENTION else ""
        evidence = s.evidence * (doubt + min(left / self.theta, RAISE))
        if evidence >= self.theta:
            self._told |= {(i, who): s.ts for i, who in subjects if self.rules[i].rule.alone}
        return msgspec.structs.replace(s, evidence=evidence, opinion=opinion or s.opinion)

    def _rates(self, rows: Rows, ts: F64, values: F64) -> F64:
        """Counters as rates; the first sample of a counter or after a reset, and what is not newer, is NaN."""
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
                    out[k] = math.nan if v < was else (v - was) / (t - last)  # a reset says nothing: `bank.admit`
        return out

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(plain data, arrays)."""
        rules: list[Any] = []
        arrays: dict[str, Any] = {}
        for i, r in enumerate(self.rules):
            one = r.detector.snapshot()
            who = [[list(c) for c in which.items()] for which in (r.chosen, r.waiting, r.shares)]
            rules.append([r.key, one.version, one.meta, *who, None if r.vectors is None else r.vectors.snapshot()])
            arrays |= {f"{i}.{name}": a for name, a in one.arrays.items()}
        meta = {
            "rules": rules,
            "counters": [[row, m] for row, m in sorted(self._counters.items())],
            "verdicts": [[list(s), msgspec.to_builtins(v)] for s, v in sorted(self._verdicts.items())],
            "told": [[list(s), ts] for s, ts in sorted(self._told.items())],
        }
        return meta, arrays

    def load(self, meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Take over the models of rules that are still the same; others start anew."""
        here = {r.key: i for i, r in enumerate(self.rules)}
        there = {j: here[key] for j, (key, *_) in enumerate(meta["rules"]) if key in here}
        self._counters |= {row: None if m is None else (m[0], m[1]) for row, m in meta["counters"]}
        self._verdicts = {
            (there[j], who): msgspec.convert(v, Verdict) for (j, who), v in meta["verdicts"] if j in there
        }
        self._told = {(there[j], who): float(ts) for (j, who), ts in meta["told"] if j in there}
        for j, (_, version, data, chosen, waiting, shares, vectors) in enumerate(meta["rules"]):
            if j not in there:
                continue
            r = self.rules[there[j]]
            mine = {n.removeprefix(f"{j}."): a for n, a in arrays.items() if n.startswith(f"{j}.")}
            r.detector.load(Snapshot(kind=ModelDetector.KIND, version=version, meta=data, arrays=mine))
            r.chosen, r.waiting, r.shares = dict(chosen), dict(waiting), dict(shares)
            if r.vectors is not None:
                r.vectors.load(vectors)
        self._stale = self._room = True
