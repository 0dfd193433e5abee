"""The local journal: one SQLite file, one writer, a commit (and a sync) per group of callers.

Enters: bodies with the origin they came from. Leaves: `JournalRecord`s with offset and stamp, in order, from memory
when they are young (the reader is normally at the end) and from the disk when they are not. It refuses to know what a
body means.

Durability is SQLite's write-ahead log: each commit is one run of checksummed frames, and a run that was cut at any byte
is not there at all. Our own CRC over each record finds what a checkpointed page lost to the disk since.
Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

import sqlite3
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from aiopsd.errors import Corrupt, OffsetLost, StoreError, StreamError
from aiopsd.model import Body, JournalRecord, SourcePos
from aiopsd.protocols import Clock
from aiopsd.streams.reading import Signal

SCHEMA = 1
# offset INTEGER PRIMARY KEY: the row id itself, so that appends only touch the last leaf
RECORD = (
    '("offset" INTEGER PRIMARY KEY, stamp REAL NOT NULL, source TEXT, part INTEGER, origin INTEGER,'
    " crc INTEGER NOT NULL, coding INTEGER NOT NULL, body BLOB NOT NULL)"
)
HIGH_WATER = '(source TEXT, part INTEGER, "offset" INTEGER NOT NULL, PRIMARY KEY (source, part)) WITHOUT ROWID'
ZIP_ABOVE = 256  # bytes; below, zlib's 6 bytes of frame and its set-up cost more than they save
TAIL_BYTES = 16 * 1024 * 1024  # encoded size of the young records kept decoded; some 4x that in objects
TAIL_RECORDS = 20_000
READ_BYTES = 16 * 1024 * 1024  # stored bytes of one read from the disk, whatever its limit in records
TRIM_ROWS = 2_000  # a transaction; appends get their turn in between

_RAW, _ZLIB = 0, 1
_head = struct.Struct("<qdqq").pack
_encode = msgspec.msgpack.Encoder().encode
_decode: "msgspec.msgpack.Decoder[Any]" = msgspec.msgpack.Decoder(Body)

Mark = tuple[str, int]  # (source, partition)


class Call(NamedTuple):
    """What one caller appends."""

    bodies: Sequence[Body]
    origins: Sequence[SourcePos | None] | None


def admit(call: Call, marks: Mapping[Mark, int]) -> tuple[list[tuple[Body, SourcePos | None]], dict[Mark, int]]:
    """(what of this call is new, the high-water marks that it raises).

    Every body of a call is held against the marks as they were before it: bodies that share an origin stay together.
    """
    if call.origins is None:
        return [(body, None) for body in call.bodies], {}
    if len(call.origins) != len(call.bodies):
        raise ValueError(f"{len(call.bodies)} bodies with {len(call.origins)} origins")
    kept: list[tuple[Body, SourcePos | None]] = []
    raised: dict[Mark, int] = {}
    for body, origin in zip(call.bodies, call.origins, strict=True):
        if origin is not None:
            mark = (origin.source, origin.partition)
            if origin.offset <= marks.get(mark, -1):
                continue
            raised[mark] = max(origin.offset, raised.get(mark, -1))
        kept.append((body, origin))
    return kept, raised


class Tail:
    """The youngest records, contiguous up to the end, bounded by count and by encoded bytes. The event loop's."""

    def __init__(self, end: int, most_records: int = TAIL_RECORDS, most_bytes: int = TAIL_BYTES) -> None:
        self.begin = self.end = end  # offsets [begin, end) are in memory
        self._records: list[JournalRecord] = []
        self._sizes: list[int] = []
        self._gone = 0  # leading elements of the lists that are no longer part: dropped in bulk, not one by one
        self._bytes = 0
        self._most_records, self._most_bytes = most_records, most_bytes

    def add(self, records: Sequence[JournalRecord], sizes: Sequence[int]) -> None:
        self._records += records
        self._sizes += sizes
        self._bytes += sum(sizes)
        self.end += len(records)
        while self.end - self.begin > self._most_records or (
            self._bytes > self._most_bytes and self.end - self.begin > 1
        ):
            self._bytes -= self._sizes[self._gone]
            self._gone += 1
            self.begin += 1
        if self._gone > len(self._records) // 2:
            del self._records[: self._gone]
            del self._sizes[: self._gone]
            self._gone = 0

    def read(self, start: int, limit: int) -> list[JournalRecord]:
        """Records from offset `start` (in [begin, end]) on."""
        at = start - self.begin + self._gone
        return self._records[at : at + limit]


class Written(NamedTuple):
    """What one committed call did."""

    last: int
    records: list[JournalRecord]
    sizes: list[int]


