"""The log: appends in groups, drops what may go, and reads as long as it is the process that writes."""

import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from aiopsd.disk import (
    DISK_ERRORS,
    Connections,
    GroupCommit,
    Lane,
    Lock,
    Sync,
    connect,
    create,
    refused,
    sync_folder,
    transaction,
)
from aiopsd.errors import Full, OffsetLost, StoreError, StreamError
from aiopsd.model import Entry, LogRecord, SourcePos
from aiopsd.protocols import Clock, Owner
from aiopsd.streams.local.file import (
    FILE,
    LOCK,
    PART,
    RECORD,
    ROW_BYTES,
    SCHEMA,
    Bounds,
    checksum,
    encode_headers,
    load,
    size_of,
)
from aiopsd.streams.local.parts import Mark, Part
from aiopsd.streams.local.reader import LocalReader
from aiopsd.streams.reading import Cursor, Signal, choose

TAIL_BYTES = 32 * 1024 * 1024  # of values kept in memory for a reader that is a little behind
TRIM_ROWS = 2_000  # a transaction; appends get their turn in between
RETAIN_EVERY = 60.0  # s; between two looks for records that are too old, beside those that `trim` causes


class Appended(NamedTuple):
    """What one committed call did."""

    records: list[LogRecord]


class Tail:
    """The youngest records of one partition, contiguous up to the end. Owned by the event loop."""

    def __init__(self, end: int) -> None:
        self.begin = self.end = end
        self.records: deque[LogRecord] = deque()
        self.bytes = 0

    def add(self, record: LogRecord) -> None:
        self.records.append(record)
        self.bytes += len(record.value) + ROW_BYTES
        self.end = record.offset + 1

    def drop(self) -> LogRecord:
        """The oldest, which is no longer part."""
        record = self.records.popleft()
        self.bytes -= len(record.value) + ROW_BYTES
        self.begin = record.offset + 1
        return record


