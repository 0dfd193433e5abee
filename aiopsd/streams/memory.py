"""The promises of the local log and journal without the disk: for tests and simulations.

`full` makes every append fail as a full disk would. A log or journal of memory outlives its `stop`: start it again,
or give its contents to another, to see them as after a restart.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from aiopsd.errors import Full, OffsetLost, StreamError
from aiopsd.model import Body, Entry, JournalRecord, LogRecord, SourcePos
from aiopsd.protocols import Clock, Owner
from aiopsd.streams.journal import Call, Mark, admit
from aiopsd.streams.reading import Cursor, Signal, choose

_encode = msgspec.msgpack.Encoder().encode


class MemoryJournal:
    """`protocols.Journal` in a list.

    Args:
        clock: UTC seconds; stamps never go back even when it does.
        retention: Seconds; younger records survive `trim`.
    """

    def __init__(self, clock: Clock, retention: float = 0.0) -> None:
        self.retention = retention
        self.full = False
        self._clock = clock
        self._begin = 0
        self._records: list[JournalRecord] = []
        self._marks: dict[Mark, int] = {}
        self._signal = Signal()
        self._started = False

    async def start(self) -> None:
        self._started = True

    async def stop(self) -> None:
        self._started = False

    async def append(self, bodies: Sequence[Body], origins: Sequence[SourcePos | None] | None = None) -> int:
        if not self._started:
            raise StreamError("the journal is not open", retry=False)
        if self.full:
            raise Full("memory journal: no space left")
        kept, raised = admit(Call(bodies, origins), self._marks)
        for body, _ in kept:
            _encode(body)  # refuses what the disk could not hold
        last = self._records[-1].stamp if self._records else 0.0
        stamp = max(last, self._clock())
        for body, origin in kept:
            self._records.append(JournalRecord(offset=self.end(), stamp=stamp, body=body, origin=origin))
        self._marks |= raised
        self._signal.tell()
        return self.end() - 1

    async def read(self, after: int, limit: int) -> list[JournalRecord]:
        if after + 1 < self._begin or after + 1 > self.end():
            raise OffsetLost("journal", 0, after + 1, self._begin, self.end())
        at = after + 1 - self._begin
        return self._records[at : at + max(0, limit)]

    async def wait(self, after: int, timeout: float | None) -> bool:
        return await self._signal.wait(lambda: self.end() - 1 > after, timeout)

    def begin(self) -> int:
        """The first offset that the journal still holds; `end()` when it holds none."""
        return self._begin

    def end(self) -> int:
        return self._begin + len(self._records)

    async def high_water(self, source: str) -> dict[int, int]:
        return {partition: offset for (name, partition), offset in self._marks.items() if name == source}

    async def rebase(self, source: str, partition: int, before: int) -> None:
        self._marks[source, partition] = before - 1

    async def trim(self, before: int) -> None:
        cutoff = self._clock() - self.retention
        drop = 0
        while (
            drop < len(self._records) - 1  # the newest stays, as on the disk
            and self._records[drop].offset < before
            and self._records[drop].stamp < cutoff
        ):
            drop += 1
        del self._records[:drop]
        self._begin += drop


class MemoryLog:
    """`protocols.Stream` in lists, one per partition.

    Args:
        name: Source name of its records.
        partitions: How many.
        clock: UTC seconds, for stamps.
        on_offset_lost: What to do when the owner stands outside the log.
        contents: The lists of another, to read the same log.
    """

    def __init__(
        self,
        clock: Clock,
        partitions: int = 1,
        name: str = "memory",
        *,
        on_offset_lost: Literal["stop", "earliest"] = "stop",
        contents: "list[Partition] | None" = None,
    ) -> None:
        self.name = name
        self.contents = [Partition() for _ in range(partitions)] if contents is None else contents
        self.full = False
        self._clock = clock
        self._policy: Literal["stop", "earliest"] = on_offset_lost
        self._cursor = Cursor(name, on_offset_lost)
        self._signal = Signal()
        self._round = 0
        self._started = False

    @property
    def gaps(self) -> list[OffsetLost]:
        """Offsets that the log had lost and that we went past."""
        return self._cursor.gaps

    async def start(self, owner: Owner | None = None) -> None:
        self._cursor = Cursor(self.name, self._policy)
        if owner is not None:
            bounds = {i: (p.begin, p.end) for i, p in enumerate(self.contents)}
            await self._cursor.take(owner, bounds)
        self._started = True

    async def poll(self, limit: int, wait: float) -> list[LogRecord]:
        self._cursor.check()
        if not await self._signal.wait(lambda: bool(self._ready()), wait):
            return []
        out: list[LogRecord] = []
        at: dict[int, int] = {}
        for partition in self._ready():
            if len(out) < limit:
                found = self.contents[partition].read(self._cursor.next[partition], limit - len(out))
                at[partition] = found[-1].offset + 1
                out += found
        self._cursor.advance(at)
        return out

    def _ready(self) -> list[int]:
        """Partitions with something to read, fairly ordered."""
        return [p for p in self._cursor.order() if self._cursor.next[p] < self.contents[p].end]

    async def append(self, entries: Sequence[Entry]) -> list[SourcePos]:
        if not self._started:
            raise StreamError(f"{self.name}: the log is not open", retry=False)
        if self.full:
            raise Full("memory log: no space left")
        chosen, self._round = choose(entries, len(self.contents), self._round)
        stamp = self._clock()
        places = []
        for entry, partition in zip(entries, chosen, strict=True):
            log = self.contents[partition]
            record = LogRecord(
                source=self.name,
                partition=partition,
                offset=log.end,
                value=entry.value,
                format=entry.format,
                stamp=stamp,
                key=entry.key,
                headers=entry.headers,
            )
            log.records.append(record)
            places.append(record.pos)
        self._signal.tell()
        return places

    def pause(self, partitions: Sequence[int]) -> None:
        self._cursor.paused.update(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        self._cursor.paused.difference_update(partitions)
        self._signal.tell()

    async def lag(self) -> dict[int, int]:
        return {p: self.contents[p].end - offset for p, offset in self._cursor.next.items()}

    async def trim(self, before: Mapping[int, int]) -> None:
        """Drops at once: this log has no retention of its own."""
        for partition, offset in before.items():
            self.contents[partition].drop(offset)

    async def stop(self) -> None:
        await self._cursor.release()
        self._started = False


class Partition:
    """One partition of a `MemoryLog`."""

    def __init__(self) -> None:
        self.begin = 0
        self.records: list[LogRecord] = []

    @property
    def end(self) -> int:
        return self.begin + len(self.records)

    def read(self, start: int, limit: int) -> list[LogRecord]:
        at = max(0, start - self.begin)
        return self.records[at : at + limit]

    def drop(self, before: int) -> None:
        n = max(0, min(before, self.end) - self.begin)
        del self.records[:n]
        self.begin += n
