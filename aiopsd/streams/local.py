"""The local log: raw records in N partitions of one SQLite file, for metrics that arrive over HTTP.

Enters: `Entry`s from the door. Leaves: `LogRecord`s, per partition in offset order from 0. One process writes; the same
process reads, from memory as long as it keeps up, or others read the file (`LocalLog.reader`). It refuses to know what
a record means.

The log never drops what was not consumed: records go when `trim` has allowed it and they are older than the retention,
or when the log is larger than it may be. When only unconsumed records are left to drop, appends are refused.
"""

import asyncio
import sqlite3
import struct
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

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
from aiopsd.errors import Corrupt, Full, OffsetLost, StoreError, StreamError
from aiopsd.model import Entry, LogRecord, SourcePos
from aiopsd.protocols import Clock, Owner
from aiopsd.streams.reading import Cursor, Signal, choose

SCHEMA = 1
# consumed: nobody reads below; kept here because a reader may be slow to say so again
PART = "(number INTEGER PRIMARY KEY, consumed INTEGER NOT NULL)"
# A table p0, p1, ... per partition: appends only touch the last leaf of each. total counts the bytes of this and all
# earlier records, so that sizes are differences and nothing has to be summed up.
RECORD = (
    '("offset" INTEGER PRIMARY KEY, stamp REAL NOT NULL, total INTEGER NOT NULL, key BLOB, headers BLOB NOT NULL,'
    " format TEXT NOT NULL, crc INTEGER NOT NULL, value BLOB NOT NULL)"
)
FILE, LOCK = "log.db", "log.lock"
ROW_BYTES = 64  # what a record costs on the disk beside its value, key and headers, about
TAIL_BYTES = 32 * 1024 * 1024  # of values kept in memory for a reader that is a little behind
READ_BYTES = 16 * 1024 * 1024  # of values that one read takes from the disk, whatever its limit in records
TRIM_ROWS = 2_000  # a transaction; appends get their turn in between
RETAIN_EVERY = 60.0  # s; between two looks for records that are too old, beside those that `trim` causes
LOOK_EVERY = 0.05  # s; how often a reader in another process looks for new records

_head = struct.Struct("<qqd").pack
_encode = msgspec.msgpack.Encoder().encode
_headers = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...]).decode
_COLUMNS = '"offset", stamp, key, headers, format, crc, value'


class Bounds(NamedTuple):
    """The first offset that a partition holds and the one that its next record gets."""

    first: int
    end: int


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


def bounds_of(conn: sqlite3.Connection, partition: int) -> Bounds:
    """The newest record is never dropped, so an empty partition is one that never had any."""
    first, last = conn.execute(f'SELECT min("offset"), max("offset") FROM p{partition}').fetchone()
    if first is None:
        return Bounds(0, 0)
    return Bounds(first, last + 1)


def load(conn: sqlite3.Connection, path: Path, name: str, partition: int, start: int, limit: int) -> list[LogRecord]:
    """Records of one partition from `start` on, verified; at least one when there is one, at most READ_BYTES of them.

    Raises:
        Corrupt: names the record.
    """
    records: list[LogRecord] = []
    size = 0
    cursor = conn.execute(
        f'SELECT {_COLUMNS} FROM p{partition} WHERE "offset" >= ? ORDER BY "offset" LIMIT ?', (start, limit)
    )
    try:
        for offset, stamp, key, headers, format, crc, value in cursor:
            if records and offset != records[-1].offset + 1:
                raise Corrupt(f"{path}: record {partition}@{records[-1].offset + 1} is missing")
            if not matches(crc, partition, offset, stamp, key, headers, format, value):
                raise Corrupt(f"{path}: record {partition}@{offset} does not match its checksum")
            records.append(
                LogRecord(
                    source=name,
                    partition=partition,
                    offset=offset,
                    value=value,
                    format=format,
                    stamp=stamp,
                    key=key,
                    headers=_headers(headers) if headers else (),
                )
            )
            size += len(value)
            if size > READ_BYTES:
                break
    finally:
        cursor.close()
    return records


def matches(crc: object, *row: Any) -> bool:
    """Whether this is the row that was written. Damage may have changed the types of its columns, too."""
    try:
        return checksum(*row) == crc
    except (TypeError, AttributeError, ValueError, struct.error):
        return False


def checksum(
    partition: int, offset: int, stamp: float, key: bytes | None, headers: bytes, format: str, value: bytes
) -> int:
    """CRC-32 over everything that a row says."""
    crc = zlib.crc32(_head(partition, offset, stamp))
    for part in (key or b"", headers, format.encode(), value):
        crc = zlib.crc32(part, crc)
    return crc


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
    ) -> "LocalReader":
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
        ends: "dict[int, Mark]",
        now: float,
        rows: dict[int, list[tuple[object, ...]]],
    ) -> Appended:
        """The records of one call; their rows go to `rows`, and `ends` moves on."""
        records = []
        for entry, number in zip(entries, chosen, strict=True):
            end, total, last = ends[number]
            stamp, total = max(last, now), total + size_of(entry)
            headers = _encode(entry.headers) if entry.headers else b""
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

    def _drop(self, part: "Part", before: int) -> None:
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


def size_of(entry: Entry) -> int:
    """Bytes that an entry counts for."""
    return len(entry.value) + len(entry.key or b"") + (len(_encode(entry.headers)) if entry.headers else 0) + ROW_BYTES