class LocalJournal(Connections):
    """`protocols.Journal` on a SQLite file.

    Bodies are served from memory as they were given and from the disk as they were decoded: give them with the types
    that the model declares (a float as a float), and both are equal.

    Args:
        path: The file; its folder must exist. A lock file beside it keeps a second daemon out.
        clock: UTC seconds; stamps never go back even when it does.
        sync: see `disk.connect`.
        retention: Seconds that a record stays after it was appended, at least, once `trim` allowed it to go.
    """

    def __init__(self, path: Path, clock: Clock, sync: Sync = "full", retention: float = 7 * 86400.0) -> None:
        self.path, self.retention = path, float(retention)
        self._clock, self._sync = clock, sync
        self._lock = Lock(path.with_name(path.name + ".lock"))
        self._writer, self._reader = Lane("journal-writer"), Lane("journal-reader")
        self._group: GroupCommit[Call, Written] = GroupCommit(self._writer, self._write, self._applied)
        self._read_conn: sqlite3.Connection | None = None  # of the reader's thread
        # of the writer's thread
        self._conn: sqlite3.Connection | None = None
        self._next, self._stamp = 0, 0.0
        self._marks: dict[Mark, int] = {}
        self._known = False  # False: the three above have to be read from the file first
        # of the event loop
        self._begin = 0
        self._tail = Tail(0)
        self._signal = Signal()
        self._started = False

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Open or create.

        Raises:
            Fenced: another process has this journal open; names the data folder.
            Corrupt: the file is no journal of ours, or SQLite finds it damaged.
        """
        self._lock.acquire()
        try:
            self._begin, end = await self._writer.run(self._open)
        except BaseException:
            await self._writer.run(self._close)
            self._lock.release()
            raise
        self._tail = Tail(end)
        self._started = True

    def _open(self) -> tuple[int, int]:
        try:
            self._conn = conn = connect(self.path, sync=self._sync)
            (version,) = conn.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA:
                raise StoreError(f"{self.path}: written by a newer aiopsd (schema {version}, this one knows {SCHEMA})")
            with transaction(conn):
                create(conn, self.path, "record", RECORD)
                create(conn, self.path, "high_water", HIGH_WATER)
                if version < SCHEMA:  # a start on a full disk must not have to write
                    conn.execute(f"PRAGMA user_version = {SCHEMA}")
            sync_folder(self.path.parent)
            self._recall()
            (begin,) = conn.execute('SELECT min("offset") FROM record').fetchone()
        except DISK_ERRORS as e:
            raise refused(e, str(self.path)) from e
        return begin or 0, self._next

    def _recall(self) -> None:
        """What the writer keeps in memory, from the file: at the start, and after a write that failed half-way."""
        assert self._conn is not None
        last = self._conn.execute('SELECT "offset", stamp FROM record ORDER BY "offset" DESC LIMIT 1').fetchone()
        rows = self._conn.execute('SELECT source, part, "offset" FROM high_water').fetchall()
        if not all(isinstance(n, int) for _, *numbers in rows for n in numbers):
            raise Corrupt(f"{self.path}: a high-water mark is not what was written")
        self._next, self._stamp = (last[0] + 1, last[1]) if last else (0, 0.0)
        self._marks = {(source, part): offset for source, part, offset in rows}
        self._known = True

    async def stop(self) -> None:
        """Close; what was appended before is finished first."""
        if self._started:
            self._started = False
            await self._group.drain()
            await self._reader.run(self._close_reader)
            await self._writer.run(self._close)
        self._reader.close()
        self._writer.close()
        self._lock.release()

    # ------------------------------------------------------------------ writing

    async def append(self, bodies: Sequence[Body], origins: Sequence[SourcePos | None] | None = None) -> int:
        """See `protocols.Journal.append`.

        Raises:
            Full: no space; nothing was written.
            StreamError: not open, or the disk refuses otherwise; nothing was written as far as SQLite can tell.
            TypeError, ValueError: a body that msgpack cannot hold; nothing of this call was written.
        """
        if not self._started:
            raise StreamError(f"{self.path}: the journal is not open", retry=False)
        return (await self._group.put(Call(bodies, origins))).last

    def _write(self, calls: Sequence[Call]) -> list[Written | Exception]:
        """In the writer's thread: all calls in one transaction. A call that cannot be encoded fails alone."""
        conn = self._conn
        assert conn is not None
        try:
            if not self._known:
                self._recall()
            stamp = max(self._stamp, self._clock())
            end, marks = self._next, dict(self._marks) if any(c.origins for c in calls) else self._marks
            raised_all: dict[Mark, int] = {}
            rows: list[tuple[object, ...]] = []
            outcomes: list[Written | Exception] = []
            for call in calls:
                try:
                    kept, raised = admit(call, marks)
                    encoded = [encode(body) for body, _ in kept]
                except (TypeError, ValueError, OverflowError) as e:
                    outcomes.append(e)
                    continue
                records = []
                for (body, origin), (coding, data) in zip(kept, encoded, strict=True):
                    records.append(JournalRecord(offset=end, stamp=stamp, body=body, origin=origin))
                    place = (origin.source, origin.partition, origin.offset) if origin else (None, None, None)
                    rows.append((end, stamp, *place, checksum(end, stamp, place, data), coding, data))
                    end += 1
                marks |= raised
                raised_all |= raised
                outcomes.append(Written(end - 1, records, [len(data) for _, data in encoded]))
            if rows:
                self._known = False  # until the commit is known to have worked
                with transaction(conn):
                    conn.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
                    if raised_all:
                        conn.executemany(
                            "INSERT OR REPLACE INTO high_water VALUES (?, ?, ?)",
                            [(source, part, offset) for (source, part), offset in raised_all.items()],
                        )
                self._next, self._stamp, self._marks = end, stamp, marks
                self._known = True
        except DISK_ERRORS as e:
            raise refused(e, str(self.path), StreamError) from e
        return outcomes

    def _applied(self, outcomes: list[Written | Exception]) -> None:
        """In the loop, after the commit: readers see the records, waiters wake."""
        for outcome in outcomes:
            if not isinstance(outcome, Exception):
                self._take(outcome)
        self._signal.tell()

    def _take(self, written: Written) -> None:
        if not written.records:
            return
        first = written.records[0].offset
        if first != self._tail.end:  # a commit that reported failure was there after all: it is on the disk only
            self._tail = Tail(first)
        self._tail.add(written.records, written.sizes)

    async def trim(self, before: int) -> None:
        """Drop records below `before` that are older than the retention; the newest stays, it holds end and stamp.

        The file does not shrink, its pages are used again.
        """
        while True:
            begin, more = await self._writer.run(self._drop, before)
            self._begin = max(self._begin, begin)
            if not more:
                return

    def _drop(self, before: int) -> tuple[int, bool]:
        """One transaction's worth; (first offset that is left, whether there is more to drop)."""
        conn = self._conn
        assert conn is not None
        try:
            first, last = conn.execute('SELECT min("offset"), max("offset") FROM record').fetchone()
            if first is None:
                return 0, False
            cut = self._first_young(first, min(before, last), self._clock() - self.retention)
            stop = min(cut, first + TRIM_ROWS)
            if stop > first:
                with transaction(conn):
                    conn.execute('DELETE FROM record WHERE "offset" < ?', (stop,))
        except DISK_ERRORS as e:
            raise refused(e, str(self.path), StreamError) from e
        return stop, stop < cut

    def _first_young(self, low: int, high: int, cutoff: float) -> int:
        """First offset in [low, high] with stamp >= cutoff, or high: stamps do not go back, so by bisection."""
        assert self._conn is not None
        while low < high:
            middle = (low + high) // 2
            (stamp,) = self._conn.execute('SELECT stamp FROM record WHERE "offset" = ?', (middle,)).fetchone()
            if stamp < cutoff:
                low = middle + 1
            else:
                high = middle
        return low

    # ------------------------------------------------------------------ reading

    async def read(self, after: int, limit: int) -> list[JournalRecord]:
        """See `protocols.Journal.read`.

        Raises:
            OffsetLost: `after` + 1 is below the retained beginning, or `after` lies beyond the end.
            Corrupt: a record is not what was written; names its offset.
        """
        tail = self._tail
        if after + 1 == tail.end or limit <= 0:
            return []
        if after + 1 < self._begin or after + 1 > tail.end:
            raise OffsetLost("journal", 0, after + 1, self._begin, tail.end)
        if after + 1 >= tail.begin:
            return tail.read(after + 1, limit)
        return await self._reader.run(self._load, after, min(limit, tail.end - after - 1))

    def _load(self, after: int, limit: int) -> list[JournalRecord]:
        """In the reader's thread, from the disk."""
        records: list[JournalRecord] = []
        size = 0
        try:
            if self._read_conn is None:
                self._read_conn = connect(self.path, read_only=True)
            cursor = self._read_conn.execute(
                'SELECT "offset", stamp, source, part, origin, crc, coding, body FROM record'
                ' WHERE "offset" > ? ORDER BY "offset" LIMIT ?',
                (after, limit),
            )
            try:
                for offset, stamp, source, part, origin, crc, coding, data in cursor:
                    if offset != after + 1 + len(records):
                        if not records:  # trimmed between the caller's check and this read
                            raise OffsetLost("journal", 0, after + 1, offset, offset)
                        raise Corrupt(f"{self.path}: record {after + 1 + len(records)} is missing")
                    place = (source, part, origin)
                    if not matches(crc, offset, stamp, place, data):
                        raise Corrupt(f"{self.path}: record {offset} does not match its checksum")
                    pos = None if source is None else SourcePos(source=source, partition=part, offset=origin)
                    records.append(
                        JournalRecord(offset=offset, stamp=stamp, body=self._body(offset, coding, data), origin=pos)
                    )
                    size += len(data)
                    if size > READ_BYTES:
                        break
            finally:
                cursor.close()
        except DISK_ERRORS as e:
            raise refused(e, str(self.path), StreamError) from e
        if not records and limit > 0:
            raise Corrupt(f"{self.path}: record {after + 1} is missing")
        return records

    def _body(self, offset: int, coding: int, data: bytes) -> Body:
        try:
            body: Body = _decode.decode(zlib.decompress(data) if coding == _ZLIB else data)
        except (msgspec.MsgspecError, zlib.error) as e:  # the CRC matched: written by another version
            raise Corrupt(f"{self.path}: record {offset} cannot be decoded: {e}") from e
        return body

    async def wait(self, after: int, timeout: float | None) -> bool:
        """True as soon as a record with offset > `after` exists; False after `timeout` seconds."""
        return await self._signal.wait(lambda: self._tail.end - 1 > after, timeout)

    def end(self) -> int:
        return self._tail.end

    def begin(self) -> int:
        """The first offset that the journal still holds; `end()` when it holds none."""
        return self._begin

    async def rebase(self, source: str, partition: int, before: int) -> None:
        """See `protocols.Journal.rebase`.

        Raises:
            Full: no space; the mark stays.
        """

        def lower() -> None:
            conn = self._conn
            assert conn is not None
            try:
                if not self._known:
                    self._recall()
                with transaction(conn):
                    conn.execute("INSERT OR REPLACE INTO high_water VALUES (?, ?, ?)", (source, partition, before - 1))
                self._marks = {**self._marks, (source, partition): before - 1}
            except DISK_ERRORS as e:
                raise refused(e, str(self.path), StreamError) from e

        await self._writer.run(lower)

    async def high_water(self, source: str) -> dict[int, int]:
        """Highest origin offset of `source` ever appended, by partition: survives trim."""

        def find() -> dict[int, int]:
            try:
                if not self._known:
                    self._recall()
            except DISK_ERRORS as e:
                raise refused(e, str(self.path), StreamError) from e
            return {part: offset for (name, part), offset in self._marks.items() if name == source}

        return await self._writer.run(find)


