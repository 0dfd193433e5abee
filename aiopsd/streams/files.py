"""Files as a stream: what was recorded once, played again. One partition per file, in the order of their names.

Enters: paths and patterns. Leaves: one `LogRecord` per line (or per file), its offset the number of the line, its stamp
the file's time of change, so that the same files give the same records. It refuses to follow a file that grows: what
was there at `start` is the log.
"""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from aiopsd.config import Section
from aiopsd.disk import Lane, refused
from aiopsd.errors import OffsetLost, StreamError
from aiopsd.model import Entry, LogRecord, SourcePos
from aiopsd.protocols import Clock, Owner
from aiopsd.streams.reading import Cursor, Signal

BLOCK = 1024 * 1024  # bytes at a time when lines are counted
MARK_EVERY = 4096  # lines between two remembered places of a file: a seek reads at most so many
READ_BYTES = 16 * 1024 * 1024  # that one read takes, whatever its limit in records


class FilesConfig(Section, frozen=True, kw_only=True):
    """Which files, and how they are cut into records."""

    paths: tuple[str, ...]  # files or patterns (*, **, ?); each file is a partition, sorted by name within a pattern
    split: Literal["lines", "file"] = "lines"  # file: the whole file is one record

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("`paths` is empty")


class FileStream:
    """`protocols.Stream` for reading files. Empty lines are no records; their numbers are left out.

    `finished` says that everything has been handed out.
    """

    Config: ClassVar[type[FilesConfig]] = FilesConfig

    def __init__(
        self,
        config: FilesConfig,
        name: str,
        format: str,
        *,
        on_offset_lost: Literal["stop", "earliest"] = "earliest",
        clock: Clock | None = None,
    ) -> None:
        self.config, self.name, self.format = config, name, format
        self._lane = Lane(f"{name}-files")
        self._cursor = Cursor(name, on_offset_lost)
        self._signal = Signal()
        self._parts: dict[int, Lines] = {}

    @property
    def gaps(self) -> list[OffsetLost]:
        """Offsets that the files did not have and that we went past."""
        return self._cursor.gaps

    @property
    def finished(self) -> bool:
        return all(offset >= self._parts[p].end for p, offset in self._cursor.next.items())

    async def start(self, owner: Owner | None = None) -> None:
        """Find the files and count their lines.

        Raises:
            StreamError: no file matches a path, or one cannot be read; names it.
            OffsetLost: an owner's offset is behind the last line and the policy is "stop".
        """
        self._parts = dict(enumerate(await self._lane.run(self._find)))
        if owner is not None:
            await self._cursor.take(owner, {p: (0, lines.end) for p, lines in self._parts.items()})

    def _find(self) -> "list[Lines]":
        found = []
        for pattern in self.config.paths:
            names = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
            names = [name for name in names if os.path.isfile(name)]
            if not names:
                raise StreamError(f"{self.name}: no file is called {pattern}", retry=False)
            found += names
        try:
            return [Lines(Path(name), self.config.split == "file") for name in found]
        except OSError as e:
            raise refused(e, e.filename or self.name, StreamError) from e

    async def poll(self, limit: int, wait: float) -> list[LogRecord]:
        """See `protocols.Stream.poll`: [] once all was read."""
        self._cursor.check()
        out: list[LogRecord] = []
        while not out:
            if not await self._signal.wait(lambda: bool(self._ready()), wait):
                return []
            at: dict[int, int] = {}
            for partition in self._ready():
                if len(out) < limit:
                    start = self._cursor.next[partition]
                    found, at[partition] = await self._lane.run(self._load, partition, start, limit - len(out))
                    out += found
            self._cursor.advance(at)  # only now: a poll that is cancelled has taken nothing
        return out

    def _ready(self) -> list[int]:
        return [p for p in self._cursor.order() if self._cursor.next[p] < self._parts[p].end]

    def _load(self, partition: int, start: int, limit: int) -> tuple[list[LogRecord], int]:
        lines = self._parts[partition]
        try:
            rows, following = lines.read(start, limit)
        except OSError as e:
            raise refused(e, str(lines.path), StreamError) from e
        records = [
            LogRecord(
                source=self.name,
                partition=partition,
                offset=offset,
                value=value,
                format=self.format,
                stamp=lines.changed_at,
            )
            for offset, value in rows
        ]
        return records, following

    async def append(self, entries: Sequence[Entry]) -> list[SourcePos]:
        raise StreamError(f"{self.name}: files are only read", retry=False)

    def pause(self, partitions: Sequence[int]) -> None:
        self._cursor.paused.update(partitions)

    def resume(self, partitions: Sequence[int]) -> None:
        self._cursor.paused.difference_update(partitions)
        self._signal.tell()

    async def lag(self) -> dict[int, int]:
        """Lines left, by partition."""
        return {p: self._parts[p].end - offset for p, offset in self._cursor.next.items()}

    async def trim(self, before: Mapping[int, int]) -> None:
        """Files stay as they are."""

    async def stop(self) -> None:
        await self._cursor.release()
        self._lane.close()


class Lines:
    """One file, cut at its line ends (or not at all); `marks[i]` is where line i * MARK_EVERY begins."""

    def __init__(self, path: Path, whole: bool) -> None:
        self.path, self.whole = path, whole
        self.end, self.marks = 1, [0]
        self._at = (0, 0)  # (line, place) where the last read ended: the next one normally begins there
        with path.open("rb") as file:
            self.changed_at = os.fstat(file.fileno()).st_mtime
            if not whole:
                self.end = self._count(file.read)

    def _count(self, read: "Callable[[int], bytes]") -> int:
        """Number of lines; a last one without a line end counts."""
        lines = place = 0
        last = b"\n"
        while block := read(BLOCK):
            n = block.count(b"\n")
            if lines // MARK_EVERY != (lines + n) // MARK_EVERY:
                at = -1
                for i in range(1, n + 1):
                    at = block.index(b"\n", at + 1)
                    if (lines + i) % MARK_EVERY == 0:
                        self.marks.append(place + at + 1)
            lines += n
            place += len(block)
            last = block[-1:]
        return lines + (last != b"\n")

    def read(self, start: int, limit: int) -> tuple[list[tuple[int, bytes]], int]:
        """((line number, line) of at most `limit` lines that are not empty, number of the line that follows)."""
        with self.path.open("rb") as file:
            if self.whole:
                return [(0, file.read())], 1
            line, place = self._at
            if line > start or start - line > MARK_EVERY:
                line = start // MARK_EVERY * MARK_EVERY
                place = self.marks[start // MARK_EVERY]
            file.seek(place)
            rows: list[tuple[int, bytes]] = []
            size = 0
            while len(rows) < limit and line < self.end and size < READ_BYTES:
                raw = file.readline()
                size += len(raw)
                if line >= start and (value := raw.rstrip(b"\r\n")):
                    rows.append((line, value))
                line += 1
            self._at = (line, file.tell())
        return rows, line
