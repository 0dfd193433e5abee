"""Fixed limits on the raw value of chosen series, with hysteresis and a minimum duration.

What enters is columns of accepted samples and the watermark; what leaves is one `Anomaly` per breach, firing and then
resolved. Only series that are outside, or were a moment ago, cost more than a comparison.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.config import ThresholdRule
from aiopsd.detect.bank import F64, Rows
from aiopsd.detect.evidence import Describe, Series, clock
from aiopsd.errors import ConfigError
from aiopsd.evidence import readings
from aiopsd.matchers import Match, seen_of
from aiopsd.model import Anomaly, Direction, Evidence, content_id, labels_text

_LONGEST_GAP = 2.5  # sampling intervals, as in join: silence shorter than this is no silence


class Breach(msgspec.Struct):
    """One series outside one limit."""

    rule: int
    row: int
    text: str  # labels of the series
    since: float
    last: float  # time of its last sample
    interval: float
    worst: float
    high: bool
    firing: bool = False
    deadline: float = 0.0


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """One sample of a watched series; `pos` is its place in the arrays of the call."""

    pos: int
    rule: int
    row: int
    ts: float
    value: float
    beyond: bool


def _check(rules: Sequence[ThresholdRule], path: str) -> None:
    """Raises ConfigError for what can never be meant; names the key."""
    names = [rule.name for rule in rules]
    for i, rule in enumerate(rules):
        here = f"{path}[{i}]"
        if names.index(rule.name) < i:
            raise ConfigError(f"two limits are named `{rule.name}`", f"{here}.name")
        if rule.above is None and rule.below is None:
            raise ConfigError("a limit needs `above` or `below`", here)
        highest = math.inf if rule.above is None else rule.above
        lowest = -math.inf if rule.below is None else rule.below
        if lowest >= highest:
            raise ConfigError("`below` is not under `above`: every value would be outside", f"{here}.below")
        if rule.clear is not None and not lowest <= rule.clear <= highest:
            raise ConfigError("`clear` lies outside of the limit: the event would never end", f"{here}.clear")


class Limits:
    """State per rule: a bool per row (does the rule look at it), and the few breaches under way.

    Raises:
        ConfigError: a matcher cannot be used, or a limit cannot be meant; names the key.
    """

    def __init__(
        self,
        rules: Sequence[ThresholdRule],
        resolve_after: float,
        describe: Describe,
        path: str = "$.detect.thresholds",
    ) -> None:
        self.rules = tuple(rules)
        self.resolve_after = resolve_after
        self.describe = describe
        self._gone: list[str] = []  # rules that are no longer configured, until the end of their events was told
        self._matchers = [Match(r.match, f"{path}[{i}].match") for i, r in enumerate(rules)]
        _check(rules, path)
        self._watch = np.zeros((len(self.rules), 0), bool)
        self._hot = np.zeros(0, bool)
        self._breaches: dict[tuple[int, int], Breach] = {}
        self._timers: list[tuple[float, int, str, int]] = []

    def __bool__(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self.rules or self._gone)

    def appear(self, row: int, who: Series) -> None:
        if not self.rules:
            return
        if row >= self._watch.shape[1]:
            more = max(row + 1, 2 * self._watch.shape[1]) - self._watch.shape[1]
            self._watch = np.pad(self._watch, ((0, 0), (0, more)))
            self._hot = np.pad(self._hot, (0, more))
        for i, matches in enumerate(self._matchers):
            self._watch[i, row] = matches(seen_of(who.labels, who.service))

    def vanish(self, row: int) -> None:
        if row < self._watch.shape[1]:
            self._watch[:, row] = False
        for i in range(len(self.rules)):
            self._breaches.pop((i, row), None)

    # ------------------------------------------------------------------ samples

    def select(self, rows: Rows, ts: F64, values: F64) -> list[Reading]:
        """The samples worth a look, in order: of series that are, or in this call come, outside a limit.

        Rows may repeat; NaN is inside every limit. Hand each to `observe`.
        """
        out: list[Reading] = []
        for i, rule in enumerate(self.rules):
            watched = self._watch[i][rows]
            if not watched.any():
                continue
            beyond = self._beyond(rule, values) & watched
            self._hot[rows[beyond]] = True
            for r, row in self._breaches:
                if r == i:
                    self._hot[row] = True
            at = np.flatnonzero(watched & self._hot[rows] & ~np.isnan(values))
            self._hot[:] = False
            columns = (at.tolist(), rows[at].tolist(), ts[at].tolist(), values[at].tolist(), beyond[at].tolist())
            out += [Reading(k, i, row, t, v, bad) for k, row, t, v, bad in zip(*columns, strict=True)]
        out.sort(key=lambda r: (r.pos, r.rule))
        return out

    @staticmethod
    def _beyond(rule: ThresholdRule, values: F64) -> NDArray[np.bool_]:
        out = np.zeros(len(values), bool)
        if rule.above is not None:
            out |= values > rule.above
        if rule.below is not None:
            out |= values < rule.below
        return out

    def observe(self, r: Reading) -> Anomaly | None:
        """Take one sample; the event it makes, if any."""
        i, row, ts, value, bad = r.rule, r.row, r.ts, r.value, r.beyond
        rule = self.rules[i]
        breach = self._breaches.get((i, row))
        if breach is None:
            if not bad:
                return None
            high = rule.above is not None and value > rule.above
            text = labels_text(self.describe(row).labels)
            breach = Breach(i, row, text, ts, ts, 0.0, value, high)
            self._breaches[i, row] = breach
            self._schedule(breach)
        else:
            unknown = breach.interval == 0.0
            breach.interval = ts - breach.last
            breach.last = ts
            if unknown:
                self._schedule(breach)  # the patient timer of the first sample is void
        if bad:
            worse = value > breach.worst if breach.high else value < breach.worst
            if worse:
                breach.worst = value
            if not breach.firing and ts - breach.since >= rule.min_duration:
                breach.firing = True
                return self._event(breach, ts, "firing", 0)
            return None
        if breach.firing:
            clear = rule.clear
            inside = True if clear is None else (value <= clear if breach.high else value >= clear)
            if not inside:
                return None
        del self._breaches[i, row]
        return self._event(breach, ts, "resolved", 1) if breach.firing else None

    # ------------------------------------------------------------------ time

    def next_due(self) -> float:
        """Watermark at which `due` has something to look at; inf: never."""
        if self._gone:
            return float("-inf")
        return self._timers[0][0] if self._timers else float("inf")

    def due(self, now: float) -> list[Anomaly]:
        """What ends without a sample: of a rule that is gone, and of a series that has been silent for long."""
        out = []
        if self._gone:
            over = sorted(
                (b for b in self._breaches.values() if b.rule >= len(self.rules)), key=lambda b: (b.rule, b.text)
            )
            for b in over:
                del self._breaches[b.rule, b.row]
                if b.firing:
                    out.append(self._lifted(b, now))
            self._gone.clear()
        while self._timers and self._timers[0][0] <= now:
            at, i, _, row = heapq.heappop(self._timers)
            breach = self._breaches.get((i, row))
            if breach is None or breach.deadline != at:
                continue
            if self._deadline(breach) > at:
                self._schedule(breach)
                continue
            del self._breaches[i, row]
            if breach.firing:
                out.append(self._event(breach, at, "resolved", 1))
        return out

    def _deadline(self, b: Breach) -> float:
        # a first sample knows no interval yet: be patient for an hour
        return b.last + max(self.resolve_after, _LONGEST_GAP * b.interval if b.interval else 3600.0)

    def _schedule(self, b: Breach) -> None:
        b.deadline = self._deadline(b)
        heapq.heappush(self._timers, (b.deadline, b.rule, b.text, b.row))

    # ------------------------------------------------------------------ words

    def _event(self, b: Breach, ts: float, state: str, revision: int) -> Anomaly:
        rule, who = self.rules[b.rule], self.describe(b.row)
        limit = rule.above if b.high else rule.below
        assert limit is not None
        beyond = abs(b.worst - limit)
        scale = max(abs(limit), 1e-9)
        score = 0.5 + 0.5 * beyond / (beyond + scale)
        word = "above" if b.high else "below"
        (worst, bound), unit = readings(who.metric, [b.worst, limit])
        return Anomaly(
            id=content_id("threshold", rule.name, b.text, round(b.since)),
            service=who.service,
            signal=who.metric,
            severity=rule.severity,
            state=state,
            onset=b.since,
            ts=ts,
            score=score,
            revision=revision,
            labels=_named(who, rule.name),
            summary=f"{who.metric} {worst}{unit} {word} {bound}{unit} ({rule.name}), since {clock(b.since)}",
            evidence=(
                Evidence(
                    service=who.service,
                    metric=who.metric,
                    kind=who.kind,
                    labels=who.labels,
                    channel="threshold",
                    direction=Direction.HIGH if b.high else Direction.LOW,
                    level=b.worst,
                    normal=limit,
                    low=min(0.0, limit) if rule.below is None else rule.below,
                    high=max(0.0, limit) if rule.above is None else rule.above,
                    scale=scale,
                    deviation=beyond / scale,
                    score=score,
                    onset=b.since,
                ),
            ),
        )

    def _lifted(self, b: Breach, ts: float) -> Anomaly:
        """The event of a breach ends with its rule."""
        name, who = self._gone[b.rule - len(self.rules)], self.describe(b.row)
        return Anomaly(
            id=content_id("threshold", name, b.text, round(b.since)),
            service=who.service,
            signal=who.metric,
            state="resolved",
            onset=b.since,
            ts=ts,
            score=0.5,
            revision=1,
            labels=_named(who, name),
            summary=f"{who.metric}: there is no limit {name} any more",
        )

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> dict[str, Any]:
        return {
            "rules": [*(r.name for r in self.rules), *self._gone],
            "breaches": [msgspec.to_builtins(b) for _, b in sorted(self._breaches.items())],
            "timers": sorted(list(t) for t in self._timers),
        }

    def load(self, data: Mapping[str, Any]) -> None:
        """Take breaches over from a snapshot; those of rules that are gone, or lost that side, end at the next look."""
        names = {r.name: i for i, r in enumerate(self.rules)}
        before: list[str] = data["rules"]
        for raw in data["breaches"]:
            b = msgspec.convert(raw, Breach)
            name = before[b.rule]
            b.rule = names.get(name, -1)
            if b.rule < 0 or (self.rules[b.rule].above if b.high else self.rules[b.rule].below) is None:
                b.rule = len(self.rules) + len(self._gone)
                self._gone.append(name)
            self._breaches[b.rule, b.row] = b
        here = [names.get(name, -1) for name in before]
        self._timers = sorted((t, here[i], text, row) for t, i, text, row in data["timers"] if here[i] >= 0)


def _named(who: Series, rule: str) -> dict[str, str]:
    """Labels of an event: the series', and the limit's name."""
    return {k: v for k, v in who.labels.items() if k != "__name__"} | {"rule": rule}
