"""Parts of the calendar that have a name: when a route is muted, or when it is active.

Enters: the `time_intervals` of the configuration, and stamps. Leaves: whether a stamp lies in one. Semantics are
Alertmanager's (its timeinterval/timeinterval.go): of every kind that is given (times, weekdays, ...) one range must
hold; ranges include both of their ends, only a time of day excludes its end; days below zero count from the end of the
month. Local times are the location's, daylight saving included: an hour that a day has twice is meant twice.
"""

from calendar import monthrange
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aiopsd.config import TimeInterval, TimeIntervals
from aiopsd.errors import ConfigError

Span = tuple[int, int]  # first and last, both inside
_WEEKDAYS = (
    "sunday",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
)  # a range begins before it ends
_MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)


def minutes(text: str) -> int:
    """Minutes of the day of `HH:MM`, up to 24:00.

    Raises:
        ValueError: it is no time of day.

    >>> minutes("06:30"), minutes("24:00")
    (390, 1440)
    """
    hour, colon, minute = text.partition(":")
    digits = colon and hour.isdecimal() and minute.isdecimal() and len(minute) == 2 and int(minute) < 60
    found = int(hour) * 60 + int(minute) if digits else -1
    if not 0 <= found <= 1440:
        raise ValueError(f"not a time of day: {text!r} (write `22:30`)")
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """One entry of an interval; no spans of a kind: any."""

    zone: ZoneInfo
    minutes: tuple[Span, ...]
    weekdays: tuple[Span, ...]  # 0 is Sunday
    days: tuple[Span, ...]
    months: tuple[Span, ...]
    years: tuple[Span, ...]

    def holds(self, stamp: float) -> bool:
        at = datetime.fromtimestamp(stamp, self.zone)
        length = monthrange(at.year, at.month)[1]
        days = [tuple(day if day > 0 else length + 1 + day for day in span) for span in self.days]
        return (
            _within(at.hour * 60 + at.minute, self.minutes)
            and _within(at.isoweekday() % 7, self.weekdays)
            and _within(at.day, days)
            and _within(at.month, self.months)
            and _within(at.year, self.years)
        )


def _within(value: int, spans: Sequence[tuple[int, ...]]) -> bool:
    return not spans or any(first <= value <= last for first, last in spans)


@dataclass(frozen=True, slots=True)
class Interval:
    """A named interval: the union of its parts."""

    name: str
    parts: tuple[_Part, ...]

    def holds(self, stamp: float) -> bool:
        """Whether `stamp` (UTC seconds) lies in it."""
        return any(part.holds(stamp) for part in self.parts)


def build(given: TimeIntervals, path: str) -> Interval:
    """The interval of the configuration.

    Raises:
        ConfigError: no name, a range that cannot be read or ends before it begins, no such location; names the key.
    """
    if not given.name:
        raise ConfigError("a time interval needs a `name`", f"{path}.name")
    parts = (_part(part, f"{path}.time_intervals[{i}]") for i, part in enumerate(given.time_intervals))
    return Interval(given.name, tuple(parts))


def _part(given: TimeInterval, path: str) -> _Part:
    try:
        zone = ZoneInfo(given.location)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder of zones
        raise ConfigError(f"no time zone `{given.location}`", f"{path}.location") from None
    times = []
    for i, one in enumerate(given.times):
        try:
            first, end = minutes(one.start_time), minutes(one.end_time)
        except ValueError as e:
            raise ConfigError(str(e), f"{path}.times[{i}]") from None
        if first >= end:
            raise ConfigError(
                "`end_time` is not after `start_time`: give two times, on both sides of midnight", f"{path}.times[{i}]"
            )
        times.append((first, end - 1))
    return _Part(
        zone=zone,
        minutes=tuple(times),
        weekdays=_spans(given.weekdays, lambda text: _named(text, _WEEKDAYS, "a weekday"), f"{path}.weekdays"),
        days=_spans(given.days_of_month, _day, f"{path}.days_of_month"),
        months=_spans(given.months, _month, f"{path}.months"),
        years=_spans(given.years, lambda text: _number(text, "a year", range(1, 10_000)), f"{path}.years"),
    )


def _spans(given: Sequence[str | int], number: Callable[[str], int], path: str) -> tuple[Span, ...]:
    found = []
    for i, text in enumerate(given):
        first, colon, last = str(text).lower().partition(":")
        try:
            span = (number(first), number(last if colon else first))
        except ValueError as e:
            raise ConfigError(str(e), f"{path}[{i}]") from None
        # of days from the month's end it is not known, but where it is so in every month; never from there to a date
        begin, end = (28 + day if day < 0 else day for day in span)
        if begin > end or span[0] < 0 < span[1]:
            raise ConfigError(f"the range `{text}` ends before it begins", f"{path}[{i}]")
        found.append(span)
    return tuple(found)


def _number(text: str, what: str, allowed: range) -> int:
    if not text.removeprefix("-").isdecimal() or int(text) not in allowed:
        raise ValueError(f"not {what}: {text!r}")
    return int(text)


def _named(text: str, names: Sequence[str], what: str) -> int:
    if text not in names:
        raise ValueError(f"not {what}: {text!r} (write `{names[1]}`, or a range `{names[1]}:{names[4]}`)")
    return names.index(text)


def _month(text: str) -> int:
    return _number(text, "a month", range(1, 13)) if text.isdecimal() else _named(text, _MONTHS, "a month") + 1


def _day(text: str) -> int:
    day = _number(text, "a day of the month", range(-31, 32))
    if not day:
        raise ValueError("not a day of the month: '0'")
    return day