class LocalLog(Connections):
    """`protocols.Stream` on a folder of ours.

    Args:
        path: The folder; made when it is missing. A lock in it keeps a second writer out.
        partitions: How many to write to. A log that had more keeps them until they are read; one with fewer grows.
        clock: UTC seconds, for stamps; they never go back within a partition.
        sync: see `disk.connect`.
        retention: Seconds that a consumed record stays.
        max_bytes: Of all records together; consumed ones go before their retention to stay below it.
        name: Source name of its records.
        on_offset_lost: What to do when the owner stands outside the log.
    """

    def __init__(
        self,
        path: Path,
        partitions: int,
        clock: Clock,
        sync: Sync = "full",
        retention: float = 86400.0,
        max_bytes: int = 8 * 1024**3,
        name: str = "push",
        *,
        on_offset_lost: Literal["stop", "earliest"] = "earliest",
    ) -> None:
        self.path, self.file = path, path / FILE
        self.partitions, self.name = partitions, name
        self.retention, self.max_bytes = float(retention), max_bytes
        self._clock, self._sync = clock, sync
        self._lock = Lock(path / LOCK)
        self._writer, self._reader = Lane(f"{name}-writer"), Lane(f"{name}-reader")
        self._group: GroupCommit[Sequence[Entry], Appended] = GroupCommit(self._writer, self._write, self._applied)
        self._read_conn: sqlite3.Connection | None = None  # of the reader's thread
        # of the writer's thread
        self._conn: sqlite3.Connection | None = None
        self._parts: dict[int, Part] = {}
        self._known = False  # False: the parts have to be read from the file first
        self._turn = 0
        self._retained_at = 0.0
        # of the event loop
        self._cursor = Cursor(name, on_offset_lost)
        self._tails: dict[int, Tail] = {}
        self._signal = Signal()
        self._reading = self._started = False

    @staticmethod
    def reader(
        path: Path,
        partitions: Sequence[int],
        clock: Clock,
        *,
        name: str = "push",
        on_offset_lost: Literal["stop", "earliest"] = "earliest",
    ) -> LocalReader:
        """The same log read by another process than the one that writes it; only these partitions."""
        return LocalReader(path, partitions, clock, name=name, on_offset_lost=on_offset_lost)

    @property
    def gaps(self) -> list[OffsetLost]:
        """Offsets that the log had lost and that we went past."""
        return self._cursor.gaps

    # ------------------------------------------------------------------ life

    async def start(self, owner: Owner | None = None) -> None:
        """Open or create; with an owner, read every partition from where the owner says.

        Raises:
            Fenced: another process writes this log; names the folder.
            OffsetLost: an owner's offset is outside the log and the policy is "stop".
            Corrupt: the file is no log of ours, or SQLite finds it damaged.
        """
        if not self._started:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            try:
                bounds = await self._writer.run(self._open)
            except BaseException:
                await self._writer.run(self._close)
                self._lock.release()
                raise
            self._tails = {partition: Tail(b.end) for partition, b in bounds.items()}
            self._started = True
        if owner is not None:
            self._reading = True
            await self._cursor.take(owner, await self._writer.run(self._bounds))

    def _open(self) -> dict[int, Bounds]:
        try:
            self._conn = conn = connect(self.file, sync=self._sync)
            (version,) = conn.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA:
                raise StoreError(f"{self.file}: written by a newer aiopsd (schema {version}, this one knows {SCHEMA})")
            with transaction(conn):
                create(conn, self.file, "part", PART)
                for number in range(self.partitions):
                    create(conn, self.file, f"p{number}", RECORD)
                    conn.execute("INSERT OR IGNORE INTO part VALUES (?, 0)", (number,))
                if version < SCHEMA:  # a start on a full disk must not have to write
                    conn.execute(f"PRAGMA user_version = {SCHEMA}")
            sync_folder(self.path)
            self._recall()
        except DISK_ERRORS as e:
            raise refused(e, str(self.file)) from e
        return self._bounds()

    def _recall(self) -> None:
        """What the writer keeps in memory, from the file."""
        conn = self._conn
        assert conn is not None
        self._parts = {}
        for number, consumed in conn.execute("SELECT number, consumed FROM part ORDER BY number").fetchall():
            part = Part(number, consumed)
            part.recall(conn)
            self._parts[number] = part
        self._known = True

    def _bounds(self) -> dict[int, Bounds]:
        return {number: Bounds(part.first, part.end) for number, part in self._parts.items()}

    async def stop(self) -> None:
        """Tell the owner, finish what was appended before, close."""
        await self._cursor.release()
        if self._started:
            self._started = False
            await self._group.drain()
            await self._reader.run(self._close_reader)
            await self._writer.run(self._close)
        self._reader.close()
        self._writer.close()
        self._lock.release()

    # ------------------------------------------------------------------ writing

    async def append(self, entries: Sequence[Entry]) -> list[SourcePos]:
        """See `protocols.Stream.append`: one transaction, whatever the partitions.

        Raises:
            Full: no space, or `max_bytes` of records that nobody has consumed; nothing was written.
            StreamError: not open, no such partition, or the disk refuses otherwise.
        """
        if not self._started:
            raise StreamError(f"{self.path}: the log is not open", retry=False)
        done = await self._group.put(entries)
        return [record.pos for record in done.records]

    def _write(self, calls: Sequence[Sequence[Entry]]) -> list[Appended | Exception]:
        """In the writer's thread: all calls in one transaction. A call that does not fit fails alone."""
        conn = self._conn
        assert conn is not None
        try:
            if not self._known:
                self._recall()
            now = self._clock()
            if now - self._retained_at >= RETAIN_EVERY:
                self._retained_at = now
                self._retain()
            outcomes: list[Appended | Exception] = []
            rows: dict[int, list[tuple[object, ...]]] = {}
            ends = {number: part.mark() for number, part in self._parts.items()}
            growth = 0
            for entries in calls:
                size = sum(size_of(entry) for entry in entries)
                try:
                    chosen, turn = choose(entries, self.partitions, self._turn)
                    self._make_room(growth + size)
                except (Full, StreamError) as e:
                    outcomes.append(e)
                    continue
                self._turn = turn
                growth += size
                outcomes.append(self._rows(entries, chosen, ends, now, rows))
            if rows:
                self._known = False  # until the commit is known to have worked
                with transaction(conn):
                    for number, part_rows in rows.items():
                        conn.executemany(f"INSERT INTO p{number} VALUES (?, ?, ?, ?, ?, ?, ?, ?)", part_rows)
                for number, mark in ends.items():
                    self._parts[number].advance(mark)
                self._known = True
        except DISK_ERRORS as e:
            raise refused(e, str(self.file), StreamError) from e
        return outcomes

    def _rows(
        self,
        entries: Sequence[Entry],
        chosen: Sequence[int],
        ends: dict[int, Mark],
        now: float,
        rows: dict[int, list[tuple[object, ...]]],
    ) -> Appended:
        """The records of one call; their rows go to `rows`, and `ends` moves on."""
        records = []
        for entry, number in zip(entries, chosen, strict=True):
            end, total, last = ends[number]
            stamp, total = max(last, now), total + size_of(entry)
            headers = encode_headers(entry.headers) if entry.headers else b""
            crc = checksum(number, end, stamp, entry.key, headers, entry.format, entry.value)
            rows.setdefault(number, []).append((end, stamp, total, entry.key, headers, entry.format, crc, entry.value))
            records.append(
                LogRecord(
                    source=self.name,
                    partition=number,
                    offset=end,
                    value=entry.value,
                    format=entry.format,
                    stamp=stamp,
                    key=entry.key,
                    headers=entry.headers,
                )
            )
            ends[number] = Mark(end + 1, total, stamp)
        return Appended(records)

    def _applied(self, outcomes: list[Appended | Exception]) -> None:
        """In the loop, after the commit: the reader sees the records."""
        for outcome in outcomes:
            if not isinstance(outcome, Exception):
                for record in outcome.records:
                    tail = self._tails[record.partition]
                    if record.offset != tail.end:  # a failed commit that was there after all: only on the disk
                        tail = self._tails[record.partition] = Tail(record.offset)
                    tail.add(record)
        held = sum(tail.bytes for tail in self._tails.values())
        while held > (TAIL_BYTES if self._reading else 0):
            tail = max(self._tails.values(), key=lambda t: t.bytes)
            held -= tail.bytes
            tail.drop()
            held += tail.bytes
        self._signal.tell()

    # ------------------------------------------------------------------ dropping

    async def trim(self, before: Mapping[int, int]) -> None:
        """See `protocols.Stream.trim`. The file does not shrink, its pages are used again."""
        more = await self._writer.run(self._consumed, dict(before))
        while more:
            more = await self._writer.run(self._retain)

    def _consumed(self, before: Mapping[int, int]) -> bool:
        conn = self._conn
        if conn is None:
            raise StreamError(f"{self.path}: the log is not open", retry=False)
        try:
            with transaction(conn):
                for number, offset in before.items():
                    conn.execute("UPDATE part SET consumed = max(consumed, ?) WHERE number = ?", (offset, number))
            self._known = False
            self._recall()
            return self._retain()
        except DISK_ERRORS as e:
            raise refused(e, str(self.file), StreamError) from e

    def _retain(self) -> bool:
        """Drop some of what is consumed and old, or consumed and too much; whether there is more to drop."""
        conn = self._conn
        assert conn is not None
        old = self._clock() - self.retention
        more = False
        for part in self._parts.values():
            cut = part.first_young(conn, old)
            stop = min(cut, part.first + TRIM_ROWS)
            if stop > part.first:
                self._drop(part, stop)
            more = more or stop < cut
        return more

    def _make_room(self, size: int) -> None:
        """Drop consumed records, the oldest first, until so many bytes fit.

        Raises:
            Full: they do not.
        """
        conn = self._conn
        assert conn is not None
        while (have := sum(part.bytes for part in self._parts.values())) + size > self.max_bytes:
            droppable = [p for p in self._parts.values() if p.first < p.floor]
            if not droppable:
                raise Full(
                    f"{self.path}: {have} of {self.max_bytes} bytes are records that nobody has consumed yet;"
                    f" {size} more do not fit"
                )
            part = min(droppable, key=lambda p: p.first_stamp)
            target = part.base + have + size - self.max_bytes
            (offset,) = conn.execute(
                f'SELECT coalesce(min("offset"), ?) FROM p{part.number} WHERE "offset" < ? AND total >= ?',
                (part.floor, part.first + TRIM_ROWS, target),
            ).fetchone()
            self._drop(part, min(offset + 1, part.first + TRIM_ROWS, part.floor))

    def _drop(self, part: Part, before: int) -> None:
        conn = self._conn
        assert conn is not None
        with transaction(conn):
            conn.execute(f'DELETE FROM p{part.number} WHERE "offset" < ?', (before,))
        part.recall(conn)

    # ------------------------------------------------------------------ reading

    async def poll(self, limit: int, wait: float) -> list[LogRecord]:
        """See `protocols.Stream.poll`.

        Raises:
            Corrupt: a record is not what was written; names it.
            OffsetLost: the log was trimmed beyond where this reader stands, and the policy is "stop".
        """
        self._cursor.check()
        if not await self._signal.wait(lambda: bool(self._ready()), wait):
            return []
        out: list[LogRecord] = []
        at: dict[int, int] = {}
        for partition in self._ready():
            at[partition] = self._cursor.next[partition]
            while len(out) < limit and (found := await self._some(partition, at[partition], limit - len(out))):
                at[partition] = found[-1].offset + 1
                out += found
        self._cursor.advance(at)  # only now: a poll that is cancelled has taken nothing
        return out

    def _ready(self) -> list[int]:
        return [p for p in self._cursor.order() if self._cursor.next[p] < self._tails[p].end]

    async def _some(self, partition: int, start: int, limit: int) -> list[LogRecord]:
        """The records of a partition from `start` on: from the tail, or from the disk up to the tail."""
        tail = self._tails[partition]
        if start < tail.begin:
            found = await self._reader.run(self._load, partition, start, min(limit, tail.begin - start))
            if found and found[0].offset != start:
                self._cursor.lost(partition, start, found[0].offset, tail.end)
            return found
        while tail.records and tail.begin < self._cursor.next[partition]:
            tail.drop()  # handed out by an earlier poll
        at = start - tail.begin
        return list(islice(tail.records, at, at + limit))

    def _load(self, partition: int, start: int, limit: int) -> list[LogRecord]:
        try:
            if self._read_conn is None:
                self._read_conn = connect(self.file, read_only=True)
            return load(self._read_conn, self.file, self.name, partition, start, limit)
        except DISK_ERRORS as e:
            raise refused(e, str(self.file), StreamError) from e

    def pause(self, partitions: Sequence[int]) -> None:
        self._cursor.paused.update(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        self._cursor.paused.difference_update(partitions)
        self._signal.tell()

    async def lag(self) -> dict[int, int]:
        return {p: self._tails[p].end - offset for p, offset in self._cursor.next.items()}