def recorded(path: Path) -> Iterator[JournalRecord]:
    """What a journal file holds, read only and without its lock: a running daemon may go on writing it.

    Raises:
        StreamError: there is no such journal.
        Corrupt: a record is not what was written; names its offset.
    """
    if not path.is_file():
        raise StreamError(f"no journal at {path}", retry=False)
    journal = LocalJournal(path, lambda: 0.0)
    try:
        with connect(path, read_only=True) as conn:
            low, high = conn.execute('SELECT min("offset"), max("offset") FROM record').fetchone()
        conn.close()
        after = low - 1 if low is not None else high
        while low is not None and after < high:
            records = journal._load(after, min(1000, high - after))
            yield from records
            after = records[-1].offset
    except DISK_ERRORS as e:
        raise refused(e, str(path), StreamError) from e
    finally:
        journal._close_reader()


def encode(body: Body) -> tuple[int, bytes]:
    """(coding, bytes) of a body: msgpack, deflated when that makes it smaller."""
    data = _encode(body)
    if len(data) > ZIP_ABOVE:
        packed = zlib.compress(data, 1)
        if len(packed) < len(data):
            return _ZLIB, packed
    return _RAW, data


def matches(crc: object, offset: int, stamp: Any, place: tuple[Any, Any, Any], data: Any) -> bool:
    """Whether this is the row that was written. Damage may have changed the types of its columns, too."""
    try:
        return checksum(offset, stamp, place, data) == crc
    except (TypeError, AttributeError, ValueError, struct.error):
        return False


def checksum(offset: int, stamp: float, place: tuple[Any, Any, Any], data: bytes) -> int:
    """CRC-32 over everything that a row says."""
    source, part, origin = place
    if source is None:
        return zlib.crc32(data, zlib.crc32(_head(offset, stamp, -1, -1)))
    return zlib.crc32(data, zlib.crc32(source.encode(), zlib.crc32(_head(offset, stamp, part, origin))))
