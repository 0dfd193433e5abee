"""A service's metrics as one vector an interval: what a model needs that shall know how they move together.

What enters is the samples of the series that take part, record by record; what leaves is vectors of features, each in
deviations from its own level. Within a record samples count in the order of their times, so a body that holds an hour
of one series and then an hour of the next is no trouble. An interval ends when everybody has spoken who spoke in the
last one, or when somebody speaks of a later one; who has not spoken then is as he last was, for a while.
"""

import collections
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from aiopsd.detect.bank import SLOTS
from aiopsd.detect.calibrate import Level

BOUND = 10.0  # deviations; what is farther is far, and no sum of squares shall be about one feature only
AGE = 2.5  # of a series' own intervals; then it is missing rather than as it was


class Part(msgspec.Struct):
    """One series of a vector."""

    feature: str
    harm: str  # which way it harms
    level: Level
    ts: float = -math.inf  # of its last sample
    value: float = 0.0
    first: float = 0.0  # time of its first sample
    recent: list[tuple[float, float]] = []

    def take(self, ts: float, value: float) -> None:
        """A newer sample."""
        if not self.level.n:
            self.first = ts
        self.level.learn(value)
        self.ts, self.value = ts, value
        self.recent = [*self.recent[1 - SLOTS :], (ts, value)]

    def alive(self, now: float, every: float) -> bool:
        """Whether its last sample still stands for it."""
        n = self.level.n
        pace = (self.ts - self.first) / (n - 1) if n > 1 else every
        return now - self.ts <= AGE * max(pace, every)

    @property
    def far(self) -> float:
        """Deviations from its own level."""
        return min(max((self.value - self.level.mean) / self.level.scale, -BOUND), BOUND)


class Service(msgspec.Struct):
    """The parts of one vector and the interval that runs."""

    name: str
    parts: dict[int, Part] = {}  # by row
    interval: int | None = None
    spoken: set[int] = set()  # rows, in the interval that runs
    expected: set[int] = set()  # rows, in the one before
    ended: bool = False  # everybody has spoken: what still comes is of the next


class Complete(msgspec.Struct, frozen=True, kw_only=True):
    """The vector of an interval that ended. `pos`: first sample of the record that ended it."""

    pos: int
    id: int
    ts: float  # newest sample in it
    features: dict[str, float]


class Vectors:
    """The services of one rule. Ids are small numbers that are used again; nothing that leaves depends on them."""

    def __init__(self, every: float) -> None:
        self.every = every
        self.services: dict[int, Service] = {}
        self._ids: dict[str, int] = {}
        self._of: dict[int, int] = {}  # row -> id
        self._free: list[int] = []

    def appear(self, row: int, service: str, feature: str, harm: str) -> int:
        """A series takes part; the id of its service."""
        found = self._ids.get(service)
        if found is None:
            found = self._ids[service] = self._free.pop() if self._free else len(self._ids)
            self.services[found] = Service(name=service)
        self._of[row] = found
        self.services[found].parts[row] = Part(feature=feature, harm=harm, level=Level())
        return found

    def vanish(self, row: int) -> int | None:
        """A series is gone; the id of its service where it was the last."""
        found = self._of.pop(row, None)
        if found is None:
            return None
        service = self.services[found]
        del service.parts[row]
        service.spoken.discard(row)
        service.expected.discard(row)
        if service.parts:
            return None
        del self.services[found], self._ids[service.name]
        self._free.append(found)
        return found

    def of(self, row: int) -> int | None:
        """The id of the service that a row takes part in."""
        return self._of.get(row)

    def rows(self, key: int) -> list[int]:
        return list(self.services[key].parts)

    # ------------------------------------------------------------------ samples

    def step(
        self, rows: Sequence[int], ts: Sequence[float], values: Sequence[float], record: Sequence[int]
    ) -> Iterator[Complete]:
        """Vectors that these samples complete; samples of one record stand together. What is no number is no sample.

        `strangest` answers as of the vector that was given last.
        """
        at = 0
        while at < len(rows):
            groups: dict[int, list[tuple[float, int, int]]] = {}
            first: dict[int, int] = {}
            now = record[at]
            while at < len(rows) and record[at] == now:
                key = self._of.get(rows[at])
                if key is not None and math.isfinite(values[at]):
                    groups.setdefault(key, []).append((ts[at], at, rows[at]))
                    first.setdefault(key, at)
                at += 1
            for key, samples in groups.items():
                samples.sort(key=lambda s: s[:2])
                for t, i, row in samples:
                    yield from self._take(key, first[key], row, t, values[i])

    def _take(self, key: int, pos: int, row: int, ts: float, value: float) -> Iterator[Complete]:
        service = self.services[key]
        part = service.parts[row]
        if ts <= part.ts:
            return
        interval = math.floor(ts / self.every)
        if service.interval is None or interval > service.interval:
            if service.interval is not None and not service.ended:
                yield self._end(service, key, pos)
            service.interval, service.ended = interval, False
            service.expected, service.spoken = service.spoken, set()
        part.take(ts, value)
        if interval == service.interval:
            service.spoken.add(row)
            if not service.ended and service.expected and service.expected <= service.spoken:
                service.ended = True
                yield self._end(service, key, pos)

    def _end(self, service: Service, key: int, pos: int) -> Complete:
        now = max(part.ts for part in service.parts.values())
        sums: dict[str, list[float]] = collections.defaultdict(list)
        for part in service.parts.values():
            if part.level.n and part.alive(now, self.every):
                sums[part.feature].append(part.far)
        # sorted: a sum of floats depends on the order, and the order of rows on who was evicted when
        features = {name: sum(sorted(far)) / len(far) for name, far in sorted(sums.items())}
        return Complete(pos=pos, id=key, ts=now, features=features)

    def strangest(self, key: int, feature: str) -> tuple[int, Part]:
        """The row that stands for a feature, the farthest from its own level; of all of them where none is named."""
        parts = self.services[key].parts
        named = {row: part for row, part in parts.items() if part.feature == feature and part.level.n} or parts
        return max(named.items(), key=lambda item: (abs(item[1].far), item[1].feature, item[1].value))

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> list[Any]:
        """Plain data."""
        services = [
            [
                key,
                s.name,
                [msgspec.to_builtins([row, part]) for row, part in sorted(s.parts.items())],
                s.interval,
                sorted(s.spoken),
                sorted(s.expected),
                s.ended,
            ]
            for key, s in sorted(self.services.items())
        ]
        return [services, list(self._free)]

    def load(self, data: Sequence[Any]) -> None:
        """Go on where the snapshot was taken."""
        services, free = data
        self.services, self._ids, self._of, self._free = {}, {}, {}, list(free)
        for key, name, parts, interval, spoken, expected, ended in services:
            mine = {row: msgspec.convert(part, Part) for row, part in parts}
            self.services[key] = Service(name, mine, interval, set(spoken), set(expected), ended)
            self._ids[name] = key
            self._of |= dict.fromkeys(mine, key)


def feature_of(labels: Mapping[str, str], by: Sequence[str]) -> str:
    """The name of the feature that a series is: the values of these labels, where it has them.

    >>> feature_of({"__name__": "errors", "code": "500"}, ("__name__", "code"))
    'errors 500'
    """
    return " ".join(filter(None, (labels.get(label) for label in by)))
