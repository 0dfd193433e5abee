"""Readers of a stream for tests: owners that keep positions as a store would, and loops that poll for them."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from aiopsd.model import LogRecord
from aiopsd.protocols import Stream

S = TypeVar("S", bound=Stream)


class Ledger:
    """An owner that keeps positions in memory and writes down what it was asked and told.

    `story` holds ("assigned" | "revoked", partitions) in order; `seen` the records taken, `held` what it owns now.
    """

    def __init__(self, positions: Mapping[int, int] | None = None) -> None:
        self.positions: dict[int, int] = dict(positions or {})
        self.held: tuple[int, ...] = ()
        self.story: list[tuple[str, tuple[int, ...]]] = []
        self.seen: list[LogRecord] = []

    async def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        self.held = tuple(partitions)
        self.story.append(("assigned", self.held))
        return {p: self.positions.get(p) for p in partitions}

    async def revoked(self, partitions: Sequence[int]) -> None:
        assert set(partitions) == set(self.held), f"revoked {partitions}, held {self.held}"
        self.story.append(("revoked", self.held))
        self.held = ()

    def take(self, records: Sequence[LogRecord]) -> None:
        for record in records:
            assert record.partition in self.held, f"{record.pos} of a partition that was taken from us"
            self.positions[record.partition] = record.offset + 1
        self.seen.extend(records)


class FileLedger(Ledger):
    """A ledger that several processes share: one line `NAME PARTITION OFFSET` per record, decision and position in one.

    Lines are appended by single writes, so a killed process leaves whole ones.
    """

    def __init__(self, path: Path, name: str) -> None:
        super().__init__()
        self.path, self.name = path, name

    def lines(self) -> list[tuple[str, int, int]]:
        """(member, partition, offset) in the order of processing."""
        text = self.path.read_text() if self.path.exists() else ""
        return [(name, int(p), int(o)) for name, p, o in (line.split() for line in text.splitlines())]

    async def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        self.positions = {partition: offset + 1 for _, partition, offset in self.lines()}
        return await super().assigned(partitions)

    def take(self, records: Sequence[LogRecord]) -> None:
        super().take(records)
        text = "".join(f"{self.name} {r.partition} {r.offset}\n" for r in records)
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


@asynccontextmanager
async def reading(stream: S, owner: Ledger) -> AsyncIterator[S]:
    """The stream, started with this owner, stopped afterwards."""
    try:
        await stream.start(owner)
        yield stream
    finally:
        await stream.stop()


async def read(stream: Stream, owner: Ledger, count: int, timeout: float = 20.0) -> list[LogRecord]:
    """Poll until the owner has `count` records in all.

    Raises:
        TimeoutError: it has not within `timeout` seconds.
    """
    await poll_until(stream, owner, lambda: len(owner.seen) >= count, timeout)
    return owner.seen


async def poll_until(stream: Stream, owner: Ledger, done: Callable[[], bool], timeout: float = 20.0) -> None:
    """Poll and take until `done()`.

    Raises:
        TimeoutError: not within `timeout` seconds.
    """
    async with asyncio.timeout(timeout):
        while not done():
            owner.take(await stream.poll(500, 0.05))
