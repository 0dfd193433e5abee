"""Processes that write and are killed: each says on standard output what it was promised, one line per promise.

`python -m aiopsd.testing.writers journal | log | store FOLDER FIRST` goes on from number FIRST until it is killed. What
number n writes is a function of n alone (`journal_body`, `log_entry`, `store_effects`): a reader afterwards knows what
must be there.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from aiopsd.model import Audit, Body, Effect, Entry, Notify, Snapshot, SourcePos, Upsert
from aiopsd.stores.sqlite import SqliteStore
from aiopsd.streams.journal import LocalJournal
from aiopsd.streams.local import LocalLog
from aiopsd.testing.checks.journals import change
from aiopsd.testing.checks.stores import alert, audit, incident, notification, snapshot

WRITERS = 4  # concurrent callers of the journal and the log: their promises overlap in one group commit
PARTITIONS = 3
INCIDENTS = 5


def journal_body(n: int) -> Body:
    return change(n, size=random.Random(n).choice((0, 40, 600, 9000)))


def journal_origin(n: int) -> SourcePos:
    return SourcePos(source="writer", partition=n % WRITERS, offset=n // WRITERS)


def log_entry(n: int) -> Entry:
    return Entry(value=random.Random(n).randbytes(n % 3000), format="json", partition=n % PARTITIONS, key=b"%d" % n)


def store_effects(n: int) -> list[Effect]:
    of = replace(incident(n % INCIDENTS), title=f"commit {n}")
    effects: list[Effect] = [Upsert(item=of), Upsert(item=alert(n, of.id)), Notify(notification=notification(n, of))]
    return [*effects, audit(n, of.id), Audit(entry=replace(audit(n).entry, text="x" * (n % 5000)))]


def store_snapshot(n: int) -> Snapshot:
    return snapshot(n)


def say(line: str) -> None:
    """One write, so that a killed process leaves whole lines."""
    os.write(1, f"{line}\n".encode())


async def write_journal(folder: Path, first: int) -> None:
    """`offset n`: number n is in the journal at that offset."""
    journal = LocalJournal(folder / "journal.db", time.time, retention=0.0)
    await journal.start()

    async def write(n: int) -> None:
        while True:
            say(f"{await journal.append([journal_body(n)], [journal_origin(n)])} {n}")
            n += WRITERS

    async with asyncio.TaskGroup() as tasks:
        for i in range(WRITERS):
            tasks.create_task(write(first + i), name=f"writer-{i}")


async def write_log(folder: Path, first: int) -> None:
    """`partition offset n`: number n is in the log at that place."""
    log = LocalLog(folder / "log", PARTITIONS, time.time)
    await log.start()

    async def write(n: int) -> None:
        while True:
            (place,) = await log.append([log_entry(n)])
            say(f"{place.partition} {place.offset} {n}")
            n += WRITERS

    async with asyncio.TaskGroup() as tasks:
        for i in range(WRITERS):
            tasks.create_task(write(first + i), name=f"writer-{i}")


async def write_store(folder: Path, first: int) -> None:
    """`n`: commit n is done; `snapshot n`: the state as of n is current."""
    store = SqliteStore(folder / "store.db", time.time)
    await store.start()
    n = first
    while True:
        await store.commit(store_effects(n), n, f"h{n}", config_text=f"n: {n}")
        say(f"{n}")
        if n % 7 == 0:
            await store.put_snapshot("correlate", n, f"h{n}", store_snapshot(n))
            say(f"snapshot {n}")
        n += 1


async def main(arguments: Sequence[str]) -> None:
    kind, folder, first = arguments
    await {"journal": write_journal, "log": write_log, "store": write_store}[kind](Path(folder), int(first))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
