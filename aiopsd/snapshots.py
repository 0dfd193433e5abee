"""Snapshot files: a stage's state as one file of plain data and raw arrays, written in chunks, verified when read.

    magic "aiopsd-snapshot\\n", uint32 format version, uint32 length of the header, uint32 CRC-32 of the header
    header, msgpack: kind, version, meta, arrays: [name, dtype, shape, offset, nbytes]
    per array: its bytes (C order), then uint32 CRC-32 of them; `offset` counts from the first 64-byte boundary behind
    the header, and is itself on one

All integers little-endian. No pickle, no objects: an array is numbers, booleans, times or fixed-width text. One array
is in flight at a time, in chunks of `CHUNK`, so that neither writing nor reading needs the state twice in memory, and
the disk is synced as it goes: hundreds of dirty megabytes at once would hold up everybody else's commits.
"""

import hashlib
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.disk import refused, sync_folder
from aiopsd.errors import Corrupt, StoreError
from aiopsd.model import Snapshot
from aiopsd.protocols import SnapshotRef

MAGIC = b"aiopsd-snapshot\n"
VERSION = 1
CHUNK = 8 * 1024 * 1024  # bytes a write
ALIGN = 64  # bytes; so that a mapped file would have aligned arrays
KINDS = "biufcmMSU"  # numpy's letters of the dtypes that are plain bytes
SUFFIX, TEMPORARY = ".snap", ".part"
NAME_MOST = 120  # characters of a stage's name in the file's name; file systems allow 255 bytes in all

_prefix = struct.Struct("<16sIII")
_crc = struct.Struct("<I")


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What stands before the arrays."""

    kind: str
    version: int
    meta: dict[str, Any]
    arrays: list[tuple[str, str, list[int], int, int]]  # name, dtype, shape, offset, nbytes


def header_of(snapshot: Snapshot) -> tuple[bytes, bytes]:
    """The start of the file of this snapshot, in two parts: the fixed prefix, and what it tells the length of.

    Raises:
        StoreError: an array of objects or records, or meta that msgpack cannot hold; names it.
    """
    table = []
    offset = 0
    for name, array in snapshot.arrays.items():
        if array.dtype.kind not in KINDS:
            raise StoreError(
                f"snapshot {snapshot.kind}: array `{name}` has dtype {array.dtype}, which is not plain data"
            )
        offset += -offset % ALIGN
        table.append((name, array.dtype.str, list(array.shape), offset, array.nbytes))
        offset += array.nbytes + _crc.size
    header = Header(kind=snapshot.kind, version=snapshot.version, meta=snapshot.meta, arrays=table)
    try:
        data = msgspec.msgpack.encode(header)
    except (TypeError, ValueError, OverflowError) as e:
        raise StoreError(f"snapshot {snapshot.kind}: meta is not plain data: {e}") from e
    return _prefix.pack(MAGIC, VERSION, len(data), zlib.crc32(data)), data


def file_name(name: str, position: int, sha256: str) -> str:
    """The name of a snapshot's file: readable, unique by content, safe in any folder."""
    escaped = quote(name, safe="").replace(".", "%2E")
    if len(escaped) > NAME_MOST:
        escaped = f"{escaped[: NAME_MOST - 17]}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
    return f"{escaped}-{position}-{sha256[:8]}{SUFFIX}"


class _Out:
    """An unbuffered file being written: what went through, hashed, and synced chunk by chunk."""

    def __init__(self, file: io.FileIO) -> None:
        self._file, self._hash, self._dirty = file, hashlib.sha256(), 0
        self.size = 0

    def write(self, data: memoryview | bytes) -> None:
        rest = memoryview(data)
        while rest:
            n = self._file.write(rest[:CHUNK])  # may take less than it is given when the disk is nearly full
            self._hash.update(rest[:n])
            rest = rest[n:]
            self.size += n
            self._dirty += n
            if self._dirty >= CHUNK:
                os.fdatasync(self._file.fileno())
                self._dirty = 0

    def pad(self) -> None:
        self.write(b"\0" * (-self.size % ALIGN))

    def sha256(self) -> str:
        return self._hash.hexdigest()


def write(
    folder: Path, name: str, position: int, config_hash: str, written_at: float, snapshot: Snapshot
) -> SnapshotRef:
    """Write the file of a snapshot and sync it and its folder; nothing refers to it yet. Blocks: call it in a thread.

    Raises:
        Full: no space; the unfinished file is gone.
        StoreError: the snapshot is not plain data, or the disk refuses otherwise.
    """
    header = header_of(snapshot)
    temporary = folder / f"{file_name(name, position, f'{os.getpid():08x}')}{TEMPORARY}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb", buffering=0) as raw:
                out = _Out(raw)
                for part in header:  # not joined: with a million series it is tens of megabytes
                    out.write(part)
                out.pad()
                for array in snapshot.arrays.values():
                    out.pad()
                    data = _bytes_of(array)
                    out.write(data)
                    out.write(_crc.pack(zlib.crc32(data)))
                os.fsync(raw.fileno())
            path = folder / file_name(name, position, out.sha256())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(folder)
    except OSError as e:
        raise refused(e, f"snapshot {name} in {folder}") from e
    return SnapshotRef(
        name=name,
        position=position,
        config_hash=config_hash,
        written_at=written_at,
        path=str(path),
        sha256=out.sha256(),
        size=out.size,
    )


