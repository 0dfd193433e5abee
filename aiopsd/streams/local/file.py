"""What a local log is on the disk: tables, rows with a checksum over all that they say, and how they are read."""

import sqlite3
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from aiopsd.errors import Corrupt
from aiopsd.model import Entry, LogRecord

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
READ_BYTES = 16 * 1024 * 1024  # of values that one read takes from the disk, whatever its limit in records

_COLUMNS = '"offset", stamp, key, headers, format, crc, value'
_head = struct.Struct("<qqd").pack
encode_headers = msgspec.msgpack.Encoder().encode
_headers = msgspec.msgpack.Decoder(tuple[tuple[str, bytes], ...]).decode


class Bounds(NamedTuple):
    """The first offset that a partition holds and the one that its next record gets."""

    first: int
    end: int


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


def size_of(entry: Entry) -> int:
    """Bytes that an entry counts for."""
    return (
        len(entry.value)
        + len(entry.key or b"")
        + (len(encode_headers(entry.headers)) if entry.headers else 0)
        + ROW_BYTES
    )
