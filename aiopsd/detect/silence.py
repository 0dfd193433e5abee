"""Series that fell silent, measured against the newest sample of their own source and never against a clock.

So our own lag is no event at all, a hole in the whole source suspends the judgement until it has caught up, a service
whose series stopped is one event, and when more than half of the partition is silent that is one event too. Who stays
away for good was retired: a silence is missed for as long as its owner says, then its event ends.
What enters is the bank's times of last samples at a watermark; what leaves is which services are silent.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank import F32, F64, Rows

_INTERVALS = 3.0  # a series is not silent before it missed about two samples
_SAMPLES = 10.0  # and nobody knows its interval before so many


class Hush(msgspec.Struct):
    """A silent service under way; `service` is "" for the whole source."""

    service: str
    onset: float
    told: int  # series silent when it was last told
    revision: int = 0


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Something to tell: `rows` are the silent series of the service (empty when they are back)."""

    hush: Hush
    state: str
    rows: tuple[int, ...] = ()


class Hushes:
    """What was told of each service: once when it begins, again when it has grown by half, and when it is over."""

    def __init__(self) -> None:
        self.told: dict[str, Hush] = {}

    def tell(self, out: list[Change], name: str, rows: Rows, since: F64) -> None:
        """`rows` are those that it is about now; `since`: per row of the bank, when it began."""
        hush = self.told.get(name)
        if hush is None:
            if len(rows):
                hush = self.told[name] = Hush(name, float(since[rows].min()), len(rows))
                out.append(Change(hush=hush, state="firing", rows=tuple(rows.tolist())))
        elif not len(rows):
            del self.told[name]
            hush.revision += 1
            out.append(Change(hush=hush, state="resolved"))
        elif len(rows) >= 1.5 * hush.told:
            hush.told = len(rows)
            hush.revision += 1
            out.append(Change(hush=hush, state="firing", rows=tuple(rows.tolist())))

    def by_service(
        self, out: list[Change], rows: Rows, since: F64, service: NDArray[np.int32], names: list[str]
    ) -> None:
        """`tell` for each service that has such rows, or had."""
        found: dict[str, list[int]] = {}
        for row, s in zip(rows.tolist(), service[rows].tolist(), strict=True):
            found.setdefault(names[s], []).append(row)
        for name in sorted(set(self.told) | set(found)):
            if name:  # "" is the source
                self.tell(out, name, np.array(found.get(name, []), np.intp), since)

    def __contains__(self, service: object) -> bool:
        """Whether something was told of it that is not over."""
        return service in self.told

    def snapshot(self) -> list[Any]:
        return [msgspec.to_builtins(h) for _, h in sorted(self.told.items())]

    def load(self, data: Sequence[Any]) -> None:
        self.told = {h.service: h for h in msgspec.convert(data, list[Hush])}


class Silence:
    """`after`: seconds of silence that count; 0: off. `others`: what the policies of some series say instead."""

    def __init__(self, after: float, others: Sequence[float] = ()) -> None:
        terms = [term for term in (after, *others) if term > 0]
        self.after = max(terms, default=0.0)
        self.step = max(min(terms, default=0.0) / 4, 15.0)  # of the watermark between two checks
        self.suspended = float("-inf")  # no judgement before this watermark
        self._hushes = Hushes()

    @property
    def looks(self) -> bool:
        """Whether silence is asked for, or was when something was told that is not over."""
        return self.after > 0 or bool(self._hushes.told)

    def boundary(self, before: float, now: float) -> bool:
        """Does the watermark's way from `before` to `now` call for a check?"""
        return self.looks and before > 0 and before // self.step != now // self.step

    def check(
        self,
        before: float,
        now: float,
        *,
        last: F64,
        count: F32,
        age: F32,
        live: NDArray[np.bool_],
        service: NDArray[np.int32],
        names: list[str],
        after: F64 | None = None,
        given_up: float = math.inf,
    ) -> list[Change]:
        """What changed at the watermark `now`, which was `before` until this record; arrays have an element per row.

        Args:
            last: time of each row's last sample. count, age: samples seen and seconds between the first and the last.
            live: rows that hold a series which has not said goodbye (a staleness marker) and is not under maintenance.
            after: seconds of silence that count, per row, 0: none; None: the same for all.
            given_up: seconds for which a silence that counts is missed.
        """
        heard = now >= self.suspended
        if now - before > max(2 * self.step, self.after):
            # the source had a hole, or speaks once an hour: until everybody could speak again, what was is judged
            self.suspended = now + self.after
            now = before
        if not heard:
            return []
        interval = age / np.maximum(count - 1, 1)
        asked = np.full(len(live), self.after) if after is None else after
        judged = live & (count >= _SAMPLES) & (asked > 0)
        late = now - last - np.maximum(asked, _INTERVALS * interval)
        silent = judged & (late > 0) & (late <= given_up)
        rows = np.flatnonzero(silent)
        out: list[Change] = []
        whole = 2 * len(rows) > int(judged.sum()) and len(set(service[rows].tolist())) > 1
        self._hushes.tell(out, "", rows if whole else rows[:0], last)
        if whole:  # what is said by the event of the source is not said of each service
            rows = rows[np.isin(service[rows], [s for s, name in enumerate(names) if name in self._hushes.told])]
        self._hushes.by_service(out, rows, last, service, names)
        return out

    def snapshot(self) -> dict[str, Any]:
        return {
            "suspended": self.suspended if self.suspended > float("-inf") else None,
            "hushes": self._hushes.snapshot(),
        }

    def load(self, data: Mapping[str, Any]) -> None:
        self.suspended = float("-inf") if data["suspended"] is None else data["suspended"]
        self._hushes.load(data["hushes"])