def _bytes_of(array: NDArray[np.generic]) -> memoryview:
    """The array's bytes in C order, without a copy when it lies so already."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).data if flat.nbytes else memoryview(b"")


def read(ref: SnapshotRef) -> Snapshot:
    """The snapshot in this file, fresh writeable arrays, everything verified. Blocks: call it in a thread.

    Raises:
        Corrupt: the file is missing, or not what was written; names it.
    """
    path = Path(ref.path)
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != ref.size:
                raise Corrupt(f"{path}: {size} bytes, {ref.size} were written")
            return _In(path, file, size).snapshot(ref.sha256)
    except FileNotFoundError:
        raise Corrupt(f"{path}: the snapshot's file is missing") from None
    except OSError as e:
        raise refused(e, str(path)) from e


class _In:
    """A file being read: in order, hashed, nothing trusted before its checksum is."""

    def __init__(self, path: Path, file: io.FileIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size
        self._hash, self._at, self._base = hashlib.sha256(), 0, 0

    def _fill(self, view: memoryview) -> int:
        """Fill the view from the file; the CRC-32 of what came."""
        crc = 0
        for at in range(0, len(view), CHUNK):
            piece = view[at : at + CHUNK]
            got = 0
            while got < len(piece):
                n = self._file.readinto(piece[got:])
                if not n:
                    raise Corrupt(f"{self._path}: ends at byte {self._at + got}")
                got += n
            self._at += got
            self._hash.update(piece)
            crc = zlib.crc32(piece, crc)
        return crc

    def _take(self, n: int) -> tuple[bytes, int]:
        if not 0 <= n <= self._size - self._at:
            raise Corrupt(f"{self._path}: speaks of {n} bytes at {self._at}, the file has {self._size}")
        data = bytearray(n)
        crc = self._fill(memoryview(data))
        return bytes(data), crc

    def snapshot(self, sha256: str) -> Snapshot:
        magic, version, length, crc = _prefix.unpack(self._take(_prefix.size)[0])
        if magic != MAGIC:
            raise Corrupt(f"{self._path}: not a snapshot file")
        if version != VERSION:
            raise Corrupt(f"{self._path}: format {version}, this aiopsd knows {VERSION}")
        data, actual = self._take(length)
        if actual != crc:
            raise Corrupt(f"{self._path}: the header does not match its checksum")
        try:
            header = msgspec.msgpack.decode(data, type=Header)
        except msgspec.MsgspecError as e:
            raise Corrupt(f"{self._path}: the header cannot be read: {e}") from e
        self._take(-self._at % ALIGN)
        self._base = self._at
        arrays = {row[0]: self._array(*row) for row in header.arrays}
        if self._at != self._size:
            raise Corrupt(f"{self._path}: {self._size - self._at} bytes behind the last array")
        if self._hash.hexdigest() != sha256:
            raise Corrupt(f"{self._path}: does not match its SHA-256")
        return Snapshot(kind=header.kind, version=header.version, meta=header.meta, arrays=arrays)

    def _array(self, name: str, dtype_text: str, shape: list[int], offset: int, nbytes: int) -> NDArray[np.generic]:
        offset += self._base
        try:
            dtype = np.dtype(dtype_text)
        except TypeError as e:
            raise Corrupt(f"{self._path}: array `{name}`: {e}") from e
        if dtype.kind not in KINDS or min(shape, default=0) < 0 or offset < self._at:
            raise Corrupt(f"{self._path}: array `{name}`: dtype {dtype_text}, shape {shape}, offset {offset}")
        if nbytes != dtype.itemsize * math.prod(shape) or nbytes > self._size - offset:
            raise Corrupt(f"{self._path}: array `{name}`: {nbytes} bytes at {offset} for {dtype_text}{shape}")
        self._take(offset - self._at)  # the padding
        flat = np.empty(nbytes, np.uint8)
        crc = self._fill(flat.data)
        if _crc.unpack(self._take(_crc.size)[0])[0] != crc:
            raise Corrupt(f"{self._path}: array `{name}` does not match its checksum")
        return flat.view(dtype).reshape(shape) if nbytes else np.empty(shape, dtype)
