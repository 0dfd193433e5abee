"""What the embedded streams do alike: positions by the owner's word, pause, fairness, waiting, choice of partition."""

import asyncio
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from aiopsd.errors import OffsetLost, StreamError
from aiopsd.model import Entry
from aiopsd.protocols import Owner


class Cursor:
    """Where one reader stands in each of its partitions: `next` is the offset that it reads next."""

    def __init__(self, name: str, on_offset_lost: Literal["stop", "earliest"]) -> None:
        self.name, self.on_offset_lost = name, on_offset_lost
        self.next: dict[int, int] = {}
        self.paused: set[int] = set()
        self.gaps: list[OffsetLost] = []  # offsets that the log had lost and that we went past
        self._owner: Owner | None = None
        self.turn = 0  # grows with each poll, so that a busy partition does not starve the others

    async def take(self, owner: Owner, bounds: Mapping[int, tuple[int, int]]) -> None:
        """Take all partitions, given their (first, end) offsets, and position each where the owner says.

        Raises:
            OffsetLost: a position is outside the log and the policy is "stop".
        """
        wanted = await owner.assigned(sorted(bounds))
        self._owner = owner
        for partition in sorted(bounds):
            first, end = bounds[partition]
            offset = wanted.get(partition)
            if offset is None:
                offset = first
            elif not first <= offset <= end:
                offset = self.lost(partition, offset, first, end)
            self.next[partition] = offset

    def lost(self, partition: int, wanted: int, first: int, end: int) -> int:
        """The offset to go on from, by policy; the gap is recorded.

        Raises:
            OffsetLost: the policy is "stop".
        """
        error = OffsetLost(self.name, partition, wanted, first, end)
        if self.on_offset_lost == "stop":
            raise error
        self.gaps.append(error)
        return first

    def check(self) -> None:
        """Raises StreamError when there is no owner: nobody said where to read."""
        if self._owner is None:
            raise StreamError(f"{self.name}: started without an owner: nothing to read", retry=False)

    def order(self) -> list[int]:
        """Partitions that may be read; `turn` says which comes first."""
        free = [p for p in self.next if p not in self.paused]
        at = self.turn % len(free) if free else 0
        return free[at:] + free[:at]

    def advance(self, at: Mapping[int, int]) -> None:
        """A poll hands out what lies before these offsets; another partition is first in the next one."""
        self.next.update(at)
        self.turn += 1

    async def release(self) -> None:
        """Tell the owner that its partitions go."""
        owner, self._owner = self._owner, None
        held, self.next = sorted(self.next), {}
        self.paused = set()
        if owner is not None and held:
            await owner.revoked(held)


class Signal:
    """Wakes those who wait for a condition: `tell` when it may have become true. No polling."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, true: Callable[[], bool], timeout: float | None) -> bool:
        """True as soon as the condition holds; False after `timeout` seconds (None: never)."""
        if true():
            return True
        if timeout is not None and timeout <= 0:
            await asyncio.sleep(0)  # a caller that asks again and again must not starve the loop
            return true()
        try:
            async with asyncio.timeout(timeout):
                while not true():
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    try:
                        await waiter
                    finally:
                        if waiter in self._waiters:
                            self._waiters.remove(waiter)
        except TimeoutError:
            return true()
        return True


def choose(entries: Sequence[Entry], partitions: int, turn: int) -> tuple[list[int], int]:
    """(partition of each entry, next turn): the one it names, else by its key, else in turn.

    Raises:
        StreamError: an entry names a partition that does not exist.
    """
    chosen = []
    for entry in entries:
        if entry.partition is not None:
            if not 0 <= entry.partition < partitions:
                raise StreamError(f"no partition {entry.partition}, there are {partitions}", retry=False)
            chosen.append(entry.partition)
        elif entry.key is not None:
            chosen.append(zlib.crc32(entry.key) % partitions)
        else:
            chosen.append(turn % partitions)
            turn += 1
    return chosen, turn
