"""Who the rows are: the series of one partition and their services, and for how long one that is silent is remembered.

The bank knows rows and times, the index knows label sets; this is the table between them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiopsd.decode.series import NAME, TEMPORALITY, SeriesIndex
from aiopsd.detect.bank import COUNTER, HARM_BOTH, HARM_HIGH, HARM_LOW, Mask, RangeBank, Rows
from aiopsd.detect.evidence import Series
from aiopsd.detect.signals import Signal, Signals
from aiopsd.model import Labels

MOST_AWAY = 30 * 86400.0  # s; who is silent for longer is forgotten, and no maintenance excuses it
SPARE = 0.25  # of those that live; so many more may be remembered than have earned it

_KINDS = ("other", "latency", "errors", "availability", "traffic", "saturation", "resource")
_HARM = {"high": HARM_HIGH, "low": HARM_LOW, "both": HARM_BOTH, "none": 0}
_HARM_NAME = {v: k for k, v in _HARM.items()}


class Roster:
    """Per row, beside the bank's arrays: `known` bool; `service` int32, index into `names`; `kind` int8.

    Args:
        index: gives a series its row. bank: is told what a series is, and tells when it spoke.
        evict_after: seconds of silence that every series is remembered for.
    """

    def __init__(self, index: SeriesIndex, bank: RangeBank, signals: Signals, evict_after: float) -> None:
        self.index = index
        self._bank = bank
        self._signals = signals
        self._evict_after = evict_after
        self.known: Mask = np.zeros(bank.capacity, bool)
        self.service: NDArray[np.int32] = np.zeros(bank.capacity, np.int32)
        self._kind: NDArray[np.int8] = np.zeros(bank.capacity, np.int8)
        self.names: list[str] = []
        self._ids: dict[str, int] = {}
        self._sizes: list[int] = []  # rows of each service, by id
        self._free: list[int] = []  # ids without rows

    def __len__(self) -> int:
        """Live series."""
        return int(self.known.sum())

    def __contains__(self, service: object) -> bool:
        """Whether any series belongs to it."""
        return service in self._ids

    # ------------------------------------------------------------------ who

    def labels(self, row: int) -> Labels:
        """As `SeriesIndex.labels`."""
        return self.index.labels(row)

    def name(self, row: int) -> str:
        """Of the service that the series belongs to; "" for none."""
        return self.names[int(self.service[row])]

    def describe(self, row: int) -> Series:
        """Who the row is, in the words of evidence."""
        labels = self.index.labels(row)
        return Series(
            service=self.name(row),
            metric=labels[NAME],
            labels=labels,
            kind=_KINDS[self._kind[row]],
            harm=_HARM_NAME[int(self._bank.flags[row]) & HARM_BOTH],
            counter=bool(self._bank.flags[row] & COUNTER) or TEMPORALITY in labels,
        )

    def harms(self, row: int) -> bool:
        """Whether anything that the series says may be evidence."""
        return bool(self._bank.flags[row] & HARM_BOTH)

    def rows_of(self, services: Sequence[str], now: float) -> Rows:
        """The series of these services that still speak at the watermark `now`."""
        ids = [self._ids[s] for s in dict.fromkeys(services) if s in self._ids]
        lives = self.known & (self._bank.last >= now - self._evict_after)
        return np.flatnonzero(np.isin(self.service, ids) & lives)

    # ------------------------------------------------------------------ they come

    def room(self, rows: int) -> None:
        """Make room for row numbers below `rows`, in the bank as well."""
        self._bank.ensure(rows)
        more = self._bank.capacity - len(self.known)
        if more > 0:
            self.known = np.concatenate((self.known, np.zeros(more, bool)))
            self.service = np.concatenate((self.service, np.zeros(more, np.int32)))
            self._kind = np.concatenate((self._kind, np.zeros(more, np.int8)))

    def enrol(self, row: int, service: str) -> None:
        """A series that is new; `classify` says what it is."""
        sid = self._ids.get(service)
        if sid is None:
            if self._free:
                sid = self._free.pop()
                self.names[sid] = service
            else:
                sid = len(self.names)
                self.names.append(service)
                self._sizes.append(0)
            self._ids[service] = sid
        self._sizes[sid] += 1
        self.service[row] = sid
        self.known[row] = True

    def classify(self, rows: Sequence[int]) -> None:
        """What kind of signal each of these series is, which way it harms, whether it counts."""
        found: dict[Signal, list[int]] = {}
        for row in rows:
            found.setdefault(self._signals.of(self.index.labels(row)), []).append(row)
        for signal, mine in found.items():
            at = np.array(mine, np.intp)
            self._kind[at] = _KINDS.index(signal.kind)
            self._bank.mark(at, counter=signal.counter, harm=_HARM[signal.harm])

    # ------------------------------------------------------------------ they go

    def forget(self, rows: Rows) -> None:
        """These series are gone; who comes back is new."""
        for sid in self.service[rows].tolist():
            self._sizes[sid] -= 1
            if self._sizes[sid] == 0:
                del self._ids[self.names[sid]]
                self._free.append(sid)
        self.known[rows] = False

    def living(self, now: float) -> dict[str, int]:
        """Service -> its series that may harm and are not overdue."""
        speaks = self.known & ((self._bank.flags & HARM_BOTH) != 0) & ~(now - self._bank.last > self._evict_after)
        count = np.bincount(self.service[speaks], minlength=len(self.names)).tolist()
        return {name: count[sid] for name, sid in self._ids.items()}

    def overdue(self, now: float) -> Rows:
        """Series that have been silent for longer than they are worth, and than there is room for them."""
        silent = now - self._bank.last
        waits = self.known & (silent > self._evict_after)
        waiting = np.flatnonzero(waits)
        room = int(SPARE * (len(self) - waits.sum()))
        # one that was known for a week is missed for a week: at most half of the rows wait for somebody to come back
        worth = np.maximum(self._bank.age[waiting], self._evict_after)
        longer = silent[waiting] / worth
        over = longer > 1
        keep = room - (len(waiting) - int(over.sum()))
        if keep > 0:  # by how long it is overdue: equals go together, for the numbers of rows mean nothing
            best = np.sort(longer[over])
            most = best[keep] if keep < len(best) else np.inf
            over &= (longer >= most) | (silent[waiting] > MOST_AWAY)
        return waiting[over]

    # ------------------------------------------------------------------ snapshots

    def snapshot(self, rows: int) -> tuple[dict[str, Any], dict[str, NDArray[np.generic]]]:
        """(plain data, arrays of the rows in use)."""
        arrays: dict[str, NDArray[np.generic]] = {
            "known": self.known[:rows].copy(),
            "service": self.service[:rows].copy(),
            "kind": self._kind[:rows].copy(),
        }
        return {"names": self.names, "free": self._free}, arrays

    def load(self, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where the snapshot was taken; the index and the bank are as they were."""
        n = len(arrays["known"])
        self.known[:n], self.service[:n], self._kind[:n] = arrays["known"], arrays["service"], arrays["kind"]
        self.names = list(data["names"])
        self._free = list(data["free"])
        free = set(self._free)
        self._ids = {name: i for i, name in enumerate(self.names) if i not in free}
        self._sizes = np.bincount(self.service[self.known], minlength=len(self.names)).tolist()
