"""The local log as another process reads it."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from aiopsd.disk import DISK_ERRORS, Lane, connect, refused
from aiopsd.errors import OffsetLost, StreamError
from aiopsd.model import Entry, LogRecord, SourcePos
from aiopsd.protocols import Clock, Owner
from aiopsd.streams.local.file import FILE, Bounds, bounds_of, load
from aiopsd.streams.reading import Cursor

LOOK_EVERY = 0.05  # s; how often it looks for new records


class LocalReader:
    """`protocols.Stream` on a local log that another process writes: reads only, and looks every LOOK_EVERY seconds.

    `trim` is the writer's to do: tell the process that holds the log.
    """

    def __init__(
        self,
        path: Path,
        partitions: Sequence[int],
        clock: Clock,
        *,
        name: str = "push",
        on_offset_lost: Literal["stop", "earliest"] = "earliest",
    ) -> None:
        self.path, self.file, self.partitions, self.name = path, path / FILE, tuple(partitions), name
        self._clock = clock
        self._lane = Lane(f"{name}-reader")
        self._conn: sqlite3.Connection | None = None
        self._version = -1
        self._cursor = Cursor(name, on_offset_lost)
        self._bounds: dict[int, Bounds] = {}

    @property
    def gaps(self) -> list[OffsetLost]:
        """Offsets that the log had lost and that we went past."""
        return self._cursor.gaps

    async def start(self, owner: Owner | None = None) -> None:
        """Open the file that is there.

        Raises:
            StreamError: it is not there, or has no such partition.
            OffsetLost: an owner's offset is outside the log and the policy is "stop".
        """
        await self._look()
        if owner is not None:
            await self._cursor.take(owner, self._bounds)

    async def _look(self) -> None:
        self._bounds = await self._lane.run(self._find)

    def _find(self) -> dict[int, Bounds]:
        try:
            if self._conn is None:
                self._conn = connect(self.file, read_only=True)
            if self._version < 0:
                there = {number for (number,) in self._conn.execute("SELECT number FROM part")}
                if missing := [p for p in self.partitions if p not in there]:
                    raise StreamError(f"{self.path}: no partition {missing[0]}, there are {len(there)}", retry=False)
            (version,) = self._conn.execute("PRAGMA data_version").fetchone()
            if version == self._version:  # nothing was committed since
                return self._bounds
            bounds = {partition: bounds_of(self._conn, partition) for partition in self.partitions}
            self._version = version
            return bounds
        except DISK_ERRORS as e:
            raise refused(e, str(self.file), StreamError) from e

    async def poll(self, limit: int, wait: float) -> list[LogRecord]:
        """See `LocalLog.poll`."""
        self._cursor.check()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while not self._ready():
            await self._look()
            if not self._ready():
                if (left := deadline - loop.time()) <= 0:
                    return []
                await asyncio.sleep(min(LOOK_EVERY, left))
        out: list[LogRecord] = []
        at: dict[int, int] = {}
        for partition in self._ready():
            at[partition] = self._cursor.next[partition]
            while len(out) < limit:
                start = at[partition]
                found = await self._lane.run(self._load, partition, start, limit - len(out))
                if not found:
                    break
                if found[0].offset != start:
                    self._cursor.lost(partition, start, found[0].offset, self._bounds[partition].end)
                at[partition] = found[-1].offset + 1
                out += found
        self._cursor.advance(at)
        return out

    def _ready(self) -> list[int]:
        return [p for p in self._cursor.order() if self._cursor.next[p] < self._bounds[p].end]

    def _load(self, partition: int, start: int, limit: int) -> list[LogRecord]:
        assert self._conn is not None
        try:
            return load(self._conn, self.file, self.name, partition, start, limit)
        except DISK_ERRORS as e:
            raise refused(e, str(self.file), StreamError) from e

    async def append(self, entries: Sequence[Entry]) -> list[SourcePos]:
        raise StreamError(f"{self.path}: opened for reading", retry=False)

    def pause(self, partitions: Sequence[int]) -> None:
        self._cursor.paused.update(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        self._cursor.paused.difference_update(partitions)

    async def lag(self) -> dict[int, int]:
        await self._look()
        return {p: max(0, self._bounds[p].end - offset) for p, offset in self._cursor.next.items()}

    async def trim(self, before: Mapping[int, int]) -> None:
        raise StreamError(f"{self.path}: opened for reading, the writer trims", retry=False)

    async def stop(self) -> None:
        await self._cursor.release()
        await self._lane.run(self._close)
        self._lane.close()

    def _close(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
