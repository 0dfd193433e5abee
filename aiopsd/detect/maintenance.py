"""Planned work: when it is, and which series it concerns. What they say meanwhile is neither scored nor learned.

What enters is rules and labels of series, then times of samples; what leaves is which samples lie in a window. Windows
come from the configuration and from operators, and are a function of sample time, so that a replay leaves out the same
samples.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from aiopsd.config import WEEKDAYS, MaintenanceRule
from aiopsd.detect.bank import F64
from aiopsd.errors import ConfigError
from aiopsd.intervals import minutes
from aiopsd.matchers import Match, Matchers, seen_of
from aiopsd.model import Window as Asked

Interval = tuple[float, float]  # [begin, end) in UTC seconds
Groups: TypeAlias = NDArray[np.int32]
DAY = 86400.0
_EPOCH = date(1970, 1, 1)


class Window:
    """When one rule holds: once, or each week.

    Raises:
        ConfigError: neither or both are given, the end is not after the beginning, no such zone; names the key.
    """

    def __init__(self, rule: MaintenanceRule, path: str = "$") -> None:
        once, weekly = rule.start is not None or rule.end is not None, bool(rule.days) or rule.from_ is not None
        if once == weekly:
            raise ConfigError("a window is either `start` and `end`, or `from`, `to` and perhaps `days`", path)
        self._once: Interval | None = None
        if once:
            if rule.start is None or rule.end is None:
                raise ConfigError("a window needs `start` and `end`", path)
            for key, at in (("start", rule.start), ("end", rule.end)):
                if at.tzinfo is None:
                    raise ConfigError("give the time with its zone, as 2026-01-31T12:00:00Z", f"{path}.{key}")
            if rule.end <= rule.start:
                raise ConfigError("`end` is not after `start`", f"{path}.end")
            self._once = (rule.start.timestamp(), rule.end.timestamp())
            return
        if rule.from_ is None or rule.to is None:
            raise ConfigError("a window that recurs needs `from` and `to`", path)
        times = []
        for key, text in (("from", rule.from_), ("to", rule.to)):
            try:
                times.append(minutes(text))
            except ValueError as e:
                raise ConfigError(str(e), f"{path}.{key}") from None
        self._from, self._to = times
        self._days = frozenset(WEEKDAYS.index(day) for day in rule.days or WEEKDAYS)
        try:
            self._zone = ZoneInfo(rule.zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ConfigError(f"no time zone `{rule.zone}`", f"{path}.zone") from None
        self._known: dict[int, Interval | None] = {}

    def between(self, first: float, last: float) -> list[Interval]:
        """The intervals that touch [first, last], in order."""
        if self._once is not None:
            return [self._once] if self._once[0] <= last and first < self._once[1] else []
        found = []
        for day in range(math.floor(first / DAY) - 2, math.floor(last / DAY) + 2):  # a local day is at most a day away
            if day not in self._known:
                if len(self._known) > 1000:
                    self._known.clear()
                self._known[day] = self._of(_EPOCH + timedelta(days=day))
            one = self._known[day]
            if one is not None and one[0] <= last and first < one[1]:
                found.append(one)
        return found

    def _of(self, day: date) -> Interval | None:
        """The interval that begins on this local day; one whose end is not after its beginning ends the day after."""
        if day.weekday() not in self._days:
            return None
        over = self._to <= self._from
        begin = self._local(day, self._from)
        end = self._local(day + timedelta(days=int(over)), self._to)
        return (begin, end) if end > begin else None

    def _local(self, day: date, minute: int) -> float:
        whole, rest = divmod(minute, 1440)
        at = datetime.combine(day + timedelta(days=whole), time(rest // 60, rest % 60), self._zone)
        return at.astimezone(UTC).timestamp()


class Once:
    """When a window holds that an operator asked for."""

    def __init__(self, asked: Asked) -> None:
        self._interval = (asked.starts_at, asked.ends_at)

    def between(self, first: float, last: float) -> list[Interval]:
        """As of a `Window`."""
        begin, end = self._interval
        return [self._interval] if begin <= last and first < end and begin < end else []


def _in_order(windows: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(windows)))


def _mapped(groups: Groups, change: Callable[[int], int]) -> Groups:
    """Each number changed: there are many rows and few numbers."""
    numbers, at = np.unique(groups, return_inverse=True)
    return np.array([change(number) for number in numbers.tolist()], np.int32)[at]


class Maintenance:
    """All windows, and which of them concern a row. Row state: `group: int32[rows]`, 0 for none.

    `rules` are the configuration's, `asked` what operators asked for.
    """

    def __init__(
        self, rules: Sequence[MaintenanceRule], asked: Sequence[Asked] = (), path: str = "$.detect.maintenance"
    ) -> None:
        self.rules, self.asked = tuple(rules), tuple(asked)
        self._windows: list[Window | Once] = [Window(rule, f"{path}[{i}]") for i, rule in enumerate(rules)]
        self._windows += [Once(window) for window in asked]
        self._matchers: list[Callable[[Mapping[str, str]], bool]] = [
            Match(rule.match, f"{path}[{i}].match") for i, rule in enumerate(rules)
        ]
        self._matchers += [Matchers(window.matchers).matches for window in asked]
        self._keys: list[Hashable] = [*range(len(rules)), *(window.matchers for window in asked)]  # which series
        self._groups: list[tuple[int, ...]] = [()]  # each: the windows that concern its rows
        self._ids: dict[tuple[int, ...], int] = {(): 0}

    def __bool__(self) -> bool:
        """Whether there is any window."""
        return bool(self._windows)

    def group(self, labels: Mapping[str, str], service: str) -> int:
        """Number of the set of windows that concern a series; `service` is what it belongs to."""
        given = seen_of(labels, service)
        return self._number(tuple(i for i, matches in enumerate(self._matchers) if matches(given)))

    def concerns(self, window: int, labels: Mapping[str, str], service: str) -> bool:
        """Whether a series is one of a window's, by its number."""
        return self._matchers[window](seen_of(labels, service))

    def fresh(self, before: "Maintenance") -> list[int]:
        """Numbers of the windows about series that no window `before` was about; they were asked for."""
        told = set(before._keys)
        return [i for i, key in enumerate(self._keys) if key not in told]

    def carried(self, before: "Maintenance", groups: Groups) -> Groups:
        """What the rows' groups `before` are here; those of `fresh` windows have to be `joined` yet."""
        here: dict[Hashable, list[int]] = {}
        for i, key in enumerate(self._keys):
            here.setdefault(key, []).append(i)
        return _mapped(
            groups,
            lambda old: self._number(_in_order(i for j in before._groups[old] for i in here.get(before._keys[j], ()))),
        )

    def joined(self, groups: Groups, window: int) -> Groups:
        """The groups of rows that this window concerns, too."""
        return _mapped(groups, lambda old: self._number(_in_order((*self._groups[old], window))))

    def _number(self, windows: tuple[int, ...]) -> int:
        found = self._ids.get(windows)
        if found is None:
            found = self._ids[windows] = len(self._groups)
            self._groups.append(windows)
        return found

    def _of(self, group: int, first: float, last: float) -> list[Interval]:
        return [one for i in self._groups[group] for one in self._windows[i].between(first, last)]

    def inside(self, groups: Groups, ts: F64) -> NDArray[np.bool_] | None:
        """Which samples lie in a window of their row's rules; None: none does."""
        out: NDArray[np.bool_] | None = None
        for group in np.unique(groups).tolist():
            if not group:
                continue
            mine = groups == group
            for begin, end in self._of(group, float(ts[mine].min()), float(ts[mine].max())):
                hit = mine & (ts >= begin) & (ts < end)
                out = hit if out is None else out | hit
        return out

    def until(self, groups: Groups, now: float, back: float) -> F64:
        """Per row: when its window that began last, within `back` seconds, ends; -inf: there was none.

        Later than `now`: the row is under maintenance.
        """
        out = np.full(len(groups), -np.inf)
        for group in np.unique(groups).tolist():
            if group:
                ends = [end for _, end in self._of(group, now - back, now)]
                if ends:
                    out[groups == group] = max(ends)
        return out

    def active(self, now: float) -> list[str]:
        """Names of the rules in force."""
        names = [rule.name or ", ".join(f"{k}={v}" for k, v in rule.match.items()) for rule in self.rules]
        names += [window.comment or str(Matchers(window.matchers)) for window in self.asked]
        return [
            name
            for name, window in zip(names, self._windows, strict=True)
            if any(begin <= now < end for begin, end in window.between(now, now))
        ]
