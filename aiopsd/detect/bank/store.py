"""The rows of a bank and their state: room for them, what they are, forgetting them, snapshots.

Nothing here knows what a number means; `layout` names them.
"""

import numpy as np
from numpy.typing import NDArray

from aiopsd.detect.bank.layout import (
    AGE,
    COUNTER,
    F32,
    F64,
    FIELDS,
    HARM_BOTH,
    SLOTS,
    WATCHED,
    K,
    Rows,
)

ARRAYS = ("f", "d", "season", "days", "ring_v", "ring_t", "ring_p", "hour", "flags")


class Store:
    """State per row, in all 411 bytes with the scratch:

    f: float32[32, rows]        counts, means, envelopes [3 low, 3 high], peak-hold, robust scale, hours, steps
    d: float64[3, rows]         last sample time, last raw value, anchor (first value; float32 is relative to it)
    season: float32[24, rows]   mean of each hour of day; days: uint8[24, rows] how many days it rests on
    ring_v, ring_t: float32, uint32[16, rows]  recent samples at most one a minute; ring_p: uint8[rows]
    hour: int8[rows]            current hour of day, -1 before the first sample
    flags: uint8[rows]          COUNTER, HARM_HIGH, HARM_LOW, ENDED, WATCHED
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = 0
        self.f = np.zeros((FIELDS, 0), np.float32)
        self.d = np.zeros((3, 0))
        self.season = np.zeros((24, 0), np.float32)
        self.days = np.zeros((24, 0), np.uint8)
        self.ring_v = np.zeros((SLOTS, 0), np.float32)
        self.ring_t = np.zeros((SLOTS, 0), np.uint32)
        self.ring_p = np.zeros(0, np.uint8)
        self.hour = np.zeros(0, np.int8)
        self.flags = np.zeros(0, np.uint8)
        self.rule = np.zeros(0, np.uint8)  # which policy a row obeys: follows from its labels, so no snapshot keeps it
        self.scratch: Rows = np.zeros(0, np.intp)
        self._grow(capacity)

    def ensure(self, rows: int) -> None:
        """Make room for row numbers below `rows`; the capacity doubles."""
        if rows > self.capacity:
            self._grow(max(rows, 2 * self.capacity))

    def _grow(self, capacity: int) -> None:
        old, self.capacity = self.capacity, capacity
        for name in ARRAYS:
            was = getattr(self, name)
            wider = np.zeros((*was.shape[:-1], capacity), was.dtype)
            wider[..., :old] = was
            setattr(self, name, wider)
        self.scratch = np.zeros(capacity, np.intp)
        self.rule = np.concatenate((self.rule, np.zeros(capacity - old, np.uint8)))
        self.d[0, old:] = -np.inf
        self.hour[old:] = -1
        self.flags[old:] = HARM_BOTH

    def mark(self, rows: Rows, *, counter: bool | None = None, harm: int | None = None) -> None:
        """Say what rows are: a counter is scored by its rate; `harm` is HARM_HIGH | HARM_LOW bits (0: never scored)."""
        self.ensure(int(rows.max()) + 1 if len(rows) else 0)
        flags = self.flags[rows]
        if counter is not None:
            flags = (flags & ~np.uint8(COUNTER)) | np.uint8(COUNTER if counter else 0)
        if harm is not None:
            flags = (flags & ~np.uint8(HARM_BOTH)) | np.uint8(harm)
        self.flags[rows] = flags

    def obey(self, row: int, policy: int) -> None:
        """Memory, growth and time of warm-up of the row are those of `others[policy - 1]`; 0: the bank's own."""
        self.ensure(row + 1)
        self.rule[row] = policy

    def watch(self, row: int, on: bool) -> None:
        """A watched row reports every sample in `Breaks`, inside or not: somebody waits for it to calm down."""
        flags = int(self.flags[row])
        self.flags[row] = flags | WATCHED if on else flags & ~WATCHED

    def reset(self, rows: Rows) -> None:
        """Forget these rows altogether: the next sample is a series' first."""
        for name in ARRAYS:
            getattr(self, name)[..., rows] = 0
        self.d[0, rows] = -np.inf
        self.hour[rows] = -1
        self.flags[rows] = HARM_BOTH
        self.rule[rows] = 0

    @property
    def last(self) -> F64:
        """Time of the last accepted sample of each row; -inf before the first. A view."""
        out: F64 = self.d[0]
        return out

    def anchor(self, row: int) -> float:
        """What the row's float32 state is relative to: its first value."""
        return float(self.d[2][row])

    @property
    def count(self) -> F32:
        """Samples each row has scored. A view."""
        out: F32 = self.f[K]
        return out

    @property
    def age(self) -> F32:
        """Seconds each row has been fed, gaps longer than a day counted as a day. A view."""
        out: F32 = self.f[AGE]
        return out

    @property
    def bytes_per_row(self) -> float:
        """State of one series in bytes, scratch included."""
        held = sum(getattr(self, name).nbytes for name in ARRAYS) + self.scratch.nbytes
        return float(held) / max(self.capacity, 1)

    def arrays(self, rows: int) -> dict[str, NDArray[np.generic]]:
        """State of the rows below `rows`, for a snapshot; copies."""
        return {name: getattr(self, name)[..., :rows].copy() for name in ARRAYS}

    def load(self, arrays: dict[str, NDArray[np.generic]]) -> None:
        """Go on where `arrays` was taken."""
        n = arrays["flags"].shape[-1]
        self.ensure(n)
        for name in ARRAYS:
            getattr(self, name)[..., :n] = arrays[name]
