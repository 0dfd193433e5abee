"""What the writer of a local log knows of each partition, so that no append has to ask the disk."""

import sqlite3
from typing import NamedTuple

from aiopsd.streams.local.file import ROW_BYTES


class Mark(NamedTuple):
    """The end of a partition: next offset, bytes of all records ever, stamp of the last."""

    end: int
    total: int
    stamp: float


class Part:
    """One partition as its writer knows it. `base`: bytes of all records that were dropped."""

    def __init__(self, number: int, consumed: int) -> None:
        self.number, self.consumed = number, consumed
        self.first = self.end = 0
        self.base = self.total = 0
        self.first_stamp = self.last_stamp = 0.0

    @property
    def bytes(self) -> int:
        return self.total - self.base

    @property
    def floor(self) -> int:
        """Nothing from here on may go: not consumed, or the newest, which holds the end and the stamp."""
        return min(self.consumed, self.end - 1)

    def recall(self, conn: sqlite3.Connection) -> None:
        edge = 'SELECT "offset", stamp, total, length(value), length(key), length(headers) FROM'
        last = conn.execute(f'{edge} p{self.number} ORDER BY "offset" DESC LIMIT 1').fetchone()
        if last is None:
            return
        first = conn.execute(f'{edge} p{self.number} ORDER BY "offset" LIMIT 1').fetchone()
        self.first, self.first_stamp = first[0], first[1]
        self.base = first[2] - sum(n or 0 for n in first[3:]) - ROW_BYTES
        self.end, self.last_stamp, self.total = last[0] + 1, last[1], last[2]

    def mark(self) -> Mark:
        return Mark(self.end, self.total, self.last_stamp)

    def advance(self, mark: Mark) -> None:
        if self.end == self.first:
            self.first_stamp = mark.stamp
        self.end, self.total, self.last_stamp = mark

    def first_young(self, conn: sqlite3.Connection, cutoff: float) -> int:
        """First offset that may not go by its age: by bisection, stamps do not go back."""
        low, high = self.first, self.floor
        while low < high:
            middle = (low + high) // 2
            (stamp,) = conn.execute(f'SELECT stamp FROM p{self.number} WHERE "offset" = ?', (middle,)).fetchone()
            if stamp < cutoff:
                low = middle + 1
            else:
                high = middle
        return max(low, self.first)
